"""Networks in formats that run without this project, and the proof that they compute the same.

The batch is free where a format can express that for a network.  Our own operators are replaced by
ordinary ones, which every runtime has.  The proof runs the file, as saved, in the runtime that it is
meant for, and compares with the network.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import DataError, TriptychError, need

SUFFIX: dict[str, str] = {"torchscript": ".ts", "torch_export": ".pt2", "onnx": ".onnx"}
TOLERANCE = 1e-4
OPSET = 20

Inputs = Mapping[str, Tensor]


def require_packages(format: str, check: bool) -> None:
    """UsageError with the install command where ``format`` needs what is not installed."""
    if format == "onnx":
        for package in ("onnx", "onnxscript", *(["onnxruntime"] if check else [])):
            need(package, "export")


def write_network(
    network: nn.Module, inputs: Inputs, outputs: Sequence[str], format: str, path: Path
) -> bool:
    """Export ``network`` to ``path``; returns whether the batch size is free.

    ``inputs`` name the positional arguments, in order, and hold examples of a batch of 2 or more.
    Raises DataError where the network cannot be exported.
    """
    try:
        with _quiet(), torch.no_grad():
            if format == "torchscript":
                return _torchscript(network, inputs, path)
            if format == "torch_export":
                return _torch_export(network, inputs, path)
            return _onnx(network, inputs, outputs, path)
    except (OSError, TriptychError):
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{type(network).__name__} cannot be exported as {format} ({first[:160]}); "
            "try another --format"
        ) from error


def compare(
    network: nn.Module, inputs: Inputs, format: str, path: Path, dynamic: bool
) -> dict[str, Any]:
    """Run the file and the network on the same inputs: the largest difference, and in what runtime.

    Raises DataError where the shapes differ.  A NaN counts as an infinite difference.
    """
    worst = 0.0
    batches = [_rows(inputs, 0, 1), inputs if dynamic else _rows(inputs, 1, 2)]
    with _quiet(), torch.no_grad():
        run = _runner(format, path)
        for batch in batches:
            expected, got = network(*batch.values()), run(batch)
            if got.shape != expected.shape:
                raise DataError(
                    f"{path.name}: the exported network returns {tuple(got.shape)} instead of "
                    f"{tuple(expected.shape)}; try another --format"
                )
            difference = float((got - expected).abs().max())
            worst = max(worst, difference) if difference == difference else float("inf")
    runtime = "onnxruntime" if format == "onnx" else "torch"
    return {"max_abs_difference": worst, "tolerance": TOLERANCE, "runtime": runtime}


def require_equal(check: Mapping[str, Any], path: Path) -> None:
    """DataError where ``compare`` found more than ``TOLERANCE``."""
    worst = check["max_abs_difference"]
    if not worst <= TOLERANCE:
        raise DataError(
            f"{path}: the exported network differs from the original by {worst:.3g}, more "
            f"than {TOLERANCE:g}; nothing was written, try another --format"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters talk to their developers in logs and on both streams; ours carry results."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _rows(inputs: Inputs, first: int, last: int) -> dict[str, Tensor]:
    return {name: value[first:last] for name, value in inputs.items()}


def _torchscript(network: nn.Module, inputs: Inputs, path: Path) -> bool:
    from core.ops.scan.plain import decomposed

    single, all_of_it = (tuple(batch.values()) for batch in (_rows(inputs, 0, 1), inputs))
    try:
        traced = torch.jit.trace(network, single, check_trace=False)
        ordinary = "triptych::" not in str(traced.inlined_graph)
    except Exception:
        ordinary = False
    if not ordinary:
        # Code that computes with sizes does not survive the older tracer, which hands it
        # tensors for integers; in the newer one's graph the sizes are already numbers.  And
        # only there can our own operators be replaced by ones that every PyTorch has.
        fixed = decomposed(torch.export.export(network, single)).module()
        traced = torch.jit.trace(fixed, single, check_trace=False)
    traced.save(str(path))
    try:  # a trace may have frozen the batch size into a reshape
        return torch.jit.load(str(path))(*all_of_it).shape[0] == len(all_of_it[0])
    except RuntimeError:
        return False


def _torch_export(network: nn.Module, inputs: Inputs, path: Path) -> bool:
    program, dynamic = _program(network, inputs)
    torch.export.save(program, path)
    return dynamic


def _onnx(network: nn.Module, inputs: Inputs, outputs: Sequence[str], path: Path) -> bool:
    program, dynamic = _program(network, inputs)
    exported = torch.onnx.export(
        program, (), dynamo=True, opset_version=OPSET, input_names=list(inputs),
        output_names=list(outputs), verbose=False,
    )  # fmt: skip
    assert exported is not None
    exported.save(str(path), external_data=False)
    return dynamic


def _program(network: nn.Module, inputs: Inputs) -> tuple[torch.export.ExportedProgram, bool]:
    """The traced graph, with a free batch if the network's code allows one."""
    from core.ops.scan.plain import decomposed

    examples = tuple(inputs.values())
    batch = torch.export.Dim("batch", min=1, max=64)
    try:
        shapes = tuple({0: batch} for _ in examples)
        return decomposed(torch.export.export(network, examples, dynamic_shapes=shapes)), True
    except Exception:  # a constraint the tracer cannot prove; the fixed batch still may work
        single = tuple(value[:1] for value in examples)
        return decomposed(torch.export.export(network, single)), False


def _runner(format: str, path: Path) -> Callable[[Inputs], Tensor]:
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda batch: torch.from_numpy(
            session.run(None, {name: value.numpy() for name, value in batch.items()})[0]
        )
    module = torch.jit.load(str(path)) if format == "torchscript" else None
    if module is None:
        module = torch.export.load(path).module()
    return lambda batch: module(*batch.values())
