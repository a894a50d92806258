"""Reaching a CARLA server, and what its client's errors mean to a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import ResourceError

if TYPE_CHECKING:
    import carla


class SimulatorGone(ResourceError):
    """The simulator does not answer, or not any more."""


def connect(host: str, port: int, timeout: float) -> carla.Client:
    """A client of a CARLA that answers and has the client's own version.

    Raises SimulatorGone or ResourceError.
    """
    import carla

    address = f"{host}:{port}"
    client = carla.Client(host, port)
    client.set_timeout(timeout)
    try:
        theirs, ours = client.get_server_version(), client.get_client_version()
    except RuntimeError as error:
        raise explain(error, address) from error
    if theirs.split("-")[0] != ours.split("-")[0]:
        raise ResourceError(
            f"{address} runs CARLA {theirs}, but the installed client is {ours}: start CARLA {ours} "
            "or install the client of that version"
        )
    return client


def explain(error: RuntimeError, address: str) -> ResourceError:
    """What a person can do about an error of CARLA's client."""
    text = " ".join(str(error).split())
    if any(sign in text.lower() for sign in _GONE):
        return SimulatorGone(
            f"the simulator at {address} does not answer ({text[:160]}); check that it runs and "
            "start it again, or allow it more time"
        )
    return ResourceError(f"the simulator at {address} refused: {text[:300]}")


_GONE = ("time-out", "timeout", "timed out", "connection", "end of file", "broken pipe", "rpc::")


def plain_town(name: str) -> str:
    """``Carla/Maps/Town01_Opt`` as ``Town01``."""
    return name.rpartition("/")[2].removesuffix("_Opt")
