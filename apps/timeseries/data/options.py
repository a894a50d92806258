"""How to read a file, with the repairs that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apps.timeseries.data import clock_column, repair, roles


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to read a file: see ``read_panel``."""

    layout: str = "auto"
    time: str | None = None
    id: str | None = None
    targets: Sequence[str] | None = None
    past: Sequence[str] | None = None
    known: Sequence[str] | None = None
    static: Sequence[str] | None = None
    freq: str | None = None
    tz: str | None = None
    decimal: str | None = None
    day_first: bool | None = None
    encoding: str | None = None
    sheet: str | None = None
    fill: str = "none"
    agg: str | None = None
    max_gap: int | None = None
    sentinels: Sequence[float] | None = None
    multivariate: bool = False

    def __post_init__(self) -> None:
        repair.check_options(self.fill, self.agg, self.max_gap)
        clock_column.check_options(self.freq, self.tz)

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """The columns that were named, by role."""
        names = ("targets", "past", "known", "static")
        return {name: tuple(getattr(self, name) or ()) for name in names}

    def is_id(self, name: str) -> bool:
        """Whether the column called ``name`` may name series: it is read as text."""
        if name == self.id:
            return True
        named = {one for columns in self.roles.values() for one in columns}
        return name.lower() in roles.ID_NAMES and name not in named and name != self.time
