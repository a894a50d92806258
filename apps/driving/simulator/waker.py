"""Ticks that CARLA's Traffic Manager would hold for ever, freed.

The manager's library (0.9.16, ``TrafficManagerLocal::SynchronousTick``) notifies its thread without the
lock that the thread waits with. A notice that falls between the thread's look at its flag and its wait
is lost; then the manager waits for the world's next tick and the tick for the manager, and
``World.tick`` never returns, whatever its time-out (carla-simulator/carla, issue 9172; mended after
0.9.16 by pull request 9344). On a busy machine that may be within minutes.

Leaving the synchronous mode notifies once more. The client's own ``set_synchronous_mode`` cannot be
asked: it wants a lock that the tick holds. The manager's port can, where other processes' clients
set its modes (MessagePack-RPC, see ``apps/driving/world/protocol/rpc.py``).
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import TYPE_CHECKING

import msgpack

if TYPE_CHECKING:
    import carla

log = logging.getLogger(__name__)

PATIENCE_S = 5.0  # what a manager has for its step, once the frame is here
ANSWER_S = 5.0


class Waker:
    """Ticks worlds while this process has a synchronous Traffic Manager on ``port``.

    A thread of its own frees a tick whose frame has come and which has not returned ``patience``
    seconds later; the manager then makes at most one step too many. ``freed`` counts them.
    """

    def __init__(self, port: int, patience: float = PATIENCE_S) -> None:
        self.freed = 0
        self._port, self._patience = port, patience
        self._ticking: tuple[carla.World, int] | None = None  # and the frame before the tick
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="traffic-manager-waker", daemon=True).start()

    def tick(self, world: carla.World, timeout: float) -> int:
        """``World.tick``: the frame's number. Raises RuntimeError where the simulator is silent."""
        self._ticking = world, world.get_snapshot().frame
        try:
            return int(world.tick(timeout))
        finally:
            self._ticking = None

    def close(self) -> None:
        """Watch no longer; ticks go on."""
        self._ended.set()

    def _watch(self) -> None:
        late, since = None, 0.0  # the tick that has its frame, and since when
        while not self._ended.wait(self._patience / 10):
            now = self._ticking
            if now is None or not _has_come(*now):
                continue  # nobody ticks, or it is the simulator's turn, which has a time-out
            if late is not now:
                late, since = now, time.monotonic()
            elif time.monotonic() - since > self._patience:
                self._free()
                since = time.monotonic()

    def _free(self) -> None:
        try:
            for synchronous in (False, True):
                ask_manager(self._port, "set_synchronous_mode", synchronous)
        except (OSError, ValueError, msgpack.UnpackException) as error:
            log.warning("CARLA's Traffic Manager hangs and cannot be freed: %s", error)
            return
        self.freed += 1
        log.warning("CARLA's Traffic Manager hung in a tick and was freed")


def _has_come(world: carla.World, before: int) -> bool:
    """Whether a later frame is here; not in a world that has been replaced meanwhile."""
    try:
        return bool(world.get_snapshot().frame > before)
    except RuntimeError:
        return False


def ask_manager(port: int, method: str, *parameters: bool) -> None:
    """Call a Traffic Manager on this machine by its port, as other processes' clients do.

    Raises OSError where nobody answers in time, ValueError where the answer is an error.
    """
    answers = msgpack.Unpacker(max_buffer_size=1 << 16)
    with socket.create_connection(("127.0.0.1", port), ANSWER_S) as connection:
        connection.settimeout(ANSWER_S)
        connection.sendall(msgpack.packb([0, 1, method, list(parameters)]))
        while True:
            received = connection.recv(1 << 12)
            if not received:
                raise ConnectionError(f"port {port} closed the connection instead of an answer")
            answers.feed(received)
            for answer in answers:
                if not (isinstance(answer, list) and len(answer) == 4 and answer[2] is None):
                    raise ValueError(f"port {port} answers {method} with {str(answer)[:100]}")
                return
