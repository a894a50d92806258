"""What the world refuses, in one line a client's author can act on."""

from __future__ import annotations


class SimulationError(Exception):
    """A call that the world refuses and that changed nothing; CARLA's client raises its message.

    It is no defect of the server and no error of the command line, so it is not a TriptychError:
    the message goes to the client that asked, and the world runs on.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))
