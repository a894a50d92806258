"""Traffic lights and signs on their posts, facing whom they are for.

A head is one box whose yaw is the traffic's: the renderer draws its three lamps on the face that
looks back. Which of them shines is the light's state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from apps.driving.world.tags import Tag
from apps.driving.world.townscape.plots import Plots
from apps.driving.world.townscape.stock import Stock

if TYPE_CHECKING:
    from apps.driving.world.maps.network import LightSite, Network, SignSite

METAL = (112, 114, 116)
_DARK = (34, 36, 38)


def _head(stock: Stock, sign: str, xy: np.ndarray, z: float, travel: float) -> None:
    """A head of 1.2 m around (xy, z); its yaw is the traffic's, so its back face is seen."""
    row = stock.add((*xy, z), (0.14, 0.24, 0.6), travel, Tag.TRAFFIC_LIGHT, _DARK)
    stock.heads.setdefault(sign, []).append(row)
    stock.owned.setdefault(sign, []).append(row)


def traffic_light(stock: Stock, plots: Plots, network: Network, light: LightSite) -> None:
    """A pole with a head at 3.2 m, and an arm with one at 5.5 m over the lanes it is for.

    Where the pole stands at the stop line, as in CARLA's Town01, a car that waits there sees
    neither; so a second pole repeats the light beyond the junction.
    """
    travel = float(np.radians(light.heading))
    ahead = np.array([np.cos(travel), np.sin(travel)])
    right = np.array([-ahead[1], ahead[0]])
    given = np.array([light.transform.x, light.transform.y])
    stock.begin()
    own = stock.owned.setdefault(light.sign_id, [])
    xy = plots.stand(given, travel)
    if xy is None:  # in the middle of a wide junction: it hangs from a wire
        _head(stock, light.sign_id, given, 5.5, travel)
        return
    own.append(stock.add((*xy, 3.0), (0.09, 0.09, 3.0), travel, Tag.POLES, METAL))
    _head(stock, light.sign_id, xy - ahead * 0.25, 3.2, travel)
    if not len(light.stop_nodes):
        return
    stop = network.position[np.asarray(light.stop_nodes)].mean(0)
    reach = float(np.clip((stop - xy) @ right, -7.0, 7.0))
    if abs(reach) > 1.0:
        arm = xy + right * reach / 2
        half = (0.06, abs(reach) / 2, 0.06)
        own.append(stock.add((*arm, 5.9), half, travel, Tag.POLES, METAL))
        _head(stock, light.sign_id, xy + right * reach - ahead * 0.22, 5.5, travel)
    if (xy - stop) @ ahead < 6.0:
        far = _beyond(plots, network, light, stop)
        far = None if far is None else plots.stand(far, travel)
        if far is not None:
            own.append(stock.add((*far, 1.9), (0.07, 0.07, 1.9), travel, Tag.POLES, METAL))
            _head(stock, light.sign_id, far - ahead * 0.25, 3.2, travel)


def _beyond(
    plots: Plots, network: Network, light: LightSite, stop: np.ndarray
) -> np.ndarray | None:
    """Where (2) the way straight on leaves the junction, or else where the road ahead ends."""
    travel = np.radians(light.heading)
    for node in light.stop_nodes:
        for _ in range(60):
            ways = network.next.of(node)
            ways = ways[network.turn[ways] == 0]
            if not len(ways):
                break
            node = int(ways[0])
            if network.junction[node] == -1:
                if np.cos(network.yaw_rad[node] - travel) > 0.8:
                    half = network.width[node] / 2 * np.array([-np.sin(travel), np.cos(travel)])
                    beside: np.ndarray = network.position[node] + half
                    return beside
                break
    line = stop + np.array([np.cos(travel), np.sin(travel)]) * np.arange(4.0, 60.0, 0.5)[:, None]
    off = np.flatnonzero(~plots.on_carriageway(line))
    return line[off[0]] if len(off) else None


def sign_post(stock: Stock, plots: Plots, sign: SignSite) -> None:
    """A post with a plate at 2.3 m that looks against the traffic it is for; amid a road of more
    than 25 m on either side the plate hangs at 6 m, without a post."""
    travel = float(np.radians(sign.heading))
    ahead = np.array([np.cos(travel), np.sin(travel)])
    given = np.array([sign.transform.x, sign.transform.y])
    xy = plots.stand(given, travel)
    stock.begin()
    rows = stock.owned.setdefault(sign.sign_id, [])
    if xy is not None:
        rows.append(stock.add((*xy, 1.3), (0.04, 0.04, 1.3), travel, Tag.POLES, METAL))
    z, xy = (6.0, given) if xy is None else (2.3, xy)
    outer, inner = {
        "stop": ((186, 22, 30), (236, 236, 232)),
        "yield": ((196, 26, 32), (240, 240, 236)),
    }.get(sign.kind, ((200, 24, 30), (242, 242, 240)))
    size = 0.38 if sign.kind == "stop" else 0.34
    inside = (0.28, 0.07) if sign.kind == "stop" else (0.24, 0.24)
    back, plate, face = (xy - ahead * off for off in (0.055, 0.075, 0.1))
    rows.append(stock.add((*back, z), (0.01, size, size), travel, Tag.TRAFFIC_SIGNS, METAL))
    rows.append(stock.add((*plate, z), (0.01, size, size), travel, Tag.TRAFFIC_SIGNS, outer))
    rows.append(stock.add((*face, z), (0.01, *inside), travel, Tag.TRAFFIC_SIGNS, inner))
