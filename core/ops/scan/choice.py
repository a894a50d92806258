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
    or else the fastest that is available.  ``mamba_ssm`` gives way to the next fastest where it
    cannot serve: ``stateful``, there is an initial state or the last one is wanted; ``recorded``,
    the call is part of a compiled or exported graph, into which its autograd function does not fit.

    Raises UsageError for an unknown name and ResourceError for one that cannot run here.
    """
    device = torch.device(device)
    name = named(backend)
    if device.type == "meta":  # nothing runs
        return "blocked"
    if name != "auto" and (missing := _missing(name, device, dtype)):
        raise ResourceError(
            f"scan backend '{name}' cannot run here: {missing}; "
            f"leave backend and {VARIABLE} at 'auto', or choose 'blocked'"
        )
    if name == "auto" or (name == "mamba_ssm" and (stateful or recorded)):
        return _fastest(device, dtype, without_mamba_ssm=stateful or recorded)
    return name


def named(backend: str) -> str:
    """``backend``, or what the environment says in the place of ``auto``; checked to exist."""
    source, name = "", backend
    if backend == "auto" and (forced := os.environ.get(VARIABLE, "").strip()):
        source, name = f"{VARIABLE}: ", forced
    if name not in (*BACKENDS, "auto"):
        raise UsageError(source + unknown("scan backend", name, (*BACKENDS, "auto")))
    return name


def _fastest(device: torch.device, dtype: torch.dtype, without_mamba_ssm: bool) -> str:
    for name in {"cpu": ("native",), "cuda": ("mamba_ssm", "triton")}.get(device.type, ()):
        skipped = name == "mamba_ssm" and without_mamba_ssm
        if not skipped and not _missing(name, device, dtype):
            return name
    if device.type == "cpu":
        _advise()
    return "blocked"


def _missing(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """Why ``name`` cannot run, or an empty string."""
    if name in ("reference", "blocked"):
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
    return "" if cuda.mamba_ssm_available() else "the package mamba_ssm cannot be imported"


@cache
def _advise() -> None:
    """Once a process, one line on standard error: standard output carries results only."""
    from core.ops.scan import native

    logging.getLogger(__name__).warning(
        "the selective scan runs in plain PyTorch, about seven times slower than its C++: %s "
        "(%s=blocked silences this)",
        native.unavailable_reason(),
        VARIABLE,
    )
