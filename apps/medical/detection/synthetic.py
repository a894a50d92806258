"""Painted lesions over one real or invented study, written in PI-CAI's file layout.

What this is for: the whole path, from files of three grids to AP with its interval, on data whose
truth is known.  What it is not: evidence about prostate cancer.  All cases are one patient's images
with ellipsoids painted in; a network that finds them has learned to find ellipsoids.

A lesion is an ellipsoid in world space, dark on T2W, dark on ADC and bright at high b-value, as
csPCa is, painted into each series on that series' own grid.  Mimics look like it in one series only
and are no lesions, so that no single channel suffices.  Cases differ by their lesions, a mirrored
left and right, a shifted field of view, gain, a smooth bias field and noise.

Contrast: intensity + w s (r - 1) m with w the ellipsoid's soft profile (0..1), s the lesion's strength
(0.4 to 1), m the series' median inside the gland and r its ratio there (0.45, 0.5 and 2.5), never
below 0.  Truth is w > 1/2 on the T2W grid.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
from scipy import ndimage

from apps.medical.data.volume import Volume, write_label_like
from apps.medical.detection.inputs import ROLES, Biparametric
from apps.medical.detection.picai import LABELS, MARKSHEET
from apps.medical.results import case_folder
from core.errors import UsageError
from core.files import atomic_path, write_text
from core.progress import Progress, SilentProgress

RATIO = {"t2w": 0.45, "adc": 0.5, "hbv": 2.5}
# Half axes in mm of the box-like region in the middle of the T2W image where lesions are put: about
# a gland of 50 mL (right-left, back-front, up-down).
GLAND = (24.0, 18.0, 20.0)
NOTICE = (
    "SYNTHETIC DATA. Ellipsoids painted over the images of one patient; no lesion here is real, and\n"
    "no figure measured on it says anything about prostate cancer.\n"
)


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """An ellipsoid: centre in RAS+ mm, half axes in mm along the columns of ``axes``.

    ``roles`` are the series that show it: all of them, or one for a mimic.
    """

    centre: np.ndarray
    radii: np.ndarray
    axes: np.ndarray
    strength: float
    roles: tuple[str, ...] = ROLES

    @property
    def real(self) -> bool:
        """Whether it counts as a lesion, not as a mimic."""
        return self.roles == ROLES

    def profile(self, volume: Volume) -> tuple[tuple[slice, ...], np.ndarray]:
        """Where it lies in a volume and its soft profile there: 1 inside, 1/2 on the surface."""
        reach = 1.6 * float(self.radii.max())
        corners = np.array(np.meshgrid(*[(-reach, reach)] * 3)).reshape(3, -1).T + self.centre
        back = np.linalg.inv(volume.affine)
        at = corners @ back[:3, :3].T + back[:3, 3]
        low = np.clip(np.floor(at.min(0)).astype(int), 0, volume.shape)
        high = np.clip(np.ceil(at.max(0)).astype(int) + 1, 0, volume.shape)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        indices = np.stack(
            np.meshgrid(*[np.arange(s.start, s.stop) for s in box], indexing="ij"), -1
        )
        place = indices @ volume.affine[:3, :3].T + volume.affine[:3, 3] - self.centre
        distance = np.linalg.norm(place @ self.axes / self.radii, axis=-1)
        # From 1 at 3/4 of the radius to 0 at 5/4, smoothly.
        step = np.clip((1.25 - distance) / 0.5, 0, 1)
        return box, step**2 * (3 - 2 * step)


def gland_box(t2w: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Middle of the T2W image in RAS+ mm, and its own directions as columns in RAS order."""
    from apps.medical.detection.grid import detection_grid

    grid = detection_grid(t2w, (1, 1, 1), (1, 1, 1))
    return grid.affine[:3, 3].copy(), grid.affine[:3, :3].copy()


