"""What a result must say about the machine and the code that made it.

Nothing heavy is imported: versions come from installed package metadata, so asking for them costs
milliseconds even where importing the packages would cost seconds.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = (
    "triptych",
    "torch",
    "lightning",
    "monai",
    "numpy",
    "scipy",
    "scikit-image",
    "nibabel",
    "SimpleITK",
    "safetensors",
    "transformers",
    "pandas",
    "pyarrow",
    "plotly",
    "matplotlib",
    "pytorch-forecasting",
    "optuna",
    "ray",
)


def environment(seed: int | None = None) -> dict[str, Any]:
    """The machine, the packages and the commit, as a flat JSON-ready dictionary.

    ``commit`` is None outside a git clone; ``modified`` says that files differ from it.
    ``torch_threads`` and ``gpu`` appear only when torch is already loaded: asking must stay cheap.
    """
    commit, modified = _commit()
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": _cores(),
        "memory_gb": _memory_gb(),
        "packages": versions(),
        "commit": commit,
        "modified": modified,
        "seed": seed,
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        report["torch_threads"] = torch.get_num_threads()
        report["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return report


@lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str | None], ...]:
    return tuple((name, _version(name)) for name in PACKAGES)


def versions() -> dict[str, str | None]:
    """Installed version of each package this project's results depend on; None when absent."""
    return dict(_versions())


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MiB (Linux, macOS)."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage on Linux also remembers the parent's size before exec; VmHWM is ours alone.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)  # bytes there, KiB elsewhere


class Timer:
    """Wall and CPU seconds of a block. Both may be read while it still runs.

    with Timer() as timer:
        work()
    timer.seconds, timer.cpu_seconds
    """

    def __init__(self) -> None:
        self._start = (time.perf_counter(), time.process_time())
        self._stop: tuple[float, float] | None = None

    def __enter__(self) -> Timer:
        self._start, self._stop = (time.perf_counter(), time.process_time()), None
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop = (time.perf_counter(), time.process_time())

    @property
    def seconds(self) -> float:
        """Wall-clock seconds."""
        return (self._stop[0] if self._stop else time.perf_counter()) - self._start[0]

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds of this process, all threads together."""
        return (self._stop[1] if self._stop else time.process_time()) - self._start[1]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Cores this process may use, which in a container is often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1024**3, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _commit() -> tuple[str | None, bool | None]:
    # An installed copy may lie inside somebody else's repository, whose commit is not ours.
    if not (ROOT / ".git").exists():
        return None, None
    commit = _output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    if commit is None:
        return None, None
    changes = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _output(*command: str) -> str | None:
    """What a command prints, or None when it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
