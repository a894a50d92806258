"""The first page: what this is, what can be chosen, what was measured, which versions run here.

Everything is read from files of the repository; nothing heavy is imported.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from apps.driving.agents.catalog import names as list_agents  # noqa: E402
from apps.medical.shipped import list_models as list_segmenters  # noqa: E402
from apps.timeseries.listing import list_models as list_forecasters  # noqa: E402
from benchmarks.tables import sections  # noqa: E402
from core.reporting import environment  # noqa: E402
from demos.shared.words import DISCLAIMER, guarded  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PAGES = {
    "medical.py": (
        "Segmentation",
        "From a scan or a picture to a mask on its own grid, with volumes, uncertainty, warnings and "
        "a report. NIfTI, DICOM and pictures in; NIfTI, DICOM-SEG, CSV and PDF out.",
    ),
    "timeseries.py": (
        "Forecasting",
        "From a table to its future, with intervals whose coverage was measured, compared with simple "
        "baselines on the past. CSV, Excel and Parquet in.",
    ),
    "driving.py": (
        "Driving",
        "Drivers in a simulated town: what they saw, what they planned, what they did, and the score "
        "of the CARLA Leaderboard's formulas.",
    ),
}
SUBJECTS = {"medical": "Segmentation", "timeseries": "Forecasting", "driving": "Driving"}
DOCUMENTS = {
    "README.md": "installing, the commands, all results",
    "docs/python.md": "the functions of each application",
    "notebooks/": "a tutorial for each application",
    "docs/architecture.md": "how the code is built and how a file becomes a result",
    "docs/clinical.md": "from the scanner to a report, and what was checked",
    "docs/forecasting.md": "settings, leaks, intervals",
    "docs/driving.md": "the world that CARLA's client drives in",
    "docs/driving-agent.md": "expert, recordings, training, scores",
    "weights/README.md": "the shipped models: data, results, licence, known failures",
    "samples/README.md": "where the sample data comes from",
    "CONTRIBUTING.md": "adding a backbone, a forecaster, a verb, a benchmark",
}
FIGURES = """
/* A figure and its interval stand on one line; a table that is too wide for that scrolls. */
.st-key-results table {font-size: .8rem}
.st-key-results :is(td, th) {padding: .25rem .5rem; white-space: nowrap}
.st-key-results :is(td, th):first-child {min-width: 9rem; white-space: normal}
"""


def main() -> None:
    """Draw the page."""
    st.title("Triptych")
    st.markdown(
        "Segment medical images, forecast time series, and watch an end-to-end driver. Three "
        "applications on one skeleton of attention, state-space (Mamba) and convolution backbones "
        "that works in one, two and three dimensions, on a machine without a GPU. **Everything runs "
        "on this machine: nothing you open here leaves it.**"
    )
    _doors()
    st.info(f"**Segmentation:** {DISCLAIMER}")

    st.header("What was measured")
    with guarded("The list of results"), st.container(key="results"):
        _results()
    st.header("What can be chosen")
    with guarded("The list of models"):
        _choices()
    st.header("Documents and versions")
    with guarded("The list of versions"):
        _versions()


def _doors() -> None:
    """A card for each page that is there, with what opens it."""
    there: Mapping[str, Any] = st.session_state.get("pages", {})  # app.py says which; alone, none
    for column, (name, (title, text)) in zip(st.columns(3), PAGES.items(), strict=True):
        with column, st.container(border=True, height="stretch"):
            st.subheader(title)
            st.markdown(text)
            if name in there:
                st.page_link(there[name], label=f"**Open {title.lower()} →**")
            else:
                st.caption(f"`streamlit run demos/{name}`")


def _results() -> None:
    """The README's result tables, by subject."""
    st.html(f"<style>{FIGURES}</style>")
    found = sections(RESULTS)
    tabs = st.tabs([*SUBJECTS.values(), "Core"])
    for tab, subject in zip(tabs, [*SUBJECTS, "core"], strict=True):
        with tab:
            texts = [text for about, text in found if about == subject]
            for text in texts:
                _markdown(text)
            if not texts:
                st.markdown("No results are stored.")
    for about, text in found:
        if about == "note":
            st.caption(_local(text))


