"""What travels in calls: MessagePack values checked on the way in, world values written on the way out.

Structures are arrays in the order of ``MSGPACK_DEFINE_ARRAY`` in LibCarla's ``carla/rpc/*.h``; that
order was checked by recording what the 0.9.16 wheel sends and what it makes of an answer.
``boost::optional`` is ``[false]`` or ``[true, value]``, a variant ``[index, value]``, bytes ``bin``.

A reader is a function of one value; it raises ``Malformed``, a ValueError, for what is not of its
type. Whether a number makes sense is for the world to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple
from functools import cache
from typing import Any, NamedTuple

from apps.driving.world.geometry import Transform
from apps.driving.world.simulation import blueprints
from apps.driving.world.simulation.actors import Actor, BoundingBox, Settings
from apps.driving.world.weather import Weather

Reader = Callable[[Any], Any]
Vector = tuple[float, float, float]
_U32 = (1 << 32) - 1


class Malformed(ValueError):
    """A value that is not of the type its place wants."""


# --- in: simple values


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Malformed(f"wants a number, got {_shown(value)}")
    return float(value)


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Malformed(f"wants true or false, got {_shown(value)}")
    return value


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise Malformed(f"wants text, got {_shown(value)}")
    return value


def anything(value: Any) -> Any:
    return value


def whole(low: int, high: int) -> Reader:
    """Reads an integer of ``low`` to ``high``, both included."""

    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise Malformed(f"wants an integer of {low} to {high}, got {_shown(value)}")
        return value

    return read


def row(*fields: Reader) -> Reader:
    """Reads an array with exactly these fields, as a tuple."""

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) != len(fields):
            raise Malformed(f"wants an array of {len(fields)}, got {_shown(value)}")
        return tuple(field(item) for field, item in zip(fields, value, strict=True))

    return read


def many(item: Reader) -> Reader:
    """Reads an array of any length, as a list."""

    def read(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise Malformed(f"wants an array, got {_shown(value)}")
        return [item(one) for one in value]

    return read


def optional(item: Reader) -> Reader:
    """Reads a ``boost::optional``; None when it is empty."""

    def read(value: Any) -> Any:
        if isinstance(value, list) and value == [False]:
            return None
        return row(boolean, item)(value)[1]

    return read


def _shown(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 40 else f"{words[:37]}..."


# --- in: structures

vector = row(number, number, number)
actor_id = whole(0, _U32)


class Description(NamedTuple):
    """What to spawn."""

    blueprint: str
    attributes: dict[str, str]


def light_mask(value: Any) -> int:
    """``carla.VehicleLightState``: a number in a batch, an array around it in a call."""
    mask: int = actor_id(value[0] if isinstance(value, list) and len(value) == 1 else value)
    return mask


def transform(value: Any) -> Transform:
    location, rotation = row(vector, vector)(value)
    return Transform(*location, *rotation)


def description(value: Any) -> Description:
    _, name, attributes = _DESCRIPTION(value)
    return Description(name, {key: worth for key, _, worth in attributes})


def settings(value: Any) -> Settings:
    return Settings(*_SETTINGS(value))


def weather(value: Any) -> Weather:
    return Weather.of(row(*[number] * 14)(value))


_DESCRIPTION = row(actor_id, text, many(row(text, whole(0, 255), text)))
_SETTINGS = row(
    *(boolean, boolean, optional(number), boolean, number, whole(-(1 << 31), (1 << 31) - 1)),
    *(number, boolean, number, number, boolean),
)
_WHEEL = row(*[number] * 9, vector)
_POINT = row(number, number)

#: Reads each parameter of a call by the name it has in ``calls``.
PARAMETERS: dict[str, Reader] = {
    "actor": actor_id,
    "actors": many(actor_id),
    "ackermann": row(*[number] * 5),
    "ackermann_settings": row(*[number] * 6),
    "angle": number,
    "anything": anything,
    "attachment": whole(0, 2),
    "blend": number,
    "commands": many(row(row(whole(0, 255), anything))),
    "control": row(number, number, number, boolean, boolean, boolean, whole(-(1 << 31), _U32)),
    "description": description,
    "distance": number,
    "door": whole(0, 6),
    "enabled": boolean,
    "endpoint": text,
    "factor": number,
    "generation": many(anything),
    "gravity": number,
    "lamps": many(
        row(
            *(actor_id, vector, number, whole(0, 255)),
            *(row(*[whole(0, 255)] * 3), boolean),
        )
    ),
    "layers": whole(0, 0xFFFF),
    "lights": light_mask,
    "location": vector,
    "manager": row(text, whole(0, 0xFFFF)),
    "name": text,
    "objects": many(whole(0, (1 << 64) - 1)),
    "opendrive": text,
    "parent": actor_id,
    "physics": row(
        *(many(_POINT), number, number, number, number, number, boolean, number, number, number),
        *(many(row(number, number, number)), number, number, vector, many(_POINT), many(_WHEEL)),
        boolean,
    ),
    "port": whole(0, 0xFFFF),
    "seconds": number,
    "settings": settings,
    "shape": row(row(whole(0, 255), anything), row(*[whole(0, 255)] * 3), number, boolean),
    "socket": text,
    "speed": number,
    "state": whole(0, 4),
    "stream": whole(0, _U32),
    "tag": whole(0, 255),
    "transform": transform,
    "vector": vector,
    "walker_control": row(vector, number, boolean),
    "weather": weather,
    "wheel": whole(0, 3),
}


# --- out


def vector_out(values: Iterable[float]) -> list[float]:
    return [float(value) for value in values]


def transform_out(place: Transform) -> list[list[float]]:
    return [vector_out(place[:3]), vector_out(place[3:])]


def settings_out(value: Settings) -> list[Any]:
    out: list[Any] = list(astuple(value))
    step = value.fixed_delta_seconds
    out[2] = [False] if step is None else [True, float(step)]
    for i in (4, 6, 8, 9):
        out[i] = float(out[i])
    return out


def box_out(box: BoundingBox, actor: int) -> list[Any]:
    rotation = [0.0, float(box.yaw), 0.0]
    return [vector_out(box.centre), vector_out(box.half), rotation, actor]


def actor_out(actor: Actor, token: bytes) -> list[Any]:
    """``rpc::Actor``; ``token`` is empty for what sends nothing."""
    types = _attribute_types(actor.type_id)
    attributes = [
        [key, types.get(key, blueprints.AttributeType.STRING), value]
        for key, value in actor.attributes.items()
    ]
    return [
        actor.id,
        actor.parent,
        [actor.uid, actor.type_id, attributes],
        box_out(actor.box, actor.id),
        bytes(actor.tags),
        token,
    ]


@cache
def _library() -> Mapping[str, blueprints.Definition]:
    return {definition.id: definition for definition in blueprints.library()}


@cache
def _attribute_types(type_id: str) -> dict[str, int]:
    definition = _library().get(type_id)
    return {a.id: int(a.type) for a in definition.attributes} if definition is not None else {}


@cache
def definitions_out() -> list[Any]:
    """The blueprint library; it never changes."""
    return [
        [
            *(definition.uid, definition.id, definition.tags),
            [
                [a.id, int(a.type), a.default, list(a.recommended), a.modifiable, a.restricted]
                for a in definition.attributes
            ],
        ]
        for definition in blueprints.library()
    ]
