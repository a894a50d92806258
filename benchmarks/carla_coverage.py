"""Write docs/carla-coverage.md: what becomes of CARLA's calls in the embedded world.

    python benchmarks/carla_coverage.py

Runs the conformance programs against a world of its own, so that the table of the client's methods
says which checks passed with each; the table of the server's calls comes from the server's code.
Needs ``pip install -e ".[driving]"``; takes two minutes.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

DOCUMENT = ROOT / "docs" / "carla-coverage.md"
CHECKS = ROOT / "tests" / "apps" / "driving" / "conformance" / "checks.py"
HEAD = """# CARLA's calls in the embedded world

Written by `python benchmarks/carla_coverage.py`; the client is CARLA 0.9.16's. What the world is and
is not: [driving.md](driving.md).

"""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines) + "\n"


def server_calls() -> str:
    """What becomes of each remote call and each command of a batch, as Markdown."""
    from apps.driving.world.protocol import calls

    rows: list[dict[str, Any]] = calls.table()
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    said = ", ".join(f"{n} {status}" for status, n in counts.items())
    remote = table(
        ["call", "made by", "what becomes of it", "note"],
        [
            [f"`{r['call']}`", r["python"].replace("|", "\\|"), r["status"], r["note"]]
            for r in sorted(rows, key=lambda r: str(r["call"]))
        ],
    )
    commands = table(
        ["command", "as", "what becomes of it"],
        [[f"`{r['command']}`", f"`{r['call']}`", r["status"]] for r in calls.command_table()],
    )
    return (
        f"## The server's calls\n\n{said}. Refused means an error at once that names the call.\n\n"
        f"{remote}\n## Commands of a batch\n\n{commands}"
    )


def conformance() -> ModuleType:
    """tests/apps/driving/conformance/checks.py, which is part of no package."""
    spec = importlib.util.spec_from_file_location("conformance_checks", CHECKS)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    from apps.driving.world import serve
    from core.files import write_text

    checks = conformance()
    outcomes = []
    with serve(ROOT / "samples" / "Town01.xodr") as port:
        place = {"CARLA_HOST": "127.0.0.1", "CARLA_PORT": str(port), "CARLA_EMBEDDED": "1"}
        for name in checks.all_checks():
            outcome = checks.run_check(name, place, 300)
            state = "skipped" if outcome.skipped else "passed" if outcome.passed else "FAILED"
            print(f"{state:8}{name}", file=sys.stderr, flush=True)
            outcomes.append(outcome)
    failed = [o.check for o in outcomes if not o.passed]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    text = f"{HEAD}{server_calls()}\n## The client's methods\n\n{checks.coverage_table(outcomes)}"
    write_text(DOCUMENT, text, force=True)


if __name__ == "__main__":
    main()
