"""Boxes collected one by one while a town is furnished, and turned into arrays at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from apps.driving.world.geometry import Boxes
from apps.driving.world.tags import Tag


@dataclass
class Stock:
    """Boxes collected so far; one ``begin`` for each object, which is one instance."""

    rows: list[tuple[float, ...]] = field(default_factory=list)
    objects: int = 0
    heads: dict[str, list[int]] = field(default_factory=dict)
    owned: dict[str, list[int]] = field(default_factory=dict)
    lamps: list[tuple[float, ...]] = field(default_factory=list)

    def begin(self) -> None:
        self.objects += 1

    def add(
        self,
        centre: Sequence[float],
        half: Sequence[float],
        yaw: float,
        tag: Tag,
        rgb: Sequence[float] | np.ndarray,
    ) -> int:
        """The row of a new box of the current object."""
        self.rows.append((*centre, *half, yaw, float(tag), *rgb, self.objects))
        return len(self.rows) - 1

    def boxes(self) -> Boxes:
        """All of them; instances count down from 65,535, one for each object."""
        table = np.array(self.rows, np.float64).reshape(-1, 12)
        return Boxes(
            table[:, 0:3].astype(np.float32),
            table[:, 3:6].astype(np.float32),
            table[:, 6].astype(np.float32),
            table[:, 7].astype(np.uint8),
            np.clip(table[:, 8:11], 0, 255).astype(np.uint8),
            (65536 - table[:, 11]).astype(np.int32),
        )
