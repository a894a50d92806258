"""The demos as one application: a page for each domain.

    streamlit run demos/app.py

Each page is a script of its own and also runs alone: ``streamlit run demos/medical.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

PAGES = {
    "home.py": "Home",
    "medical.py": "Segmentation",
    "timeseries.py": "Forecasting",
    "driving.py": "Driving",
}
LOOKS = """
/* A table wider than a telephone scrolls by itself; the page stays where it is. */
[data-testid=stMarkdownContainer] table {display: block; overflow-x: auto}
/* Streamlit leaves room above the title for a toolbar that is not there. */
[data-testid=stMainBlockContainer] {padding-top: 3.5rem}
"""


def main() -> None:
    """Draw the navigation, then the page chosen."""
    # No icons: Streamlit fetches its icon font from the network.
    st.set_page_config(page_title="Triptych", layout="wide", initial_sidebar_state="auto")
    st.html(f"<style>{LOOKS}</style>")
    here = Path(__file__).resolve().parent
    pages = {
        name: st.Page(here / name, title=title, default=name == "home.py")
        for name, title in PAGES.items()
        if (here / name).exists()
    }
    st.session_state["pages"] = pages  # for links from one page to another
    st.navigation(list(pages.values())).run()


main()
