from __future__ import annotations

import errno
import json
import os
import random
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from core import cli
from core.cli import Json
from core.errors import DataError, ResourceError, UsageError

app = cli.make_app("toy", "A toy.")


@app.command()
def good(count: int = 1, json: Json = False) -> None:
    """Do it."""
    print("a library talks")
    cli.emit({"count": count, "hd95": float("nan")}, as_json=json, human=lambda: print("done"))


@app.command()
def bad(kind: str, json: Json = False) -> None:
    """Fail."""
    print("a library talks")
    raise {
        "usage": UsageError("out exists\nuse --force"),
        "data": DataError("a.nii.gz: truncated"),
        "resource": ResourceError("disk"),
        "bug": ValueError("first line\nsecond line"),
        "memory": MemoryError(),
        "torch-memory": RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        "disk": OSError(errno.ENOSPC, "No space left on device"),
        "permission": PermissionError(errno.EACCES, "Permission denied", "/x"),
        "interrupt": KeyboardInterrupt(),
        "exit": SystemExit(7),
    }[kind]


def test_result_for_a_person(capsys):
    assert cli.main(app, ["good"]) == 0
    assert capsys.readouterr().out == "a library talks\ndone\n"


def test_json_is_all_there_is_on_standard_output(capsys):
    assert cli.main(app, ["good", "--count", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"count": 2, "hd95": None}
    assert "a library talks" in err


@pytest.mark.parametrize(
    ("kind", "code", "line"),
    [
        ("usage", 2, "error: out exists use --force"),
        ("data", 3, "error: a.nii.gz: truncated"),
        ("resource", 4, "error: disk"),
        ("bug", 1, "error: unexpected ValueError: first line second line; set TRIPTYCH_DEBUG=1"),
        ("memory", 4, "error: out of memory"),
        ("torch-memory", 4, "error: out of memory"),
        ("disk", 4, "error: no space left on disk"),
        ("permission", 4, "error: /x: permission denied"),
        ("interrupt", 130, "interrupted"),
    ],
)
def test_failure_is_one_line_and_a_code_and_json_when_asked(capsys, monkeypatch, kind, code, line):
    monkeypatch.delenv("TRIPTYCH_DEBUG", raising=False)
    assert cli.main(app, ["bad", kind]) == code
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1

    assert cli.main(app, ["bad", kind, "--json"]) == code
    report = json.loads(capsys.readouterr().out)["error"]
    assert report["exit_code"] == code
    assert line.removeprefix("error: ") in report["message"]


def test_traceback_only_when_debugging(capsys, monkeypatch):
    monkeypatch.setenv("TRIPTYCH_DEBUG", "1")
    assert cli.main(app, ["bad", "bug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["goood"], r"No such command 'goood'. Did you mean 'good'\?"),
        (["zzz"], "No such command 'zzz'"),
        (["good", "--cout", "1"], "--count"),
        (["good", "--count", "many"], "--count"),
        (["bad"], "Missing argument"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(capsys, arguments, said):
    assert cli.main(app, arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "--help)" in err
    assert re.search(said, err)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_verbs(capsys, arguments):
    assert cli.main(app, arguments) == 0
    out = capsys.readouterr().out
    assert "A toy." in out
    assert "good" in out
    assert "bad" in out


def test_one_verb_is_still_a_verb(capsys):
    single = cli.make_app("one", "One.")
    single.command("only")(lambda: print("ran"))
    assert cli.main(single, ["only"]) == 0
    assert capsys.readouterr().out == "ran\n"


def test_other_exit_codes_pass(capsys):
    assert cli.main(app, ["bad", "exit"]) == 7


def test_a_reader_that_goes_away_is_no_error(root):
    script = textwrap.dedent(
        """
        import sys
        from core import cli
        app = cli.make_app("x", "x")
        @app.command()
        def talk() -> None:
            for _ in range(100000):
                print("x" * 100)
        sys.exit(cli.main(app, ["talk"]))
        """
    )
    talker = subprocess.Popen(
        [sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert talker.stdout is not None
    talker.stdout.readline()
    talker.stdout.close()
    assert talker.stderr is not None
    assert b"Traceback" not in talker.stderr.read()
    talker.stderr.close()
    talker.wait(timeout=30)


def test_devices():
    assert cli.pick_device("cpu") == torch.device("cpu")
    assert cli.pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UsageError, match=r"unknown device 'cdua'. Did you mean 'cuda'\?"):
        cli.pick_device("cdua")
    with pytest.raises(UsageError, match="unknown device 'cuda:x'"):
        cli.pick_device("cuda:x")
    with pytest.raises(ResourceError, match="device 'cuda:99' is not available"):
        cli.pick_device("cuda:99")


def test_threads(monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    before = torch.get_num_threads()
    cli.set_threads(None)
    assert torch.get_num_threads() == before
    try:
        cli.set_threads(2)
        assert torch.get_num_threads() == 2
        assert os.environ["OMP_NUM_THREADS"] == "2"
    finally:
        torch.set_num_threads(before)
    with pytest.raises(UsageError, match="1 or more"):
        cli.set_threads(0)


def test_one_seed_repeats_every_generator():
    def draw():
        cli.seed_everything(5)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw() == draw()


def test_options_are_read_as_yaml() -> None:
    items = ["a=1", "b=[2, 3]", "c=none", "d = null", "e=word", "f=1e-3x", "g=true", "h=1e-3"]
    assert cli.parse_options(items) == {
        "a": 1, "b": [2, 3], "c": None, "d": None, "e": "word", "f": "1e-3x", "g": True, "h": 0.001,
    }  # fmt: skip
    for wrong in ("a", "=3", "a=[1"):
        with pytest.raises(UsageError, match="name=value"):
            cli.parse_options([wrong])
