"""Sliding-window segmentation whose memory does not grow with classes x volume.

A volume larger than the network's window is cut into overlapping windows; each voxel's scores are
the mean over the windows that cover it, weighted by a Gaussian centred on each window. Windows and
weights are those of ``monai.inferers.sliding_window_inference(mode="gaussian",
sigma_scale=0.125)``, so the scores agree with it to float32 rounding.

What differs is what is kept. The window borders cut the volume into *cells*: within a cell every
voxel lies in the same windows. A cell's scores are allocated when the first of its windows is
computed and turned into labels as soon as the last one is, so only the cells between the two, a
moving front about half a window thick, exist at any time. MONAI holds all of (K, *S) and a weight
map beside it until the end.

Glossary
    C, K    channels of the image, classes of the network
    S       spatial shape (H, W) or (D, H, W); the rank is whatever the image has
    window  the network's input size, one integer per axis
    member  one network under one mirroring; several members average their softmax probabilities
    block   a box of the volume finished before the next begins; more than one only when a memory
            limit demands it, and then windows across a border are computed once per block
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, product
from math import ceil, isfinite, prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import DataError, ResourceError, UsageError

if TYPE_CHECKING:
    from core.progress import Progress

Network = Callable[[Tensor], Any]
Box = tuple[tuple[int, int], ...]  # (start, stop) per axis
Watch = Callable[[Box, Tensor], None]

FLOAT = 4  # bytes of one score


def sliding_argmax(
    image: np.ndarray | Tensor,
    network: Network | Sequence[Network],
    window: Sequence[int],
    overlap: float = 0.5,
    batch: int = 1,
    tta: Sequence[Sequence[int]] = (),
    mem_limit: int | None = None,
    progress: Progress | None = None,
    *,
    mask: np.ndarray | None = None,
    device: torch.device | str | None = None,
    watch: Watch | None = None,
) -> np.ndarray:
    """Labels (*S) of an image (C, *S): the class of the highest mean score, uint8 (or uint16).

    ``network`` maps (B, C, *window) to logits (B, K, *window), or to a list of which the first is
    that. Given several networks, or ``tta`` (axis tuples to mirror along, in addition to the image
    as it is; see ``mirrorings``), the members' softmax probabilities are averaged instead of
    logits.

    ``mem_limit`` bounds, in bytes, what is held for scores: open cells and one batch of network
    outputs. The network's own activations and the image come on top. The labels do not depend on
    the limit; a tight one costs repeated windows.

    ``mask`` (*S) bool: windows without a single true voxel are skipped, and voxels that only such
    windows cover get label 0.

    ``watch`` sees each finished piece of the volume once: (start, stop) per axis in the image, and
    the mean scores (K, *piece) that ``sliding_logits`` would give there. So what can be summed up
    piece by piece, such as the entropy, needs no more memory than the labels. Voxels that only
    skipped windows cover are never shown.

    Raises ResourceError when the limit is below what the smallest blocks need (naming the minimum),
    UsageError for impossible arguments, DataError when the network returns NaN or infinity.
    """
    work = _Work.prepare(image, network, window, overlap, batch, tta, mask, device)
    blocks = [tuple((0, size) for size in work.grid)]
    classes: int | None = None
    if mem_limit is not None:
        classes = work.count_classes()
        blocks = _choose_blocks(work, classes, mem_limit, watch is not None)
    passes = [(block, work.windows_in(block)) for block in blocks]

    labels: np.ndarray | None = None
    total = sum(len(windows) for _, windows in passes)
    with torch.inference_mode(), _task(progress, total) as advance:
        for block, windows in passes:
            cells = work.finished_cells(block, windows, advance, weighted=watch is not None)
            for cell, scores, weight in cells:
                if labels is None:  # the first result tells the number of classes
                    labels = np.zeros(work.grid, np.uint8 if scores.shape[0] <= 256 else np.uint16)
                # max, not argmax: 3.9 against 13.7 ms for 14 classes of 48^3 on a CPU; both return
                # the first of equal scores.
                labels[_slices(cell)] = scores.max(0).indices.cpu().numpy()
                if watch is not None:
                    assert weight is not None
                    work.show(cell, scores, weight, watch)
    if labels is None:  # nothing but skipped windows
        labels = np.zeros(work.grid, np.uint8)
    return np.ascontiguousarray(labels[work.crop])


def sliding_logits(
    image: np.ndarray | Tensor,
    network: Network | Sequence[Network],
    window: Sequence[int],
    overlap: float = 0.5,
    batch: int = 1,
    tta: Sequence[Sequence[int]] = (),
    progress: Progress | None = None,
    *,
    mask: np.ndarray | None = None,
    device: torch.device | str | None = None,
) -> np.ndarray:
    """Mean scores (K, *S) float32 of an image (C, *S): the whole of them, for who wants them.

    One member: the weighted mean of its logits, as MONAI returns. Several: the logarithm of their
    mean probability. A softmax over axis 0 gives probabilities either way, and the argmax is
    ``sliding_argmax``. Voxels that only skipped windows cover get 0 for class 0 and a very low
    score for every other. Arguments and errors as there.
    """
    work = _Work.prepare(image, network, window, overlap, batch, tta, mask, device)
    whole = tuple((0, size) for size in work.grid)
    windows = work.windows_in(whole)
    result: np.ndarray | None = None
    with torch.inference_mode(), _task(progress, len(windows)) as advance:
        for cell, scores, weight in work.finished_cells(whole, windows, advance, weighted=True):
            assert weight is not None
            mean = work.mean(scores, weight)
            if result is None:
                result = _background(scores.shape[0], work.grid)
            result[(slice(None), *_slices(cell))] = mean.cpu().numpy()
    if result is None:
        result = _background(work.count_classes(), work.grid)
    return np.ascontiguousarray(result[(slice(None), *work.crop)])


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every non-empty combination of spatial axes: what ``tta`` takes for full mirroring."""
    picks = product((False, True), repeat=len(axes))
    return [tuple(axis for axis, flip in zip(axes, pick) if flip) for pick in picks][1:]


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis; the last window ends at the axis's end.

    ``size`` is already at least ``window`` (smaller volumes are padded).
    """
    if size <= window:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    return [min(i * step, size - window) for i in range(ceil((size - window) / step) + 1)]


def importance(window: Sequence[int], sigma_scale: float = 0.125) -> Tensor:
    """Gaussian weight (*window) of a window's voxels, sigma = sigma_scale x side, at least 1e-3.

    The floor keeps corner voxels that a single window covers from dividing 0 by 0.
    """
    weight = torch.ones(())
    for side in window:
        x = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        weight = weight[..., None] * torch.exp(-(x**2) / (2 * (sigma_scale * side) ** 2))
    return weight.clamp(min=max(float(weight.min()), 1e-3))


@dataclass
class _Work:
    """One volume, one set of networks: where the windows lie and how a batch of them is scored."""

    image: Tensor  # (C, *grid), padded to at least one window
    networks: list[Network]
    flips: list[tuple[int, ...]]  # the image as it is first: ()
    window: tuple[int, ...]
    batch: int
    weight: Tensor  # (*window), on the networks' device
    crop: tuple[slice, ...]  # from the padded grid back to the image's
    windows: list[tuple[int, ...]]  # start voxels, in the order they are computed
    slowest: int  # the axis along which that order advances last
    device: torch.device

    @classmethod
    def prepare(
        cls,
        image: np.ndarray | Tensor,
        network: Network | Sequence[Network],
        window: Sequence[int],
        overlap: float,
        batch: int,
        tta: Sequence[Sequence[int]],
        mask: np.ndarray | None,
        device: torch.device | str | None,
    ) -> _Work:
        networks: list[Network] = list(network) if isinstance(network, Sequence) else [network]
        image = torch.as_tensor(image, dtype=torch.float32)
        window, rank = tuple(int(side) for side in window), image.ndim - 1
        if len(window) != rank or min(window) < 1:
            raise UsageError(
                f"window {window} does not fit an image of shape (C, *S) = {tuple(image.shape)}; "
                f"give {rank} positive sizes"
            )
        if not 0 <= overlap < 1:
            raise UsageError(f"overlap must be at least 0 and below 1, got {overlap}")
        if batch < 1 or not networks:
            raise UsageError("sliding windows need a batch of 1 or more and at least one network")
        flips = [(), *(tuple(axes) for axes in tta)]
        if any(not 0 <= axis < rank for axes in flips for axis in axes):
            raise UsageError(f"mirroring axes {flips[1:]} must be between 0 and {rank - 1}")

        size = tuple(image.shape[1:])
        before = [max(side - s, 0) // 2 for side, s in zip(window, size)]
        after = [max(side - s, 0) - b for side, s, b in zip(window, size, before)]
        crop = tuple(slice(b, b + s) for b, s in zip(before, size))
        if any(before) or any(after):
            pads = [pad for pair in zip(before[::-1], after[::-1]) for pad in pair]
            image = F.pad(image, pads)
            if mask is not None:
                mask = np.pad(mask, list(zip(before, after)))
        device = torch.device(device) if device is not None else _device_of(networks[0])

        grid = tuple(image.shape[1:])
        starts = [window_starts(s, side, overlap) for s, side in zip(grid, window)]
        # The slowest axis is the one with most windows: the open front is thin along it. The order
        # must depend on shapes only, since the order of additions decides the last bit of a sum.
        order = sorted(range(rank), key=lambda axis: -grid[axis] / window[axis])
        windows = [
            tuple(start for _, start in sorted(zip(order, point)))
            for point in product(*(starts[axis] for axis in order))
        ]
        if mask is not None:
            windows = [w for w in windows if mask[_slices(_box(w, window))].any()]
        weight = importance(window).to(device)
        return cls(image, networks, flips, window, batch, weight, crop, windows, order[0], device)

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(self.image.shape[1:])

    @property
    def averages_probabilities(self) -> bool:
        return len(self.networks) * len(self.flips) > 1

    def windows_in(self, block: Box) -> list[tuple[int, ...]]:
        """The windows that share a voxel with ``block``, in the common order."""
        return [
            w
            for w in self.windows
            if all(s < hi and s + n > lo for s, n, (lo, hi) in zip(w, self.window, block))
        ]

    def finished_cells(
        self,
        block: Box,
        windows: Sequence[tuple[int, ...]],
        advance: Callable[[int], None],
        weighted: bool = False,
    ) -> Iterator[tuple[Box, Tensor, Tensor | None]]:
        """Yield (cell, summed weighted scores (K, *cell), summed weights (*cell)) once complete.

        The weights are None unless ``weighted``: an argmax does not need them. Both tensors are
        freed once the consumer lets go of them.
        """
        cells = _cells(windows, self.window, block)
        last = {cell: i for i, inside in enumerate(cells) for cell in inside}
        open_scores: dict[Box, Tensor] = {}
        open_weights: dict[Box, Tensor] = {}
        zero = torch.zeros((), device=self.device)
        for first in range(0, len(windows), self.batch):
            group = windows[first : first + self.batch]
            for i, (start, scores) in enumerate(zip(group, self.score(group)), start=first):
                for cell in cells[i]:
                    inside = tuple(slice(a - s, b - s) for (a, b), s in zip(cell, start))
                    weight = self.weight[inside]
                    # Not fused with the sum over windows: a product rounded by itself is the same
                    # whatever the cell's shape, so memory limits cannot change a bit of the result.
                    part = scores[(slice(None), *inside)] * weight
                    if cell in open_scores:
                        open_scores[cell] += part
                    else:
                        open_scores[cell] = part
                    if weighted:
                        open_weights[cell] = open_weights.get(cell, zero) + weight
                    if last[cell] == i:
                        yield cell, open_scores.pop(cell), open_weights.pop(cell, None)
            # The next forward pass must not find this one's output still in memory.
            del scores, part
            advance(len(group))

    def score(self, starts: Sequence[tuple[int, ...]]) -> Tensor:
        """Scores (B, K, *window): logits, or the members' mean probabilities."""
        boxes = (self.image[(slice(None), *_slices(_box(w, self.window)))] for w in starts)
        x = torch.stack(list(boxes)).to(self.device)
        total: Tensor | None = None
        for network in self.networks:
            for axes in self.flips:
                dims = [axis + 2 for axis in axes]
                output = network(x.flip(dims) if dims else x)
                scores = (output if isinstance(output, Tensor) else output[0]).float()
                if self.averages_probabilities:
                    scores = scores.softmax(1)
                    scores = scores.flip(dims) if dims else scores
                total = scores if total is None else total.add_(scores)
        assert total is not None
        if self.averages_probabilities:
            total /= len(self.networks) * len(self.flips)
        if total.shape[2:] != x.shape[2:]:
            raise DataError(
                f"the network turned a window of {tuple(x.shape[2:])} into {tuple(total.shape[2:])}"
                "; sliding windows need a network whose output has the size of its input"
            )
        if not isfinite(float(total.sum())):
            raise DataError(
                "the network returned NaN or infinity; check the image's intensities and the "
                "weights"
            )
        return total

    def mean(self, scores: Tensor, weight: Tensor) -> Tensor:
        """Mean logits, or the logarithm of the members' mean probability, (K, *cell)."""
        mean = scores / weight
        if self.averages_probabilities:
            mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
        return mean

    def show(self, cell: Box, scores: Tensor, weight: Tensor, watch: Watch) -> None:
        """Give ``watch`` the part of a finished cell that lies in the image, not in its padding."""
        inside = [(max(a, c.start), min(b, c.stop)) for (a, b), c in zip(cell, self.crop)]
        if any(a >= b for a, b in inside):
            return
        part = tuple(slice(a - low, b - low) for (a, b), (low, _) in zip(inside, cell))
        shown = self.mean(scores[(slice(None), *part)], weight[part])
        watch(tuple((a - c.start, b - c.start) for (a, b), c in zip(inside, self.crop)), shown)

    def count_classes(self) -> int:
        """K, at the price of one window."""
        start = self.windows[0] if self.windows else (0,) * len(self.window)
        with torch.inference_mode():
            return int(self.score([start]).shape[1])

    def held(self, block: Box, classes: int, watched: bool = False) -> int:
        """Most bytes of scores held at any time while ``block`` is computed.

        To be ``watched`` costs the weights beside the scores, and up to three copies of a cell.
        """
        windows = self.windows_in(block)
        cells = _cells(windows, self.window, block)
        first: dict[Box, int] = {}
        last: dict[Box, int] = {}
        for i, inside in enumerate(cells):
            for cell in inside:
                first.setdefault(cell, i)
                last[cell] = i
        change = [0] * (len(windows) + 1)
        for cell in first:
            size = prod(hi - lo for lo, hi in cell)
            change[first[cell]] += size
            change[last[cell] + 1] -= size
        peak = held = 0
        for delta in change:
            held += delta
            peak = max(peak, held)
        # Logits, softmax, mirrored back, sum; or a watched cell's mean, probabilities, logarithms.
        members = 4 if self.averages_probabilities or watched else 1
        classes += watched
        return (
            FLOAT * classes * (peak + members * min(self.batch, len(windows)) * prod(self.window))
        )


