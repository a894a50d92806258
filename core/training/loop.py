"""The training loop: Lightning Fabric moves, wraps and reduces; the rest is below, in order.

One step: the next ``accumulate`` batches, their mean loss, one clipped gradient, one update, one
update of the average. A step whose loss or gradient is not finite changes nothing and is counted.
The same steps give the same weights, bit for bit on a CPU with the same number of threads, however
often the run was killed and resumed and with any number of loader workers: see ``seeding`` and
``checkpoint`` for why. Under ``torchrun`` each process takes every n-th batch (DDP).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from core import runtime
from core.errors import TriptychError
from core.files import plain
from core.progress import Progress, SilentProgress
from core.reporting import environment
from core.training.batches import Batches, stream
from core.training.budget import StopReason, is_better, percent_done, schedule_fraction, stop_reason
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
from core.training.precision import Autocast, put_back, running_statistics, start_fabric
from core.training.records import RunFolder, refuse_changes
from core.training.seeding import derive, seed_generators, seeded
from core.training.signals import SignalWatch
from core.training.task import FitResult, Interrupted, Task
from core.weights.folder import load_state

if TYPE_CHECKING:
    from lightning.fabric import Fabric

# A rare overflow under bfloat16 passes; this many bad steps in a row are a run that is lost.
MAX_SKIPPED = 5


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
    rates: Mapping[str, float] | None = None,
    resume_hint: str = "the same command with --resume",
) -> FitResult:
    """Train ``network`` in place and leave a run folder (see ``records``).

    ``context`` is what the application wants recorded in config.yaml and held equal on resume: the
    data set's hash, the fold, the model's name. ``rates``: shares of the learning rate by parameter,
    see ``build_optimizer``; who gives them says so in ``context``. ``resume`` without an earlier run
    starts one. SIGINT and SIGTERM end the run after the current step with a checkpoint.

    Raises UsageError when the folder holds a run and neither ``resume`` nor ``force`` is given, or
    the settings differ from those of the run to resume; DataError when its weights are of another
    architecture or damaged; Interrupted after a signal; TriptychError when the loss stays
    non-finite for ``MAX_SKIPPED`` steps; ResourceError when a checkpoint cannot be written.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    fabric = start_fabric(torch.device(device))
    run = _Run(fabric, network, task, config, Path(run_dir), progress or SilentProgress(), rates)
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
        rates: Mapping[str, float] | None,
    ) -> None:
        self.fabric = fabric
        self.task = task
        self.config = config
        self.folder = RunFolder(path, active=fabric.is_global_zero)
        self.progress = progress if fabric.is_global_zero else SilentProgress()
        self.context: dict[str, Any] = {}
        self.resume_hint = ""
        self.state = State()
        self.earlier = self.state  # what earlier sessions left
        self.skipped: list[int] = []  # steps skipped in a row
        self.signals = SignalWatch()
        self._start_clocks()

        self.network = network.to(fabric.device).train()
        self.optimizer = build_optimizer(self.network, config, rates)
        self.wrapped, self.fabric_optimizer = fabric.setup(self.network, self.optimizer)
        for method in getattr(self.network, "forward_methods", ()):
            self.wrapped.mark_forward_method(method)
        self.ema = Ema(self.network, config.ema_decay) if config.ema_decay is not None else None
        self.autocast = {
            "float32": None,
            "bf16": torch.bfloat16,
            "auto": runtime.autocast_dtype(fabric.device),
        }[config.precision]
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
            self.folder.log("start", 0, {})
            self.state = State(fast_matmul=runtime.fast_matmul())
        else:
            self._restore()
        self.earlier = self.state
        self._start_clocks()

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
        self.folder.log("resume", state.step, {"environment": environment(self.config.seed)})
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
        # What is shown: steps if only they are limited, else per cent of the nearer limit.
        done, total = (
            self._shown_done(),
            config.max_steps or 0 if config.max_minutes is None else 100.0,
        )
        label = "train" if config.max_minutes is None else "train, %"
        with (
            closing(batches),  # ends the loader's workers
            self.signals.watching(),
            self.progress.task(label, total=max(0.0, total - done)) as shown,
        ):
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
                shown.advance(self._shown_done() - done - shown.done, note=note)
                if self._save_is_due():
                    self._save()
        return self._finish(reason)

    def _step(self, batches: Iterator[Any], fraction: float) -> str:
        """One update. Returns a few words for the progress display."""
        config, step = self.config, self.state.step
        lr = learning_rate(config, step, fraction)
        set_learning_rate(self.optimizer, lr)
        seed_generators(derive(config.seed, "step", step, self.fabric.global_rank))
        statistics = running_statistics(self.network)
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
            put_back(statistics)
            self.skipped.append(step + 1)
            self.folder.log("skipped", step + 1, {"loss": total, "grad_norm": norm})
        self.fabric_optimizer.zero_grad(set_to_none=True)
        self._change(step=step + 1)
        if len(self.skipped) >= MAX_SKIPPED:
            self._diverged(f"the loss or its gradient was not finite at steps {self.skipped}")
        if (step + 1) % config.log_every == 0:
            values = {"loss": total, "lr": lr, "grad_norm": norm, "seconds": self._clock()}
            self.folder.log("train", step + 1, {**parts, **values})
        best = self._best_value()
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
                self.signals.interruptible(self._interrupt),
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
        value = kept[self.task.monitor]
        # Something must be best, so the first validation is.
        better = self.state.best is None or is_better(value, self._best_value(), self.task.mode)
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
        # The log first: should the process die before the checkpoint, resuming cuts the log back.
        self.folder.log("validation", step, {"seconds": self._clock(), "train_loss": loss, **kept})
        self._save()
        if better:
            self._save_best()

    def _finish(self, reason: StopReason) -> FitResult:
        if self.state.stopped_because != reason:
            self._change(stopped_because=reason)
            self._save()
            self.folder.log("stop", self.state.step, {"reason": reason, "seconds": self._clock()})
        best = self.state.best
        assert best is not None  # the last step is always validated
        return FitResult(
            best=self.folder.best,
            last=self.folder.last,
            metrics=dict(best.metrics),
            steps=self.state.step,
            seconds=self.state.seconds,
            stopped_because=reason,
            earlier_seconds=self.earlier.seconds,
            earlier_cpu_seconds=self.earlier.cpu_seconds,
        )

    # ---- decisions -------------------------------------------------------------------------

    def _decide(self) -> tuple[StopReason | None, bool, float]:
        """(why to stop, whether a signal came, where the learning-rate schedule stands)."""
        state, seconds = self.state, self._seconds()
        slowest = state.slowest_validation
        return (
            stop_reason(self.config, state.step, state.waited, seconds, slowest),
            self.signals.received is not None,
            schedule_fraction(self.config, state.step, seconds, slowest),
        )

    def _best_value(self) -> float | None:
        best = self.state.best
        return None if best is None else best.metrics.get(self.task.monitor)

    def _save_is_due(self) -> bool:
        config = self.config
        by_step = config.save_every is not None and self.state.step % config.save_every == 0
        waited = time.monotonic() - self.saved_at
        by_time = config.save_minutes is not None and waited >= 60 * config.save_minutes
        # After a skipped step wait for a good one: the checkpoint must be a good place to return to.
        return (by_step or by_time) and not self.skipped

    def _shown_done(self) -> float:
        if self.config.max_minutes is None:
            return self.state.step
        return percent_done(self.config, self.state.step, self._seconds())

    def _seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self.started

    def _start_clocks(self) -> None:
        self.started = self.saved_at = time.monotonic()
        self.cpu_started = time.process_time()

    def _clock(self) -> float:
        return round(self._seconds(), 3)

    # ---- saving ----------------------------------------------------------------------------

    def _save(self) -> None:
        cpu = time.process_time() - self.cpu_started
        self._change(seconds=self._seconds(), cpu_seconds=self.state.cpu_seconds + cpu)
        self._start_clocks()
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
        name = self.signals.received.name if self.signals.received else "a signal"
        self.folder.log("interrupted", self.state.step, {"signal": name})
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
        return Autocast(network, self.fabric.device.type, self.autocast)

    def _agree(self, decision: Any) -> Any:
        """The first process decides: clocks and signals differ between processes."""
        return self.fabric.broadcast(decision) if self.fabric.world_size > 1 else decision

    def _everywhere(self, ok: bool) -> bool:
        if self.fabric.world_size == 1:
            return ok
        bad = torch.tensor(0.0 if ok else 1.0, device=self.fabric.device)
        total = self.fabric.all_reduce(bad, reduce_op="sum")
        return not bool(torch.as_tensor(total).any())
