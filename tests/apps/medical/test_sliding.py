"""The sliding window against MONAI's, and its memory limit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from apps.medical.sliding import (
    importance,
    mirrorings,
    sliding_argmax,
    sliding_logits,
    window_starts,
)
from core.errors import DataError, ResourceError, UsageError
from core.progress import Progress


def network(rank: int, channels: int = 1, classes: int = 3, seed: int = 0) -> nn.Module:
    """Two convolutions whose zero padding makes every window's border different from its middle."""
    torch.manual_seed(seed)
    conv = nn.Conv2d if rank == 2 else nn.Conv3d
    return nn.Sequential(
        conv(channels, 6, 5, padding=2), nn.GELU(), conv(6, classes, 3, padding=1)
    ).eval()


def image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Recorder(Progress):
    counts: tuple = ()

    def show(self, task, event) -> None:
        self.counts = (task.done, task.total)


def monai(x: np.ndarray, net: nn.Module, window: tuple[int, ...], overlap: float) -> np.ndarray:
    with torch.inference_mode():
        return sliding_window_inference(
            torch.from_numpy(x)[None],
            window,
            1,
            net,
            overlap=overlap,
            mode="gaussian",
            sigma_scale=0.125,
            padding_mode="constant",
        )[0].numpy()


CASES = [
    # image (C, *S), window, overlap, classes
    ((1, 37, 53), (16, 16), 0.5, 3),
    ((3, 41, 29), (16, 12), 0.25, 2),
    ((1, 64, 17), (17, 9), 0.75, 5),
    ((1, 9, 40), (16, 16), 0.5, 3),  # one side smaller than the window
    ((1, 5, 7), (16, 16), 0.5, 2),  # both
    ((1, 16, 16), (16, 16), 0.5, 2),  # one window exactly
    ((1, 32, 32), (16, 16), 0.0, 2),
    ((1, 23, 31, 19), (12, 12, 12), 0.5, 3),
    ((2, 13, 30, 21), (8, 16, 10), 0.6, 4),
    ((1, 7, 26, 11), (12, 12, 8), 0.25, 2),  # smaller than the window along one axis
    ((1, 5, 6, 7), (8, 8, 8), 0.5, 3),
]


@pytest.mark.parametrize(("shape", "window", "overlap", "classes"), CASES)
def test_scores_and_labels_equal_monais(shape, window, overlap, classes) -> None:
    net = network(len(window), shape[0], classes)
    x = image(*shape)
    expected = monai(x, net, window, overlap)
    logits = sliding_logits(x, net, window, overlap)
    assert logits.shape == (classes, *shape[1:])
    np.testing.assert_allclose(logits, expected, atol=1e-4)

    labels = sliding_argmax(x, net, window, overlap, batch=3)
    assert labels.dtype == np.uint8
    assert labels.shape == shape[1:]
    # Where the two best classes are closer than rounding, either is right.
    best = np.sort(expected, axis=0)
    clear = best[-1] - best[-2] > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(labels[clear], expected.argmax(0)[clear])


def test_volume_smaller_than_the_window_is_padded_and_cropped_back() -> None:
    net, x = network(3), image(1, 5, 20, 6)
    expected = monai(x, net, (12, 12, 12), 0.5)
    np.testing.assert_allclose(sliding_logits(x, net, (12, 12, 12)), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 60, 90), (1, 9, 90, 44), (1, 20, 41, 30)])
def test_every_memory_limit_gives_the_same_labels(shape) -> None:
    """Down to the least that is possible, bit for bit, also with several members."""
    from apps.medical.sliding import _Work

    rank = len(shape) - 1
    window = (16, 16) if rank == 2 else (12, 12, 12)
    net, other, x = network(rank, seed=1), network(rank, seed=2), image(*shape)
    for networks, tta in ((net, ()), ([net, other], mirrorings((0,)))):
        work = _Work.prepare(x, networks, window, 0.5, 1, tta, None, None)
        need = work.held(tuple((0, size) for size in work.grid), 3)
        free = sliding_argmax(x, networks, window, tta=tta)
        calls = []
        for share in (1, 0.95, 0.9, 0.8, 0.7, 0.6, 0.4):
            progress = Recorder()
            try:
                limit = int(need * share)
                labels = sliding_argmax(
                    x, networks, window, tta=tta, mem_limit=limit, progress=progress
                )
            except ResourceError:
                break
            np.testing.assert_array_equal(labels, free)
            calls.append(progress.counts[1])
        assert calls == sorted(calls)
        assert calls[-1] > calls[0], "no limit was low enough to cut the volume"


def test_memory_limit_below_the_least_possible_names_it() -> None:
    net, x = network(3), image(1, 60, 60, 60)
    with pytest.raises(ResourceError, match=r"give at least 1 MiB"):
        sliding_argmax(x, net, (12, 12, 12), mem_limit=1000)


