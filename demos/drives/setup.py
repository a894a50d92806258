"""The form: town, route, drivers, traffic, weather. Drawing it costs no simulator and no model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from apps.driving.agents.catalog import names
from apps.driving.routes.files import RouteSpec, read_routes
from core.errors import TriptychError
from demos.drives import town as maps
from demos.drives.choice import DRAWN_WEATHER, FILE_WEATHER, PROCEDURAL, WEATHERS, Choice
from demos.shared.keys import key_of
from demos.shared.uploads import receive
from demos.shared.words import guarded

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
TOWN01, ROUTES = SAMPLES / "Town01.xodr", SAMPLES / "routes.xml"
SAMPLE, GENERATED, OWN = "Town01 (CARLA's)", "A generated town", "My own OpenDRIVE file"
DRAWN, FROM_SAMPLE, FROM_OWN = "Drawn at random", "From the sample file", "From my own route file"
LIMIT_MB = 16.0  # as apps.driving reads route files; towns may have more, but not here
DEFAULT = ["small"]


@dataclass(frozen=True)
class Place:
    """A town, and a route in it if a file names one."""

    town: str
    routes: str | None = None
    route: RouteSpec | None = None
    drawn: int = 0
    metres: tuple[int, int] = (60, 110)


def setup() -> tuple[list[Choice], DeltaGenerator]:
    """Draw the form; the choices, one a driver, none while something is missing, and where the
    button belongs: beside the form's first lines, so that it is seen without scrolling."""
    left, right = st.columns(2, gap="large")
    with left:
        place = _place()
        chosen = _drivers()
        supervisor = st.toggle(
            "Supervisor", key="drives-supervisor",
            help="Safety rules that may overrule the driver: emergency brake, red lights, creeping "
            "when stuck.",
        )  # fmt: skip
        button = st.container()
    with right:
        if place is not None and not _map(place):
            place = None
        vehicles, people = st.columns(2)
        traffic = vehicles.slider("Other vehicles", 0, 60, 10)
        walkers = people.slider("Walkers", 0, 30, 5)
        known = [name for name in WEATHERS if name != FILE_WEATHER or (place and place.routes)]
        weather = st.selectbox("Weather", known, key="drives-weather")
    with st.expander("Seed, time limit, a driver of my own"):
        seed = st.number_input(
            "Seed", 0, 2**31 - 1, 0,
            help="Decides the traffic, and the weather where it is drawn. The same seed gives "
            "the same drive.",
        )  # fmt: skip
        seconds = st.slider(
            "Time limit, simulated seconds", 10, 600, 60, 10,
            help="A drive that is not there by then has timed out.",
        )  # fmt: skip
        own = _own_driver()
    if place is None:
        return [], button
    choices = [
        Choice(
            town=place.town,
            routes=place.routes,
            route=place.route.id if place.route else "",
            drawn=place.drawn,
            metres=place.metres,
            driver=driver,
            supervisor=bool(supervisor),
            traffic=traffic,
            walkers=walkers,
            weather=weather or DRAWN_WEATHER,
            seed=int(seed),
            max_seconds=seconds,
        )
        for driver in (*chosen, *own)
    ]
    return choices, button


def _place() -> Place | None:
    kind = st.selectbox(
        "Town", (SAMPLE, GENERATED, OWN), key="drives-town",
        help="`small` and `late-fusion` learned in Town01; in a generated town they are strangers.",
    )  # fmt: skip
    town = _town(str(kind))
    if town is None:
        return None
    sources = (DRAWN, FROM_SAMPLE, FROM_OWN) if kind == SAMPLE else (DRAWN, FROM_OWN)
    source = st.radio("Route", sources, key=f"drives-route-{kind}", horizontal=True)
    if source == DRAWN:
        left, right = st.columns(2)
        number = left.number_input(
            "Route number", 0, 9999, 1, help="Each number is another route through this town."
        )
        metres = right.slider("Length in metres", 40, 400, (60, 110), 10)
        if metres[1] - metres[0] < 20:
            st.warning("Give the lengths a range of 20 m or more, so that a route can be found.")
            return None
        return Place(town, drawn=int(number), metres=metres)
    file: Path | None = ROUTES
    if source == FROM_OWN:
        file = _given("Route file of the CARLA Leaderboard (.xml)", (".xml",), "routes")
    if file is None:
        return None
    with guarded("Reading the routes"):
        specs = {spec.id: spec for spec in read_routes(file)}
        name = st.selectbox(
            f"Which of its {len(specs)} routes", list(specs), key=f"drives-which-{key_of(file)}"
        )
        if name is not None:
            return Place(town, str(file), specs[name])
    return None


def _town(kind: str) -> str | None:
    """An .xodr file or procedural:SEED."""
    if kind == SAMPLE:
        return str(TOWN01)
    if kind == GENERATED:
        number = st.number_input("Town number", 0, 9999, 7, help="Each number is another town.")
        return f"{PROCEDURAL}{int(number)}"
    file = _given("OpenDRIVE file (.xodr)", (".xodr",), "town")
    return None if file is None else str(file)


def _given(label: str, suffixes: tuple[str, ...], key: str) -> Path | None:
    """A file from the person, kept; None until there is one that will do."""
    given = st.file_uploader(
        f"{label}, up to {LIMIT_MB:g} MB", key=f"drives-own-{key}", max_upload_size=int(LIMIT_MB)
    )
    if given is None:
        st.info("Choose a file, or go back to the built-in ones above.")
        return None
    with guarded("The upload"):
        return receive(given, suffixes=suffixes, limit_mb=LIMIT_MB)
    return None


def _map(place: Place) -> bool:
    """What the town looks like from above; whether it can be read (if not, this says so)."""
    content = "" if place.town.startswith(PROCEDURAL) else key_of(Path(place.town))
    with guarded("Reading the town"):
        figure = maps.picture(place.town, content, place.route)
        ends = " with the start and the goal of the route" if place.route else ""
        st.plotly_chart(
            figure,
            key="drives-map",
            config={"displayModeBar": False, "scrollZoom": False},
            alt=f"The roads of the town from above{ends}",
        )
        st.caption(
            "The town from above; the file names start and goal, the way between them is planned."
            if place.route
            else "The town from above; the route is drawn when the drive begins."
        )
        return True
    return False


def _drivers() -> list[str]:
    known = names()
    chosen: list[str] = st.multiselect(
        "Drivers", list(known), default=[name for name in DEFAULT if name in known],
        key="drives-drivers",
        help="Several drive the same route one after the other, to be compared.  \n"
        + "  \n".join(f"`{name}`: {what}" for name, what in known.items()),
    )  # fmt: skip
    return chosen


def _own_driver() -> list[str]:
    """A model folder, if one is named that holds a model."""
    own = st.text_input(
        "A driver of my own: its model folder on this machine", key="drives-own",
        help="What `python apps/driving/run.py train` wrote.",
    ).strip()  # fmt: skip
    if not own:
        return []
    problem = _not_a_driver(own)
    if problem:
        st.error(problem)
        return []
    return [str(Path(own).resolve())]


def _not_a_driver(folder: str) -> str | None:
    """A sentence about a folder that holds no model, without loading it."""
    from core.shipped import find_model

    try:
        found: Any = find_model(folder, "driving")
    except TriptychError as error:
        return str(error)
    if not (Path(found) / "model.json").is_file():
        return f"{folder}: holds no model.json; give the folder that a training wrote"
    return None