def _choose_blocks(work: _Work, classes: int, limit: int, watched: bool = False) -> list[Box]:
    """The partition with the fewest windows to compute that holds at most ``limit`` bytes."""
    # Cutting the slowest axis would save nothing: along it the open front is already thin. Cuts
    # thinner than a quarter of a window save little and repeat every window several times.
    most = [max(1, 4 * size // side) for size, side in zip(work.grid, work.window)]
    most[work.slowest] = 1
    counts = [sorted({n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if n < m} | {m}) for m in most]
    partitions = [_partition(work.grid, parts) for parts in product(*counts)]
    partitions.sort(key=lambda blocks: sum(len(work.windows_in(block)) for block in blocks))
    smallest = max(work.held(block, classes, watched) for block in _partition(work.grid, most))
    if smallest <= limit:
        for blocks in partitions:
            if all(work.held(block, classes, watched) <= limit for block in blocks):
                return blocks
    raise ResourceError(
        f"a memory limit of {limit / 2**20:.3g} MiB is too low for {classes} classes and windows "
        f"of {'x'.join(map(str, work.window))}; give at least {ceil(smallest / 2**20)} MiB"
    )


def _partition(grid: Sequence[int], parts: Sequence[int]) -> list[Box]:
    """Cut a box into ``parts`` nearly equal pieces per axis."""
    cuts = [[size * i // n for i in range(n + 1)] for size, n in zip(grid, parts)]
    return [tuple(box) for box in product(*(list(pairwise(c)) for c in cuts))]


def _cells(starts: Sequence[tuple[int, ...]], window: Sequence[int], block: Box) -> list[list[Box]]:
    """For each window, the cells of ``block`` it covers; window and block borders bound them."""
    by_axis: list[dict[int, list[tuple[int, int]]]] = []
    for axis, (side, (low, high)) in enumerate(zip(window, block)):
        firsts = {start[axis] for start in starts}
        borders = firsts | {first + side for first in firsts} | {low, high}
        cuts = sorted(border for border in borders if low <= border <= high)
        pieces = list(pairwise(cuts))
        by_axis.append({f: [(a, b) for a, b in pieces if f <= a and b <= f + side] for f in firsts})
    return [
        list(product(*(pieces[first] for pieces, first in zip(by_axis, start)))) for start in starts
    ]


def _box(start: Sequence[int], window: Sequence[int]) -> Box:
    return tuple((first, first + side) for first, side in zip(start, window))


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(low, high) for low, high in box)


def _background(classes: int, grid: Sequence[int]) -> np.ndarray:
    """Scores that say class 0 everywhere: a softmax gives the others about 1e-13."""
    scores = np.full((classes, *grid), -30, np.float32)
    scores[0] = 0
    return scores


def _device_of(network: Network) -> torch.device:
    if isinstance(network, torch.nn.Module):
        for parameter in network.parameters():
            return parameter.device
    return torch.device("cpu")


@contextmanager
def _task(progress: Progress | None, windows: int) -> Iterator[Callable[[int], None]]:
    """The function to call with the number of windows just done."""
    if progress is None:
        yield lambda done: None
    else:
        with progress.task("windows", total=windows) as task:
            yield task.advance
