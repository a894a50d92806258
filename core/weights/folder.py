"""A model on disk: ``model.safetensors`` and ``model.json`` in one folder.

The JSON holds whatever the application says about the model (architecture, preprocessing, metrics,
licence) plus one reserved key, ``tensors``, with the SHA-256 of the safetensors file. Both are read
without running anything they contain. Pickled checkpoints (``.pt``, ``.pth``, ``.ckpt``, ``.bin``)
are refused by their content as well as by their name: opening one runs whatever code it carries.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.errors import DataError, UsageError
from core.files import (
    MAX_JSON_BYTES,
    atomic_path,
    read_json,
    require_absent,
    sha256,
    write_json,
)

TENSORS = "model.safetensors"
METADATA = "model.json"

_PICKLE_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".tar"}
# 0x80 and a protocol number start a pickle; a zip is what torch.save has written since version 1.6.
_PICKLE_MAGIC = tuple(bytes([0x80, protocol]) for protocol in range(1, 6)) + (b"PK\x03\x04",)
_SHOWN = 3  # keys named in an error; a wrong architecture has hundreds


def save_folder(
    folder: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    *,
    force: bool = False,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model folder. ``dtype`` is how floating-point tensors are stored (None: as they are).

    A folder that does not exist appears whole or not at all. In one that exists only the two files
    are replaced; should the process die between them, their checksum says so at loading.

    Raises UsageError when the model exists and ``force`` is false, or for a metadata key ``tensors``;
    DataError for values that ``dtype`` cannot hold; ResourceError when it cannot be written.
    """
    folder = Path(folder)
    if "tensors" in metadata:
        raise UsageError(f"{folder}: the metadata key 'tensors' is reserved; rename it")
    stored = {name: _stored(name, tensor, dtype) for name, tensor in tensors.items()}
    if folder.is_dir():
        for name in (TENSORS, METADATA):
            require_absent(folder / name, force)
        with atomic_path(folder / TENSORS, force=force) as temporary:
            write_tensors(temporary, stored)
        _write_metadata(folder, metadata, dtype, force)
    else:
        with atomic_path(folder, force=force) as temporary:
            temporary.mkdir()
            write_tensors(temporary / TENSORS, stored)
            _write_metadata(temporary, metadata, dtype, force)


def load_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (half precision widened to float32, on the CPU) and the metadata of a model.

    Raises UsageError when there is no such folder, DataError when a part is missing, damaged,
    pickled or not what its checksum says.
    """
    folder = Path(folder)
    if folder.is_file():
        refuse_pickle(folder)
        raise DataError(f"{folder}: is a file; give the model folder that holds {METADATA}")
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such model folder")
    metadata = read_json(folder / METADATA)
    path = folder / TENSORS
    if not path.exists():
        pickled = next((p for p in sorted(folder.iterdir()) if p.suffix in _PICKLE_SUFFIXES), None)
        if pickled is not None:
            refuse_pickle(pickled)
        raise DataError(f"{path}: the weights are missing; copy the whole folder again")
    about = metadata.pop("tensors", None)
    expected = about.get("sha256") if isinstance(about, dict) else None
    if expected is not None and sha256(path) != expected:
        raise DataError(
            f"{path}: is not the file that {METADATA} describes (SHA-256 differs); "
            "it is damaged or was replaced, copy the whole folder again"
        )
    tensors = read_tensors(path)
    return {name: _widened(tensor) for name, tensor in tensors.items()}, metadata


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy ``tensors`` into ``module``, every one of them and nothing else.

    ``source`` names where they came from. Raises DataError, before anything is changed, when names
    or shapes differ: these are weights of another architecture.
    """
    own = module.state_dict()
    problems = [
        _problem("missing", [name for name in own if name not in tensors]),
        _problem("unexpected", [name for name in tensors if name not in own]),
        _problem(
            "of another shape",
            [
                f"{name} {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
                for name, value in own.items()
                if name in tensors and tensors[name].shape != value.shape
            ],
        ),
    ]
    found = "; ".join(problem for problem in problems if problem)
    if found:
        raise DataError(
            f"{source}: weights of another architecture than {type(module).__name__} as configured "
            f"({found}); use the options the weights were trained with"
        )
    module.load_state_dict(dict(tensors))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file at ``path`` as it is (wrap in ``atomic_path`` to be safe).

    Tensors that share memory (tied weights) are stored once each. Raises OSError as ``open`` would.
    """
    seen: set[int] = set()
    flat: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").contiguous()
        storage = value.untyped_storage()
        # safetensors refuses views into a common storage.
        if storage.data_ptr() in seen or storage.nbytes() != value.nbytes:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        flat[name] = value
    path.touch()
    mode = path.stat().st_mode  # what every new file gets here; safetensors' own are 0600
    try:
        save_file(flat, path)
        path.chmod(mode)
    except SafetensorError as error:
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            if f"os error {code})" in str(error):
                raise OSError(code, str(error), str(path)) from error
        raise


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, on the CPU, as stored.

    Raises DataError when it is missing, pickled, truncated or otherwise not safetensors.
    """
    path = Path(path)
    refuse_pickle(path)
    try:
        with open(path, "rb") as stream:
            start = stream.read(8)
        if len(start) == 8 and struct.unpack("<Q", start)[0] > MAX_JSON_BYTES:
            raise DataError(f"{path}: is not a safetensors file (its header claims a wrong size)")
        return load_file(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise DataError(
            f"{path}: is not a safetensors file, or is damaged ({error}); copy it again"
        ) from error


def refuse_pickle(path: Path) -> None:
    """DataError when ``path`` is named like a pickled checkpoint or starts like one. Reads 4 bytes.

    An unreadable file passes: whoever opens it next says why.
    """
    path = Path(path)
    start = b""
    if path.is_file():
        try:
            with open(path, "rb") as stream:
                start = stream.read(4)
        except OSError:
            start = b""
    if start.startswith(_PICKLE_MAGIC) or path.suffix.lower() in _PICKLE_SUFFIXES:
        raise DataError(
            f"{path}: is a pickled checkpoint, which can run any code when it is opened, "
            "and was not opened; convert it to safetensors where you trust it"
        )


def _write_metadata(
    folder: Path, metadata: Mapping[str, Any], dtype: torch.dtype | None, force: bool
) -> None:
    about = {"sha256": sha256(folder / TENSORS), "stored_as": _name(dtype) if dtype else "as given"}
    write_json(folder / METADATA, {**metadata, "tensors": about}, force)


def _stored(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or not tensor.is_floating_point():
        return tensor
    value = tensor.detach().to(dtype)
    if not torch.equal(torch.isfinite(value), torch.isfinite(tensor)):
        raise DataError(
            f"weights '{name}' reach {tensor.abs().max().item():.3g}, more than {_name(dtype)} "
            "can hold; store them as bfloat16 or float32"
        )
    return value


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _problem(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{more}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
