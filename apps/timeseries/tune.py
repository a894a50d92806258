"""Search a model's settings by its validation error, with Optuna; rows of the test part are not there.

    OUT/study.log       every trial as it happened (Optuna's journal, lines of JSON); resumes from here
    OUT/trials.csv      a row for each trial          OUT/best.yaml    the best settings
    OUT/report.json     both, the baselines' validation errors, and the ``fit`` command that follows

Borders are those ``fit`` draws (80, 10 and 10 % of each series' rows, for the largest lookback
searched), so that all trials forecast the same validation rows and what ``fit`` measures afterwards
on the test rows has chosen nothing: series are cut off before them.  The first trial is the model
with its own settings, the following ones are TPE's (Bergstra et al., NeurIPS 2011); after
``STARTUP`` trials one whose validation error is above the median of the others' at the same epoch
ends early.  A trial's suggestion depends on the seed and the trials finished before it alone: a search
that was killed and resumed finds what one in a single piece finds.
"""

from __future__ import annotations

import csv
import io
import math
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apps.timeseries import catalog
from apps.timeseries.data.panel import Panel
from apps.timeseries.data.reading import read_panel
from apps.timeseries.data.splits import Borders, chronological_each, origins, protocol_borders
from apps.timeseries.data.windows import Scaling
from apps.timeseries.evaluate import NAIVE
from apps.timeseries.fit import MAX_STEPS, train
from apps.timeseries.learning import VALIDATION_WINDOWS
from apps.timeseries.methods import BaselinePredictor
from apps.timeseries.spaces import Choices, Range, Space, make_space
from core.errors import DataError, ResourceError, TriptychError, UsageError, need, unknown
from core.files import plain, require_writable, results_folder, write_json, write_text
from core.progress import Progress, SilentProgress, Task
from core.reporting import environment, peak_memory_mb
from core.training import Interrupted
from core.training.seeding import derive

STUDY = "study.log"
CSV, YAML, JSON = FILES = ("trials.csv", "best.yaml", "report.json")
STARTUP = 5
"""Trials before TPE suggests (until then settings are drawn) and before the median prunes."""
OBJECTIVES = ("mae", "mse")


@dataclass(frozen=True)
class Tuned:
    """What was found: the ``report`` that report.json holds, and the best trial's ``settings``."""

    report: dict[str, Any]
    folder: Path

    @property
    def settings(self) -> dict[str, Any]:
        """For ``fit``: model, lookback, horizon and options."""
        return dict(self.report["best"]["settings"])


