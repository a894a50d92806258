"""Traffic lights: one phase of each junction at a time is green, then yellow, then all are red.

Times and order are CARLA's (carla-simulator/carla, Traffic/TrafficLightController.h: 10, 3 and 2 s;
TrafficLightGroup: one controller after the other). A controller is the set of lights of one
junction and phase: times are its, as in CARLA. A light outside junctions has a junction of its own.
All junctions start with their first phase turning green.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from apps.driving.world.maps.sites import LightSite


class State(IntEnum):
    """``carla.TrafficLightState``, by its numbers on the wire."""

    RED = 0
    YELLOW = 1
    GREEN = 2
    OFF = 3
    UNKNOWN = 4


GREEN_S, YELLOW_S, RED_S = 10.0, 3.0, 2.0
_STAGES = (State.GREEN, State.YELLOW, State.RED)  # of the phase whose turn it is


class Lights:
    """n lights in the order of ``sites``; read the arrays, change them by the methods."""

    state: np.ndarray  # (n) int8, of State
    elapsed: np.ndarray  # (n) s since the state began
    green: np.ndarray  # (n) s, as yellow and red
    yellow: np.ndarray
    red: np.ndarray
    frozen: np.ndarray  # (n) bool

    def __init__(self, sites: Sequence[LightSite]) -> None:
        self.sites = list(sites)
        n = len(self.sites)
        keys = [s.junction if s.junction != -1 else -2 - i for i, s in enumerate(self.sites)]
        junctions = {key: j for j, key in enumerate(dict.fromkeys(keys))}
        self._junction = np.array([junctions[key] for key in keys], np.int64)
        self._phases: list[list[int]] = [[] for _ in junctions]
        for site, j in zip(self.sites, self._junction.tolist(), strict=True):
            if site.group not in self._phases[j]:
                self._phases[j].append(site.group)
        for phases in self._phases:
            phases.sort()
        group = np.array([site.group for site in self.sites], np.int64)
        self._phase = np.array(
            [self._phases[j].index(g) for j, g in zip(self._junction, group, strict=True)], np.int64
        )
        self.state = np.zeros(n, np.int8)
        self.elapsed = np.zeros(n)
        self.green, self.yellow, self.red = (np.full(n, t) for t in (GREEN_S, YELLOW_S, RED_S))
        self.frozen = np.zeros(n, bool)
        self._turn = np.zeros(len(junctions), np.int64)  # the phase in turn
        self._stage = np.zeros(len(junctions), np.int64)
        self._since = np.zeros(len(junctions))
        self._stopped = np.zeros(len(junctions), bool)
        self._ends = np.zeros(len(junctions))  # when the stage ends
        self.reset_all()

    def __len__(self) -> int:
        return len(self.sites)

    def group_of(self, light: int) -> list[int]:
        """All lights of a light's junction, itself too."""
        return np.flatnonzero(self._junction == self._junction[light]).tolist()

    def set_state(self, light: int, state: int) -> None:
        """Shows ``state`` until the junction's next change: frozen, for good. ValueError if unknown."""
        self.state[light] = State(state)
        self.elapsed[light] = 0.0

    def set_green_time(self, light: int, seconds: float) -> None:
        """Of the light's controller. ValueError unless a number from 0 up."""
        self._set_time(self.green, light, seconds)

    def set_yellow_time(self, light: int, seconds: float) -> None:
        """Of the light's controller. ValueError unless a number from 0 up."""
        self._set_time(self.yellow, light, seconds)

    def set_red_time(self, light: int, seconds: float) -> None:
        """How long all are red after the light's controller. ValueError unless from 0 up."""
        self._set_time(self.red, light, seconds)

    def freeze(self, light: int, frozen: bool) -> None:
        """Stops the clock of the light's junction."""
        self._stopped[self._junction[light]] = frozen
        self.frozen[:] = self._stopped[self._junction]

    def freeze_all(self, frozen: bool) -> None:
        """Stops the clocks of all junctions."""
        self._stopped[:] = frozen
        self.frozen[:] = frozen

    def reset_group(self, light: int) -> None:
        """Starts the light's junction anew, with its first phase."""
        self._reset(int(self._junction[light]))

    def reset_all(self) -> None:
        """Starts all junctions anew."""
        for junction in range(len(self._phases)):
            self._reset(junction)

    def step(self, dt: float) -> None:
        """``dt`` seconds on. ValueError unless dt > 0."""
        if not dt > 0 or not math.isfinite(dt):
            raise ValueError(f"a step of {dt} s; it must be above 0")
        if not len(self):
            return
        self.elapsed[~self.frozen] += dt
        self._since[~self._stopped] += dt
        # 1e-9: so that 200 steps of 0.05 s are 10 s.
        for junction in np.flatnonzero(self._since >= self._ends - 1e-9).tolist():
            if not self._stopped[junction]:
                self._advance(junction)

    def _advance(self, junction: int) -> None:
        """To the stage that the clock is in; with times of nought, once around at most."""
        for _ in range(3 * len(self._phases[junction])):
            late = self._since[junction] - self._ends[junction]
            if late < -1e-9:
                return
            self._stage[junction] += 1
            if self._stage[junction] == len(_STAGES):
                self._stage[junction] = 0
                self._turn[junction] = (self._turn[junction] + 1) % len(self._phases[junction])
            self._show(junction, max(float(late), 0.0))

    def _reset(self, junction: int) -> None:
        self._turn[junction] = self._stage[junction] = 0
        self.elapsed[self._junction == junction] = 0.0
        self._show(junction, 0.0)

    def _show(self, junction: int, since: float) -> None:
        here = self._junction == junction
        in_turn = here & (self._phase == self._turn[junction])
        state = np.where(in_turn, _STAGES[self._stage[junction]], State.RED)[here]
        self.elapsed[here] = np.where(state == self.state[here], self.elapsed[here], since)
        self.state[here] = state
        self._since[junction] = since
        self._plan(junction)

    def _plan(self, junction: int) -> None:
        lead = int(np.argmax((self._junction == junction) & (self._phase == self._turn[junction])))
        times = (self.green, self.yellow, self.red)[self._stage[junction]]
        self._ends[junction] = times[lead]

    def _set_time(self, times: np.ndarray, light: int, seconds: float) -> None:
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"a time of {seconds} s; it must be a number from 0 up")
        junction = int(self._junction[light])
        times[(self._junction == junction) & (self._phase == self._phase[light])] = seconds
        self._plan(junction)
