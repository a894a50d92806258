"""A run's folder: what was asked, where it ran, what happened, and the checkpoints.

    config.yaml    settings, every default written out      env.json      machine and versions
    log.jsonl      one event a line: start, train, validation, ...
    metrics.csv    one row per validation                   checkpoints/  last/ and best/

The log is the record; ``metrics.csv`` is a view of its validation events, rewritten with each. On
resume both are cut back to the checkpoint, so that no step is recorded twice.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

from pydantic import Field

from core.config import StrictModel, dump_config
from core.errors import UsageError
from core.files import plain, write_json, write_text
from core.reporting import environment
from core.training.config import TrainConfig

_OURS = ("config.yaml", "env.json", "log.jsonl", "metrics.csv", "checkpoints")


class Settings(StrictModel):
    """The layout of config.yaml."""

    training: TrainConfig
    context: dict[str, Any] = Field(default_factory=dict)


class RunFolder:
    """Paths and records of the run in ``path``. With ``active`` false nothing is ever written."""

    def __init__(self, path: Path, active: bool = True) -> None:
        self.path = Path(path)
        self.last = self.path / "checkpoints" / "last"
        self.best = self.path / "checkpoints" / "best"
        self._log = self.path / "log.jsonl"
        self._active = active
        self._rows: list[dict[str, Any]] = []

    def claim(self, *, resume: bool, force: bool) -> bool:
        """Whether there is a checkpoint to continue from; makes room for a new run if not.

        Raises UsageError when the folder holds a run and neither ``resume`` nor ``force`` is given,
        or both are.
        """
        if resume and force:
            raise UsageError("--resume continues a run and --force replaces it; give one of them")
        if resume and (self.last / "state.json").is_file():
            return True
        present = [name for name in _OURS if (self.path / name).exists()]
        # A run killed before its first checkpoint has records, but nothing worth keeping.
        if present and not force and not resume:
            raise UsageError(
                f"{self.path}: holds a training run already; continue it with --resume, "
                "replace it with --force, or choose another folder"
            )
        if self._active:
            for name in present:
                target = self.path / name
                shutil.rmtree(target) if target.is_dir() else target.unlink()
        return False

    def start(self, config: TrainConfig, context: dict[str, Any]) -> None:
        """Write the settings and the environment of a new run."""
        if self._active:
            dump_config(Settings(training=config, context=context), self.path / "config.yaml")
            write_json(self.path / "env.json", environment(config.seed))

    def restart(
        self, config: TrainConfig, context: dict[str, Any], step: int, validated: int
    ) -> None:
        """Forget what was recorded after ``step``, and a validation after ``validated``."""
        if not self._active:
            return
        settings = Settings(training=config, context=context)
        dump_config(settings, self.path / "config.yaml", force=True)
        events = [event for event in self._read() if _happened(event, step, validated)]
        lines = [json.dumps(event) + "\n" for event in events]
        write_text(self._log, "".join(lines), force=True)
        self._rows = [_row(event) for event in events if event["event"] == "validation"]
        self._write_rows()

    def log(self, event: str, step: int, values: dict[str, Any]) -> None:
        """Append one event; a validation also becomes a row of metrics.csv."""
        if not self._active:
            return
        record = plain({"event": event, "step": step} | values)
        with open(self._log, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        if event == "validation":
            self._rows.append(_row(record))
            self._write_rows()

    def _read(self) -> list[dict[str, Any]]:
        events = []
        if self._log.is_file():
            for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # the last line of a killed process may be half a line
                if isinstance(event, dict) and {"event", "step"} <= event.keys():
                    events.append(event)
        return events

    def _write_rows(self) -> None:
        columns = list(dict.fromkeys(key for row in self._rows for key in row))
        if columns:
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
            write_text(self.path / "metrics.csv", text.getvalue(), force=True)


def refuse_changes(
    run: Path, before: dict[str, Any], now: dict[str, Any], free: frozenset[str] = frozenset()
) -> None:
    """UsageError naming the first value that differs between a run and its continuation.

    Keys in ``free`` may change.
    """
    now = json.loads(json.dumps(plain(now)))  # as saved: lists for tuples
    for name in sorted((before.keys() | now.keys()) - free):
        old, new = before.get(name), now.get(name)
        if old != new:
            raise UsageError(
                f"{run}: was started with {name}={_short(old)}, now it is {_short(new)}; "
                "resume with the old value, or use --force to start again"
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _happened(event: dict[str, Any], step: int, validated: int) -> bool:
    return bool(event["step"] <= (validated if event["event"] == "validation" else step))


def _row(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "event"}
