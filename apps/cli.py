"""The ``triptych`` command: every application's verbs under its name.

``triptych medical predict ...`` is the same code as ``python apps/medical/run.py predict ...``.
"""

from __future__ import annotations

from apps.driving.run import app as driving
from apps.medical.run import app as medical
from apps.timeseries.run import app as timeseries
from core import cli

app = cli.make_app(
    "triptych",
    "Triptych: segment medical images (research use only), forecast time series, drive in a world "
    "that CARLA's client knows.",
)
app.add_typer(medical, name="medical")
app.add_typer(timeseries, name="timeseries")
app.add_typer(driving, name="driving")


def main() -> int:
    """Entry point of the console script; returns the exit code."""
    return cli.main(app)