def tune(
    data: Path | str | Panel,
    model: str = "itransformer",
    *,
    horizon: int,
    out: Path | str,
    lookback: int | Sequence[int] = 96,
    trials: int = 20,
    max_minutes: float | None = None,
    max_steps: int | None = None,
    search: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    quantiles: Sequence[float] = (),
    objective: str = "mae",
    protocol: str | None = None,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    **reading: Any,
) -> Tuned:
    """The best of ``trials`` settings of ``model`` by validation error, in all at most ``max_minutes``.

    ``search`` changes the declared space: "name=low:high", "name=low:high:log" or "name=a,b,c", of
    an option of the network, a field of the recipe or lookback; ``options`` fixes others.  Several
    lookbacks are searched.  ``objective``: "mae" or "mse", in scaled space over all validation
    windows (at most 8,192 of them, evenly spread), of a trial's best epoch.

    A limit of time ends the search between or within trials; one that it ended counts with the best
    epoch it had.  A trial whose settings cannot be built or whose training diverges counts as
    failed, and the next one goes on.

    Raises UsageError for a space, setting or model that does not exist and for an ``out`` that holds
    a search unless ``resume`` (of the same search) or ``force`` is given; DataError where the rows
    do not suffice; Interrupted after a signal.
    """
    optuna = need("optuna", "tune")
    progress, out = progress or SilentProgress(), Path(out)
    if catalog.baseline(model):
        raise UsageError(f"model {model}: is a baseline and has nothing to tune; use it by name")
    name = catalog.model(model).name
    for label, value in {"trials": trials, "horizon": horizon}.items():
        if value < 1:
            raise UsageError(f"--{label} {value}: must be 1 or more")
    if objective not in OBJECTIVES:
        raise UsageError(unknown("objective", objective, OBJECTIVES))
    space, defaults = make_space(name, _lookbacks(lookback), search, options or {})
    require_writable(out, FILES, force or resume)
    panel = data if isinstance(data, Panel) else read_panel(data, **reading)
    longest = _longest(space, defaults)
    parts, notes = _borders(panel, longest, horizon, protocol)
    about = {
        "model": name,
        "horizon": horizon,
        "objective": objective,
        "space": {key: str(part) for key, part in space.items()},
        "lookback": defaults["lookback"],
        "options": plain(dict(options or {})),
        "quantiles": sorted(quantiles),
        "protocol": protocol,
        "max_steps": max_steps,
        "seed": seed,
        "sha256": panel.sha256,
        "targets": list(panel.targets),
        "rows": sum(len(s) for s in panel),
    }
    study = _study(optuna, out, about, seed, resume, force)
    shown = _cut(panel, parts)
    under_way = _Search(
        optuna=optuna,
        study=study,
        panel=shown,
        parts=parts,
        name=name,
        horizon=horizon,
        space=space,
        defaults=defaults,
        options=dict(options or {}),
        quantiles=tuple(quantiles),
        objective=objective,
        max_steps=max_steps,
        seed=seed,
        device=device,
        ends=math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes,
    )
    naive = _baselines(shown, parts, longest, horizon)
    began = time.monotonic()
    try:
        under_way.run(trials, progress)
    except Interrupted as stop:
        finished = len(under_way.finished())
        raise Interrupted(
            f"interrupted after {finished} trials, which are kept in {out}; continue with: the same "
            "command with --resume"
        ) from stop
    report = _report(under_way, about, naive, panel, notes)
    source = str(data) if isinstance(data, str | Path) else panel.source or "FILE"
    given = {"protocol": protocol, "max_steps": max_steps, "seed": seed, "quantiles": quantiles}
    report["fit"] = _command(report["best"]["settings"], source, given, reading, out)
    report |= {
        "seconds": round(time.monotonic() - began, 1),
        "peak_memory_mb": round(peak_memory_mb()),
        "environment": environment(seed),
    }
    report = plain(report)
    with results_folder(out, FILES, force=True) as folder:
        write_text(folder / CSV, _table(report["trials"]))
        write_text(folder / YAML, _yaml(report["best"]["settings"]))
        write_json(folder / JSON, report)
    return Tuned(report, out)


def print_report(result: Tuned) -> None:
    """The best settings beside the model's own and the baselines, for a person."""
    report = result.report
    key, best = report["objective"], report["best"]
    print(
        f"{report['model']}, {report['horizon']} steps: best of {report['counts']['complete']} "
        f"complete, {report['counts']['pruned']} pruned and {report['counts']['failed']} failed "
        "trials, by validation rows"
    )
    rows = [(f"trial {best['trial']}", best["metrics"])]
    if report["own"] is not None and report["own"]["trial"] != best["trial"]:
        rows.append((f"{report['model']} as it is", report["own"]["metrics"]))
    rows += [(name, metrics) for name, metrics in report["baselines"].items()]
    for label, metrics in sorted(rows, key=lambda row: row[1][key]):
        print(f"  {label:<24} mae {metrics['mae']:.4f}  mse {metrics['mse']:.4f}")
    for name, value in best["settings"].items():
        print(f"  {name}: {value}")
    for note in report["notes"]:
        print(f"note: {note}")
    print(f"{result.folder}: {', '.join(FILES)}")
    print(report["fit"])


class _Pruned(Exception):
    """This trial is behind the others."""


class _OutOfTime(Exception):
    """The search's time is over."""


