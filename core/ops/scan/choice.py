"""Which implementation of the selective scan runs: asked for, forced, or the best that is here."""

from __future__ import annotations

import logging
import os
from functools import cache

import torch

from core.errors import ResourceError, UsageError, unknown

BACKENDS = ("reference", "blocked", "native", "triton", "mamba_ssm")
VARIABLE = "TRIPTYCH_SCAN"


def backend_for(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: str = "auto",
    *,
    stateful: bool = False,
    recorded: bool = False,
) -> str:
    """The backend that runs for tensors of ``dtype`` on ``device``: one of ``BACKENDS``.

    ``backend``: a name, or ``auto`` for the one that the environment variable TRIPTYCH_SCAN names,
    or else the fastest that is available.  ``stateful``: there is an initial state or the last
    one is wanted, which ``mamba_ssm`` cannot do.  ``recorded``: the call is part of a compiled or
    exported graph, where ``mamba_ssm``, with an autograd function of its own, is replaced by the
    next best.  Raises UsageError for an unknown name and ResourceError for one that cannot run.
    """
    device = torch.device(device)
    name = named(backend)
    if name == "auto" or (recorded and name == "mamba_ssm"):
        return _best(device, dtype, stateful or recorded)
    missing = _missing(name, device, dtype, stateful)
    if missing:
        raise ResourceError(
            f"scan backend '{name}' cannot run here: {missing}; "
            f"leave backend and {VARIABLE} at 'auto', or choose 'blocked'"
        )
    return name


def named(backend: str) -> str:
    """``backend``, or what the environment says in the place of ``auto``; checked to exist."""
    source, name = "", backend
    if backend == "auto" and (forced := os.environ.get(VARIABLE, "").strip()):
        source, name = f"{VARIABLE}: ", forced
    if name not in (*BACKENDS, "auto"):
        raise UsageError(source + unknown("scan backend", name, (*BACKENDS, "auto")))
    return name


def _best(device: torch.device, dtype: torch.dtype, stateful: bool) -> str:
    order = {"cpu": ("native",), "cuda": ("mamba_ssm", "triton")}.get(device.type, ())
    for name in order:
        if not _missing(name, device, dtype, stateful):
            return name
    if device.type == "cpu":
        _advise()
    return "blocked"


def _missing(name: str, device: torch.device, dtype: torch.dtype, stateful: bool) -> str:
    """Why ``name`` cannot run, or an empty string."""
    if name in ("reference", "blocked") or device.type == "meta":  # where nothing runs
        return ""
    if name == "native":
        from core.ops.scan import native

        if device.type != "cpu":
            return f"it runs on the CPU, and the tensors are on {device}"
        return "" if native.available() else native.unavailable_reason()
    from core.ops.scan import cuda

    if name == "triton":
        return cuda.triton_missing(device)
    if device.type != "cuda":
        return f"it runs on CUDA devices, and the tensors are on {device}"
    if dtype == torch.float64:
        return "it has no float64"
    if stateful:
        return "it takes no initial state and its last state has no gradient"
    return "" if cuda.mamba_ssm_available() else "the package mamba_ssm cannot be imported"


@cache
def _advise() -> None:
    """Once a process, one line on standard error: standard output carries results only."""
    from core.ops.scan import native

    logging.getLogger(__name__).warning(
        "the selective scan runs in plain PyTorch, about ten times slower than the native kernel: "
        "%s (install a C++ compiler, or set %s=blocked to be silent)",
        native.unavailable_reason(),
        VARIABLE,
    )
