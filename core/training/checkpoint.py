"""Checkpoints: one safetensors file and the JSON that names it.

    last/state.json              step, seconds, settings; "file": "step-120-1f0c.safetensors"
    last/step-120-1f0c.safetensors   network/..., ema/..., optimizer/...

Replacing ``state.json`` is the commit: one atomic rename. Before it the old pair is complete, after
it the new one is, and files it does not name are swept away later. So a process may be killed at
any moment and the folder still holds a whole checkpoint. Nothing is pickled.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from core.config import StrictModel
from core.errors import DataError, UsageError
from core.files import atomic_path, read_json, sha256, write_json
from core.weights.folder import read_tensors, write_tensors

STATE = "state.json"


class Best(StrictModel):
    """The best validation so far."""

    step: int
    metrics: dict[str, float | None]


class State(StrictModel):
    """Everything about a run that is not a tensor."""

    format: int = 1
    file: str = ""
    sha256: str = ""
    step: int = 0  # steps done, skipped ones included
    updates: int = 0  # steps that changed the weights
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of the process alone, not of loader workers
    validated: int = -1  # the step of the last validation
    slowest_validation: float = 0.0  # seconds
    waited: int = 0  # validations since the best one
    best: Best | None = None
    metrics: dict[str, float | None] = Field(default_factory=dict)
    loss_sum: float = 0.0  # since the last validation, for its row in metrics.csv
    loss_count: int = 0
    fast_matmul: bool = False
    stopped_because: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    context: dict[str, Any] = Field(default_factory=dict)


def save_checkpoint(folder: Path, state: State, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Commit ``parts`` (name of a part -> tensors) and ``state`` as the one checkpoint in ``folder``.

    Raises ResourceError when there is no room; the previous checkpoint is then still whole.
    """
    name = _free_name(folder, state.step)
    tensors = {
        f"{part}/{key}": value for part, some in parts.items() for key, value in some.items()
    }
    with atomic_path(folder / name) as temporary:
        write_tensors(temporary, tensors)
    committed = state.model_copy(update={"file": name, "sha256": sha256(folder / name)})
    write_json(folder / STATE, committed.model_dump(), force=True)
    for path in folder.iterdir():
        if path.name not in (name, STATE):
            with suppress(OSError):
                path.unlink()


def _free_name(folder: Path, step: int) -> str:
    # A step may be saved more than once: before validating, after it and at the end.
    while True:
        name = f"step-{step}-{secrets.token_hex(2)}.safetensors"
        if not (folder / name).exists():
            return name


def read_state(folder: Path) -> State:
    """The state of the checkpoint in ``folder``.

    Raises UsageError when there is none, DataError when it is damaged or not one of ours.
    """
    path = folder / STATE
    if not path.exists():
        raise UsageError(f"{folder}: holds no checkpoint to resume from; start without --resume")
    values = read_json(path)
    if values.get("format") != 1:
        raise DataError(f"{path}: has format {values.get('format')!r}, this version reads format 1")
    try:
        return State.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise DataError(
            f"{path}: is not a checkpoint state ('{where}': {problem['msg']})"
        ) from error


def load_checkpoint(folder: Path) -> tuple[State, dict[str, dict[str, Tensor]]]:
    """State and tensors by part, on the CPU. Raises as ``read_state``, and DataError for damage."""
    state = read_state(folder)
    path = folder / state.file
    if Path(state.file).name != state.file or not path.is_file():
        raise DataError(
            f"{folder}: its tensors '{state.file}' are missing; this checkpoint is lost"
        )
    if sha256(path) != state.sha256:
        raise DataError(
            f"{path}: is damaged (SHA-256 differs from {STATE}); this checkpoint is lost"
        )
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in read_tensors(path).items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = value
    return state, parts


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The weights to use from a checkpoint folder: averaged where there is an average."""
    _, parts = load_checkpoint(Path(folder))
    found = parts.get("ema") or parts.get("network")
    if not found:
        raise DataError(f"{folder}: this checkpoint holds no weights")
    return found


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no floating-point tensor holds NaN or an infinity."""
    return all(
        bool(torch.isfinite(value).all()) for value in tensors.values() if value.is_floating_point()
    )
