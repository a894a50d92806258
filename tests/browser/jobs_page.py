"""A page for tests/browser/test_jobs.py: it counts in the background."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import streamlit as st

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from core.errors import DataError  # noqa: E402
from core.progress import Progress  # noqa: E402
from demos.shared import jobs  # noqa: E402
from demos.shared.keys import key_of  # noqa: E402

name = st.text_input("Name", "first")
steps = st.number_input("Steps", 1, 10_000, 5)
fails = st.checkbox("Fail at the end")
key = key_of(name, steps, fails)


def work(progress: Progress) -> str:
    """Count, a tenth of a second each; leaves a file that says where."""
    (jobs.workspace(key) / "begun.txt").write_text(name, encoding="utf-8")
    with progress.task("Count", total=steps) as task:
        for _ in range(steps):
            time.sleep(0.1)
            task.advance(note=name)
    if fails:
        raise DataError(f"{jobs.workspace(key)}/data.csv: one more than I can count")
    return f"{name} counted to {steps}"


if st.button("Count"):
    st.session_state["counting"] = key
st.caption(f"Folder: {jobs.workspace(key).parent}")
if st.session_state.get("counting") == key:
    job = jobs.submit(key, "The count", work)
    if jobs.watch(job):
        st.success(job.result)
