"""Write a network in a format that runs without this project, and prove that it computes the same.

The exported program maps one batch of windows (B, C, *window) float32 to logits (B, K, *window).
Preprocessing and the sliding window stay outside; ``export.json`` says what they are. The check runs
the exported file, as saved, on random windows in the runtime it is meant for and compares with the
network: an export that differs by more than 1e-4 is an error and nothing is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from core.errors import UsageError, unknown
from core.files import atomic_path, require_absent, sha256, write_json
from core.reporting import environment

if TYPE_CHECKING:
    from apps.medical.store import Model

Format = Literal["torchscript", "torch_export", "onnx"]


def export(
    model: str | Path | Model,
    out: Path,
    format: Format = "onnx",
    check: bool = True,
    *,
    fold: int | None = None,
    force: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Write ``out``/<name>.ts, .pt2 or .onnx and export.json; returns the latter.

    Of an ensemble one ``fold`` is exported. The batch is dynamic where the format can express it
    for this network; export.json says so under ``dynamic_batch``.

    Raises UsageError for unknown formats, existing outputs, an ensemble without ``fold`` and a
    missing extra; DataError when the network cannot be exported or the check fails.
    """
    import torch

    from apps.medical.store import Model, load_model
    from core import exporting

    if format not in get_args(Format):
        raise UsageError(unknown("format", str(format), get_args(Format)))
    exporting.require_packages(format, check)
    if not isinstance(model, Model):
        model = load_model(model, "cpu", "all" if fold is None else [fold])
    if len(model.networks) > 1:
        raise UsageError(
            f"{model.folder}: is an ensemble of {', '.join(model.folds)}; choose one with --fold"
        )
    out = Path(out)
    name = model.spec.name + (f"_{model.folds[0]}" if model.folds else "")
    path, card = out / (name + exporting.SUFFIX[format]), out / "export.json"
    for file in (path, card):
        require_absent(file, force)

    network = model.network.cpu().float().eval()
    plan = model.spec.plan
    torch.manual_seed(seed)
    windows = {"image": torch.randn(2, len(plan.channels), *plan.patch)}
    report: dict[str, Any] = {
        "format": format,
        "file": path.name,
        "model": model.spec.name,
        "network": model.spec.network.name,
        "source_weights": model.weights,
        "input": ["B", len(plan.channels), *plan.patch],
        "output": ["B", model.spec.network.out_channels, *plan.patch],
        "labels": model.spec.labels,
        "plan": plan,
        "licence": model.spec.licence,
        "intended_use": model.spec.intended_use,
    }
    with atomic_path(path, force=force) as temporary:
        dynamic = exporting.write_network(network, windows, ["logits"], format, temporary)
        report["dynamic_batch"] = dynamic
        if check:
            report["check"] = exporting.compare(network, windows, format, temporary, dynamic)
            exporting.require_equal(report["check"], path)
    report["sha256"] = sha256(path)
    report["environment"] = environment(seed)
    write_json(card, report, force)
    return report


def print_report(report: dict[str, Any], out: Path) -> None:
    """Where the file lies and how equal it is, for a person, on standard output."""
    batch = "any batch size" if report["dynamic_batch"] else "batch size 1"
    shape = " x ".join(map(str, report["input"][1:]))
    print(f"{out / report['file']}: input {shape}, {batch}")
    if "check" in report:
        check = report["check"]
        print(f"largest difference in {check['runtime']}: {check['max_abs_difference']:.2g}")
    else:
        print("not checked (--no-check)")
