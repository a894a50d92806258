"""The commands inside ``apply_batch``: ``carla.command.*`` by their place in 0.9.16's variant.

A command is ``[index, fields]``, in the order of ``carla::rpc::Command::CommandType`` in the wheel's
debugging information (22 kinds; other versions have others in between). Each is answered with
``Response<ActorId>``, so one that is refused does not keep the rest from being done.

SpawnActor's ``attachment_type`` is not initialised by 0.9.16's client: it sends whatever its memory
held. CARLA's server attaches rigidly whatever it says, and so does this one. The actor that a
``then`` command is for is the one just spawned; the id in it means nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from apps.driving.world.errors import SimulationError
from apps.driving.world.protocol import values
from apps.driving.world.protocol.calls import COMMANDS
from apps.driving.world.protocol.values import (
    PARAMETERS,
    Malformed,
    many,
    optional,
    row,
    text,
    whole,
)

if TYPE_CHECKING:
    from apps.driving.world.protocol.handlers import Handlers

log = logging.getLogger(__name__)

DEEPEST = 4  # commands within `then` within `then`
SPAWN_ACTOR, CONSOLE_COMMAND = 0, 20  # have fields of their own

_SPAWN = row(
    values.description,
    values.transform,
    optional(values.actor_id),
    whole(0, 255),
    text,
    many(row(row(whole(0, 255), values.anything))),
)


def run_command(
    handlers: Handlers, command: tuple[int, Any], actor: int | None = None, depth: int = 0
) -> list[Any]:
    """Carry out one ``(index, fields)``; returns its ``Response<ActorId>`` and never raises.

    ``actor`` replaces the id in the command: that of the actor just spawned.
    """
    index, fields = command
    name = COMMANDS[index].name if index < len(COMMANDS) else f"command {index}"
    try:
        return [[1, _run(handlers, index, fields, actor, depth)]]
    except (SimulationError, ValueError) as error:
        return [[0, [" ".join(str(error).split())]]]
    except Exception as error:
        log.error("a defect of the server in %s", name, exc_info=error)
        return [[0, [f"{name}: internal error ({type(error).__name__}: {error})"]]]


def _run(handlers: Handlers, index: int, fields: Any, actor: int | None, depth: int) -> int:
    if index >= len(COMMANDS):
        raise SimulationError(f"command {index}: there are {len(COMMANDS)} in CARLA 0.9.16")
    command = COMMANDS[index]
    if index == SPAWN_ACTOR:
        return _spawn(handlers, fields, depth)
    if index == CONSOLE_COMMAND:
        raise SimulationError("ConsoleCommand: not supported by this world (there is no console)")
    try:
        read = list(row(*(PARAMETERS[field] for field in command.fields))(fields))
    except Malformed as error:
        raise SimulationError(f"{command.name}: {error}") from None
    if actor is not None:
        read[0] = actor
    if command.call == "set_walker_state":
        handlers.world.people.set_state(*read)
    else:
        getattr(handlers, command.call)(*read)
    return int(read[0])


def _spawn(handlers: Handlers, fields: Any, depth: int) -> int:
    try:
        description, transform, parent, _, socket, then = _SPAWN(fields)
    except Malformed as error:
        raise SimulationError(f"SpawnActor: {error}") from None
    if depth >= DEEPEST:
        raise SimulationError(f"SpawnActor: more than {DEEPEST} within one another")
    if parent is None:
        spawned = handlers.spawn_actor(description, transform)
    else:
        spawned = handlers.spawn_actor_with_parent(description, transform, parent, 0, socket)
    actor = int(spawned[0])
    for command in then:
        answer = run_command(handlers, command[0], actor, depth + 1)
        if answer[0][0] == 0:
            # CARLA drops these answers; the author should see that something was not done.
            log.warning("after SpawnActor of actor %d: %s", actor, answer[0][1][0])
    return actor
