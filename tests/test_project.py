"""The repository itself: what is promised in one file and kept in another."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from core.files import sha256

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def name_of(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert match
    return match[0].lower().replace("_", "-")


def listed() -> dict[str, str]:
    """sha256 by path, as samples/SHA256SUMS says."""
    lines = (ROOT / "samples" / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {path: digest for digest, path in (line.split("  ", 1) for line in lines)}


@pytest.mark.parametrize("path", sorted(listed()))
def test_sample_is_the_file_its_card_describes(samples, path):
    assert sha256(samples / path) == listed()[path]


def test_every_sample_is_listed(samples):
    there = {
        path.relative_to(samples).as_posix()
        for path in samples.rglob("*")
        if path.is_file() and path.name not in ("README.md", "SHA256SUMS")
    }
    assert there == set(listed())


def test_sample_folders_are_complete_pairs(samples):
    for images, labels in (("imagesTr", "labelsTr"), ("images", "instances")):
        folder = "hippocampus" if images == "imagesTr" else "nuclei"
        left = sorted(path.name for path in (samples / folder / images).iterdir())
        right = sorted(path.name for path in (samples / folder / labels).iterdir())
        assert left == right != []


def test_every_shipped_model_has_a_card_and_fits():
    folders = [path for path in (ROOT / "weights").iterdir() if path.is_dir()]
    for folder in folders:
        names = {path.name for path in folder.iterdir()}
        assert {"model.safetensors", "model.json"} <= names, folder
        assert (folder / "model.safetensors").stat().st_size < 12 * 2**20, folder
        text = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
        assert folder.name in text, f"weights/README.md does not describe {folder.name}"


def test_default_and_development_dependencies_are_pinned():
    pinned = {
        name_of(line)
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    }
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"]]
    for extra in ("demos", "dev", "driving", "export", "notebooks"):
        wanted += extras[extra]
    missing = {name_of(item) for item in wanted} - pinned - {"triptych"}
    assert missing == set()


def test_constraints_name_no_local_build():
    """A version such as 2.13.0+cpu exists on one index only and breaks everybody else's install."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "+" in line.partition("#")[0]] == []


@pytest.mark.parametrize(
    ("package", "version", "allowed"),
    [
        ("lightning", "2.6.2", False),
        ("lightning", "2.6.3", False),
        ("lightning", "2.6.6", True),
        ("torch", "2.10.0", False),
        ("torch", "2.13.0", True),
        ("torch", "2.14.0", False),
    ],
)
def test_version_bounds(package, version, allowed):
    from packaging.requirements import Requirement

    (found,) = (r for r in map(Requirement, PROJECT["dependencies"]) if r.name == package)
    assert found.specifier.contains(version) is allowed


def test_version_is_said_once():
    import core

    assert core.__version__ == PROJECT["version"]
    assert f"[{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_dependency_replaces_torch():
    extras = [item for group in PROJECT["optional-dependencies"].values() for item in group]
    names = {name_of(item) for item in PROJECT["dependencies"] + extras}
    assert names.isdisjoint({"torchvision", "timm"})


@pytest.mark.parametrize(
    "document",
    ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))],
)
def test_links_between_documents_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), f"{document} links to {target}"


def test_commands_in_the_readme_exist(python):
    """Each `apps/APP/run.py VERB ... --option` in README.md is a verb with these options."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = set(re.findall(r"apps/([a-z]+)/run\.py ([a-z]+)([^`\n#]*)", text))
    assert {app for app, _, _ in commands} == {"driving", "medical", "timeseries"}
    verbs = {(app, verb) for app, verb, _ in commands}
    helps = {key: python(f"apps/{key[0]}/run.py", key[1], "--help") for key in verbs}
    for app, verb, rest in commands:
        shown = helps[app, verb]
        assert shown.returncode == 0, f"README names the verb {verb}, which does not exist"
        for option in re.findall(r"(?<!\S)--[a-z-]+", rest):
            assert option in shown.stdout, f"README gives {option} to {verb}"


def test_readme_says_what_it_is_not():
    first_screen = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40])
    assert "make quickstart" in first_screen
    assert "make test" in first_screen
    assert "Not a medical device" in first_screen


def make(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    if path is not None:
        environment["PATH"] = path
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


@needs_make
def test_make_alone_says_what_there_is():
    done = make()
    assert done.returncode == 0
    assert "make quickstart" in done.stdout
    assert "make test" in done.stdout


@needs_make
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 1", "does not run"),
        # Runs, but is another version: only the empty program succeeds.
        ('[ -z "$2" ]', "Python 3.11, 3.12 or 3.13 is needed"),
        # The right version without the part that Debian packages separately.
        (
            f'case "$2" in *ensurepip*) exit 1;; esac; exec "{sys.executable}" "$@"',
            "sudo apt-get install -y python3.",
        ),
    ],
)
def test_make_refuses_an_unusable_python_and_says_the_fix(tmp_path, script, said):
    fake = tmp_path / "fake-python"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    done = make(f"PYTHON={fake}", f"VENV={tmp_path / 'venv'}", "quickstart")
    assert done.returncode != 0
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("make"))
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "venv").exists()


@needs_make
def test_make_installs_only_when_needed(tmp_path):
    """With stamps newer than what they depend on, neither target installs anything."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    stamps = (".installed", ".installed-demos", ".installed-dev")
    for name in ("bin/python", *stamps):
        (venv / name).touch()
    fresh = make("-n", f"VENV={venv}", "quickstart", "demo", "test")
    assert fresh.returncode == 0, fresh.stderr
    assert "pip install" not in fresh.stdout
    for stamp in stamps:
        os.utime(venv / stamp, (0, 0))
    assert make("-n", f"VENV={venv}", "quickstart").stdout.count("-m pip install") == 2
