"""Splits that do not leak, draws that are seeded and balanced, batches as a function of their index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apps.driving.training.batches import (
    DrivingBatches,
    Frames,
    class_shares,
    draw_weights,
    evenly,
    in_batches,
    kinds,
    split_routes,
)
from apps.driving.training.config import AugmentConfig, Sampling
from core.errors import DataError

CLASSES = (np.arange(256) % 5).astype(np.uint8)


@dataclass
class Row:
    speed: float
    target: Any
    command: int
    waypoints: Any
    control: Any
    red_light: bool
    stop_sign: bool
    rgb: Any = None
    depth: Any = None
    semantics: Any = None


@dataclass
class FakeRoute:
    """A route whose pictures say which frame they are."""

    town: str = "Town01"
    name: str = "a/Town01/r0"
    path: Path = Path("/data/a/Town01/r0")
    length: int = 20
    seed: int = 0

    def __len__(self) -> int:
        return self.length

    def labels(self, index: int) -> Row:
        rng = np.random.default_rng([self.seed, index])
        standing = index % 2 == 0
        speed = 0.0 if standing else 5.0
        kept = 0.5 if index == 5 else 1.0  # goes on at half its speed
        ahead = np.stack([kept * speed * 0.5 * np.arange(1, 5), np.zeros(4)], 1).astype(np.float32)
        steer = 0.5 if index == 3 else 0.0
        return Row(
            speed=speed,
            target=rng.normal(size=2).astype(np.float32),
            command=1 + index % 6,
            waypoints=ahead,
            control=np.array([steer, 0.5, 0.0], np.float32),
            red_light=index in (1, 2),
            stop_sign=False,
        )

    @property
    def columns(self) -> dict[str, np.ndarray]:
        rows = [self.labels(i) for i in range(self.length)]
        names = ("speed", "command", "control", "red_light", "stop_sign", "waypoints")
        columns = {name: np.array([getattr(row, name) for row in rows]) for name in names}
        return columns | {"vehicle": np.arange(self.length) == 4, "walker": columns["stop_sign"]}

    def sample(self, index: int) -> Row:
        row = self.labels(index)
        row.rgb = np.full((3, 8, 16, 3), index, np.uint8)
        row.depth = np.full((3, 8, 16), 10.0 + index, np.float32)
        row.semantics = np.full((3, 8, 16), index, np.uint8)
        return row


def _routes(towns: int = 3, each: int = 5, **changes: Any) -> list[FakeRoute]:
    return [
        FakeRoute(f"T{t}", f"s/T{t}/r{r}", Path(f"/d/s/T{t}/r{r}"), seed=10 * t + r, **changes)
        for t in range(towns)
        for r in range(each)
    ]


def _frames(**changes: Any) -> Frames:
    return Frames([FakeRoute(**changes)], CLASSES, 4)


# ---- splits --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_no_route_is_on_both_sides(seed: int, fraction: float) -> None:
    routes = _routes()
    # The same recordings in a second folder, as a copy or a mount would make them.
    copies = [FakeRoute(r.town, r.name, Path("/other") / r.path.name, seed=r.seed) for r in routes]
    split = split_routes([*routes, *copies], val_fraction=fraction, seed=seed)
    train, val = ({(r.town, r.name) for r in side} for side in (split.train, split.val))
    assert train
    assert val
    assert not train & val
    assert len(split.train) + len(split.val) == len(routes) + len(copies)


def test_each_town_gives_its_share() -> None:
    split = split_routes(_routes(3, 10), val_fraction=0.2, seed=1)
    assert {t: sum(r.town == t for r in split.val) for t in ("T0", "T1", "T2")} == {
        "T0": 2,
        "T1": 2,
        "T2": 2,
    }


def test_many_towns_of_few_routes_give_their_share_together() -> None:
    split = split_routes(_routes(20, 3), val_fraction=0.1, seed=1)
    assert len(split.val) == 6
    assert len({r.town for r in split.val}) == 6


def test_held_out_towns_are_absent_from_training() -> None:
    split = split_routes(_routes(), val_towns=["T1"], seed=0)
    assert {r.town for r in split.val} == {"T1"}
    assert {r.town for r in split.train} == {"T0", "T2"}


def test_a_split_does_not_depend_on_the_order_of_reading() -> None:
    routes = _routes()
    one, other = split_routes(routes, seed=4), split_routes(routes[::-1], seed=4)
    assert [r.name for r in one.val] == [r.name for r in other.val]
    assert any(
        [r.name for r in split_routes(routes, seed=s).val] != [r.name for r in one.val]
        for s in range(5, 10)
    )


def test_a_town_without_recordings_is_named() -> None:
    with pytest.raises(DataError, match=r"T9.*T0, T1, T2"):
        split_routes(_routes(), val_towns=["T9"])


@pytest.mark.parametrize(
    ("routes", "towns"), [(_routes(1, 1), None), ([], None), (_routes(1, 4), ["T0"])]
)
def test_too_few_routes_are_refused(routes: list[FakeRoute], towns: list[str] | None) -> None:
    with pytest.raises(DataError, match="record more routes"):
        split_routes(routes, val_towns=towns)


# ---- frames --------------------------------------------------------------------------------


def test_a_frame_has_the_picture_of_its_labels() -> None:
    frames = Frames([FakeRoute(), FakeRoute(name="b", seed=1)], CLASSES, 4)
    loaded = frames.load(20 + 7)
    assert (loaded["rgb"] == 7).all()
    assert (loaded["semantics"] == 7 % 5).all()
    assert loaded["speed"] == frames.speed[27] == 5.0
    np.testing.assert_array_equal(loaded["target"], FakeRoute(seed=1).labels(7).target)
    assert loaded["command"] == 2


def test_waypoints_beyond_the_recording_are_unknown() -> None:
    frames = Frames([FakeRoute()], CLASSES, 6)
    assert frames.waypoints.shape == (20, 6, 2)
    assert np.isfinite(frames.waypoints[:, :4]).all()
    assert np.isnan(frames.waypoints[:, 4:]).all()


def test_routes_without_frames_are_refused() -> None:
    with pytest.raises(DataError, match="without a frame"):
        _frames(length=0)


def test_shares_of_classes_are_of_pixels() -> None:
    assert class_shares(_frames(length=10), 5) == pytest.approx([0.2] * 5)


# ---- draws ---------------------------------------------------------------------------------


def _kinds(n: int = 1000) -> dict[str, np.ndarray]:
    at = np.arange(n)
    none = np.zeros(n, bool)
    return {
        "slowing": at % 50 == 0,
        "yielding": none,
        "starting": at % 100 == 1,
        "turning": at % 10 == 2,
        "red_light": none,
        "stop_sign": at == 3,
        "standing": at % 10 >= 5,
    }


def test_rare_kinds_are_drawn_as_often_as_told_and_standing_no_more() -> None:
    found, sampling = _kinds(), Sampling()
    weights = draw_weights(found, sampling)
    share = weights / weights.sum()
    assert share[found["standing"]].sum() == pytest.approx(sampling.standing)
    plain = ~np.any(list(found.values()), axis=0)
    for name in ("slowing", "turning"):
        assert share[found[name]].sum() > 0.7 * getattr(sampling, name)
        assert share[found[name]].mean() > 2 * share[plain].mean()
    assert share.max() <= sampling.most * share[plain].mean() * (1 + 1e-9)
    assert (draw_weights(found, None) == 1).all()


def test_kinds_are_what_they_say() -> None:
    found = kinds(_frames())
    assert found["standing"].tolist() == [i % 2 == 0 for i in range(20)]
    assert found["turning"].nonzero()[0].tolist() == [3]
    assert found["red_light"].nonzero()[0].tolist() == [1]  # at 2 it stands already
    assert found["slowing"].nonzero()[0].tolist() == [5]
    assert found["yielding"].nonzero()[0].tolist() == [4]
    assert not found["stop_sign"].any()


def test_an_epoch_draws_each_frame_by_its_weight() -> None:
    frames = _frames(length=12)
    weights = np.array([3.0, 1, 1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5])
    batches = DrivingBatches(frames, 4, seed=2, weights=weights)
    counts = np.zeros(12)
    for epoch in range(40):
        drawn = np.bincount(batches.order(epoch), minlength=12)
        assert drawn.sum() == 12
        assert (np.abs(drawn - weights) < 1 + 1e-9).all()  # never more than one off
        counts += drawn
    np.testing.assert_allclose(counts / 40, weights, atol=0.2)
    assert batches.order(0).tolist() != batches.order(1).tolist()


def test_without_weights_an_epoch_is_every_frame_once() -> None:
    batches = DrivingBatches(_frames(length=13), 4, seed=0)
    assert sorted(batches.order(5)) == list(range(13))


def test_a_batch_depends_on_its_number_alone() -> None:
    settings = AugmentConfig(colour=1, noise=1, speed_dropout=0)
    one = DrivingBatches(_frames(), 3, seed=1, settings=settings)
    other = DrivingBatches(_frames(), 3, seed=1, settings=settings)
    ahead = [one.batch_at(i) for i in range(12)]
    for i in (11, 0, 7, 3):
        again = other.batch_at(i)
        assert all(torch.equal(ahead[i][key], again[key]) for key in again)
    different = DrivingBatches(_frames(), 3, seed=2, settings=settings).batch_at(0)
    assert not torch.equal(different["rgb"], ahead[0]["rgb"])


def test_the_layout_of_a_batch() -> None:
    batch = DrivingBatches(_frames(), 3, seed=1).batch_at(0)
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in batch.items()}
    assert shapes == {
        "rgb": ((3, 3, 3, 8, 16), torch.uint8),
        "depth": ((3, 3, 8, 16), torch.float32),
        "semantics": ((3, 3, 8, 16), torch.uint8),
        "speed": ((3,), torch.float32),
        "speed_input": ((3,), torch.float32),
        "target": ((3, 2), torch.float32),
        "command": ((3,), torch.int64),
        "waypoints": ((3, 4, 2), torch.float32),
        "control": ((3, 3), torch.float32),
        "red_light": ((3,), torch.float32),
        "stop_sign": ((3,), torch.float32),
    }


def test_validation_takes_frames_evenly_and_each_once() -> None:
    frames = _frames()
    assert evenly(frames, 5).tolist() == [0, 5, 10, 14, 19]
    assert evenly(frames, 50).tolist() == list(range(20))
    seen = [
        int(v) for b in in_batches(frames, evenly(frames, 7), 3) for v in b["rgb"][:, 0, 0, 0, 0]
    ]
    assert seen == evenly(frames, 7).tolist()
