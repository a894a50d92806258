"""Many series over many processes or machines: the builtin ``map``, or its like on Ray.

What forecasts series one after another takes a ``Mapper`` and neither knows nor cares which it is:

    with fan_out(address) as mapper:                 # None: here, one after another
        for series, found in zip(panel, mapper(work, panel.series)):

A Ray task gets a chunk of series and one processor thread; there are never more than ``AHEAD`` tasks
a processor under way, so that memory does not grow with the number of series.  Results come in the
order of the series and are bit for bit those of a run here with one thread (``--threads 1``): with
more, matrix products add up in another order.  Ray decides where and when a task runs.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from core.errors import ResourceError, TriptychError, need

A = TypeVar("A")
B = TypeVar("B")

ROOT = Path(__file__).resolve().parents[2]
CHUNK = 64
"""Series in a task, at most: their results wait in memory until it is their turn."""
AHEAD = 2
"""Tasks for each processor, running or waiting: one runs while the next one's series travel."""
STORE_MB = 200
"""Shared memory of a Ray instance of our own; what does not fit goes to disk."""


class Mapper(Protocol):
    """``work`` of each of ``items``, in their order, computed no earlier than needed."""

    def __call__(self, work: Callable[[A], B], items: Sequence[A], /) -> Iterable[B]: ...


@contextmanager
def fan_out(address: str | None) -> Iterator[Mapper]:
    """A mapper for as long as the block runs.

    ``address`` None: the builtin ``map``.  "local": a Ray of this machine's processors alone, which
    listens on 127.0.0.1 and ends with the block.  "auto" or host:port: a Ray that runs already,
    which is sent this code.  In a process that uses Ray already its Ray is used and left running.

    Raises UsageError where Ray is not installed, ResourceError where it cannot be reached; the
    mapper raises what ``work`` raises for the first item that fails, or ResourceError where a
    worker dies.
    """
    if address is None:
        yield map
        return
    before = {name: os.environ.get(name) for name in _QUIET}
    os.environ.update(_QUIET if address == "local" else {_USAGE: "0"})
    folder: str | None = None
    try:
        ray = need("ray", "scale")
        if ray.is_initialized():
            yield _RayMap(ray)
            return
        if address == "local":
            folder = _temporary()
        try:
            with _loopback(address == "local"):
                _start(ray, address, folder)
            yield _RayMap(ray)
        finally:
            ray.shutdown()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


_USAGE = "RAY_USAGE_STATS_ENABLED"
# The second one is named after other systems but works here: without it Ray listens on all
# interfaces, even with 127.0.0.1 for its node's address.
_QUIET = {_USAGE: "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextmanager
def _loopback(wanted: bool) -> Iterator[None]:
    """Make a Ray that was imported before ``_QUIET`` was set, by someone else, heed it all the same."""
    constants: Any = sys.modules.get("ray._private.ray_constants")
    before = getattr(constants, "ENABLE_RAY_CLUSTER", None)
    if not wanted or before is None:
        yield
        return
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _start(ray: Any, address: str, folder: str | None) -> None:
    import logging

    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    options: dict[str, Any] = {"address": address}
    if folder is not None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        options |= {
            "num_cpus": _processors(),
            "include_dashboard": False,
            "object_store_memory": STORE_MB * 2**20,
            "_temp_dir": folder,
            "runtime_env": {"env_vars": {**threads, "PYTHONPATH": path}},
        }
    else:
        _knock(address)
        code = [str(ROOT / "core"), str(ROOT / "apps")]
        options["runtime_env"] = {"py_modules": code, "env_vars": threads}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as error:
        ray.shutdown()
        raise _unreachable(address, error) from error


def _knock(address: str) -> None:
    """ResourceError where nobody listens at host:port; Ray itself would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto", or something that Ray has to make sense of
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> ResourceError:
    said = str(error).strip().splitlines()
    return ResourceError(
        f"--ray {address}: no Ray answers there ({said[0] if said else type(error).__name__}); "
        "start one with `ray start --head`, or use --ray local"
    )


class _RayMap:
    """See ``fan_out``."""

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def __call__(self, work: Callable[[A], B], items: Sequence[A], /) -> Iterator[B]:
        import torch

        task = self.ray.remote(num_cpus=1, max_retries=1)(_chunk)
        size = max(1, min(CHUNK, len(items) // (4 * self.workers)))
        starts = iter(range(0, len(items), size))
        shared = self.ray.put(work)
        precision = torch.get_float32_matmul_precision()
        waiting: deque[Any] = deque()
        try:
            while True:
                while len(waiting) < AHEAD * self.workers:
                    at = next(starts, None)
                    if at is None:
                        break
                    waiting.append(task.remote(shared, list(items[at : at + size]), precision))
                if not waiting:
                    return
                yield from self._result(waiting.popleft())
        finally:
            for reference in waiting:
                self.ray.cancel(reference, force=False)

    def _result(self, reference: Any) -> Iterable[Any]:
        from ray.exceptions import RayError, RayTaskError

        try:
            return self.ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from None  # as it would have been raised here
            raise TriptychError(f"a task of Ray failed: {error}") from error
        except RayError as error:
            said = str(error).strip().splitlines()
            raise ResourceError(
                f"Ray lost a worker ({type(error).__name__}: {said[0] if said else 'no reason given'}); "
                "was there enough memory? run with fewer processors, or without --ray"
            ) from error


def _chunk(work: Callable[[A], B], items: Iterable[A], precision: str) -> list[B]:
    """In a worker: the results of a chunk, computed as the asking process would."""
    import torch

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(precision)
    return [work(item) for item in items]


def _processors() -> int:
    """Those this process may use, which in a container are often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _temporary() -> str:
    """A folder for Ray's sockets and logs; a socket's whole path has room for about 100 letters."""
    place = tempfile.gettempdir()
    return tempfile.mkdtemp(
        prefix="ray-", dir="/tmp" if len(place) > 30 and os.name != "nt" else None
    )
