"""Recorded frames as batches: a table of labels, a split by route, a draw of frames, the pictures.

A batch is a dictionary of tensors, B frames of V cameras of H x W pixels, T waypoints:

    rgb (B, V, 3, H, W) uint8         depth (B, V, H, W) m            semantics (B, V, H, W) uint8
    speed, speed_input (B,) m/s       target (B, 2) m                 command (B,) int64
    waypoints (B, T, 2) m             control (B, 3)                  red_light, stop_sign (B,)

``semantics`` are class numbers, 255 where unknown; ``speed_input`` is what the driver is told (NaN:
nothing), ``speed`` the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from apps.driving.training.augment import augment
from apps.driving.training.config import AugmentConfig, Sampling
from apps.driving.training.metrics import SECONDS
from core.errors import DataError

STANDING = 0.1
"""m/s, below which a car stands."""


class Route(Protocol):
    """What is read of a recording: ``recordings.reader.Recording``."""

    @property
    def town(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> Path: ...

    def __len__(self) -> int: ...

    @property
    def columns(self) -> Mapping[str, np.ndarray]: ...

    def sample(self, index: int) -> Any: ...


@dataclass(frozen=True)
class Split:
    """Routes to learn from and routes to be measured on."""

    train: tuple[Route, ...]
    val: tuple[Route, ...]


def split_routes(
    routes: Sequence[Route],
    val_towns: Sequence[str] | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
) -> Split:
    """Whole routes to either side: ``val_towns``, or ``val_fraction`` of each town's, drawn by ``seed``.

    Frames 0.5 s apart are almost the same picture, so a route is never on both sides; nor is a
    route of the same town and name from another folder, which may be a copy of it.

    Raises DataError where a side stays empty or a town of ``val_towns`` is not there.
    """
    routes = sorted(routes, key=lambda r: (r.town, r.name, str(r.path)))
    towns = sorted({route.town for route in routes})
    if val_towns is not None:
        absent = sorted(set(val_towns) - set(towns))
        if absent or not val_towns:
            raise DataError(
                f"validation towns {list(val_towns)}: no recording of {', '.join(absent) or 'none'}; "
                f"there are recordings of {', '.join(towns)}"
            )
        held = {(r.town, r.name) for r in routes if r.town in set(val_towns)}
    else:
        held = _every_so_many(sorted({(r.town, r.name) for r in routes}), val_fraction, seed)
    train = tuple(r for r in routes if (r.town, r.name) not in held)
    val = tuple(r for r in routes if (r.town, r.name) in held)
    if not train or not val:
        raise DataError(
            f"{len(routes)} routes of {', '.join(towns) or 'no town'}: {len(train)} are left to learn "
            f"from and {len(val)} to validate on; record more routes, or other towns"
        )
    return Split(train, val)


def _every_so_many(
    keys: Sequence[tuple[str, str]], fraction: float, seed: int
) -> set[tuple[str, str]]:
    """``fraction`` of the (town, name)s, at least one: evenly spaced in an order that keeps towns
    together, so that each gives its share, whether it has a hundred routes or three.
    """
    rng = np.random.default_rng([seed, 71])
    towns = sorted({town for town, _ in keys})
    order: list[tuple[str, str]] = []
    for i in rng.permutation(len(towns)):
        own = [key for key in keys if key[0] == towns[i]]
        order += [own[j] for j in rng.permutation(len(own))]
    count = min(len(order), max(1, round(fraction * len(order))))
    if not count:
        return set()
    at = (np.arange(count) + rng.random()) / count * len(order)
    return {order[int(i)] for i in at}


@dataclass
class Frames:
    """All frames of some routes. Labels are read at once, pictures when asked for.

    ``classes`` (256,) uint8: the class of each CARLA tag. ``steps``: waypoints that are wanted.
    """

    routes: Sequence[Route]
    classes: np.ndarray
    steps: int
    place: np.ndarray = field(init=False)  # (n, 2): route, frame of the route
    speed: np.ndarray = field(init=False)
    command: np.ndarray = field(init=False)
    control: np.ndarray = field(init=False)  # (n, 3)
    waypoints: np.ndarray = field(init=False)  # (n, T, 2)
    red_light: np.ndarray = field(init=False)
    stop_sign: np.ndarray = field(init=False)
    yielding: np.ndarray = field(init=False)  # to a vehicle or a walker

    def __post_init__(self) -> None:
        sizes = [len(route) for route in self.routes]
        if not sum(sizes):
            raise DataError(
                f"{len(sizes)} routes without a frame to learn from; record longer ones"
            )
        self.place = np.array([(n, i) for n, size in enumerate(sizes) for i in range(size)])
        columns = [route.columns for route, size in zip(self.routes, sizes) if size]
        for name in ("speed", "command", "control", "red_light", "stop_sign"):
            setattr(self, name, np.concatenate([each[name] for each in columns]))
        self.yielding = np.concatenate([each["vehicle"] | each["walker"] for each in columns])
        self.waypoints = np.concatenate([self._points(each["waypoints"]) for each in columns])

    def __len__(self) -> int:
        return len(self.place)

    def load(self, index: int) -> dict[str, np.ndarray]:
        """One frame with its pictures, views first: see the module, without the B.

        Raises what the recording raises: DataError naming a picture that is damaged.
        """
        number, at = self.place[index]
        sample = self.routes[number].sample(int(at))
        return {
            "rgb": sample.rgb,
            "depth": np.asarray(sample.depth, np.float32),
            "semantics": self.classes[sample.semantics],
            "speed": np.float32(self.speed[index]),
            "speed_input": np.float32(self.speed[index]),
            "target": np.asarray(sample.target, np.float32),
            "command": np.int64(self.command[index]),
            "waypoints": self.waypoints[index],
            "control": np.asarray(self.control[index], np.float32),
            "red_light": np.float32(self.red_light[index]),
            "stop_sign": np.float32(self.stop_sign[index]),
        }

    def _points(self, points: np.ndarray) -> np.ndarray:
        """(n, steps, 2); what the recording does not reach is NaN."""
        points = np.asarray(points, np.float32)[:, : self.steps]
        missing = np.full((len(points), self.steps - points.shape[1], 2), np.nan, np.float32)
        return np.concatenate([points, missing], axis=1)


def kinds(frames: Frames) -> dict[str, np.ndarray]:
    """Which frames are of each kind that ``Sampling`` names: (n,) bool each."""
    end = np.nan_to_num(frames.waypoints[:, -1])
    seconds = SECONDS * frames.waypoints.shape[1]
    far, aside = np.linalg.norm(end, axis=1), np.abs(end[:, 1])
    stands, goes = frames.speed < STANDING, frames.speed >= 1.0
    return {
        "slowing": goes & (far < 0.67 * frames.speed * seconds),
        "yielding": frames.yielding,
        "starting": ~goes & (far > 2.0),
        "turning": (np.abs(frames.control[:, 0]) > 0.1) | (aside > 1.0),
        "red_light": frames.red_light & (frames.speed > 0.5),
        "stop_sign": frames.stop_sign,
        "standing": stands & (far < 0.5),
    }


def draw_weights(found: dict[str, np.ndarray], sampling: Sampling | None) -> np.ndarray:
    """(n,) how often each frame is drawn, relative to the others, by ``kinds``."""
    weights = np.ones(len(found["standing"]))
    if sampling is None:
        return weights

    def bring_to(members: np.ndarray, share: float) -> None:
        inside, outside = weights[members].sum(), weights[~members].sum()
        if inside > 0 and outside > 0:
            weights[members] *= share / (1 - share) * outside / inside

    for name, members in found.items():
        if name == "standing":
            continue
        least = getattr(sampling, name)
        if weights[members].sum() < least * weights.sum():
            bring_to(members, least)
            np.minimum(weights, sampling.most, out=weights)
    standing = found["standing"]
    if sampling.standing < 1 and weights[standing].sum() > sampling.standing * weights.sum():
        bring_to(standing, sampling.standing)
    return weights


class DrivingBatches:
    """``core.training.Batches``: batch i of a seeded draw, augmented.

    In each epoch of n frames, a frame of weight w is drawn floor(n w / W) or one more times (W: sum
    of the weights; systematic resampling), in a seeded order: the common ones are all seen.
    """

    def __init__(
        self,
        frames: Frames,
        batch: int,
        seed: int,
        weights: np.ndarray | None = None,
        settings: AugmentConfig | None = None,
    ) -> None:
        self.frames, self.batch, self.seed, self.settings = frames, batch, seed, settings
        weights = np.ones(len(frames)) if weights is None else weights
        self._edges = np.cumsum(weights) / weights.sum()
        self._epoch: tuple[int, np.ndarray] = (-1, np.zeros(0, int))

    def order(self, epoch: int) -> np.ndarray:
        """(n,) the frames of an epoch."""
        if self._epoch[0] != epoch:
            rng = np.random.default_rng([self.seed, 73, epoch])
            n = len(self.frames)
            drawn = np.searchsorted(self._edges, (np.arange(n) + rng.random()) / n)
            self._epoch = epoch, rng.permutation(np.minimum(drawn, n - 1))
        return self._epoch[1]

    def batch_at(self, index: int) -> dict[str, Tensor]:
        first = index * self.batch
        return collate([self._sample(first + i) for i in range(self.batch)])

    def _sample(self, n: int) -> dict[str, np.ndarray]:
        epoch, place = divmod(n, len(self.frames))
        sample = self.frames.load(int(self.order(epoch)[place]))
        if self.settings is None:
            return sample
        return augment(sample, self.settings, np.random.default_rng([self.seed, 74, n]))


def collate(samples: Sequence[dict[str, np.ndarray]]) -> dict[str, Tensor]:
    """Samples as one batch; pictures become channels-first."""
    batch = {key: torch.from_numpy(np.stack([s[key] for s in samples])) for key in samples[0]}
    # A view: the networks want channels last in memory anyway.
    batch["rgb"] = batch["rgb"].permute(0, 1, 4, 2, 3)
    return batch


def evenly(frames: Frames, most: int) -> np.ndarray:
    """At most ``most`` frames' numbers, evenly spread."""
    if len(frames) <= most:
        return np.arange(len(frames))
    return np.linspace(0, len(frames) - 1, most).round().astype(int)


def in_batches(
    frames: Frames, chosen: Sequence[int] | np.ndarray, size: int
) -> Iterator[dict[str, Tensor]]:
    """The frames ``chosen`` as recorded, in batches of at most ``size``."""
    for at in range(0, len(chosen), size):
        yield collate([frames.load(int(i)) for i in chosen[at : at + size]])


def class_shares(frames: Frames, count: int, most: int = 96) -> list[float]:
    """Share of the pixels of each of ``count`` classes, from ``most`` frames evenly spread."""
    pixels = np.zeros(256)
    for i in evenly(frames, most):
        pixels += np.bincount(frames.load(int(i))["semantics"].ravel(), minlength=256)
    return [float(x) for x in pixels[:count] / max(1.0, pixels[:count].sum())]
