"""Compiles the scan's C++ source on first use and keeps the library in the user's cache.

Cache     ``$TRIPTYCH_CACHE``, else ``$XDG_CACHE_HOME/triptych``, else ``~/.cache/triptych``
          (``~/Library/Caches/triptych`` on macOS). A library's name is a hash of the source, the
          flags (which name the instruction set), the compiler and the OpenMP runtime, so that
          machines may share a home folder. A folder that cannot be written, or that somebody else
          could write, is passed over for a private temporary one that lives as long as the process.
Safety    One process builds while others wait for its lock; the file appears by an atomic rename.
          Its SHA-256 stands beside it: a damaged file is rebuilt, never loaded (mapping a truncated
          library can kill the process), and whatever was loaded must pass the caller's check.
OpenMP    The library is linked with the OpenMP runtime inside PyTorch's own folder, so that both
          share one pool of threads; a second pool would spin against the first. Without that
          runtime the system's is used, and without OpenMP at all the library has one thread.

Nothing here uses PyTorch's C++ headers: a build takes seconds, not the half minute of
``torch.utils.cpp_extension``.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

COMPILERS = ("c++", "g++", "clang++")
ISAS = ("portable", "avx2", "avx512")  # each includes those before it
ISA_VARIABLE = "TRIPTYCH_SCAN_ISA"
# Contraction is off because each multiply-add is written out: results do not depend on the compiler.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
)
ISA_FLAGS = {
    "portable": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"),
}
TIMEOUT = 300.0  # seconds for one compiler run; two to five are usual


class Unavailable(Exception):
    """No library can be had; the message is one line that says why and what to do."""


def load(source: Path, check: Callable[[ctypes.CDLL], bool]) -> ctypes.CDLL:
    """The library of ``source``, built unless a sound one is in the cache; raises Unavailable.

    ``check`` sees a freshly loaded library and says whether it computes what it should.
    """
    compiler = find_compiler()
    if compiler is None:
        raise Unavailable(
            "no C++ compiler was found; install one, for example: apt-get install g++"
        )
    isa = instruction_set()
    text = source.read_bytes()
    reason = ""
    for compile_flags, link_flags in openmp_choices():
        flags = (*FLAGS, *ISA_FLAGS[isa], *compile_flags)
        key = hashlib.sha256(text)
        key.update(repr((compiler, compiler_identity(compiler), flags, link_flags)).encode())
        name = f"{source.stem}-{isa}-{key.hexdigest()[:20]}.so"
        for folder in folders():
            try:
                compile_to = partial(_compile, compiler, source, flags, link_flags)
                return _from_folder(folder / name, compile_to, check)
            except OSError as error:  # this folder cannot hold a library: try the next
                reason = str(error)
            except Unavailable as error:  # the compiler said no: other flags may do
                reason = str(error)
                break
    raise Unavailable(reason)


def find_compiler() -> list[str] | None:
    """``$CXX`` (which may carry options), else the first of the usual names on PATH."""
    if os.environ.get("CXX", "").strip():
        command = shlex.split(os.environ["CXX"])
        path = shutil.which(command[0])
        return [path, *command[1:]] if path else None
    for name in COMPILERS:
        if path := shutil.which(name):
            return [path]
    return None


def compiler_identity(compiler: list[str]) -> tuple[str, int, int]:
    """Real path, size and date of the compiler: changes when it does, and costs no process."""
    path = os.path.realpath(compiler[0])
    found = os.stat(path)
    return path, found.st_size, found.st_mtime_ns


def instruction_set() -> str:
    """The best one of this CPU, or that of ``TRIPTYCH_SCAN_ISA``; raises Unavailable for a wrong one."""
    capability = torch.backends.cpu.get_cpu_capability().lower()
    best = (
        capability
        if capability in ISAS and platform.machine() in ("x86_64", "AMD64")
        else "portable"
    )
    forced = os.environ.get(ISA_VARIABLE, "").strip().lower()
    if not forced:
        return best
    if forced not in ISAS:
        raise Unavailable(
            f"{ISA_VARIABLE}={forced} is not one of {', '.join(ISAS)}; correct or unset it"
        )
    if ISAS.index(forced) > ISAS.index(best):
        raise Unavailable(f"{ISA_VARIABLE}={forced} needs more than this CPU's {best}; unset it")
    return forced


def openmp_choices() -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(compile flags, link flags), best first: PyTorch's OpenMP runtime, the system's, none."""
    macos = sys.platform == "darwin"
    pragma = ("-Xpreprocessor", "-fopenmp") if macos else ("-fopenmp",)
    inside = Path(torch.__file__).parent
    names = (
        ("libomp*.dylib", "libiomp5*.dylib")
        if macos
        else ("libgomp*.so*", "libomp*.so*", "libiomp5*.so*")
    )
    # Wheels keep it in torch/lib, or in torch.libs beside the package when auditwheel put it there.
    for folder in (inside / "lib", inside.parent / "torch.libs"):
        for pattern in names:
            for runtime in sorted(folder.glob(pattern)):
                yield pragma, (str(runtime),)
    if not macos:
        yield ("-fopenmp",), ("-fopenmp",)
    yield (), ()


