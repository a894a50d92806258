"""Building the C++ scan: the cache and its failures, compilers that are missing or broken, two at once."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.ops.scan import build, native

needs_compiler = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler")
ASK = (
    "from core.ops.scan import native; import torch; torch.set_num_threads(1)\n"
    "print(native.available()); print(native.unavailable_reason())"
)
COMPILING = "Compiling the selective scan"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TRIPTYCH_CACHE", str(folder))
    monkeypatch.delenv(build.ISA_VARIABLE, raising=False)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A library of one function, which compiles in a moment."""
    path = tmp_path / "answer.cpp"
    path.write_text('extern "C" __attribute__((visibility("default"))) int answer() { return 42; }')
    return path


def answers(library: ctypes.CDLL) -> bool:
    return bool(library.answer() == 42)


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def ask(root: Path, **environment: str) -> tuple[bool, str, str]:
    """(available, reason, stderr) of the scan in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=root,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    available, reason = done.stdout.split("\n")[:2]
    return available == "True", reason, done.stderr


@needs_compiler
def test_builds_once(cache: Path, source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build.load(source, answers)
    assert capfd.readouterr().err.count(COMPILING) == 1
    build.load(source, answers)
    assert capfd.readouterr().err == ""
    assert len(list(cache.glob("*.so"))) == 1
    assert not cache.stat().st_mode & 0o077
    source.write_text(source.read_text() + "\n// changed")
    build.load(source, answers)
    assert len(list(cache.glob("*.so"))) == 2


@needs_compiler
@pytest.mark.parametrize("damage", ["truncated", "other bytes", "no digest", "writable by others"])
def test_a_damaged_library_is_rebuilt(
    cache: Path, source: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    # A copy that is never loaded is damaged: truncating a mapped file would kill this process.
    build.load(source, answers)
    (library,) = cache.glob("*.so")
    content = library.read_bytes()
    library.unlink()
    library.write_bytes(
        {"truncated": content[:1000], "other bytes": content[:-1] + b"?"}.get(damage, content)
    )
    library.chmod(0o777 if damage == "writable by others" else 0o755)
    if damage == "no digest":
        library.with_suffix(".sha256").unlink()
    capfd.readouterr()
    assert answers(build.load(source, answers))
    assert COMPILING in capfd.readouterr().err
    build.load(source, answers)
    assert capfd.readouterr().err == ""


@needs_compiler
def test_a_library_that_computes_wrongly_is_refused(cache: Path, source: Path) -> None:
    with pytest.raises(build.Unavailable, match="wrong results"):
        build.load(source, lambda library: not answers(library))
    assert not list(cache.glob("*.so"))


@needs_compiler
def test_a_cache_that_cannot_be_written(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder below a file cannot be made, not even by root."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "file" / "cache"))
    assert answers(build.load(source, answers))


@needs_compiler
def test_a_cache_that_others_can_write_is_passed_over(cache: Path, source: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    assert answers(build.load(source, answers))
    assert not list(cache.iterdir())


@needs_compiler
def test_two_processes_build_at_once(cache: Path, root: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ASK],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=300) for process in processes]
    assert [out for out, _ in results] == ["True\n\n"] * 2
    assert sum(err.count(COMPILING) for _, err in results) == 1  # the other one waited
    assert len(list(cache.glob("*.so"))) == 1


def test_without_a_compiler_a_line_of_advice(cache: Path, root: Path, tmp_path: Path) -> None:
    available, reason, _ = ask(root, PATH=str(tmp_path), CXX="")
    assert not available
    assert "no C++ compiler" in reason
    assert "install" in reason


@pytest.mark.parametrize("cxx", ["false", "no-such-compiler", "garbage"])
def test_a_broken_compiler_is_a_reason(
    cache: Path, source: Path, tmp_path: Path, cxx: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cxx == "garbage":  # ends well and writes no library
        cxx = script(tmp_path / "cxx", 'while [ "$1" != -o ]; do shift; done; echo nonsense > "$2"')
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(build.Unavailable) as caught:
        build.load(source, answers)
    assert "\n" not in str(caught.value)
    assert "compiler" in str(caught.value) or "cannot be loaded" in str(caught.value)
    assert not list(cache.glob("*.so"))


def test_availability_never_raises(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_reason", None)
    monkeypatch.setattr(native, "_library", None)
    monkeypatch.setattr(native, "SOURCE", tmp_path / "missing.cpp")
    assert not native.available()
    assert native.unavailable_reason()


@needs_compiler
def test_a_compiler_without_openmp(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = " ".join(build.find_compiler() or [])
    refuse = (
        f'case "$*" in *-fopenmp*) echo "error: no OpenMP" >&2; exit 1;; esac; exec {real} "$@"'
    )
    monkeypatch.setenv("CXX", script(tmp_path / "cxx", refuse))
    library = build.load(native.SOURCE, native._computes)
    assert library.triptych_scan_threaded() == 0


@pytest.mark.parametrize("isa", ["sse9", "avx512"])
def test_an_instruction_set_this_cpu_lacks(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert build.instruction_set() == "portable"
    monkeypatch.setenv(build.ISA_VARIABLE, isa)
    with pytest.raises(build.Unavailable, match=f"{build.ISA_VARIABLE}={isa}"):
        build.instruction_set()


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_pool_of_threads_with_torch() -> None:
    if not native.available() or not native.threaded():
        pytest.skip("built without OpenMP")
    # In a process of its own: other packages in this one bring runtimes of theirs (scikit-learn does).
    probe = (
        "from core.ops.scan import native; assert native.available()\n"
        "maps = open('/proc/self/maps').read().splitlines()\n"
        "print(*{line.split()[-1] for line in maps if 'libgomp' in line}, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) == 1, done.stdout
