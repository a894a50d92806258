"""Writing a recording: a route appears whole, with its last frame, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from apps.driving.recordings import layout, pictures
from apps.driving.recordings.layout import Measurement
from apps.driving.rig import LETFUSER, Rig
from core.errors import DataError
from core.files import atomic_path, plain


class Recorder:
    """Frames of one route, on their way into ``folder``.

    >>> with Recorder(data / "Scenario0" / "Town01" / "route_0000", about={"town": "Town01"}) as to:
    ...     to.add(rgb, depth, semantics, measurement)

    They are written to a hidden folder beside it, which takes its name when the block ends without
    an error and with one frame at least; otherwise nothing remains. ``about`` (JSON's types) goes
    into route.json, which ``finish`` may add to.

    UsageError where ``folder`` exists and ``force`` is false; ResourceError when the disk is full
    or must not be written to.
    """

    def __init__(
        self,
        folder: Path,
        rig: Rig = LETFUSER,
        *,
        about: dict[str, Any] | None = None,
        force: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.rig = rig
        self.frames = 0
        self._about = dict(about or {})
        self._force = force
        self._opened: AbstractContextManager[Recorder] | None = None
        self._hidden: Path | None = None

    def __enter__(self) -> Recorder:
        self._opened = self._writing()
        return self._opened.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        assert self._opened is not None
        return self._opened.__exit__(kind, error, trace)

    def add(
        self,
        rgb: np.ndarray,
        depth: np.ndarray,
        semantics: np.ndarray,
        measurement: Measurement,
    ) -> None:
        """Write a frame: ``rgb`` (V, H, W, 3) uint8, ``depth`` (V, H, W) metres, ``semantics``
        (V, H, W) uint8 in the tags of CARLA 0.9.14 and later.

        DataError where a picture does not fit the rig.
        """
        assert self._hidden is not None, "use it in a with statement"
        shape = (len(self.rig.cameras), *self.rig.size)
        for kind, views, want in (
            (layout.RGB, rgb, (*shape, 3)),
            (layout.DEPTH, depth, shape),
            (layout.SEMANTICS, semantics, shape),
        ):
            if views.shape != want:
                raise DataError(f"{kind} pictures of shape {views.shape}, the rig's are {want}")
        number = f"{self.frames:04d}"
        tag_views = np.asarray(semantics, np.uint8)
        for kind, panorama in (
            (layout.RGB, pictures.side_by_side(np.asarray(rgb, np.uint8))),
            (layout.DEPTH, pictures.pack_depth(pictures.side_by_side(depth))),
            (layout.SEMANTICS, pictures.side_by_side(tag_views)),
        ):
            pictures.write_png(self._hidden / kind / f"{number}.png", panorama)
        text = json.dumps(plain(measurement.as_dict()), indent=1)
        (self._hidden / layout.MEASUREMENTS / f"{number}.json").write_text(text, encoding="utf-8")
        self.frames += 1

    def drop(self, count: int) -> None:
        """Take the last ``count`` frames back, as far as there are so many."""
        assert self._hidden is not None, "use it in a with statement"
        for _ in range(min(count, self.frames)):
            self.frames -= 1
            for kind in layout.PICTURES:
                (self._hidden / kind / f"{self.frames:04d}.png").unlink()
            (self._hidden / layout.MEASUREMENTS / f"{self.frames:04d}.json").unlink()

    def finish(self, **facts: Any) -> None:
        """Add what is known only now to route.json."""
        self._about.update(facts)

    @contextmanager
    def _writing(self) -> Iterator[Recorder]:
        with suppress(_Empty), atomic_path(self.folder, force=self._force) as hidden:
            for kind in (*layout.PICTURES, layout.MEASUREMENTS):
                (hidden / kind).mkdir(parents=True)
            self._hidden = hidden
            yield self
            if not self.frames:
                raise _Empty
            (hidden / layout.ABOUT).write_text(self._told(), encoding="utf-8")
            if self._force and self.folder.is_dir():  # a folder is not replaced while it has files
                shutil.rmtree(self.folder)

    def _told(self) -> str:
        about = {
            "format": layout.FORMAT,
            "tags": "new",
            **self._about,
            "frames": self.frames,
            "rig": self.rig.as_dict(),
        }
        return json.dumps(plain(about), indent=2) + "\n"


class _Empty(Exception):
    """No frame came: nothing is to remain."""
