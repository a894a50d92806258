"""Reading OpenDRIVE files from outside: bounded, checked, and tried in a process of its own.

``carla.Map`` takes ``<x/>`` without a word and crashes the process on other files, so a text is
checked three times: as XML (size, no DTD and so no entities), by ``Roads.parse`` and the links
between what it found, then by ``probe.py`` in a subprocess. Only then does this process load it.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from apps.driving.world.maps.roads import Roads
from core.errors import DataError, ResourceError, need
from core.files import read_bounded

if TYPE_CHECKING:
    import carla

MAX_BYTES = 64 * 2**20
MAX_LANES_M = 1_000_000.0  # Town04, CARLA's largest here, has 34 km of driving lanes
MAX_REACH_M = 50_000.0
MAX_WIDTH_M = 100.0
_PROBE_S = 60.0
# SHA-256 of the texts that passed in this process.
_checked: set[bytes] = set()
_probed: set[bytes] = set()


def read_opendrive(path: str | Path) -> str:
    """The text of an .xodr file. DataError where it is missing, empty, over 64 MB or not UTF-8."""
    path = Path(path)
    raw = read_bounded(path, MAX_BYTES, "give a town's OpenDRIVE .xodr file")
    if not raw.strip():
        raise DataError(f"{path}: empty; give an OpenDRIVE .xodr file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; save the OpenDRIVE file as UTF-8") from None


def flatten(text: str) -> str:
    """``text`` without elevation and superelevation, so that clients' maps lie at z = 0 too.

    The embedded world is flat: with Town04's bridges at z = 10 m a client would look for a vehicle's
    waypoint on the wrong road.
    """
    for tag in ("elevationProfile", "lateralProfile"):
        text = re.sub(rf"<{tag}\s*(/>|>[^\0]*?</{tag}\s*>)", "", text)
    return text


def check_opendrive(text: str, name: str) -> Roads:
    """What ``text`` holds, or DataError naming ``name``, what is wrong and what to do.

    Finds: no XML, a DTD, another root, no roads, roads without geometry or lanes, numbers that are
    not finite or lengths not positive, links, connections, references and controllers of what is not
    there, no driving lane, lanes of impossible width, towns beyond ``MAX_REACH_M`` or with more than
    ``MAX_LANES_M`` of lanes.
    """
    if len(text) > MAX_BYTES:
        raise DataError(f"{name}: over {MAX_BYTES // 2**20} MB; give a smaller town")
    if not text.strip():
        raise DataError(f"{name}: empty; give an OpenDRIVE .xodr file")
    if "\0" in text:
        raise DataError(f"{name}: holds zero bytes, so it is not XML; give an .xodr file")
    if "<!DOCTYPE" in text:  # entities can be declared nowhere else
        raise DataError(f"{name}: declares a DTD, which is not read; remove the <!DOCTYPE ...>")
    roads = Roads.parse(text, name)
    _check_links(roads, name)
    _check_size(roads, name)
    _checked.add(_digest(text))
    return roads


def probe_opendrive(text: str, name: str) -> None:
    """Let ``carla.Map`` walk the town in a subprocess; DataError where that ends badly.

    Texts that passed in this process are not tried again.
    """
    digest = _digest(text)
    if digest in _probed:
        return
    need("carla", "driving")  # or its absence would look like the town's fault
    try:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("probe.py"))],
            input=text.encode("utf-8", "replace"),
            capture_output=True,
            timeout=_PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(
            f"{name}: CARLA's library needs over {_PROBE_S:.0f} s to walk it; give a smaller town"
        ) from None
    except OSError as error:
        raise ResourceError(f"cannot start {sys.executable} to try {name}: {error}") from None
    if done.returncode < 0:
        raise DataError(
            f"{name}: crashes CARLA's library (signal {-done.returncode}); export the town anew"
        )
    if done.returncode or not done.stdout.strip().endswith(b"ok"):
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise DataError(f"{name}: CARLA's library refuses it ({lines[-1][:200]}); mend the file")
    _probed.add(digest)


def load_map(text: str, name: str) -> carla.Map:
    """``carla.Map`` of a text that passed both checks, here or before. DataError as theirs."""
    if _digest(text) not in _checked:
        check_opendrive(text, name)
    probe_opendrive(text, name)
    import carla

    return carla.Map(name, text)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _check_links(town: Roads, name: str) -> None:
    for road in town.roads.values():
        if road.junction != -1 and road.junction not in town.junctions:
            raise DataError(
                f"{name}: road {road.id} is in junction {road.junction}, which is not in the file"
            )
        for link in (road.predecessor, road.successor):
            if link is None:
                continue
            known = town.junctions if link.junction else town.roads
            if link.id not in known:
                kind = "junction" if link.junction else "road"
                raise DataError(
                    f"{name}: road {road.id} links to {kind} {link.id}, which is not in the file"
                )
            if link.contact not in ("start", "end"):
                raise DataError(
                    f"{name}: road {road.id} links to the '{link.contact[:20]}' of a road; "
                    "contactPoint is start or end"
                )
    for junction in town.junctions.values():
        for connection in junction.connections:
            for end in (connection.incoming, connection.connecting):
                if end not in town.roads:
                    raise DataError(
                        f"{name}: junction {junction.id} connects road {end}, which is not in the "
                        "file"
                    )
            if connection.contact not in ("start", "end"):
                raise DataError(
                    f"{name}: junction {junction.id} has the contactPoint "
                    f"'{connection.contact[:20]}'; it is start or end"
                )

    for reference in town.references:
        if reference.signal not in town.signals:
            raise DataError(
                f"{name}: road {reference.road} refers to signal '{reference.signal[:40]}', which "
                "is not in the file"
            )
    for key, signals in town.controllers.items():
        for signal in signals:
            if signal not in town.signals:
                raise DataError(
                    f"{name}: controller '{key[:40]}' controls signal '{signal[:40]}', which is not "
                    "in the file"
                )


def _check_size(town: Roads, name: str) -> None:
    import numpy as np

    def near(what: str, places: np.ndarray) -> None:
        reach = np.abs(places).max(initial=0.0)
        if not reach < MAX_REACH_M:
            raise DataError(
                f"{name}: {what} reaches {reach / 1000:,.0f} km from the origin, over "
                f"{MAX_REACH_M / 1000:.0f} km; move the town to the origin"
            )

    driving = sum(section.length for _, section, lane in town.lanes() if lane.type == "driving")
    if not driving:
        raise DataError(f"{name}: no lane of type 'driving'; a town needs one at least")
    if driving > MAX_LANES_M:
        raise DataError(
            f"{name}: {driving / 1000:,.0f} km of driving lanes, over "
            f"{MAX_LANES_M / 1000:,.0f} km; give a smaller town"
        )
    for road in town.roads.values():
        for section in road.sections:
            s = np.linspace(section.s, section.end, 5)
            widths = [section.lanes[i].width(s - section.s)[0] for i in section.lanes if i]
            if not all(w.min() > -1 and w.max() < MAX_WIDTH_M for w in widths):
                raise DataError(
                    f"{name}: a lane of road {road.id} is below 0 m or over {MAX_WIDTH_M:.0f} m wide;"
                    " mend its <width>"
                )
        s = np.append(road.plan.start, road.length)
        near(f"road {road.id}", road.place(s, road.offset(s)[0])[0])
    for item in town.items:
        near(f"object '{item.id[:40]}'", item.outline)
    for signal in town.signals.values():
        near(f"signal '{signal.id[:40]}'", np.array([signal.s, signal.t]))
