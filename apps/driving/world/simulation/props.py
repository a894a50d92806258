"""Static props: the names of CARLA's library, and how large each is here.

Names as listed in ``Docs/bp_library.md`` of carla-simulator/carla. CARLA publishes no measures; these
halves of length, width and height (m) are estimates, and every prop is one box of its size.
"""

from __future__ import annotations

Half = tuple[float, float, float]

_TINY, _SMALL, _MEDIUM, _BIG = "tiny", "small", "medium", "big"

_TABLE: tuple[tuple[str, int, Half, str], ...] = (
    # name, how many there are (0: one, without a number), half extents, CARLA's size
    ("advertisement", 0, (0.15, 0.65, 1.25), _MEDIUM),
    ("atm", 0, (0.45, 0.45, 0.95), _MEDIUM),
    ("barbeque", 0, (0.35, 0.30, 0.50), _SMALL),
    ("barrel", 0, (0.30, 0.30, 0.45), _MEDIUM),
    ("bench", 3, (0.30, 0.80, 0.45), _MEDIUM),
    ("bike helmet", 0, (0.15, 0.12, 0.10), _TINY),
    ("bikeparking", 0, (0.35, 1.10, 0.45), _MEDIUM),
    ("bin", 0, (0.25, 0.25, 0.50), _SMALL),
    ("box", 3, (0.30, 0.30, 0.25), _SMALL),
    ("briefcase", 0, (0.25, 0.08, 0.20), _TINY),
    ("brokentile", 4, (0.15, 0.15, 0.02), _TINY),
    ("busstop", 0, (0.90, 2.00, 1.30), _BIG),
    ("calibrator", 0, (0.05, 0.50, 0.50), _SMALL),
    ("chainbarrier", 0, (0.10, 1.00, 0.50), _SMALL),
    ("chainbarrierend", 0, (0.10, 0.10, 0.50), _SMALL),
    ("clothcontainer", 0, (0.60, 0.60, 0.90), _MEDIUM),
    ("clothesline", 0, (0.50, 1.50, 0.90), _MEDIUM),
    ("colacan", 0, (0.04, 0.04, 0.06), _TINY),
    ("constructioncone", 0, (0.17, 0.17, 0.30), _SMALL),
    ("container", 0, (0.80, 1.00, 0.75), _MEDIUM),
    ("creasedbox", 3, (0.25, 0.25, 0.20), _SMALL),
    ("dirtdebris", 3, (0.80, 0.80, 0.05), _MEDIUM),
    ("doghouse", 0, (0.50, 0.60, 0.50), _MEDIUM),
    ("foodcart", 0, (1.20, 0.90, 1.20), _BIG),
    ("fountain", 0, (2.00, 2.00, 1.20), _BIG),
    ("garbage", 6, (0.25, 0.25, 0.10), _TINY),
    ("gardenlamp", 0, (0.15, 0.15, 0.40), _SMALL),
    ("glasscontainer", 0, (0.60, 0.60, 0.80), _MEDIUM),
    ("gnome", 0, (0.15, 0.15, 0.30), _TINY),
    ("guitarcase", 0, (0.20, 0.50, 0.12), _SMALL),
    ("haybale", 0, (0.60, 0.45, 0.40), _MEDIUM),
    ("haybalelb", 0, (0.60, 0.60, 0.60), _MEDIUM),
    ("ironplank", 0, (0.60, 1.20, 0.03), _MEDIUM),
    ("kiosk_01", 0, (1.20, 1.20, 1.40), _BIG),
    ("mailbox", 0, (0.25, 0.25, 0.60), _SMALL),
    ("maptable", 0, (0.30, 0.50, 0.70), _SMALL),
    ("mobile", 0, (0.04, 0.08, 0.01), _TINY),
    ("motorhelmet", 0, (0.15, 0.15, 0.13), _TINY),
    ("pergola", 0, (2.00, 2.00, 1.30), _BIG),
    ("plantpot", 8, (0.30, 0.30, 0.35), _SMALL),
    ("plasticbag", 0, (0.15, 0.15, 0.20), _TINY),
    ("plasticchair", 0, (0.25, 0.25, 0.42), _SMALL),
    ("plastictable", 0, (0.50, 0.50, 0.37), _MEDIUM),
    ("platformgarbage01", 0, (1.00, 1.50, 0.30), _BIG),
    ("purse", 0, (0.15, 0.10, 0.15), _TINY),
    ("shop01", 0, (1.50, 2.00, 1.50), _BIG),
    ("shoppingbag", 0, (0.15, 0.10, 0.20), _TINY),
    ("shoppingcart", 0, (0.45, 0.30, 0.50), _MEDIUM),
    ("shoppingtrolley", 0, (0.20, 0.20, 0.50), _SMALL),
    ("slide", 0, (1.50, 0.50, 1.00), _BIG),
    ("streetbarrier", 0, (0.25, 0.60, 0.50), _MEDIUM),
    ("streetfountain", 0, (0.30, 0.30, 0.50), _SMALL),
    ("streetsign", 0, (0.05, 0.30, 1.20), _SMALL),
    ("streetsign01", 0, (0.05, 0.30, 1.20), _SMALL),
    ("streetsign04", 0, (0.05, 0.30, 1.20), _SMALL),
    ("swing", 0, (0.80, 1.60, 1.10), _BIG),
    ("swingcouch", 0, (0.70, 1.00, 0.90), _MEDIUM),
    ("table", 0, (0.60, 0.40, 0.38), _MEDIUM),
    ("trafficcone", 2, (0.20, 0.20, 0.35), _SMALL),
    ("trafficwarning", 0, (0.70, 0.90, 1.20), _MEDIUM),
    ("trampoline", 0, (1.50, 1.50, 0.60), _BIG),
    ("trashbag", 0, (0.25, 0.25, 0.30), _SMALL),
    ("trashcan", 5, (0.30, 0.30, 0.50), _SMALL),
    ("travelcase", 0, (0.20, 0.15, 0.35), _SMALL),
    ("vendingmachine", 0, (0.45, 0.50, 0.95), _MEDIUM),
    ("warningaccident", 0, (0.05, 0.30, 0.25), _SMALL),
    ("warningconstruction", 0, (0.05, 0.50, 0.60), _SMALL),
    ("wateringcan", 0, (0.15, 0.10, 0.15), _TINY),
)

PROPS: dict[str, tuple[Half, str]] = {
    f"static.prop.{name}{f'{number:02d}' if count else ''}": (half, size)
    for name, count, half, size in _TABLE
    for number in range(1, max(count, 1) + 1)
}
"""By blueprint: half extents (m) and CARLA's word for the size."""
