"""Write a forecaster in a format that runs without this project, and prove that it computes the same.

The exported program maps a batch of scaled windows to scaled forecasts: x (B, L, N), and past
(B, L, P) and known (B, L + H, K) where the model has them, to y (B, H, N), or (B, H, N, Q) of
quantiles; float32.  ``export.json`` beside it says which column is which and how to scale: the
mean and standard deviation of each series' training rows.

An export that differs from the network by more than 1e-4 is an error and nothing is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from core import exporting
from core.errors import UsageError, unknown
from core.files import results_folder, sha256, write_json
from core.reporting import environment

if TYPE_CHECKING:
    from apps.timeseries.store import LoadedModel

Format = Literal["onnx", "torch_export", "pt2"]  # pt2: the suffix of torch_export
CARD = "export.json"
SERIES = 1000
"""Series whose scaling the card spells out; of more it says where to find the rest."""


class _WithoutPast(nn.Module):
    """(x, known): the graph's inputs are positional and may not be None."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        return self.network(x, None, known)


def export(
    model: str | Path | LoadedModel,
    out: str | Path,
    format: Format = "onnx",
    check: bool = True,
    *,
    force: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Write ``out``/<name>.onnx or .pt2 and export.json; returns the latter.

    The batch is dynamic where the format can express it for this network; export.json says so under
    ``dynamic_batch``.  ``check`` runs the file on random windows beside the network.

    Raises UsageError for unknown formats, existing outputs and a missing extra; DataError when the
    network cannot be exported or the check fails.
    """
    from apps.timeseries.store import LoadedModel, load

    if format not in get_args(Format):
        raise UsageError(unknown("format", str(format), get_args(Format)))
    format = "torch_export" if format == "pt2" else format
    exporting.require_packages(format, check)
    loaded = model if isinstance(model, LoadedModel) else load(model)
    spec, shape = loaded.spec, loaded.spec.network.shape
    file = spec.name + exporting.SUFFIX[format]

    network: nn.Module = loaded.network.cpu().float().eval()
    if shape.known and not shape.past:
        network = _WithoutPast(network)
    generator = torch.Generator().manual_seed(seed)
    L, H = shape.lookback, shape.horizon
    sizes = {"x": (L, shape.variates), "past": (L, shape.past), "known": (L + H, shape.known)}
    windows = {
        name: torch.randn(2, *size, generator=generator) for name, size in sizes.items() if size[1]
    }
    with results_folder(Path(out), [file, CARD], force=force) as folder:
        dynamic = exporting.write_network(network, windows, ["y"], format, folder / file)
        report = _card(loaded, windows, file, format, dynamic)
        if check:
            report["check"] = exporting.compare(network, windows, format, folder / file, dynamic)
            exporting.require_equal(report["check"], Path(out) / file)
        report["sha256"] = sha256(folder / file)
        report["environment"] = environment(seed)
        write_json(folder / CARD, report)
    return report


def print_report(report: dict[str, Any], out: Path) -> None:
    """Where the file lies and how equal it is, for a person, on standard output."""
    batch = "any batch size" if report["dynamic_batch"] else "batch size 1"
    shapes = "; ".join(
        f"{entry['name']} {' x '.join(map(str, entry['shape'][1:]))}" for entry in report["inputs"]
    )
    print(f"{out / report['file']}: {shapes}; {batch}")
    if "check" in report:
        check = report["check"]
        print(f"largest difference in {check['runtime']}: {check['max_abs_difference']:.2g}")
    else:
        print("not checked (--no-check)")


def _card(
    loaded: LoadedModel, windows: dict[str, Tensor], file: str, format: str, dynamic: bool
) -> dict[str, Any]:
    from apps.timeseries.data import calendar

    spec, data = loaded.spec, loaded.spec.data
    marks = calendar.names(data.freq) if data.marks else []
    columns = {
        "x": data.targets,
        "past": data.past,
        "known": [*data.static, *data.known, *marks],
    }
    shape = spec.network.shape
    quantiles = [len(spec.quantiles)] if spec.quantiles else []
    listed = list(loaded.scalings.items())[:SERIES]
    return {
        "format": format,
        "file": file,
        "model": spec.name,
        "source_weights": sha256(loaded.folder / "model.safetensors"),
        "dynamic_batch": dynamic,
        "inputs": [
            {"name": name, "shape": ["B", *value.shape[1:]], "columns": list(columns[name])}
            for name, value in windows.items()
        ],
        "output": {
            "name": "y",
            "shape": ["B", shape.horizon, shape.variates, *quantiles],
            "columns": list(data.targets),
            "quantiles": list(spec.quantiles),
        },
        "lookback": shape.lookback,
        "horizon": shape.horizon,
        "freq": data.freq,
        "scaling": {
            "rule": (
                "inputs (value - mean) / std of their series, column by column; outputs y * std + "
                "mean of x; a series that is not listed: mean and population standard deviation of "
                "its own history (1 where that is 0), known as any other series; calendar features "
                "of known go in as they are"
            ),
            "calendar": list(marks),
            "series": {
                name: {
                    part: {
                        "mean": np.asarray(getattr(scaling, part).mean),
                        "std": np.asarray(getattr(scaling, part).std),
                    }
                    for part in ("values", "past", "known")
                    if len(getattr(scaling, part).mean)
                }
                for name, scaling in listed
            },
            "series_left_out": len(loaded.scalings) - len(listed),
        },
        "data": {"file": data.file, "sha256": data.sha256, "trained_until": data.trained_until},
        "licence": spec.licence,
        "intended_use": spec.intended_use,
    }