@dataclass
class _Search:
    """One search under way."""

    optuna: Any
    study: Any
    panel: Panel
    parts: Mapping[str, Borders]
    name: str
    horizon: int
    space: Space
    defaults: Mapping[str, Any]
    options: Mapping[str, Any]
    quantiles: tuple[float, ...]
    objective: str
    max_steps: int | None
    seed: int
    device: torch.device | str
    ends: float

    def run(self, trials: int, progress: Progress) -> None:
        """Trials until ``trials`` have finished or time is over; there is one in any case."""
        self._tidy()
        with progress.task("tune, trials", total=trials) as task:
            task.advance(len(self.finished()))
            while len(self.finished()) < trials:
                if self.finished() and time.monotonic() >= self.ends:
                    break
                self._trial(task)
        if not self.complete():
            failed = self.finished()[-1]
            raise TriptychError(
                f"none of {len(self.finished())} trials has a validation error; the last said: "
                f"{failed.user_attrs.get('error')}"
            )

    def finished(self) -> list[Any]:
        """Trials that need no repetition, in their order."""
        states = self.optuna.trial.TrialState
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state in (states.COMPLETE, states.PRUNED) or "error" in trial.user_attrs
        ]

    def complete(self) -> list[Any]:
        """Trials that ran to their end."""
        states = (self.optuna.trial.TrialState.COMPLETE,)
        return self.study.get_trials(deepcopy=False, states=states)

    def _tidy(self) -> None:
        """Close trials that a killed process left open."""
        states = self.optuna.trial.TrialState
        for trial in self.study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            self.study.tell(trial.number, state=states.FAIL)

    def _trial(self, task: Task) -> None:
        states = self.optuna.trial.TrialState
        done = self.finished()
        # A sampler of its own for each trial: one that went on would start again when resumed.
        self.study.sampler = self.optuna.samplers.TPESampler(
            seed=derive(self.seed, "trial", len(done)) % 2**32, n_startup_trials=STARTUP
        )
        waiting = self.study.get_trials(deepcopy=False, states=(states.WAITING,))
        usual = all(self.defaults[key] in part for key, part in self.space.items())
        if usual and not done and not waiting:
            self.study.enqueue_trial({key: self.defaults[key] for key in self.space})
        trial = self.study.ask({k: _distribution(self.optuna, p) for k, p in self.space.items()})
        said = ", ".join(f"{key} {value}" for key, value in _used(trial.params).items())
        task.advance(0, note=f"trial {len(done)}: {said}")
        began = time.monotonic()
        best: dict[str, float] | None = None
        epochs = 0

        def watch(metrics: dict[str, float]) -> None:
            nonlocal best, epochs
            epochs += 1
            # The epoch that training keeps is the one with the best loss.
            if math.isfinite(metrics["loss"]) and (best is None or metrics["loss"] < best["loss"]):
                best = metrics
            value = metrics[self.objective]
            task.advance(0, note=f"trial {len(done)}, epoch {epochs}, {self.objective} {value:.4f}")
            if math.isfinite(value):
                trial.report(value, epochs)
                if trial.should_prune():
                    raise _Pruned
            if time.monotonic() >= self.ends:
                raise _OutOfTime

        state, reason = states.COMPLETE, None
        params = _used(trial.params)
        lookback = int(params.pop("lookback", self.defaults["lookback"]))
        try:
            with tempfile.TemporaryDirectory(prefix="triptych-") as folder:
                train(
                    self.panel,
                    self.name,
                    lookback=lookback,
                    horizon=self.horizon,
                    run_dir=Path(folder) / "run",
                    options={**self.options, **params},
                    borders=self.parts,
                    quantiles=self.quantiles,
                    max_steps=MAX_STEPS if self.max_steps is None else self.max_steps,
                    seed=self.seed,
                    device=self.device,
                    watch=watch,
                )
        except _Pruned:
            state = states.PRUNED
        except _OutOfTime:
            reason = "the search's time was over"
        except (DataError, Interrupted):
            self.study.tell(trial, state=states.FAIL)  # to be repeated: it has no error of its own
            raise
        except TriptychError as error:
            state, reason = states.FAIL, str(error)
        if state == states.COMPLETE and best is None:
            state, reason = states.FAIL, "no validation gave a finite number"
        facts = {"metrics": best, "epochs": epochs, "seconds": round(time.monotonic() - began, 2)}
        for key, value in facts.items():
            trial.set_user_attr(key, value)
        if reason is not None:
            trial.set_user_attr("error" if state == states.FAIL else "note", reason)
        value = best[self.objective] if best is not None and state == states.COMPLETE else None
        self.study.tell(trial, value, state=state)
        task.advance(1)


