"""The notebooks: both files of a pair agree, every cell runs, and readers see what they should."""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("nbclient", reason="needs: pip install -e '.[notebooks]'")
pytest.importorskip("jupytext", reason="needs: pip install -e '.[notebooks]'")
pytest.importorskip("ipykernel", reason="needs: pip install -e '.[notebooks]'")

from notebooks import execute

NAMES = execute.names()
# What a notebook cannot do without, beyond the packages of every installation.
NEEDS = {"driving": "carla"}
# A path of somebody's machine: absolute, two parts or more, not the rest of a URL or a closing tag.
MACHINE = re.compile(r"(?<![\w:/.<>&])/[A-Za-z_][\w.-]*/[\w.-]+|[A-Z]:\\\\?\w")
LARGEST = 3 * 2**20  # bytes of a notebook: it is read on the web


def outputs(name: str) -> list:
    return [
        output
        for cell in execute.stored(name).cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]


def texts(name: str) -> list[str]:
    """What the outputs say in words; pictures are left out."""
    found = []
    for output in outputs(name):
        found.append(output.get("text", ""))
        for kind, value in output.get("data", {}).items():
            if not kind.startswith("image/"):
                found.append(value if isinstance(value, str) else str(value))
    return found


def test_there_are_notebooks_and_none_without_its_pair():
    assert NAMES
    assert {path.stem for path in execute.FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_both_files_of_a_pair_hold_the_same_cells(name):
    text, stored = execute.cells(execute.from_text(name)), execute.cells(execute.stored(name))
    assert stored == text, f"run: python notebooks/execute.py {name}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_runs(name, tmp_path):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    environment = {**os.environ, "NOTEBOOK_FAST": "1", "NOTEBOOK_OUT": str(tmp_path)}
    notebook = execute.run(execute.from_text(name), environment)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [output for output in shown if output.output_type == "error"] == []
    assert any("image/png" in output.get("data", {}) for output in shown), "not one picture"


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_outputs_are_of_one_run_from_top_to_bottom(name):
    counts = [c.execution_count for c in execute.stored(name).cells if c.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_outputs_hold_no_error_warning_or_machine_path(name):
    shown = outputs(name)
    assert [o for o in shown if o.output_type == "error" or o.get("name") == "stderr"] == []
    assert any("image/png" in o.get("data", {}) for o in shown)
    assert [found[0] for text in texts(name) for found in MACHINE.finditer(text)] == []
    assert (execute.FOLDER / f"{name}.ipynb").stat().st_size < LARGEST


@pytest.mark.parametrize("text", ["in /home/anna/scan.nii", "'/tmp/x/y'", r"C:\\Users\\anna"])
def test_a_machine_path_is_noticed(text):
    assert MACHINE.search(text)


@pytest.mark.parametrize("text", ["https://example.org/a/b", "<td>1</td></tr>", "mm/px", "out/a/b"])
def test_what_is_no_machine_path_is_not(text):
    assert not MACHINE.search(text)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_public_interface_is_used(name):
    """Of ours, `from apps.X import name` and `core`, names in their `__all__`, and nothing else."""
    tree = ast.parse((execute.FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    used = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            ours = [a.name for a in node.names if a.name.split(".")[0] in ("apps", "core", "demos")]
            assert set(ours) <= {"core"}, f"line {node.lineno}: import {ours[0]}"
        elif isinstance(node, ast.ImportFrom):
            room = node.module or ""
            if room.split(".")[0] not in ("apps", "core", "demos"):
                continue
            assert re.fullmatch(r"apps\.\w+|core", room), f"line {node.lineno}: {room} is internal"
            public = importlib.import_module(room).__all__
            private = {alias.name for alias in node.names} - set(public)
            assert not private, f"line {node.lineno}: {room} has no public {private}"
            used += 1
    assert used


def test_a_cell_that_fails_is_told_with_its_cell(tmp_path, monkeypatch, capsys):
    header = (execute.FOLDER / f"{NAMES[0]}.py").read_text(encoding="utf-8").partition("# %%")[0]
    (tmp_path / "broken.py").write_text(f"{header}# %%\n1 / 0\n")
    monkeypatch.setattr(execute, "FOLDER", tmp_path)
    monkeypatch.delenv("NOTEBOOK_FAST", raising=False)
    assert execute.main(["broken"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert not (tmp_path / "broken.ipynb").exists()


def test_fast_outputs_are_never_written(monkeypatch, capsys):
    monkeypatch.setenv("NOTEBOOK_FAST", "1")
    with pytest.raises(SystemExit):
        execute.main([])
    assert "NOTEBOOK_FAST" in capsys.readouterr().err


def test_the_command_says_what_there_is():
    import subprocess

    done = subprocess.run(
        [sys.executable, Path(execute.__file__), "no-such"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert all(name in done.stderr for name in NAMES)
