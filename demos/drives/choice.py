"""What a person chose to drive, as one value: the same choice and driver give the same drive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from demos.shared.keys import key_of

PROCEDURAL = "procedural:"

WEATHERS: dict[str, tuple[str, str] | None] = {
    "Clear noon": ("clear", "noon"),
    "Cloudy afternoon": ("cloudy", "afternoon"),
    "Wet road at sunset": ("wet", "sunset"),
    "Soft rain": ("soft rain", "noon"),
    "Hard rain": ("hard rain", "afternoon"),
    "Fog": ("fog", "noon"),
    "Clear night": ("clear", "night"),
    "Drawn from the seed": None,
    "As the route file says": None,
}
"""Names of weathers, and their sky and sun in ``apps.driving.routes.sampling``."""
DRAWN_WEATHER, FILE_WEATHER = "Drawn from the seed", "As the route file says"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One drive: where, through what, by whom.

    ``town``: an .xodr file or ``procedural:SEED``. ``routes``: a route file of which ``route`` is
    driven; None draws route number ``drawn`` of ``metres``. ``driver``: a driver's name or a model
    folder. ``max_seconds`` of the simulator's time.
    """

    town: str
    routes: str | None
    route: str
    drawn: int
    metres: tuple[int, int]
    driver: str
    supervisor: bool
    traffic: int
    walkers: int
    weather: str
    seed: int
    max_seconds: int

    @property
    def key(self) -> str:
        """Of the results: files count by their contents."""
        files = [
            Path(place)
            for place in (self.town, self.routes, self.driver)
            if place is not None and Path(place).exists()
        ]
        return key_of("drive", self, files)

    @property
    def town_name(self) -> str:
        """``Town01``, ``generated town 7``."""
        if self.town.startswith(PROCEDURAL):
            return f"generated town {self.town.removeprefix(PROCEDURAL)}"
        return Path(self.town).stem

    @property
    def who(self) -> str:
        """``small, supervised``."""
        return f"{Path(self.driver).name}{', supervised' if self.supervisor else ''}"

    @property
    def where(self) -> str:
        """``Town01, drawn route 3``."""
        drawn = f"drawn route {self.drawn} of {self.metres[0]} to {self.metres[1]} m"
        return f"{self.town_name}, {f'route {self.route}' if self.routes else drawn}"

    @property
    def label(self) -> str:
        """All of it in one line."""
        weather = self.weather[:1].lower() + self.weather[1:]
        return (
            f"{self.who}: {self.where}; {self.traffic} vehicles, {self.walkers} walkers, {weather}, "
            f"seed {self.seed}"
        )
