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


def main() -> None:
    """Draw the navigation, then the page chosen."""
    # No icons: Streamlit fetches its icon font from the network.
    st.set_page_config(page_title="Triptych", layout="wide", initial_sidebar_state="auto")
    here = Path(__file__).parent
    pages = [
        st.Page(here / name, title=title, default=name == "home.py")
        for name, title in PAGES.items()
        if (here / name).exists()
    ]
    st.navigation(pages).run()


main()
