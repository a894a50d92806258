"""The training loop: Lightning Fabric moves, wraps and reduces; the rest is below, in order.

One step: the next ``accumulate`` batches, their mean loss, one clipped gradient, one update, one
update of the average. A step whose loss or gradient is not finite changes nothing and is counted.
The same steps give the same weights, bit for bit on a CPU with the same number of threads, however
often the run was killed and resumed and with any number of loader workers: see ``seeding`` and
``checkpoint`` for why. Under ``torchrun`` each process takes every n-th batch (DDP).
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from core import runtime
from core.errors import TriptychError
from core.files import plain
from core.progress import Progress, SilentProgress
from core.reporting import environment
from core.training.batches import Batches, stream
from core.training.checkpoint import (
    Best,
    State,
    all_finite,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from core.training.config import RESUMABLE, TrainConfig, learning_rate
from core.training.ema import Ema
from core.training.optim import (
    build_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
)
from core.training.records import RunFolder, refuse_changes
from core.training.seeding import derive, seed_generators, seeded
from core.weights.folder import load_state

if TYPE_CHECKING:
    from lightning.fabric import Fabric

# A rare overflow under bfloat16 passes; this many bad steps in a row are a run that is lost.
MAX_SKIPPED = 5

StopReason = Literal["max_steps", "max_minutes", "patience"]


class Task(Protocol):
    """What an application trains. Keeps no state of its own between calls."""

    monitor: str  # the metric that chooses the best weights
    mode: Literal["max", "min"]

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The scalar to minimise for one batch (already on the device), and parts of it to log.

        ``network`` returns float32 whatever the precision.
        """
        ...

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Metrics of ``network`` (the averaged weights, in evaluation mode, without gradients)."""
        ...


class Interrupted(TriptychError):
    """A signal asked the run to stop; it did so after writing a checkpoint."""

    exit_code = 130


@dataclass(frozen=True)
class FitResult:
    """Where a run ended. ``best`` and ``last`` are checkpoint folders for ``load_weights``."""

    best: Path
    last: Path
    metrics: dict[str, float | None]  # of the best weights; None where a metric was not finite
    steps: int
    seconds: float  # training and validation, all sessions together
    stopped_because: StopReason


def fit(
    network: nn.Module,
    task: Task,
    train_batches: Batches,
    config: TrainConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
    context: Mapping[str, Any] | None = None,
    resume_hint: str = "the same command with --resume",
) -> FitResult:
    """Train ``network`` in place and leave a run folder (see ``records``).

    ``context`` is what the application wants recorded in config.yaml and held equal on resume: the
    data set's hash, the fold, the model's name. ``resume`` without an earlier run starts one.
    SIGINT and SIGTERM end the run after the current step with a checkpoint.

    Raises UsageError when the folder holds a run and neither ``resume`` nor ``force`` is given, or
    the settings differ from those of the run to resume; DataError when its weights are of another
    architecture or damaged; Interrupted after a signal; TriptychError when the loss stays
    non-finite for ``MAX_SKIPPED`` steps; ResourceError when a checkpoint cannot be written.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    fabric = _fabric(torch.device(device))
    run = _Run(fabric, network, task, config, Path(run_dir), progress or SilentProgress())
    run.context = plain(dict(context or {}))
    run.resume_hint = resume_hint
    run.begin(resume=resume, force=force)
    return run.train(train_batches)