def _markdown(text: str) -> None:
    """A part of the README: its pictures from the repository, its links to files as their names."""
    for alt, picture in re.findall(r"!\[([^]]*)\]\(([^)]+)\)", text):
        text = text.replace(f"![{alt}]({picture})", "")
        if (ROOT / picture).exists():
            st.image(ROOT / picture, alt=alt, width=640)
    st.markdown(_local(text))


def _local(text: str) -> str:
    """``[words](docs/page.md)`` as ``words``: this server does not serve the repository's files."""
    return re.sub(r"\[([^]]+)\]\((?!https?:)[^)]+\)", r"\1", text)


def _choices() -> None:
    """Models, baselines and agents of each application, and the core's backbones."""
    *tabs, core = st.tabs([*SUBJECTS.values(), "Backbones of the core"])
    lists = (list_segmenters, list_forecasters, list_agents)
    for tab, subject, listing in zip(tabs, SUBJECTS.values(), lists, strict=True):
        with tab, guarded(f"The list of {subject.lower()} models"):
            rows = [{"name": name, "what it is": about} for name, about in listing().items()]
            _table(rows, f"Models of {subject.lower()}: {len(rows)} names and what each is")
    with core:
        backbones = _stored("backbones")["backbones"]
        st.markdown(
            f"{len(backbones)} named backbones. Each works at rank 1, 2 and 3 and at any input size: "
            '`core.create("swin_t", rank=3, in_channels=1)`. Parameters are counted without a '
            "classifier: over pictures with three channels, volumes and sequences with one."
        )
        pyramids = [_backbone(row) for row in backbones if "1" not in row["parameters"]]
        trunks = [_backbone(row) for row in backbones if "1" in row["parameters"]]
        _table(pyramids, f"{len(pyramids)} pyramids: paper, million parameters, channels, strides")
        st.markdown("Sequence trunks, which also run position by position:")
        _table(trunks, f"{len(trunks)} sequence trunks: paper, million parameters, channels")


def _backbone(row: Mapping[str, Any]) -> dict[str, Any]:
    ranks = {"1": "million", "2": "2-D, million", "3": "3-D, million"}
    cells = {
        "name": row["name"],
        "paper": row["paper"],
        **{ranks[rank]: count / 1e6 for rank, count in row["parameters"].items()},
        "channels": ", ".join(map(str, row["channels"])),
    }
    if row["strides"] != [1]:
        cells["strides"] = ", ".join(map(str, row["strides"]))
    return cells


def _table(rows: list[dict[str, Any]], alt: str) -> None:
    """Rows that can be sorted, searched and scrolled sideways."""
    numbers = {
        name: st.column_config.NumberColumn(format="%.1f")
        for name in rows[0]
        if name.endswith("million")
    }
    st.dataframe(rows, hide_index=True, column_config=numbers, alt=alt)


def _versions() -> None:
    """Where to read more in the clone, and what runs here."""
    left, right = st.columns(2)
    with left:
        st.markdown(
            "In the repository:\n\n"
            + "\n".join(f"- `{name}`: {about}" for name, about in DOCUMENTS.items())
        )
    about = environment()
    commit = "no git clone" if about["commit"] is None else str(about["commit"])[:10]
    rows = {
        "Triptych": f"{about['packages'].get('triptych') or _version()} ({commit})",
        "Python": about["python"],
        **{name: version for name, version in about["packages"].items() if version},
        "Streamlit": st.__version__,
        "Machine": f"{about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB",
    }
    rows.pop("triptych", None)
    with right:
        lines = "\n".join(f"| {name} | {version} |" for name, version in rows.items())
        st.markdown(f"| what | version |\n|---|---|\n{lines}")


def _version() -> str:
    import core

    return core.__version__


def _stored(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return value


main()
