"""Whether a file is one that a trained model can forecast: its columns by name, its clock.

The order of a file's columns means nothing, their names everything: the model gets its own columns
in its own order, and what it has no use for is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from apps.timeseries.data.panel import Panel
from core.errors import DataError, UsageError

if TYPE_CHECKING:
    from apps.timeseries.store import DataSpec

_SHOWN = 5


def panel_for(
    data: str | Path | pd.DataFrame | pd.Series | Panel,
    spec: DataSpec | None,
    reading: dict[str, Any],
) -> Panel:
    """A panel as it is, or a file or data frame read; with the ``spec`` of a model, its columns.

    Raises as ``read_panel`` and ``match``; UsageError for ``reading`` options beside a panel.
    """
    if isinstance(data, Panel):
        if reading:
            raise UsageError(f"{', '.join(reading)}: for files; the panel is read already")
        return match(data, spec) if spec else data
    if spec is not None:
        return read_matching(data, spec, reading)
    from apps.timeseries.data.reading import read_panel

    return read_panel(data, **reading)


def reading_options(data: DataSpec, given: dict[str, Any]) -> dict[str, Any]:
    """``given`` options of ``read_panel``, with the model's covariates and targets where none were.

    In a wide file every other number column is read as a target, and ``match`` chooses: so a
    missing one can be named beside those that are there.
    """
    named = {"past": tuple(data.past), "known": tuple(data.known), "static": tuple(data.static)}
    if data.layout == "long":
        named["targets"] = tuple(data.targets)
    chosen = {key: value for key, value in given.items() if value or key not in named}
    return {**{key: value for key, value in named.items() if value}, **chosen}


def read_matching(
    path: str | Path | pd.DataFrame | pd.Series, data: DataSpec, given: dict[str, Any]
) -> Panel:
    """``read_panel`` with ``reading_options``, and ``match``.

    Raises as both; DataError where the file lacks a column that the model, and nobody else, asks for.
    """
    from apps.timeseries.data.reading import read_panel

    options = reading_options(data, given)
    try:
        panel = read_panel(path, **options)
    except UsageError as error:
        asked = options.keys() - {key for key, value in given.items() if value}
        if not asked or "has no column" not in str(error):
            raise
        raise DataError(
            f"{error}; the model was trained on it: rename the columns as they were in training or "
            "fit a model on this file"
        ) from error
    return match(panel, data)


def match(panel: Panel, data: DataSpec) -> Panel:
    """``panel`` with the columns of ``data`` in their order; its notes say what was left out or new.

    Raises DataError where columns are missing, naming them, and where the clock has another
    frequency than the one that the model was trained on.
    """
    notes: list[str] = []
    picks = {}
    for kind, wanted, present in (
        ("target", data.targets, panel.targets),
        ("past covariate", data.past, panel.past_names),
        ("known covariate", data.known, panel.known_names),
        ("static covariate", data.static, panel.static_names),
    ):
        missing = [name for name in wanted if name not in present]
        if missing:
            others = [name for name in present if name not in wanted]
            raise DataError(
                f"{panel.source}: lacks the {kind}{'s' if len(missing) > 1 else ''} "
                f"{listed(missing)} that the model was trained on"
                + (f" (it has {listed(others)} instead)" if others else "")
                + "; rename the columns as they were in training or fit a model on this file"
            )
        picks[kind] = [present.index(name) for name in wanted]
        unused = [name for name in present if name not in wanted]
        if unused:
            notes.append(f"not used by the model: {listed(unused)}")
    for series in panel:
        if series.freq != data.freq:
            raise DataError(
                f"{panel.source}: series {series.id} has {_clock(series.freq)}, the model was "
                f"trained on {_clock(data.freq)}; resample the file or fit a model on it"
            )
    values, past, known = (picks[k] for k in ("target", "past covariate", "known covariate"))
    alone = len(panel) == 1 and len(data.series) == 1 and panel.layout == data.layout == "wide"
    matched = [
        replace(
            series,
            # The one series of a wide file is called after the file, which may have a new name.
            id=data.series[0] if alone else series.id,
            values=series.values[:, values],
            past=series.past[:, past],
            known=series.known[:, known],
        )
        for series in panel
    ]
    if data.marks and data.tz is not None and (panel.tz or "") != data.tz:
        notes.append(
            f"the stamps are {panel.tz or 'without a zone'}, the model was trained on stamps "
            f"{data.tz or 'without a zone'}: hours and days that it knows by the clock may be shifted; "
            "give the zone with --tz"
        )
    new = [series.id for series in matched if series.id not in set(data.series)]
    if new:
        notes.append(
            f"{len(new)} of {len(matched)} series are new to the model and are scaled by their own "
            f"history: {listed(new)}"
        )
    return replace(
        panel,
        series=tuple(matched),
        targets=tuple(data.targets),
        past_names=tuple(data.past),
        known_names=tuple(data.known),
        notes=(*panel.notes, *notes),
    )


def listed(names: Sequence[str]) -> str:
    """``a, b, c, d, e and 7 more``."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more


def _clock(freq: str | None) -> str:
    return f"frequency {freq}" if freq else "no regular frequency"
