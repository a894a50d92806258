"""What every page keeps to: read from its source and from the server's configuration."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

DEMOS = Path(__file__).resolve().parents[2] / "demos"
SOURCES = sorted(DEMOS.rglob("*.py"))
DRAWN = {"image", "plotly_chart", "dataframe", "video"}
FIELDS = {
    *("button", "checkbox", "download_button", "file_uploader", "multiselect", "number_input"),
    *("pills", "radio", "segmented_control", "select_slider", "selectbox", "slider", "text_area"),
    *("text_input", "toggle"),
}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every ``something.name(...)`` of a file: the name, the call."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            if owner in ("Image", "np", "st.column_config"):
                continue
            yield node.func.attr, node


def test_there_are_pages():
    assert {"app.py", "home.py", "medical.py", "timeseries.py", "driving.py"} <= {
        path.name for path in SOURCES
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(DEMOS).as_posix())
def test_a_page_draws_for_everyone_and_asks_nobody_else(path):
    text = path.read_text(encoding="utf-8")
    assert ":material/" not in text, "Streamlit fetches its icon font from elsewhere"
    for name, call in calls(path):
        given = {keyword.arg for keyword in call.keywords}
        where = f"line {call.lineno}: {name}"
        assert ast.unparse(call.func) != "st.map", f"{where} fetches tiles from elsewhere"
        if name in DRAWN and ast.unparse(call.func).startswith(("st.", "column", "place", "box")):
            assert "alt" in given, f"{where} lacks alt="
        if name in FIELDS and "label_visibility" in given:
            (shown,) = (k.value for k in call.keywords if k.arg == "label_visibility")
            assert ast.unparse(shown) != "'hidden'", f"{where} hides its label from everybody"
        if name == "file_uploader":
            assert "max_upload_size" in given, f"{where} has no limit"


def test_the_server_stays_on_this_machine_and_keeps_details_to_the_terminal():
    values = tomllib.loads((DEMOS / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    assert values["server"]["address"] == "127.0.0.1"
    assert values["server"]["maxUploadSize"] <= 1024
    assert values["server"]["fileWatcherType"] == "none"
    assert values["browser"]["gatherUsageStats"] is False
    assert values["client"]["showErrorDetails"] == "none"
    assert not [value for value in map(str, values["theme"].values()) if "://" in value]


def test_streamlit_knows_every_name_of_the_configuration():
    config = pytest.importorskip("streamlit.config")
    values = tomllib.loads((DEMOS / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    for section, options in values.items():
        for name in options:
            config.get_option(f"{section}.{name}")  # raises where there is none
