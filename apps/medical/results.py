"""Result folders, OUT/<case>/: what lies in one, how it appears, how others read it.

``predict`` makes them; ``ensemble`` and ``postprocess`` read some and make others.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.medical.cases import read_again
from apps.medical.data.volume import (
    Volume,
    case_name,
    is_volume_file,
    read_label,
    write_label_like,
)
from apps.medical.shipped import DISCLAIMER
from core.errors import DataError, ResourceError, TriptychError, UsageError
from core.files import atomic_path, read_json, sha256, write_json

if TYPE_CHECKING:
    from apps.medical.store import Model

SEGMENTATIONS = ("seg.nii.gz", "seg.png")
PROBABILITIES = "probabilities.npz"


@dataclass(frozen=True)
class Result:
    """One case's segmentation on disk, alone or in a folder with its manifest."""

    case: str
    file: Path
    manifest: dict[str, Any]

    @property
    def labels(self) -> dict[int, str]:
        """Label names by id, background included; empty where no manifest tells."""
        try:
            return {int(k): str(v) for k, v in self.manifest.get("labels", {}).items()}
        except (ValueError, AttributeError) as error:
            raise DataError(
                f"{self.file.parent / 'manifest.json'}: bad labels ({error})"
            ) from error

    @property
    def instances(self) -> bool:
        return self.manifest.get("target") == "instances"

    @property
    def probabilities(self) -> Path:
        return self.file.parent / PROBABILITIES

    def read(self) -> Volume:
        return read_label(self.file)


def list_results(folder: Path) -> dict[str, Result]:
    """The segmentations of ``folder`` by case: <case>/seg.nii.gz, <case>/seg.png, or <case>.*.

    Raises DataError without such a folder and for two files of one case.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of predictions")
    found: dict[str, Result] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            file = next((entry / n for n in SEGMENTATIONS if (entry / n).is_file()), None)
            case = Result(entry.name, file, _manifest(entry)) if file else None
        elif is_volume_file(entry):
            case = Result(case_name(entry), entry, {})
        else:
            case = None
        if case is None:
            continue
        if case.case in found:
            raise DataError(
                f"{found[case.case].file} and {case.file} are both case {case.case}; remove one"
            )
        found[case.case] = case
    return found


def check_outputs(
    root: Path, names: Sequence[str], *, force: bool, resume: bool = False
) -> set[str]:
    """Refuse what could not be written, before any work. Returns the finished cases to skip.

    UsageError for a case whose folder exists (with ``resume``: and is not a finished one),
    ResourceError where the place is not writable.
    """
    place = root.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"{place}: is a file; --out needs a folder")
    taken = [name for name in names if os.path.lexists(root / name)]
    finished = {name for name in taken if resume and (root / name / "manifest.json").is_file()}
    blocking = [name for name in taken if name not in finished]
    if blocking and not force:
        more = f" and {len(blocking) - 1} more" if len(blocking) > 1 else ""
        skip = "" if resume else " or --continue to skip finished cases"
        raise UsageError(
            f"{root / blocking[0]} already exists{more}; pass --force to replace{skip}"
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise ResourceError(f"{place}: no permission to write here; choose another --out")
    return finished


@contextmanager
def case_folder(path: Path, force: bool) -> Iterator[Path]:
    """A folder that takes the place of ``path`` when the block succeeds."""
    aside = path.with_name(f".old-{token_hex(4)}-{path.name[-120:]}")
    try:
        with atomic_path(path, force=force) as temporary:
            temporary.mkdir()
            yield temporary
            if force and os.path.lexists(path):
                os.rename(path, aside)  # a folder cannot replace one that is not empty
    except BaseException:
        if os.path.lexists(aside) and not os.path.lexists(path):
            os.rename(aside, path)
        raise
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink(missing_ok=True)


def write_probabilities(folder: Path, probabilities: np.ndarray, classes: Sequence[str]) -> None:
    """Write (K, *S) and the names of the K classes, compressed, as half precision."""
    with atomic_path(folder / PROBABILITIES) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file, probabilities=probabilities.astype(np.float16), classes=np.array(classes)
        )


def write_derived(
    folder: Path,
    source: Result,
    labels: np.ndarray,
    grid: Volume,
    stats: Mapping[str, Any],
    about: Mapping[str, Any],
    images: Sequence[Volume],
) -> None:
    """Write a segmentation made from others: seg, ``stats``, manifest, and the overlay if possible.

    The manifest is the source's with ``about`` on top. The overlay needs the image: it is made where
    ``images``, those of ``source_images``, are not empty.
    """
    from apps.medical.overlay import save_overlay

    for name in SEGMENTATIONS:
        if name == "seg.nii.gz" or not grid.physical or (source.file.parent / name).is_file():
            write_label_like(grid, labels, folder / name)
    write_json(folder / "stats.json", stats)
    if images:
        save_overlay(
            folder / "overlay.png", images[0], labels, legend(stats),
            title=source.case, instances=source.instances,
        )  # fmt: skip
    manifest = {key: value for key, value in source.manifest.items() if key not in _OWN}
    manifest |= {
        "case": source.case,
        "created": now(),
        "outputs": {file.name: sha256(file) for file in sorted(folder.iterdir())},
        "disclaimer": DISCLAIMER,
        **about,
    }
    write_json(folder / "manifest.json", manifest)


# What a manifest says about one run alone.
_OWN = {"outputs", "seconds", "cpu_seconds", "peak_memory_mb"}


def statistics(
    labels: np.ndarray,
    grid: Volume,
    names: Mapping[int, str],
    *,
    images: Sequence[Volume] = (),
    instances: bool = False,
    case: str = "",
) -> dict[str, Any]:
    """Sizes per label of ``labels`` (*S) on ``grid``, and mean intensities where there are images.

    mL in three dimensions, mm2 for a slice in space, pixels for a picture. The mean intensity is of
    the file's values (scl_slope applied), finite ones only; a list where there are several channels.
    """
    voxel, unit = _voxel(grid)
    channels = [channel for volume in images for channel in volume.channel_first]
    report: dict[str, Any] = {"case": case, "unit": unit, "voxel_size": voxel}
    if instances:
        sizes = np.bincount(labels.ravel())[1:]
        sizes = sizes[sizes > 0]
        report["objects"] = {
            "count": int(sizes.size),
            f"median_size_{unit}": float(np.median(sizes)) * voxel if sizes.size else None,
            f"total_size_{unit}": float(sizes.sum()) * voxel,
            "mean_intensity": _mean_intensity(channels, labels > 0),
        }
        return report
    report["labels"] = {}
    for label, name in names.items():
        if label == 0:
            continue
        mask = labels == label
        count = int(mask.sum())
        report["labels"][name] = {
            "label": label,
            "voxels": count,
            unit: count * voxel,
            "mean_intensity": _mean_intensity(channels, mask),
        }
    return report


def _voxel(volume: Volume) -> tuple[float, str]:
    """Size of one voxel and its unit; a sheared grid's voxels are smaller than their edges say."""
    if not volume.physical:
        return 1.0, "pixels"
    unit_columns = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    size = float(np.prod(volume.spacing))
    if volume.rank == 2:
        return size, "mm2"
    return size * abs(float(np.linalg.det(unit_columns))) / 1000, "mL"