def test_memory_limit_holds_and_costs_repeated_windows() -> None:
    from apps.medical.sliding import _choose_blocks, _Work

    net, x = network(3), image(1, 24, 48, 48)
    work = _Work.prepare(x, net, (12, 12, 12), 0.5, 1, (), None, None)
    whole = tuple((0, size) for size in work.grid)
    need = work.held(whole, 3)
    assert _choose_blocks(work, 3, need) == [whole]
    blocks = _choose_blocks(work, 3, need // 2)
    assert len(blocks) > 1
    assert all(work.held(block, 3) <= need // 2 for block in blocks)
    assert sum(len(work.windows_in(block)) for block in blocks) > len(work.windows)
    voxels = np.zeros(work.grid, int)
    for block in blocks:
        voxels[tuple(slice(a, b) for a, b in block)] += 1
    assert (voxels == 1).all()


def test_what_is_held_is_what_was_promised() -> None:
    """Track the real bytes of open cells against the plan, and against holding everything."""
    from apps.medical.sliding import _Work

    classes = 4
    net, x = network(3, classes=classes), image(1, 60, 40, 40)
    work = _Work.prepare(x, net, (12, 12, 12), 0.5, 1, (), None, None)
    whole = tuple((0, size) for size in work.grid)
    seen = 0
    with torch.inference_mode():
        generator = work.finished_cells(whole, work.windows, lambda done: None)
        for _ in generator:
            cells = generator.gi_frame.f_locals["open_scores"].values()
            seen = max(seen, sum(cell.numel() * 4 for cell in cells))
    assert 0 < seen <= work.held(whole, classes)
    assert seen < 0.35 * x.size * classes * 4


def test_average_of_networks_and_mirrorings() -> None:
    """Probabilities, not logits, are averaged: compare with the members one by one."""
    nets = [network(2, seed=s) for s in range(2)]
    x = image(1, 30, 21)
    flips = [(), *mirrorings((0, 1))]
    assert sorted(flips) == [(), (0,), (0, 1), (1,)]
    total = np.zeros((3, 30, 21))
    for net in nets:
        for axes in flips:

            def member(window, net=net, axes=axes):
                dims = [axis + 2 for axis in axes]
                return net(window.flip(dims)).softmax(1).flip(dims)

            total += sliding_logits(x, member, (16, 16))
    total /= len(nets) * len(flips)
    scores = sliding_logits(x, nets, (16, 16), tta=mirrorings((0, 1)))
    np.testing.assert_allclose(np.exp(scores), total, atol=1e-5)
    labels = sliding_argmax(x, nets, (16, 16), tta=mirrorings((0, 1)))
    assert (labels == total.argmax(0)).mean() > 0.999


def test_windows_outside_the_mask_are_skipped_and_nothing_inside_changes() -> None:
    net, x = network(2), image(1, 80, 40)
    mask = np.zeros((80, 40), bool)
    mask[4:15, 5:30] = True
    calls: list[int] = []

    def counting(window):
        calls.append(len(window))
        return net(window)

    every = sliding_argmax(x, counting, (16, 16))
    all_windows = sum(calls)
    calls.clear()
    labels = sliding_argmax(x, counting, (16, 16), mask=mask)
    assert 0 < sum(calls) < all_windows / 2
    np.testing.assert_array_equal(labels[mask], every[mask])
    assert (labels[40:] == 0).all()
    scores = sliding_logits(x, net, (16, 16), mask=mask)
    np.testing.assert_array_equal(scores.argmax(0), labels)
    assert (sliding_argmax(x, net, (16, 16), mask=np.zeros_like(mask)) == 0).all()


def test_many_classes_need_more_than_a_byte() -> None:
    def one_hot(window):
        scores = torch.zeros(len(window), 300, *window.shape[2:])
        scores[:, 299] = 1
        return scores

    labels = sliding_argmax(image(1, 8, 8), one_hot, (8, 8))
    assert labels.dtype == np.uint16
    assert (labels == 299).all()


def test_first_of_several_outputs_is_used() -> None:
    net, x = network(2), image(1, 20, 20)
    several = sliding_argmax(x, lambda window: [net(window), None], (16, 16))
    np.testing.assert_array_equal(several, sliding_argmax(x, net, (16, 16)))


def test_not_a_number_from_the_network_is_an_error() -> None:
    with pytest.raises(DataError, match="NaN or infinity"):
        sliding_argmax(image(1, 20, 20), lambda w: torch.full_like(w, torch.nan), (16, 16))


def test_network_that_changes_the_size_is_an_error() -> None:
    with pytest.raises(DataError, match=r"\(16, 16\) into \(8, 8\)"):
        sliding_argmax(image(1, 20, 20), lambda w: w[..., ::2, ::2], (16, 16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": (16,)}, "does not fit"),
        ({"window": (16, 0)}, "positive"),
        ({"overlap": 1.0}, "overlap"),
        ({"batch": 0}, "batch"),
        ({"network": []}, "at least one network"),
        ({"tta": [(2,)]}, "mirroring"),
    ],
)
def test_impossible_arguments(change, message) -> None:
    arguments = {"network": network(2), "window": (16, 16), **change}
    with pytest.raises(UsageError, match=message):
        sliding_argmax(image(1, 20, 20), **arguments)


def test_progress_counts_windows() -> None:
    recorder = Recorder()
    sliding_argmax(image(1, 40, 24), network(2), (16, 16), batch=4, progress=recorder)
    windows = len(window_starts(40, 16, 0.5)) * len(window_starts(24, 16, 0.5))
    assert recorder.counts == (windows, windows)


def test_importance_is_monais() -> None:
    from monai.data.utils import compute_importance_map

    for window in ((7,), (96, 5), (12, 8, 20)):
        expected = compute_importance_map(window, mode="gaussian", sigma_scale=0.125)
        torch.testing.assert_close(importance(window), expected, atol=1e-7, rtol=1e-5)