def random_lesions(
    random: np.random.Generator, t2w: Volume, real: int, mimics: int
) -> list[Lesion]:
    """Ellipsoids of 4 to 8 mm in the gland, none where another fades out."""
    middle, directions = gland_box(t2w)
    made: list[Lesion] = []
    for _ in range(200 * (real + mimics)):
        if len(made) == real + mimics:
            break
        radii = random.uniform(4, 8, 3)
        spread = np.maximum(np.array(GLAND) - radii.max(), 1)
        place = random.normal(size=3)
        place *= random.random() ** (1 / 3) / np.linalg.norm(place)
        centre = middle + directions @ (place * spread)
        if any(
            np.linalg.norm(centre - other.centre) < 1.25 * (radii.max() + other.radii.max())
            for other in made
        ):
            continue
        axes, _ = np.linalg.qr(random.normal(size=(3, 3)))
        roles = ROLES if len(made) < real else (ROLES[random.integers(3)],)
        strength = random.uniform(0.4, 1.0)
        made.append(Lesion(centre=centre, radii=radii, axes=axes, strength=strength, roles=roles))
    return made


def paint(volume: Volume, role: str, lesions: Sequence[Lesion], level: float) -> np.ndarray:
    """The volume's values (*S) float32 with the lesions that show in this role."""
    out = np.asarray(volume.array, np.float32).copy()
    for lesion in lesions:
        if role in lesion.roles:
            box, profile = lesion.profile(volume)
            out[box] += (profile * lesion.strength * (RATIO[role] - 1) * level).astype(np.float32)
    return np.maximum(out, 0)


def truth(t2w: Volume, lesions: Sequence[Lesion]) -> np.ndarray:
    """1 where a real lesion is, uint8 (*S) on the T2W grid."""
    out = np.zeros(t2w.shape, np.uint8)
    for lesion in lesions:
        if lesion.real:
            box, profile = lesion.profile(t2w)
            out[box][profile > 0.5] = 1
    return out


def level_of(study: Biparametric, role: str) -> float:
    """The median of a series inside the gland, its unit of contrast."""
    volume: Volume = getattr(study, role)
    middle, directions = gland_box(study.t2w)
    gland = Lesion(
        centre=middle, radii=np.array(GLAND) * 0.8, axes=directions, strength=1, roles=("",)
    )
    box, profile = gland.profile(volume)
    inside = np.asarray(volume.array)[box][profile > 0.5]
    return float(np.median(inside)) if inside.size else float(np.median(volume.array))


def synthesise(
    study: Biparametric, random: np.random.Generator, *, real: int, mimics: int
) -> tuple[Biparametric, np.ndarray, list[Lesion]]:
    """One case: the study with lesions, their truth (*S) on the new T2W grid, and the lesions."""
    levels = {role: level_of(study, role) for role in ROLES}
    mirrored = bool(random.random() < 0.5)
    moved = {role: _vary(getattr(study, role), mirrored, study.t2w) for role in ROLES}
    moved["t2w"] = _cropped(moved["t2w"], random)
    lesions = random_lesions(random, moved["t2w"], real, mimics)
    volumes = {}
    for role, volume in moved.items():
        values = paint(volume, role, lesions, levels[role])
        values = values * random.uniform(0.8, 1.25) * _bias(values.shape, random)
        values += random.normal(0, 0.04 * levels[role], values.shape)
        values = np.maximum(np.rint(values), 0).astype(np.int16)
        volumes[role] = replace(volume, array=values, notes={}, store=None)
    made = Biparametric(case=study.case, t2w=volumes["t2w"], adc=volumes["adc"], hbv=volumes["hbv"])
    return made, truth(made.t2w, lesions), lesions


def _vary(volume: Volume, mirrored: bool, t2w: Volume) -> Volume:
    """The volume, its anatomy mirrored at the T2W image's own middle plane where ``mirrored``."""
    if not mirrored:
        return volume
    middle, directions = gland_box(t2w)
    side = directions[:, 0]
    flip = np.eye(4)
    flip[:3, :3] -= 2 * np.outer(side, side)
    flip[:3, 3] = 2 * side * (side @ middle)
    # The mirrored grid is left-handed; taking its first axis backwards makes it a grid again.
    affine = flip @ volume.affine
    last = volume.shape[0] - 1
    affine[:3, 3] += affine[:3, 0] * last
    affine[:3, 0] *= -1
    return replace(volume, array=volume.array[::-1], affine=affine)