class _Run:
    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        task: Task,
        config: TrainConfig,
        path: Path,
        progress: Progress,
    ) -> None:
        self.fabric = fabric
        self.task = task
        self.config = config
        self.folder = RunFolder(path, active=fabric.is_global_zero)
        self.progress = progress if fabric.is_global_zero else SilentProgress()
        self.context: dict[str, Any] = {}
        self.resume_hint = ""
        self.state = State()
        self.skipped: list[int] = []  # steps skipped in a row
        self.signalled: signal.Signals | None = None
        self.raise_on_signal = False
        self.started = time.monotonic()
        self.saved_at = self.started

        self.network = network.to(fabric.device).train()
        # Fabric wraps for DDP; autocast is ours, since Fabric's also rounds the network's inputs,
        # and a time stamp or a price does not survive 8 bits of mantissa.
        self.optimizer = build_optimizer(self.network, config)
        self.wrapped, self.fabric_optimizer = fabric.setup(self.network, self.optimizer)
        self.ema = Ema(self.network, config.ema_decay) if config.ema_decay is not None else None
        self.autocast = _autocast_dtype(config, fabric.device)
        self.forward = self._with_precision(self.wrapped)

    # ---- beginning -------------------------------------------------------------------------

    def begin(self, *, resume: bool, force: bool) -> None:
        """Continue from the last checkpoint, or write the records of a new run."""
        found = self.folder.claim(resume=resume, force=force)
        self.fabric.barrier()
        if not found:
            if resume:
                self.progress.message(f"{self.folder.path}: nothing to resume, starting at step 0")
            self.folder.start(self.config, self.context)
            self.folder.log("start", 0)
            self.state = State(fast_matmul=runtime.fast_matmul())
        else:
            self._restore()
        self.started = self.saved_at = time.monotonic()

    def _restore(self) -> None:
        path = self.folder.path
        state, parts = load_checkpoint(self.folder.last)
        refuse_changes(path, state.context, self.context)
        refuse_changes(path, state.config, self.config.model_dump(), free=RESUMABLE)
        source = str(self.folder.last)
        load_state(self.network, parts.get("network", {}), source)
        if self.ema is not None:
            load_state(self.ema.network, parts.get("ema", {}), source)
        restore_optimizer(self.network, self.optimizer, parts.get("optimizer", {}), source)
        # The two ways to multiply matrices round differently; stay with the run's.
        if state.fast_matmul and runtime.probe_matmul()[0]:
            torch.set_float32_matmul_precision("medium")
        elif not state.fast_matmul:
            torch.set_float32_matmul_precision("highest")
        self.state = state.model_copy(update={"stopped_because": None})
        self.folder.restart(self.config, self.context, state.step, state.validated)
        self.folder.log("resume", state.step, environment=environment(self.config.seed))
        if state.best is not None and state.best.step == state.step and not self._best_is_saved():
            self._save_best()  # killed between the two checkpoints

    def _best_is_saved(self) -> bool:
        assert self.state.best is not None
        try:
            return read_state(self.folder.best).step == self.state.best.step
        except TriptychError:
            return False

    # ---- the loop --------------------------------------------------------------------------

    def train(self, train_batches: Batches) -> FitResult:
        """Steps and validations until a budget or patience ends."""
        state, config, fabric = self.state, self.config, self.fabric
        batches = stream(
            train_batches,
            state.step * config.accumulate * fabric.world_size + fabric.global_rank,
            stride=fabric.world_size,
            seed=config.seed,
            workers=config.workers,
            pin=fabric.device.type == "cuda",
        )
        unit, total = (
            ("train", self._steps_left()) if config.max_minutes is None else ("train, %", 100)
        )
        with self._signals(), self.progress.task(unit, total=total) as shown:
            shown.advance(self._percent() if config.max_minutes is not None else 0)
            while True:
                reason, interrupted, fraction = self._agree(self._decide())
                if interrupted:
                    self._interrupt()
                step = self.state.step
                due = bool(config.val_every) and step > 0 and step % (config.val_every or 1) == 0
                if self.state.validated != step and (due or reason is not None):
                    shown.advance(0, note=f"step {step}: validating")
                    self._validate()
                    continue  # patience may end the run now
                if reason is not None:
                    break
                note = self._step(batches, fraction)
                if config.max_minutes is None:
                    shown.advance(1, note=note)
                else:
                    shown.advance(self._percent() - shown.done, note=note)
                if self._save_is_due():
                    self._save()
        return self._finish(reason)

    def _step(self, batches: Iterator[Any], fraction: float) -> str:
        """One update. Returns a few words for the progress display."""
        config, step = self.config, self.state.step
        lr = learning_rate(config, step, fraction)
        set_learning_rate(self.optimizer, lr)
        seed_generators(derive(config.seed, "step", step, self.fabric.global_rank))
        statistics = _running_statistics(self.network)
        total = 0.0
        parts: dict[str, float] = {}
        for i in range(config.accumulate):
            batch = self.fabric.to_device(next(batches))
            # Gradients of the processes are averaged once, after the last batch.
            with self.fabric.no_backward_sync(self.wrapped, enabled=i + 1 < config.accumulate):
                loss, parts = self.task.loss(self.forward, batch)
                self.fabric.backward(loss / config.accumulate)
            total += float(loss.detach()) / config.accumulate
        norm = self.fabric.clip_gradients(
            self.wrapped,
            self.fabric_optimizer,
            max_norm=math.inf if config.grad_clip is None else config.grad_clip,
            error_if_nonfinite=False,
        )
        finite = math.isfinite(total) and norm is not None and bool(torch.isfinite(norm))
        if self._everywhere(finite):
            self.fabric_optimizer.step()
            updates = self.state.updates + 1
            if self.ema is not None:
                self.ema.update(self.network, updates)
            self.skipped = []
            self._change(
                updates=updates,
                loss_sum=self.state.loss_sum + total,
                loss_count=self.state.loss_count + 1,
            )
        else:
            _put_back(statistics)
            self.skipped.append(step + 1)
            self.folder.log("skipped", step + 1, loss=total, grad_norm=norm)
        self.fabric_optimizer.zero_grad(set_to_none=True)
        self._change(step=step + 1)
        if len(self.skipped) >= MAX_SKIPPED:
            self._diverged(f"the loss or its gradient was not finite at steps {self.skipped}")
        if (step + 1) % config.log_every == 0:
            seconds = round(self._seconds(), 3)
            self.folder.log(
                "train", step + 1, loss=total, lr=lr, grad_norm=norm, seconds=seconds, **parts
            )
        best = self.state.best.metrics.get(self.task.monitor) if self.state.best else None
        known = "" if best is None else f", best {self.task.monitor} {best:.4f}"
        return f"step {step + 1}, loss {total:.4f}{known}"

    def _validate(self) -> None:
        """Measure the averaged weights, then commit: log, checkpoint, best checkpoint."""
        step, began = self.state.step, time.monotonic()
        network = self.ema.network if self.ema is not None else self.network
        metrics: dict[str, float] = {}
        if self.fabric.is_global_zero:
            network.eval()
            with (
                self._interruptible(),
                seeded(derive(self.config.seed, "validate", step)),
                torch.no_grad(),
            ):
                metrics = dict(self.task.validate(self._with_precision(network)))
        self.fabric.barrier()
        self.network.train()
        metrics = self.fabric.broadcast(metrics)
        if self.task.monitor not in metrics:
            raise ValueError(
                f"validate() returned no '{self.task.monitor}', only {sorted(metrics)}"
            )
        kept = {key: float(v) if math.isfinite(v) else None for key, v in metrics.items()}
        better = self._is_better(kept[self.task.monitor])
        count = self.state.loss_count
        loss = self.state.loss_sum / count if count else None
        self._change(
            validated=step,
            slowest_validation=max(self.state.slowest_validation, time.monotonic() - began),
            waited=0 if better else self.state.waited + 1,
            best=Best(step=step, metrics=kept) if better else self.state.best,
            metrics=kept,
            loss_sum=0.0,
            loss_count=0,
        )
        seconds = round(self._seconds(), 3)
        # The log first: should the process die before the checkpoint, resuming cuts the log back.
        self.folder.log("validation", step, seconds=seconds, train_loss=loss, **kept)
        self._save()
        if better:
            self._save_best()

    def _finish(self, reason: StopReason) -> FitResult:
        if self.state.stopped_because != reason:
            self._change(stopped_because=reason)
            self._save()
            self.folder.log("stop", self.state.step, reason=reason, seconds=self.state.seconds)
        best = self.state.best
        assert best is not None  # the last step is always validated
        return FitResult(
            best=self.folder.best,
            last=self.folder.last,
            metrics=dict(best.metrics),
            steps=self.state.step,
            seconds=self.state.seconds,
            stopped_because=reason,
        )

    # ---- decisions -------------------------------------------------------------------------

    def _decide(self) -> tuple[StopReason | None, bool, float]:
        """(why to stop, whether a signal came, fraction of the budget used)."""
        config, state = self.config, self.state
        seconds, budget = self._seconds(), (config.max_minutes or math.inf) * 60
        # The last validation belongs to the budget: leave room for it.
        usable = max(budget - state.slowest_validation, 0.5 * budget)
        reason: StopReason | None = None
        if config.patience is not None and state.waited >= config.patience:
            reason = "patience"
        elif config.max_steps is not None and state.step >= config.max_steps:
            reason = "max_steps"
        elif seconds >= usable:
            reason = "max_minutes"
        used = seconds / usable if config.max_steps is None else state.step / config.max_steps
        return reason, self.signalled is not None, min(used, 1.0)

    def _is_better(self, value: float | None) -> bool:
        before = self.state.best.metrics.get(self.task.monitor) if self.state.best else None
        if self.state.best is None or value is None or before is None:
            # Something must be best; a number beats an undefined metric.
            return self.state.best is None or (before is None and value is not None)
        return value > before if self.task.mode == "max" else value < before

    def _save_is_due(self) -> bool:
        config = self.config
        by_step = config.save_every is not None and self.state.step % config.save_every == 0
        waited = time.monotonic() - self.saved_at
        by_time = config.save_minutes is not None and waited >= 60 * config.save_minutes
        # After a skipped step wait for a good one: the checkpoint must be a good place to return to.
        return (by_step or by_time) and not self.skipped

    def _steps_left(self) -> int:
        return max(0, (self.config.max_steps or 0) - self.state.step)

    def _percent(self) -> float:
        config = self.config
        assert config.max_minutes is not None
        used = self._seconds() / (60 * config.max_minutes)
        if config.max_steps is not None:
            used = max(used, self.state.step / config.max_steps)
        return round(100 * min(used, 1.0), 1)

    def _seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self.started

    # ---- saving ----------------------------------------------------------------------------

    def _save(self) -> None:
        now = time.monotonic()
        self._change(seconds=self._seconds())
        self.started = self.saved_at = now
        network = self.network.state_dict()
        if not all_finite(network):
            self._diverged("the weights are not finite")
        parts: dict[str, Mapping[str, Tensor]] = {"network": network}
        if self.ema is not None:
            parts["ema"] = self.ema.network.state_dict()
        parts["optimizer"] = optimizer_tensors(self.network, self.optimizer)
        if self.fabric.is_global_zero:
            save_checkpoint(self.folder.last, self._described(), parts)
        self.fabric.barrier()

    def _save_best(self) -> None:
        part, network = ("ema", self.ema.network) if self.ema else ("network", self.network)
        if self.fabric.is_global_zero:
            save_checkpoint(self.folder.best, self._described(), {part: network.state_dict()})
        self.fabric.barrier()

    def _described(self) -> State:
        config = self.config.model_dump(mode="json")
        return self.state.model_copy(update={"config": config, "context": self.context})

    def _interrupt(self) -> None:
        self._save()
        name = self.signalled.name if self.signalled else "a signal"
        self.folder.log("interrupted", self.state.step, signal=name)
        raise Interrupted(
            f"interrupted by {name} at step {self.state.step}; a checkpoint is in "
            f"{self.folder.last}; continue with: {self.resume_hint}"
        )

    def _diverged(self, what: str) -> None:
        try:
            good = f"the checkpoint of step {read_state(self.folder.last).step} is kept"
        except TriptychError:
            good = "no checkpoint was written yet"
        advice = "lower lr" + (", or use precision=float32" if self.autocast is not None else "")
        raise TriptychError(
            f"{self.folder.path}: training diverged at step {self.state.step}: {what}; {good}; "
            f"{advice}, and look for NaN or extreme values in the data"
        )

    # ---- helpers ---------------------------------------------------------------------------

    def _change(self, **values: Any) -> None:
        self.state = self.state.model_copy(update=values)

    def _with_precision(self, network: nn.Module) -> nn.Module:
        if self.autocast is None:
            return network
        return _Autocast(network, self.fabric.device.type, self.autocast)

    def _agree(self, decision: Any) -> Any:
        """The first process decides: clocks and signals differ between processes."""
        return self.fabric.broadcast(decision) if self.fabric.world_size > 1 else decision

    def _everywhere(self, ok: bool) -> bool:
        if self.fabric.world_size == 1:
            return ok
        bad = torch.tensor(0.0 if ok else 1.0, device=self.fabric.device)
        total = self.fabric.all_reduce(bad, reduce_op="sum")
        return not bool(torch.as_tensor(total).any())

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Note SIGINT and SIGTERM for the loop; a second one acts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python allows signal handlers in the main thread only (a web page has others)
            return
        before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, frame: Any) -> None:
            del frame
            self.signalled = signal.Signals(number)
            for each, handler in before.items():
                signal.signal(each, handler)
            if self.raise_on_signal:
                raise KeyboardInterrupt

        try:
            for each in before:
                signal.signal(each, note)
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """A validation may take minutes and changes nothing: a signal may end it anywhere."""
        self.raise_on_signal = True
        try:
            yield
        except KeyboardInterrupt:
            if self.signalled is None:
                raise
            self.raise_on_signal = False
            self._interrupt()
        finally:
            self.raise_on_signal = False