def folders() -> Iterator[Path]:
    """Folders that may hold a library, best first; each is private to this user when it is yielded."""
    with contextlib.suppress(OSError, RuntimeError):
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _private(folder.stat()):
            yield folder
    temporary = Path(tempfile.mkdtemp(prefix="triptych-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    yield temporary


def cache_folder() -> Path:
    """Where libraries are kept; it need not exist."""
    if own := os.environ.get("TRIPTYCH_CACHE"):
        return Path(own)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "triptych"
    base = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path.home() / base / "triptych"


def _private(found: os.stat_result) -> bool:
    """Owned by this user, and nobody else may write it."""
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _from_folder(
    library: Path, compile_to: Callable[[Path], None], check: Callable[[ctypes.CDLL], bool]
) -> ctypes.CDLL:
    """Load ``library``, building it first if it is missing or unsound."""
    with _lock(library.with_suffix(".lock")):
        if _sound(library):
            with contextlib.suppress(Unavailable):
                return _open(library, check)
        print("Compiling the selective scan for this CPU (once, a few seconds)...", file=sys.stderr)
        built = Path(
            tempfile.mkdtemp(prefix="build-", dir=library.parent)
        )  # same file system: rename
        try:
            compile_to(built / library.name)
            digest = hashlib.sha256((built / library.name).read_bytes()).hexdigest()
            (built / "sha256").write_text(digest)
            os.replace(built / library.name, library)
            os.replace(built / "sha256", library.with_suffix(".sha256"))
        finally:
            shutil.rmtree(built, ignore_errors=True)
        try:
            return _open(library, check)
        except Unavailable:
            library.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock of ``path``; on file systems without locks, nothing: renames are atomic anyway."""
    import fcntl

    with path.open("a") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
        yield


def _sound(library: Path) -> bool:
    """The file is this user's own and carries the digest written when it was built."""
    try:
        found = library.lstat()
        expected = library.with_suffix(".sha256").read_text()
        return (
            stat.S_ISREG(found.st_mode)
            and _private(found)
            and hashlib.sha256(library.read_bytes()).hexdigest() == expected
        )
    except (OSError, ValueError):
        return False


def _open(library: Path, check: Callable[[ctypes.CDLL], bool]) -> ctypes.CDLL:
    try:
        loaded = ctypes.CDLL(str(library))
        sound = check(loaded)
    except (OSError, AttributeError) as error:
        raise Unavailable(f"the compiled scan cannot be loaded: {_line(str(error))}") from error
    if not sound:
        raise Unavailable(
            "the compiled scan gives wrong results; try another compiler with CXX=..."
        )
    return loaded


def _compile(
    compiler: list[str], source: Path, flags: tuple[str, ...], link: tuple[str, ...], to: Path
) -> None:
    """Compile and link in two steps: ``-fopenmp`` at the link would name the system's runtime first."""
    unit = to.with_suffix(".o")
    strict = () if sys.platform == "darwin" else ("-Wl,-z,defs",)  # a missing symbol fails here
    for command in (
        [*compiler, *flags, "-c", str(source), "-o", str(unit)],
        [*compiler, "-shared", *strict, str(unit), "-o", str(to), *link],
    ):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(
                f"the C++ compiler {compiler[0]} does not run: {_line(str(error))}"
            ) from error
        if done.returncode:
            why = _line(done.stderr) or f"exit code {done.returncode}"
            raise Unavailable(
                f"the C++ compiler {compiler[0]} failed: {why}; set CXX to another one"
            )


def _line(text: str) -> str:
    """The line of a compiler's or loader's message that says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = [line for line in lines if "error" in line.lower()]
    return (wrong or lines or [""])[0][:200]
