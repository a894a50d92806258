"""Random routes and weather: the same for the same seed, of the wanted length, of every turn."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import numpy as np
import pytest

from apps.driving.agents.base import Command
from apps.driving.routes.files import WEATHER, RouteSpec, read_routes, write_routes
from apps.driving.routes.planner import Planner
from apps.driving.routes.sampling import sample_routes, sample_weather, typical_weather
from core.errors import DataError, UsageError

carla = pytest.importorskip("carla")


@pytest.fixture(scope="module", params=["Town01", "procedural:1", "procedural:3"])
def planner(request, planner01, load):
    return planner01 if request.param == "Town01" else Planner(load(request.param))


def test_routes_are_of_the_wanted_length_and_smooth(planner):
    specs = sample_routes(None, "T", 25, 4, length=(150, 300), planner=planner)
    assert len({spec.id for spec in specs}) == 25
    for spec in specs:
        plan = planner.plan_route(spec)
        assert 130 <= plan.length <= 320
        assert not plan.junction[0]
        assert not plan.junction[-1]
        bend = np.abs((np.diff(plan.yaw) + 180) % 360 - 180)
        assert bend.max() < 25, "a route that turns on the spot uses a link that is not there"


def test_every_turn_is_among_them(planner):
    turns: Counter[Command] = Counter()
    for spec in sample_routes(None, "T", 40, 1, planner=planner):
        plan = planner.plan_route(spec)
        for (junction, command), _ in groupby(zip(plan.junction.tolist(), plan.command.tolist())):
            if junction:
                turns[Command(command)] += 1
    share = {turn: n / sum(turns.values()) for turn, n in turns.items()}
    assert set(share) == {Command.LEFT, Command.RIGHT, Command.STRAIGHT}
    assert min(share.values()) > 0.15, share


def test_lanes_are_changed_where_there_are_lanes(load):
    planner = Planner(load("procedural:3"))
    specs = sample_routes(None, "T", 60, 0, planner=planner)
    changed = [np.isin(planner.plan_route(s).command, [5, 6]).any() for s in specs]
    assert 2 <= sum(changed) <= 30


def test_same_seed_same_routes_and_more_begin_alike(planner):
    ten = sample_routes(None, "T", 10, 7, planner=planner)
    assert sample_routes(None, "T", 10, 7, planner=planner) == ten
    assert sample_routes(None, "T", 4, 7, planner=planner) == ten[:4]
    assert sample_routes(None, "T", 10, 8, planner=planner) != ten
    starts = {spec.waypoints[0] for spec in ten}
    assert len(starts) == 10


def test_map_is_read_where_no_planner_is_given(town01, planner01):
    assert sample_routes(town01, "T", 2, 0) == sample_routes(None, "T", 2, 0, planner=planner01)


def test_routes_can_be_written(tmp_path, planner01):
    specs = sample_routes(None, "Town01", 3, 5, planner=planner01)
    specs = [RouteSpec(s.id, s.town, s.waypoints, sample_weather(i)) for i, s in enumerate(specs)]
    write_routes(tmp_path / "r.xml", specs)
    assert read_routes(tmp_path / "r.xml") == specs
    (spec,) = sample_routes(None, "procedural:3", 1, 5, planner=planner01)
    assert (spec.id, spec.town) == ("procedural_3_5_000", "procedural:3")


def test_asking_for_what_cannot_be(planner01, one_road):
    for count, length in ((0, (100, 200)), (1, (200, 100)), (1, (1, 5)), (1, (10, float("inf")))):
        with pytest.raises(UsageError):
            sample_routes(None, "T", count, 0, length=length, planner=planner01)
    dead_end = Planner(carla.Map("Town", one_road))
    with pytest.raises(DataError, match="One: no route of 500 to 900 m"):
        sample_routes(None, "One", 1, 0, length=(500, 900), planner=dead_end)
    (spec,) = sample_routes(None, "One", 1, 0, length=(50, 100), planner=dead_end)
    assert 50 <= dead_end.plan_route(spec).length <= 100


def test_weather():
    many = [sample_weather(seed) for seed in range(400)]
    assert sample_weather(3) == many[3]
    parameters = carla.WeatherParameters()
    for weather in many:
        assert set(weather) <= set(WEATHER)
        for name, value in weather.items():
            setattr(parameters, name, value)
            low, high = (-90, 360) if name.startswith("sun") else (0, 100)
            assert low <= value <= high
    share = {
        "night": np.mean([w["sun_altitude_angle"] < 0 for w in many]),
        "rain": np.mean([w["precipitation"] > 0 for w in many]),
        "fog": np.mean([w["fog_density"] > 10 for w in many]),
        "clear": np.mean([w["cloudiness"] < 16 for w in many]),
    }
    assert all(0.05 < value < 0.45 for value in share.values()), share


def test_a_named_weather_is_the_middle_of_its_ranges():
    weather = typical_weather("fog", "sunset")
    assert weather == {
        "cloudiness": 60.0,
        "fog_density": 35.0,
        "fog_distance": 11.0,
        "sun_altitude_angle": 9.0,
    }
    assert set(weather) <= set(WEATHER)
    with pytest.raises(UsageError, match=r"unknown sky 'fogg'.*Did you mean 'fog'"):
        typical_weather("fogg", "noon")