def _study(
    optuna: Any, out: Path, about: dict[str, Any], seed: int, resume: bool, force: bool
) -> Any:
    """The study in ``out``, new or gone on with."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if resume and force:
        raise UsageError("--resume continues a search and --force replaces it; give one of them")
    path = out / STUDY
    if path.exists() and not resume:
        if not force:
            raise UsageError(
                f"{out}: holds a search already; continue it with --resume, replace it with --force, "
                "or choose another folder"
            )
        path.unlink()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        out.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(
            JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path)))
        )
        study = optuna.create_study(
            storage=storage,
            study_name="tune",
            load_if_exists=True,
            # An epoch tells little of a rate: the first one never ends a trial.
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=2),
        )
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written ({error.strerror or error})") from error
    except (ValueError, KeyError) as error:
        raise DataError(
            f"{path}: is damaged ({error}); begin anew with --force or in another folder"
        ) from error
    before = study.user_attrs.get("about")
    if before is None:
        study.set_user_attr("about", about)
    elif before != about:
        names = [key for key in about if before.get(key) != about[key]]
        raise UsageError(
            f"{out}: the search there differs in {', '.join(names)}; resume with the same settings, "
            "or choose another folder"
        )
    return study


def _distribution(optuna: Any, part: Range | Choices) -> Any:
    kinds = optuna.distributions
    if isinstance(part, Choices):
        return kinds.CategoricalDistribution(part.values)
    kind = kinds.IntDistribution if part.whole else kinds.FloatDistribution
    return kind(part.low, part.high, log=part.log)


def _lookbacks(given: int | Sequence[int]) -> tuple[int, ...]:
    found = (given,) if isinstance(given, int) else tuple(given)
    if not found or min(found) < 1:
        raise UsageError(f"lookback {given}: must be 1 or more")
    return found


def _longest(space: Space, defaults: Mapping[str, Any]) -> int:
    part = space.get("lookback", Choices((defaults["lookback"],)))
    return int(max(part.values) if isinstance(part, Choices) else part.high)


def _borders(
    panel: Panel, lookback: int, horizon: int, protocol: str | None
) -> tuple[dict[str, Borders], list[str]]:
    """As ``fit`` draws them, of the series that have room for the largest lookback."""
    if protocol is not None:
        given = protocol_borders(protocol, min(len(s) for s in panel), panel.source)
        return {s.id: given for s in panel}, []
    parts = chronological_each(panel, lookback, horizon)
    left = len(panel) - len(parts)
    notes = [
        f"{left} of {len(panel)} series are too short for lookback {lookback} and are left out"
    ]
    return parts, notes if left else []


def _cut(panel: Panel, parts: Mapping[str, Borders]) -> Panel:
    """The series that have borders, without their test rows: what is not there cannot be looked at."""
    kept = []
    for s in panel:
        if s.id in parts:
            n = parts[s.id].val
            kept.append(replace(s.head(n), times=s.times[:n], known=s.known[:n]))
    return panel.with_series(kept)


def _baselines(
    panel: Panel, parts: Mapping[str, Borders], lookback: int, horizon: int
) -> dict[str, dict[str, float]]:
    """Validation errors of the naive methods on the windows that trials are judged by."""
    found = [origins(parts[s.id].train, parts[s.id].val, lookback, horizon) for s in panel]
    step = -(-sum(map(len, found)) // VALIDATION_WINDOWS)
    methods = [BaselinePredictor(name) for name in NAIVE]
    sums, count, at = np.zeros((len(methods), 2)), 0, 0
    for series, of_series in zip(panel, found):
        chosen = of_series[-at % step :: step]
        at += len(of_series)
        scaling = Scaling.of(series.values[: parts[series.id].train])
        truth = series.values[chosen[:, None] + np.arange(horizon)]
        for i, method in enumerate(methods if len(chosen) else ()):
            error = (method.predict(series, chosen.tolist(), horizon) - truth) / scaling.std
            sums[i] += np.nansum(np.abs(error)), np.nansum(error**2)
        count += int(np.isfinite(truth).sum())
    return {
        m.name: {"mae": a, "mse": b} for m, (a, b) in zip(methods, (sums / max(1, count)).tolist())
    }


def _report(
    search: _Search,
    about: Mapping[str, Any],
    naive: Mapping[str, Mapping[str, float]],
    panel: Panel,
    notes: Sequence[str],
) -> dict[str, Any]:
    key = search.objective
    rows = [_row(i, trial, search) for i, trial in enumerate(search.finished())]
    complete = [row for row in rows if row["state"] == "complete"]
    best = min(complete, key=lambda row: row[key])
    own = rows[0] if rows[0]["own"] and rows[0]["state"] == "complete" else None
    notes = [*panel.notes, *notes]
    better = [name for name, metrics in naive.items() if metrics[key] <= best[key]]
    if better:
        notes.append(f"on the validation rows no trial beats {' and '.join(better)}")
    if any(row["note"] for row in rows):
        notes.append("time was over within a trial: it counts with the best epoch it had")
    notes.append(
        f"the best of {len(rows)} trials is chosen by these validation rows, so that its error on "
        "them flatters it; fit measures it on the test rows, which no trial saw"
    )

    def described(row: Mapping[str, Any]) -> dict[str, Any]:
        options = {name: row[name] for name in search.space if name != "lookback"}
        return {
            "trial": row["trial"],
            "metrics": {name: row[name] for name in ("mae", "mse", "loss")},
            "settings": {
                "model": search.name,
                "lookback": row.get("lookback", search.defaults["lookback"]),
                "horizon": search.horizon,
                "options": {**search.options, **options},
            },
        }

    return {
        "format": 1,
        "file": panel.source or None,
        "series": len(search.panel),
        "borders": max(search.parts.values(), key=lambda b: b.test).report(),
        **about,
        "counts": {
            state: sum(row["state"] == state for row in rows)
            for state in ("complete", "pruned", "failed")
        },
        "best": described(best),
        "own": described(own) if own else None,
        "baselines": naive,
        "trials": rows,
        "notes": notes,
    }


def _row(number: int, trial: Any, search: _Search) -> dict[str, Any]:
    """A trial as a row of trials.csv."""
    facts, params = trial.user_attrs, _used(trial.params)
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    metrics = facts.get("metrics") or {}
    return {
        "trial": number,
        "state": states[trial.state.name],
        **{name: metrics.get(name) for name in ("mae", "mse", "loss")},
        **{name: params.get(name) for name in search.space},
        "own": all(params.get(name) == search.defaults[name] for name in search.space),
        "epochs": facts.get("epochs"),
        "seconds": facts.get("seconds"),
        "note": facts.get("error") or facts.get("note") or "",
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _yaml(values: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(plain(dict(values)), sort_keys=False, allow_unicode=True)


def _command(
    best: Mapping[str, Any],
    source: str,
    given: Mapping[str, Any],
    reading: Mapping[str, Any],
    out: Path,
) -> str:
    """The ``fit`` of the best settings, for a shell."""
    words = ["python", "apps/timeseries/run.py", "fit", source, "--model", best["model"]]
    words += ["--lookback", str(best["lookback"]), "--horizon", str(best["horizon"])]
    for name, value in best["options"].items():
        words += ["--set", f"{name}={'none' if value is None else value}"]
    flags = {**given, **{_SINGULAR.get(name, name): value for name, value in reading.items()}}
    for name, value in flags.items():
        if name == "day_first" and value is not None:
            words.append("--day-first" if value else "--month-first")
        elif value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif value is not None and value is not False and value not in ("", "auto", "none"):
            for each in [value] if isinstance(value, str | int | float) else value:
                words += [f"--{name.replace('_', '-')}", str(each)]
    return shlex.join([*words, "--out", str(out / "model")])


_SINGULAR = {"targets": "target", "sentinels": "sentinel", "quantiles": "quantile"}


def _used(params: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's settings as it trains with them: three digits are more than any rate needs."""
    return {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in params.items()}