def _mean_intensity(channels: Sequence[np.ndarray], mask: np.ndarray) -> float | list | None:
    if not channels:
        return None
    means: list[float | None] = []
    for channel in channels:
        inside = channel[mask.reshape(channel.shape)]
        inside = inside[np.isfinite(inside)]
        means.append(float(inside.mean(dtype=np.float64)) if inside.size else None)
    return means[0] if len(means) == 1 else means


def legend(stats: Mapping[str, Any]) -> dict[int, str]:
    """The overlay's texts: each label's name and size, or the number of objects."""
    unit = stats["unit"]
    short = {"pixels": "px", "mm2": "mm²"}.get(unit, unit)
    if "objects" in stats:
        about = stats["objects"]
        median = about[f"median_size_{unit}"]
        size = f", median size {median:.4g} {short}" if median is not None else ""
        return {0: f"{about['count']} objects{size}"}
    return {
        entry["label"]: f"{name}, {digits(entry[unit])} {short}"
        for name, entry in stats["labels"].items()
    }


def digits(value: float) -> str:
    """Three significant digits, whole numbers from a hundred up."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def model_record(model: Model) -> dict[str, Any]:
    """Which model made a result, for manifests."""
    spec = model.spec
    return {
        "name": spec.name,
        "network": spec.network.name,
        "folder": str(model.folder),
        "folds": list(model.folds),
        "weights": model.weights,
        "licence": spec.licence,
        "intended_use": spec.intended_use,
    }


def now() -> str:
    """The time in UTC, for manifests."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    return read_json(path, advice="predict this case again")


def source_images(source: Result) -> list[Volume]:
    """The images the source was made from, or none when they moved or changed."""
    try:
        last_axis = bool(source.manifest.get("channels_last_axis"))
        return [
            read_again(entry, channels_last_axis=last_axis)
            for entry in source.manifest.get("inputs", [])
        ]
    except (KeyError, TypeError, TriptychError):
        return []