class _Autocast(nn.Module):
    """``network`` under automatic mixed precision, its outputs in float32; else like ``network``."""

    def __init__(self, network: nn.Module, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.device_type = device
        self.dtype = dtype
        self.training = network.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        from lightning_utilities.core.apply_func import apply_to_collection

        with torch.autocast(self.device_type, dtype=self.dtype):
            output = self.network(*args, **kwargs)
        return apply_to_collection(
            output, Tensor, lambda t: t.float() if t.is_floating_point() else t
        )

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)


def _fabric(device: torch.device) -> Fabric:
    """Fabric on one device, or DDP over the processes that torchrun started."""
    for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning.fabric import Fabric
        from lightning.fabric.plugins.environments import LightningEnvironment

        if torch.distributed.is_torchelastic_launched():
            local = int(os.environ["LOCAL_WORLD_SIZE"])
            nodes = int(os.environ["WORLD_SIZE"]) // local
            fabric = Fabric(accelerator=device.type, strategy="ddp", devices=local, num_nodes=nodes)
        else:
            devices: Any = 1 if device.index is None else [device.index]
            devices = 1 if device.type == "cpu" else devices
            # Named, or Fabric would read a cluster scheduler's variables and expect more processes.
            fabric = Fabric(
                accelerator=device.type, devices=devices, plugins=[LightningEnvironment()]
            )
        fabric.launch()
    return fabric


def _autocast_dtype(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    if config.precision == "auto":
        return runtime.autocast_dtype(device)
    return torch.bfloat16 if config.precision == "bf16" else None


def _running_statistics(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """(buffer, copy) of normalisation statistics, which a forward pass changes before it fails."""
    return [
        (buffer, buffer.clone())
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for buffer in module.buffers(recurse=False)
    ]


def _put_back(statistics: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, before in statistics:
        buffer.copy_(before)
