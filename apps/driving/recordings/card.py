"""A data set's card: what is in it and how it came about, for people and for programs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from apps.driving.agents.base import Command
from apps.driving.recordings.reader import Dataset, open_dataset
from apps.driving.recordings.recording import Recording
from apps.driving.rig import LETFUSER, Rig
from core.files import write_json, write_text

CARD, TABLE = "README.md", "card.json"


def write_card(folder: Path, *, rig: Rig = LETFUSER) -> dict[str, Any]:
    """Write ``README.md`` and ``card.json`` into a data set's folder, over those there; the latter's
    content is returned. Raises as ``open_dataset``.
    """
    folder = Path(folder)
    card = describe(open_dataset([folder], rig=rig))
    write_json(folder / TABLE, card, force=True)
    write_text(folder / CARD, _markdown(card, folder.name), force=True)
    return card


def describe(dataset: Dataset) -> dict[str, Any]:
    """Counts and shares of a data set, plain numbers and words."""
    columns = dataset.columns
    recordings = dataset.recordings
    per_town: dict[str, dict[str, int]] = {}
    for recording in recordings:
        row = per_town.setdefault(recording.town, {"routes": 0, "frames": 0, "samples": 0})
        row["routes"] += 1
        row["frames"] += recording.frames
        row["samples"] += len(recording)
    named = {command.value: command.name.lower() for command in Command}
    commands = Counter(named[int(c)] for c in columns["command"])
    rig = recordings[0].rig
    speed = columns["speed"]
    return {
        "routes": len(recordings),
        "frames": sum(recording.frames for recording in recordings),
        "samples": len(dataset),
        "hours": round(len(dataset) * 0.5 / 3600, 3),
        "towns": per_town,
        "weather": dict(Counter(map(_weather, recordings)).most_common()),
        "commands": dict(commands.most_common()),
        "shares": {
            "standing": _share(speed < 0.1),
            "braking": _share(columns["control"][:, 2] > 0),
            "turning": _share(np.abs(columns["control"][:, 0]) > 0.1),
            "red_light": _share(columns["red_light"]),
            "stop_sign": _share(columns["stop_sign"]),
            "vehicle": _share(columns["vehicle"]),
            "walker": _share(columns["walker"]),
        },
        "speed": {
            "mean": round(float(speed.mean()), 3),
            "p95": round(float(np.quantile(speed, 0.95)), 3),
        },
        "drivers": dict(Counter(_said(recordings, "agent"))),
        "seeds": sorted({str(seed) for seed in _said(recordings, "seed")}),
        "versions": sorted({str(v) for v in _said(recordings, "version")}),
        "collected_with": sorted({str(v) for v in _said(recordings, "command")}),
        "rig": rig.as_dict() | {"digest": rig.digest},
        "digest": dataset.digest,
    }


def _said(recordings: list[Recording], key: str) -> list[Any]:
    return [recording.about[key] for recording in recordings if key in recording.about]


def _share(which: np.ndarray) -> float:
    return round(float(np.mean(which)), 4)


def _weather(recording: Recording) -> str:
    """One or two words for the numbers of a route's weather."""
    said = recording.about.get("weather")
    if not isinstance(said, dict):
        return "not told"

    def much(name: str) -> float:
        value = said.get(name, 0.0)
        return float(value) if isinstance(value, int | float) else 0.0

    sun = much("sun_altitude_angle")
    time = "night" if sun < 0 else "low sun" if sun < 20 else "day"
    if much("fog_density") > 20:
        sky = "fog"
    elif much("precipitation") > 10:
        sky = "rain"
    elif much("wetness") > 30 or much("precipitation_deposits") > 30:
        sky = "wet"
    else:
        sky = "clouds" if much("cloudiness") > 50 else "clear"
    return f"{sky}, {time}"


def _markdown(card: dict[str, Any], name: str) -> str:
    def table(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
        lines = [heads, ("---",) * len(heads), *rows]
        return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)

    towns = [
        (town, row["routes"], row["frames"], row["samples"]) for town, row in card["towns"].items()
    ]
    shares = [(key.replace("_", " "), f"{value:.1%}") for key, value in card["shares"].items()]
    rig = [
        (c["name"], f"{c['x']:g}, {c['y']:g}, {c['z']:g}", f"{c['yaw']:g}", f"{c['fov']:g}")
        for c in card["rig"]["cameras"]
    ]
    first = card["rig"]["cameras"][0]
    lines = [
        f"# {name}",
        f"{card['frames']} frames of {card['routes']} drives at two a second, {card['samples']} of "
        f"which have their next seconds recorded ({card['hours']} h). Pictures are rendered, nobody "
        "is in them. Colours, depth and semantic tags of each camera, and measurements, in the "
        "layout of TransFuser's data (Chitta et al., PAMI 2022).",
        table(("town", "drives", "frames", "samples"), towns),
        "## Conditions",
        table(("weather", "drives"), list(card["weather"].items())),
        table(("command", "samples"), list(card["commands"].items())),
        table(("samples with", "share"), shares),
        f"Speed {card['speed']['mean']} m/s in the mean, {card['speed']['p95']} at the 95th percent.",
        "## Cameras",
        f"{first['width']} x {first['height']} pixels each; metres and degrees from the car's origin.",
        table(("camera", "x, y, z", "yaw", "field of view"), rig),
        "## Origin",
        table(
            ("", ""),
            [
                (
                    "driver",
                    ", ".join(f"{k} ({v})" for k, v in card["drivers"].items()) or "not told",
                ),
                ("seeds", ", ".join(card["seeds"]) or "not told"),
                ("versions", ", ".join(card["versions"]) or "not told"),
                ("command", "; ".join(card["collected_with"]) or "not told"),
                ("cameras' digest", card["rig"]["digest"]),
                ("SHA-256 of the data", card["digest"]),
            ],
        ),
    ]
    return "\n\n".join(lines) + "\n"
