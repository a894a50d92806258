"""Write a network in a format that runs without this project, and prove that it computes the same.

The exported program maps one batch of windows (B, C, *window) float32 to logits (B, K, *window).
Preprocessing and the sliding window stay outside; ``export.json`` says what they are. The check runs
the exported file, as saved, on random windows in the runtime it is meant for and compares with the
network: an export that differs by more than 1e-4 is an error and nothing is written.
"""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from core.errors import DataError, TriptychError, UsageError, need, unknown
from core.files import atomic_path, require_absent, sha256, write_json
from core.reporting import environment

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from apps.medical.store import Model

Format = Literal["torchscript", "torch_export", "onnx"]
SUFFIX: dict[str, str] = {"torchscript": ".ts", "torch_export": ".pt2", "onnx": ".onnx"}
TOLERANCE = 1e-4
OPSET = 20


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

    if format not in get_args(Format):
        raise UsageError(unknown("format", str(format), get_args(Format)))
    if format == "onnx":
        for package in ("onnx", "onnxscript", *(["onnxruntime"] if check else [])):
            need(package, "export")
    if not isinstance(model, Model):
        model = load_model(model, "cpu", "all" if fold is None else [fold])
    if len(model.networks) > 1:
        raise UsageError(
            f"{model.folder}: is an ensemble of {', '.join(model.folds)}; choose one with --fold"
        )
    out = Path(out)
    name = model.spec.name + (f"_{model.folds[0]}" if model.folds else "")
    path, card = out / (name + SUFFIX[format]), out / "export.json"
    for file in (path, card):
        require_absent(file, force)

    network = model.network.cpu().float().eval()
    plan = model.spec.plan
    torch.manual_seed(seed)
    windows = torch.randn(2, len(plan.channels), *plan.patch)
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
        report["dynamic_batch"] = _write(network, windows, format, temporary)
        if check:
            report["check"] = _check(network, windows, format, temporary, report["dynamic_batch"])
            worst = report["check"]["max_abs_difference"]
            if not worst <= TOLERANCE:
                raise DataError(
                    f"{path}: the exported network differs from the original by {worst:.3g}, more "
                    f"than {TOLERANCE:g}; nothing was written, try another --format"
                )
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


def _write(network: nn.Module, windows: Tensor, format: str, path: Path) -> bool:
    """Export to ``path``; returns whether the batch size is free."""
    # The exporters talk to their developers in logs and on both streams; ours carry results.
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    write = {"torchscript": _torchscript, "torch_export": _torch_export, "onnx": _onnx}[format]
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            return write(network, windows, path)
    except (OSError, TriptychError):
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{type(network).__name__} cannot be exported as {format} ({first[:160]}); "
            "try another --format"
        ) from error
    finally:
        logging.disable(before)


def _torchscript(network: nn.Module, windows: Tensor, path: Path) -> bool:
    import torch

    from core.ops.scan.plain import decomposed

    with torch.no_grad():
        try:
            traced = torch.jit.trace(network, windows[:1], check_trace=False)
            ordinary = "triptych::" not in str(traced.inlined_graph)
        except Exception:
            ordinary = False
        if not ordinary:
            # Code that computes with sizes does not survive the older tracer, which hands it
            # tensors for integers; in the newer one's graph the sizes are already numbers.  And
            # only there can our own operators be replaced by ones that every PyTorch has.
            fixed = decomposed(torch.export.export(network, (windows[:1],))).module()
            traced = torch.jit.trace(fixed, windows[:1], check_trace=False)
    traced.save(str(path))
    with torch.no_grad():  # a trace may have frozen the batch size into a reshape
        try:
            return torch.jit.load(str(path))(windows).shape[0] == len(windows)
        except RuntimeError:
            return False


def _torch_export(network: nn.Module, windows: Tensor, path: Path) -> bool:
    import torch

    program, dynamic = _program(network, windows)
    torch.export.save(program, path)
    return dynamic


def _onnx(network: nn.Module, windows: Tensor, path: Path) -> bool:
    import torch

    program, dynamic = _program(network, windows)
    exported = torch.onnx.export(
        program, (), dynamo=True, opset_version=OPSET, input_names=["image"],
        output_names=["logits"], verbose=False,
    )  # fmt: skip
    assert exported is not None
    exported.save(str(path), external_data=False)
    return dynamic


def _program(network: nn.Module, windows: Tensor) -> tuple[torch.export.ExportedProgram, bool]:
    """The traced graph, with a free batch if the network's code allows one."""
    import torch

    from core.ops.scan.plain import decomposed

    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        try:
            program = torch.export.export(network, (windows,), dynamic_shapes=({0: batch},))
            return decomposed(program), True
        except Exception:  # a constraint the tracer cannot prove; the fixed batch still may work
            return decomposed(torch.export.export(network, (windows[:1],))), False


def _check(
    network: nn.Module, windows: Tensor, format: str, path: Path, dynamic: bool
) -> dict[str, Any]:
    """Run the file and the network on the same windows."""
    import torch

    worst = 0.0
    batches = [windows[:1], windows] if dynamic else [windows[:1], windows[1:]]
    with torch.no_grad():
        run = _runner(format, path)
        for batch in batches:
            expected, got = network(batch), run(batch)
            if got.shape != expected.shape:
                raise DataError(
                    f"{path.name}: the exported network returns {tuple(got.shape)} instead of "
                    f"{tuple(expected.shape)}; try another --format"
                )
            difference = float((got - expected).abs().max())
            worst = max(worst, difference) if difference == difference else float("inf")
    runtime = "onnxruntime" if format == "onnx" else "torch"
    return {"max_abs_difference": worst, "tolerance": TOLERANCE, "runtime": runtime}


def _runner(format: str, path: Path) -> Any:
    import torch

    if format == "torchscript":
        return torch.jit.load(str(path))
    if format == "torch_export":
        return torch.export.load(path).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])
