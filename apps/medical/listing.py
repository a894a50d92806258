"""What ``info`` says without a path: all of it text and JSON on disk, nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.medical import catalog
from apps.medical.classification.catalog import BAGS, CLASSIFIERS, DEIT
from apps.medical.shipped import DISCLAIMER, model_summaries
from core import __version__, cli

VOLUMES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DICOM = ("a folder of a study or series", "a zip of one", "DICOMDIR", "one multi-frame file")
LAYOUTS = (
    "MSD: dataset.json, imagesTr/, labelsTr/",
    "nnU-Net raw: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz",
    "two folders of image and label files with the same names",
    "PNG, JPEG or TIFF pictures with binary, palette or instance masks",
)


def listing(verbs: Mapping[str, str]) -> dict[str, Any]:
    """Networks, classifiers, shipped weights, inputs, verbs and exit codes.

    Raises DataError for a shipped model whose card cannot be read.
    """
    return {
        "name": "medical",
        "version": __version__,
        "disclaimer": DISCLAIMER,
        "verbs": dict(verbs),
        "models": {name: _model(entry) for name, entry in catalog.MODELS.items()},
        "classifiers": {
            **{name: f"small {backbone}" for name, (backbone, _) in CLASSIFIERS.items()},
            **{name: "DeiT's published size, with a distillation token" for name in DEIT},
            **BAGS,
        },
        "weights": model_summaries(),
        "inputs": {"volumes": VOLUMES, "pictures": PICTURES, "dicom": DICOM, "datasets": LAYOUTS},
        "exit_codes": cli.EXIT_CODES,
    }


def print_listing(report: Mapping[str, Any]) -> None:
    """``listing`` for a person."""
    print(f"Triptych {report['version']}, medical segmentation. {report['disclaimer']}")
    _print_table("Verbs", report["verbs"].items())
    _print_table(
        "Networks (train --model NAME)",
        (
            (name, f"{'/'.join(f'{rank}-D' for rank in entry['ranks'])}  {entry['summary']}")
            for name, entry in report["models"].items()
        ),
    )
    _print_table(
        "Classifiers (classify train --network NAME), beside every backbone of core",
        report["classifiers"].items(),
    )
    _print_table(
        "Trained models (predict --model NAME, or a model folder)",
        (
            (name, f"{entry['rank']}-D {entry['network']}; labels: {_names(entry['labels'])}")
            for name, entry in report["weights"].items()
        ),
    )
    inputs = report["inputs"]
    _print_table(
        "Inputs",
        [("volumes", " ".join(inputs["volumes"])), ("pictures", " ".join(inputs["pictures"]))]
        + [("DICOM", ", ".join(inputs["dicom"]) + "; `info PATH` lists its series")]
        + [("data set", layout) for layout in inputs["datasets"]],
    )
    _print_table("Exit codes", ((str(code), text) for code, text in report["exit_codes"].items()))


def _names(labels: Any) -> str:
    """Label names in order, background left out; ``labels`` maps '0', '1', ... to names."""
    items = labels.items() if isinstance(labels, dict) else enumerate(labels)
    return ", ".join(str(name) for value, name in items if str(value) != "0")


def _print_table(title: str, rows: Any) -> None:
    rows = list(rows)
    if not rows:
        return
    width = max(len(name) for name, _ in rows)
    print(f"\n{title}")
    for name, text in rows:
        print(f"  {name:<{width}}  {text}")


def _model(entry: Any) -> dict[str, Any]:
    return {
        "title": entry.title,
        "summary": entry.summary,
        "paper": entry.paper,
        "ranks": list(entry.ranks),
        "defaults": dict(entry.defaults),
        "learning_rate": entry.learning_rate,
    }