def _cropped(volume: Volume, random: np.random.Generator) -> Volume:
    """Up to 8 mm cut from one side of each in-plane axis, so that the gland is not quite central."""
    cut, start = [], []
    for axis in range(3):
        wide = volume.spacing[axis] < 2
        most = min(int(8 / volume.spacing[axis]), volume.shape[axis] // 8) if wide else 0
        low, high = (int(random.integers(0, most + 1)) for _ in range(2))
        cut.append(slice(low, volume.shape[axis] - high))
        start.append(low)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    return replace(volume, array=volume.array[tuple(cut)], affine=affine)


def _bias(shape: Sequence[int], random: np.random.Generator) -> np.ndarray:
    """A smooth field around 1, by at most a fifth: coil sensitivity."""
    coarse = random.normal(size=(3, 3, 2))
    coarse *= 0.2 / np.abs(coarse).max()
    zoom = [n / m for n, m in zip(shape, coarse.shape, strict=True)]
    return 1 + ndimage.zoom(coarse, zoom, order=1, grid_mode=True, mode="nearest")


def write_dataset(
    study: Biparametric,
    out: Path,
    cases: int = 40,
    *,
    positive: float = 0.5,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write ``cases`` cases below ``out``: images/PATIENT/PATIENT_STUDY_{t2w,adc,hbv}.mha and, below
    labels/, the lesions' truth and a marksheet, as ``picai.list_cases`` reads them.

    Case i depends on ``seed`` and i alone.  Every fifth patient has two studies.  Returns how many
    cases, positive cases and lesions there are.  Raises UsageError where ``out`` exists and ``force``
    is false.
    """
    if cases < 1 or not 0 <= positive <= 1:
        raise UsageError(f"{cases} cases, {positive} of them positive: want 1 or more, and 0 to 1")
    rows, counts = [], {"cases": cases, "positive": 0, "lesions": 0}
    with (
        case_folder(Path(out), force) as folder,
        (progress or SilentProgress()).task("painting lesions", total=cases) as task,
    ):
        write_text(folder / "SYNTHETIC.txt", NOTICE)
        for number in range(cases):
            random = np.random.default_rng((seed, number))
            wanted = int(random.integers(1, 4)) if random.random() < positive else 0
            made, label, lesions = synthesise(
                study, random, real=wanted, mimics=int(random.integers(0, 3))
            )
            patient = 90000 + number - number // 6 - (number % 6 == 5)
            name = f"{patient}_{9000000 + number}"
            for role in ROLES:
                write_image(
                    getattr(made, role), folder / "images" / str(patient) / f"{name}_{role}.mha"
                )
            grade = int(random.integers(2, 6))
            write_label_like(
                made.t2w, label * grade, folder / "labels" / LABELS[0] / f"{name}.nii.gz"
            )
            found = sum(lesion.real for lesion in lesions)
            counts["positive"] += found > 0
            counts["lesions"] += found
            rows.append([patient, 9000000 + number, "YES" if found else "NO", "SYNTHETIC"])
            task.advance(note=name)
        table = StringIO()
        sheet = csv.writer(table, lineterminator="\n")
        sheet.writerow(["patient_id", "study_id", "case_csPCa", "center"])
        sheet.writerows(rows)
        write_text(folder / "labels" / MARKSHEET, table.getvalue())
    return counts


def write_image(volume: Volume, path: Path) -> None:
    """Write a volume as MetaImage, compressed, on its own grid, atomically."""
    import SimpleITK as sitk

    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine  # RAS to LPS
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(matrix[:3, 3].tolist())
    with atomic_path(path) as temporary:
        sitk.WriteImage(image, str(temporary), True)
