"""Which data the page works on: a sample that comes with the program, or a file of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

from demos.shared.uploads import receive
from demos.shared.words import guarded

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".txt", ".parquet", ".pq", ".xlsx", ".xlsm")
LIMIT_MB = 100

_ETT = (
    "Loads and oil temperature of an electricity transformer in China, July 2016 to June 2018. "
    "H. Zhou et al., Informer, AAAI 2021 (ETDataset), CC BY-ND 4.0."
)


@dataclass(frozen=True)
class Source:
    """A file, and how to read it where that is known already (options of ``read_panel``)."""

    path: Path
    about: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


BUILT_IN = {
    "ETTh1: seven variates, hourly": Source(SAMPLES / "ETTh1.csv", _ETT),
    "ETTh1: oil temperature, mean of each day": Source(
        SAMPLES / "ETTh1.csv", _ETT, {"targets": ["OT"], "freq": "D", "agg": "mean"}
    ),
}


def choose() -> Source | None:
    """Draw the choice; None while there is nothing to work on."""
    own = "Your own file"
    there = {name: source for name, source in BUILT_IN.items() if source.path.exists()}
    name = st.selectbox("Data", [*there, own], key="forecasting-data")
    if name != own:
        st.caption(there[name].about)
        return there[name]
    given = st.file_uploader(
        "CSV, Excel or Parquet file",
        key="forecasting-file",
        max_upload_size=LIMIT_MB,
        help="Wide: a column of stamps and a column for each variate. Long: unique_id, ds, y and "
        f"covariates, a row for each series and stamp. Up to {LIMIT_MB} MB; it stays on this machine.",
    )
    if given is None:
        st.info(
            "Choose a file: wide (a column of stamps, one for each variate) or long (id, ds, y)."
        )
        return None
    with guarded("The upload"):
        return Source(receive(given, suffixes=SUFFIXES, limit_mb=LIMIT_MB))
    return None
