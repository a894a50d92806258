"""Segment medical images: the command line. Research use only; not a medical device.

Every verb is a thin function: it reads options, imports its implementation when it is called, and
emits the result. So ``--help`` and ``info`` cost no import of torch, MONAI or NumPy.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    # Run as a file, Python puts this folder first on its path, where our predict.py, plan.py and
    # others would shadow packages of those names. The repository root belongs there instead.
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(ROOT), *(place for place in sys.path if Path(place).resolve() != here)]
    if find_spec("typer") is None:
        print(
            f"error: {sys.executable} lacks Triptych's dependencies; run `make quickstart` and use "
            ".venv/bin/python, or: pip install -e .",
            file=sys.stderr,
        )
        sys.exit(4)

from apps.medical.shipped import DISCLAIMER  # noqa: E402
from core import cli  # noqa: E402
from core.cli import Json  # noqa: E402

VOLUMES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
LAYOUTS = (
    "MSD: dataset.json, imagesTr/, labelsTr/",
    "nnU-Net raw: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz",
    "two folders of image and label files with the same names",
    "PNG, JPEG or TIFF pictures with binary, palette or instance masks",
)

app = cli.make_app("medical", f"Segment medical images in 2-D and 3-D. {DISCLAIMER}")


@app.command()
def info(json: Json = False) -> None:
    """Show models, weights, input formats and verbs."""
    from apps.medical import catalog, shipped

    report = {
        "name": "medical",
        "version": _version(),
        "disclaimer": DISCLAIMER,
        "verbs": _verbs(),
        "models": {name: _model(entry) for name, entry in catalog.MODELS.items()},
        "weights": _weights(shipped.model_cards(shipped.weights_root())),
        "inputs": {"volumes": VOLUMES, "pictures": PICTURES, "datasets": LAYOUTS},
        "exit_codes": cli.EXIT_CODES,
    }
    cli.emit(report, as_json=json, human=lambda: _print_info(report))


# What `info` reads. All of it is text and JSON on disk.


def _version() -> str:
    from core import __version__

    return __version__


def _verbs() -> dict[str, str]:
    """Each verb and the first sentence of its help, from the commands themselves."""
    verbs = {}
    for command in app.registered_commands:
        function = command.callback
        if function is not None:
            name = command.name or function.__name__.replace("_", "-")
            verbs[name] = (command.help or function.__doc__ or "").strip().split("\n")[0]
    return verbs


def _model(entry: Any) -> dict[str, Any]:
    return {
        "title": entry.title,
        "summary": entry.summary,
        "paper": entry.paper,
        "ranks": list(entry.ranks),
        "defaults": dict(entry.defaults),
    }


def _weights(cards: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """What each shipped model's model.json says about it."""
    import json

    from core.errors import DataError

    found: dict[str, dict[str, Any]] = {}
    for name, card in cards.items():
        try:
            spec = json.loads(card.read_text(encoding="utf-8"))
            network = spec["network"]
            found[name] = {
                "network": network["name"],
                "rank": network["rank"],
                "labels": spec["labels"],
                "metrics": spec.get("metrics", {}),
                "licence": spec.get("licence"),
                "intended_use": spec.get("intended_use"),
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{card}: is not a model description ({error!r})") from error
    return found


def _print_info(report: dict[str, Any]) -> None:
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


if __name__ == "__main__":
    sys.exit(cli.main(app))
