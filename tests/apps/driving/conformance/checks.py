"""The list of checks, read from the programs without importing them, and how one is run.

``python tests/apps/driving/conformance/checks.py`` runs all of them against CARLA_HOST:CARLA_PORT
and prints the table of the client's calls that they use (see ``coverage_table``).
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).resolve().parent / "programs"


@dataclass(frozen=True)
class Outcome:
    """What a check's process left: its JSON line, or what is known of its death."""

    check: str
    passed: bool
    skipped: str = ""
    error: str = ""
    measured: dict[str, Any] = field(default_factory=dict)
    calls: tuple[str, ...] = ()
    seconds: float = 0.0
    timed_out: bool = False


def all_checks() -> list[str]:
    """``program.check`` of every function ``check_*``, in the order of the files."""
    found = []
    for path in sorted(PROGRAMS.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("check_"):
                found.append(f"{path.stem}.{node.name[6:]}")
    return found


def run_check(check: str, environment: dict[str, str], timeout: float) -> Outcome:
    """One check in a process of its own: the client aborts its process when a server misbehaves."""
    program, name = check.split(".", 1)
    command = [sys.executable, str(PROGRAMS / f"{program}.py"), name]
    try:
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired as late:
        said = late.stderr.decode() if isinstance(late.stderr, bytes) else late.stderr or ""
        error = f"not done after {timeout:.0f} s\n{said[-2000:]}"
        return Outcome(check, False, error=error, timed_out=True)
    lines = [x for x in done.stdout.splitlines() if x.startswith('{"check"')]
    if not lines:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit {done.returncode}"
        return Outcome(check, False, error=f"the client ended by {how}\n{done.stderr[-2000:]}")
    line = json.loads(lines[-1])
    error = line.get("error", "")
    if error:
        error = f"{error}\n{done.stderr[-3000:]}"
    elif done.returncode:
        # The check itself passed; the process died while the client was shutting down.
        error = f"passed, then ended with {done.returncode}\n{done.stderr[-2000:]}"
    return Outcome(
        check,
        not error,
        line.get("skipped", ""),
        error,
        line.get("measured", {}),
        tuple(line.get("calls", ())),
        line["seconds"],
    )


def public_calls() -> list[str]:
    """Every public method of the client's classes that asks or tells a server something."""
    import carla

    classes = (
        "Client", "World", "Map", "BlueprintLibrary", "ActorBlueprint", "ActorList", "Actor", "Vehicle",
        "Walker", "WalkerAIController", "TrafficSign", "TrafficLight", "Sensor", "TrafficManager",
        "WorldSnapshot", "LightManager", "DebugHelper", "Waypoint", "Image", "LidarMeasurement",
        "SemanticLidarMeasurement", "RadarMeasurement",
    )  # fmt: skip
    found = []
    for name in classes:
        for method, value in vars(getattr(carla, name)).items():
            if not method.startswith("_") and type(value).__name__ == "function":
                found.append(f"{name}.{method}")
    for name, value in vars(carla.command).items():
        if isinstance(value, type) and name not in ("FutureActor", "Response"):
            found.append(f"command.{name}")
    return found


def coverage_table(outcomes: list[Outcome]) -> str:
    """Markdown: each call of the client, and the checks that passed with it."""
    users: dict[str, list[str]] = {call: [] for call in public_calls()}
    for outcome in outcomes:
        for call in outcome.calls:
            if outcome.passed and not outcome.skipped and call in users:
                users[call].append(outcome.check)
    covered = sum(bool(v) for v in users.values())
    rows = [f"{covered} of {len(users)} calls are used by a check that passes.", ""]
    rows += ["| call | checks |", "| --- | --- |"]
    for call, checks in users.items():
        shown = ", ".join(f"`{c}`" for c in checks[:3])
        more = f" and {len(checks) - 3} more" if len(checks) > 3 else ""
        rows.append(f"| `{call}` | {shown + more if checks else 'none'} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Run the checks whose names match the argument (a regular expression), print the table."""
    wanted = re.compile(sys.argv[1] if len(sys.argv) > 1 else "")
    outcomes = []
    for check in all_checks():
        if wanted.search(check):
            outcome = run_check(check, {}, 300)
            outcomes.append(outcome)
            state = "skipped" if outcome.skipped else "passed" if outcome.passed else "FAILED"
            note = outcome.skipped or outcome.error.split("\n")[0] or json.dumps(outcome.measured)
            print(
                f"{state:8}{outcome.check:40}{outcome.seconds:6.1f} s  {note[:200]}",
                file=sys.stderr,
            )
    print(coverage_table(outcomes), end="")
    sys.exit(int(not all(o.passed for o in outcomes)))


if __name__ == "__main__":
    main()
