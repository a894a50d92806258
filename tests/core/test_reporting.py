from __future__ import annotations

import json
import time

import core.reporting as reporting
from core.files import plain
from core.reporting import Timer, environment, peak_memory_mb


def test_environment_is_complete_and_strict_json():
    report = environment(seed=3)
    json.dumps(plain(report), allow_nan=False)
    assert report["seed"] == 3
    assert report["cores"] >= 1
    assert report["cpu"]
    assert report["packages"]["numpy"].count(".") >= 1
    assert set(report["packages"]) == set(reporting.PACKAGES)


def test_environment_imports_nothing_heavy(python):
    done = python(
        "-c",
        "import sys, core.reporting as r; r.environment();"
        "print(sorted({'torch', 'numpy', 'monai'} & set(sys.modules)))",
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_commit_is_read_from_the_clone_and_absent_outside(monkeypatch, tmp_path):
    monkeypatch.setattr(reporting, "ROOT", tmp_path)
    report = environment()
    assert report["commit"] is None
    assert report["modified"] is None


def test_commit_and_whether_files_differ(monkeypatch, tmp_path):
    def git(*arguments):
        return reporting._output(
            *("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"), *arguments
        )

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    assert git("commit", "-m", "one") is not None
    monkeypatch.setattr(reporting, "ROOT", tmp_path)
    first = environment()
    assert len(first["commit"]) == 40
    assert first["modified"] is False
    (tmp_path / "a").write_text("2")
    assert environment()["modified"] is True


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_mb()
    block = bytearray(b"x") * (64 * 2**20)
    after = peak_memory_mb()
    assert 5 < before <= after
    # The peak before may have been above what was held, but never by less than nothing.
    assert after >= len(block) / 2**20


def test_timer_stops():
    with Timer() as timer:
        time.sleep(0.02)
        assert timer.seconds > 0.01
    stopped = timer.seconds
    assert 0.02 <= stopped < 5
    assert timer.cpu_seconds <= stopped + 0.5
    time.sleep(0.01)
    assert timer.seconds == stopped
