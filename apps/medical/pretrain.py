"""Pre-train a segmentation network's encoder on images alone.

    RUN/plan.yaml                       how images become network input: as for `train`
    RUN/config.yaml, metrics.csv, log.jsonl, env.json, checkpoints/    see core.training
    RUN/encoder/model.safetensors, model.json       the encoder, for `train --init RUN`
    RUN/cache/                          prepared images; may be deleted

A tenth of the images is held out to measure the reconstruction.  Where a later training is to be
measured on a fold, give the same fold here: its validation cases are then left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from apps.medical import catalog
from apps.medical.data.plan import Plan
from apps.medical.data.resample import ANISOTROPY
from apps.medical.data.splits import digest
from apps.medical.data.unlabelled import PreparedImages, open_images
from apps.medical.initial import ENCODER, EncoderSpec
from apps.medical.models import build as build_network
from apps.medical.store import METADATA, TENSORS, NetworkSpec, is_of_step
from apps.medical.train import (
    DEFAULT_STEPS,
    FOLDS,
    INTENDED_USE,
    keep_plan,
    plan_options,
    run_plan,
    splits_of,
)
from core.backbones.pyramid import Pyramid
from core.config import validate
from core.errors import DataError, UsageError
from core.files import plain
from core.pretraining import PretextConfig, PretrainTask, build
from core.pretraining.config import OPTIMISER
from core.progress import Progress, SilentProgress
from core.reporting import environment
from core.training import TrainConfig, fit, load_weights
from core.training.seeding import derive
from core.weights.folder import load_state, save_folder

LEARNING_RATE = 1e-3
"""Peak rate of AdamW.  The papers' are 1.5e-4 to 5e-4 for a batch of 256 and ViTs of 384 channels
and more; these encoders have 24 to 200 and see a batch of 2 to 16."""

HELD_OUT = 16
"""Most images that validation reconstructs."""


@dataclass(frozen=True)
class PretrainResult:
    """Where a pre-training ended: its folder, and how well held-out images are reconstructed."""

    folder: Path
    task: str
    images: int
    steps: int
    seconds: float
    stopped_because: str
    metrics: dict[str, float | None]

    def report(self) -> dict[str, Any]:
        """For a machine."""
        return {
            "run": str(self.folder),
            "encoder": str(self.folder / ENCODER),
            "task": self.task,
            "images": self.images,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "stopped_because": self.stopped_because,
            "metrics": self.metrics,
        }

    def text(self) -> str:
        """For a person."""
        m = {name: float("nan") if v is None else v for name, v in self.metrics.items()}
        return (
            f"{self.task}: {self.steps} steps, images to learn from: {self.images}, "
            f"{self.seconds / 60:.1f} min ({self.stopped_because})\nerror on held-out images {m['reconstruction']:.3f}, "
            f"saying the mean of what is seen {m['floor']:.3f}\nencoder in {self.folder / ENCODER}"
        )


def pretraining_config(
    task: str, *, max_steps: int | None = None, max_minutes: float | None = None, **given: Any
) -> TrainConfig:
    """AdamW with the task's published betas, decay and warm-up share, at ``LEARNING_RATE``.

    Without a budget, ``DEFAULT_STEPS``; ``val_every`` as for ``train``.  Raises UsageError naming
    the setting that is wrong.
    """
    if max_steps is None and max_minutes is None:
        max_steps = DEFAULT_STEPS
    published = dict(OPTIMISER[task])
    share = published.pop("warmup")
    warmup = 20 if max_steps is None else max(1, round(share * max_steps))
    if given.get("val_every") is None:
        given["val_every"] = 200 if max_steps is None else max(50, max_steps // 10)
    defaults = {"lr": LEARNING_RATE, "ema_decay": 0.99, "warmup_steps": warmup, **published}
    values = {**defaults, **given, "max_steps": max_steps, "max_minutes": max_minutes}
    return validate(TrainConfig, values, "pre-training settings")


def pretrain(
    dataset: Path,
    model: str,
    out: Path,
    pretext: PretextConfig,
    *,
    fold: int | None = None,
    cases: Sequence[str] | None = None,
    preset: str | None = "small",
    options: Mapping[str, Any] | None = None,
    plan: Path | None = None,
    plan_overrides: Sequence[str] = (),
    config: TrainConfig | None = None,
    resume: bool = False,
    force: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> PretrainResult:
    """Pre-train the encoder of ``model`` on every image of ``dataset``.

    ``fold`` leaves out the validation cases of that fold of the labelled ones; ``cases`` names the
    cases to take, instead of all.

    Raises UsageError for an unknown model, option, fold or case, for a model without a pyramid, and
    for an ``out`` that holds a run when neither ``resume`` nor ``force`` is given; DataError for
    unreadable images or fewer than two; whatever ``core.training.fit`` raises.
    """
    progress = progress or SilentProgress()
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; --out needs a folder")
    data = open_images(dataset)
    catalog.resolve(model, data.rank, preset, **(options or {}))  # before anything is measured
    chosen = _chosen([case.id for case in data.cases], cases, _left_out(data, fold), str(data.root))
    labelled = replace(data, cases=tuple(c for c in data.cases if c.label is not None))
    # A labelled data set's plan comes from its labelled cases, so that `train` derives the same.
    made = run_plan(labelled if labelled.cases else data, out, plan, plan_overrides, progress)
    settings = {**plan_options(model, made, preset, options or {}), **(options or {})}
    network = NetworkSpec(
        name=model,
        rank=made.rank,
        in_channels=len(made.channels),
        out_channels=made.out_channels,
        options=plain(catalog.resolve(model, made.rank, preset, **settings)),
    )
    config = config or pretraining_config(pretext.task)
    torch.manual_seed(derive(config.seed, "weights", 0) % 2**63)
    net = build(pretext, encoder_of(network), made.patch)
    keep_plan(made, out / "plan.yaml")
    images = PreparedImages(data, made, out / "cache")
    images.prepare(chosen, progress)
    training, held_out = _hold_out(chosen, config.seed)
    if force and not resume:
        for name in (METADATA, TENSORS):
            (out / ENCODER / name).unlink(missing_ok=True)
    result = fit(
        net,
        PretrainTask(HeldOut(images, held_out, config.seed)),
        ImageBatches(images, training, config.seed, pretext.crop),
        config,
        out,
        resume=resume,
        force=force,
        progress=progress,
        device=device,
        context={
            "pretext": pretext.model_dump(mode="json"),
            "network": network.model_dump(),
            "plan": made.model_dump(mode="json"),
            "images": digest(training),
        },
    )
    done = PretrainResult(
        out,
        pretext.task,
        len(training),
        result.steps,
        result.seconds,
        str(result.stopped_because),
        result.metrics,
    )
    if not (resume and is_of_step(out / ENCODER, result.steps)):
        load_state(net, load_weights(result.best), str(result.best))
        spec = EncoderSpec(
            network=network,
            plan=made,
            pretext=pretext.model_dump(mode="json"),
            cases=sorted(chosen),
            training={
                "dataset": data.name,
                "images": len(training),
                "held_out": len(held_out),
                "steps": result.steps,
                "seconds": round(result.seconds, 1),
                "config": config.model_dump(),
                "environment": environment(config.seed),
            },
            metrics=result.metrics,
            intended_use=INTENDED_USE,
        )
        tensors = {f"encoder.{name}": value for name, value in net.encoder.state_dict().items()}
        save_folder(out / ENCODER, tensors, plain(spec.model_dump(mode="json")), force=True)
    return done


def encoder_of(network: NetworkSpec) -> Pyramid:
    """The encoder of ``network`` with fresh weights.  UsageError where it is no pyramid."""
    whole = build_network(
        network.name, network.rank, network.in_channels, network.out_channels, **network.options
    )
    encoder = getattr(whole, "encoder", None)
    if not isinstance(encoder, Pyramid):
        raise UsageError(
            f"model {network.name!r}: its encoder is no pyramid that could be pre-trained; take a "
            "transformer or Mamba network such as cswin_unet, swin_unetr or vm_unet"
        )
    return encoder


class ImageBatches:
    """Batch ``i``: random crops of the next images of a seeded shuffle, repeated for ever."""

    def __init__(
        self, images: PreparedImages, ids: Sequence[str], seed: int, scale: tuple[float, float]
    ) -> None:
        self.images, self.ids, self.seed, self.scale = images, list(ids), seed, scale

    def batch_at(self, index: int) -> dict[str, Tensor]:
        size = self.images.plan.batch
        return _stacked([self._crop(index * size + i) for i in range(size)])

    def _crop(self, n: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(n, len(self.ids))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.ids))
        image = self.images[self.ids[order[place]]]["image"]
        random = np.random.default_rng(derive(self.seed, "image", n))
        return random_crop(image, self.images.plan, self.scale, random)


class HeldOut:
    """The same batches of held-out images, one unscaled crop of each, every time they are asked."""

    def __init__(self, images: PreparedImages, ids: Sequence[str], seed: int) -> None:
        self.images, self.ids, self.seed = images, list(ids), seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        plan = self.images.plan
        plan = plan.model_copy(update={"flip": [False] * plan.rank})
        size = max(2, plan.batch)
        starts = [*range(0, len(self.ids), size)]
        if len(self.ids) % size == 1 and len(starts) > 1:
            starts.pop()  # the last joins its neighbours: alone it has nothing to contrast with
        for at, start in enumerate(starts):
            ids = self.ids[start : None if at == len(starts) - 1 else start + size]
            crops = []
            for n, case_id in enumerate(ids, start):
                random = np.random.default_rng(derive(self.seed, "held out", n))
                crops.append(random_crop(self.images[case_id]["image"], plan, (1.0, 1.0), random))
            yield _stacked(crops)


def random_crop(
    image: np.ndarray, plan: Plan, scale: tuple[float, float], random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """An image (C, *S) -> (C, *patch) float32, and (1, *patch) bool where it shows the image.

    A box with a share of the patch's volume drawn from ``scale`` and the patch's proportions, at a
    random place, resized linearly to the patch; along a coarse axis nothing is scaled.  Beyond the
    image there are zeros.  Mirrored where the plan allows.
    """
    patch = plan.patch
    free = _free_axes(plan)
    factor = random.uniform(*scale) ** (1 / max(1, sum(free)))
    box = [max(1, round(p * factor)) if f else p for p, f in zip(patch, free, strict=True)]
    cut = np.zeros((image.shape[0], *box), dtype=np.float32)
    inside = np.zeros((1, *box), dtype=bool)
    take, put = [slice(None)], [slice(None)]
    for n, b in zip(image.shape[1:], box, strict=True):
        low, high = sorted((0, n - b))
        start = int(random.integers(low, high + 1))
        first, last = max(start, 0), min(start + b, n)
        take.append(slice(first, last))
        put.append(slice(first - start, last - start))
    cut[tuple(put)] = image[tuple(take)]
    inside[tuple(put)] = True
    values, where = torch.from_numpy(cut), torch.from_numpy(inside)
    if box != list(patch):
        mode = ("linear", "bilinear", "trilinear")[plan.rank - 1]
        values = F.interpolate(values[None], tuple(patch), mode=mode, align_corners=False)[0]
        where = F.interpolate(where[None].float(), tuple(patch), mode="nearest")[0] > 0.5
    turned = [a + 1 for a, allowed in enumerate(plan.flip) if allowed and random.random() < 0.5]
    return values.flip(turned), where.flip(turned)


def _free_axes(plan: Plan) -> list[bool]:
    """Axes along which a crop may be scaled: all but a coarse one."""
    spacing = plan.spacing
    if plan.rank == 2 or spacing is None or max(spacing) <= ANISOTROPY * min(spacing):
        return [True] * plan.rank
    return [s < max(spacing) for s in spacing]


def _stacked(crops: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    return {
        "image": torch.stack([image for image, _ in crops]),
        "inside": torch.stack([inside for _, inside in crops]),
    }


def _left_out(data: Any, fold: int | None) -> set[str]:
    """The validation cases of ``fold``, as ``train`` would deal them."""
    if fold is None:
        return set()
    labelled = replace(data, cases=tuple(c for c in data.cases if c.label is not None))
    if not 0 <= fold < FOLDS or not labelled.cases:
        raise UsageError(
            f"--fold {fold}: want 0 to {FOLDS - 1} of a data set with labels; without --fold every "
            "image is taken"
        )
    return set(splits_of(labelled, str(fold))[str(fold)][1])


def _chosen(
    ids: list[str], wanted: Sequence[str] | None, left_out: set[str], name: str
) -> list[str]:
    if wanted is not None:
        absent = sorted(set(wanted) - set(ids))
        if absent:
            raise UsageError(f"{name}: no case named {absent[0]!r}")
        ids = sorted(set(wanted))
    chosen = [case_id for case_id in ids if case_id not in left_out]
    if len(chosen) < 3:
        raise DataError(
            f"{name}: {len(chosen)} images to learn from; pre-training needs three or more, two of "
            "them to measure on"
        )
    return chosen


def _hold_out(ids: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """(images to learn from, images to measure on): a tenth, at least 2, at most ``HELD_OUT``."""
    order = np.random.default_rng((seed, len(ids))).permutation(len(ids))
    count = min(max(2, len(ids) // 10), HELD_OUT)
    names = sorted(ids)
    return sorted(names[i] for i in order[count:]), sorted(names[i] for i in order[:count])
