"""The first page, without a browser."""

from __future__ import annotations

import json


def test_it_says_what_it_is_and_is_not(open_page):
    app = open_page("home")
    assert app.title[0].value == "Triptych"
    assert "Not a medical device" in app.info[0].value
    assert "nothing you open here leaves it" in app.markdown[0].value


def test_every_shipped_model_and_agent_is_listed(open_page, root):
    app = open_page("home")
    names = {name for frame in app.dataframe for name in frame.value["name"]}
    shipped = {path.parent.name for path in (root / "weights").glob("*/model.json")}
    assert shipped
    assert shipped <= names
    assert {"seasonal-naive", "expert", "swin_t", "mamba_130m"} <= names


def test_figures_are_those_of_the_results(open_page, root):
    app = open_page("home")
    text = "\n".join(element.value for element in app.markdown)
    stored = json.loads((root / "benchmarks/results/nuclei_cv.json").read_text(encoding="utf-8"))
    for model in stored["models"].values():
        (label,) = model["labels"].values()
        assert f"{label['dice']['mean']:.3f} [{label['dice']['low']:.3f}" in text


def test_a_damaged_result_is_told_and_the_rest_is_shown(open_page, root, monkeypatch):
    import benchmarks.tables

    def broken(results):
        raise KeyError("models")

    monkeypatch.setattr(benchmarks.tables, "sections", broken)
    app = open_page("home")
    (error,) = app.error
    assert error.value.startswith("The list of results failed")
    assert app.dataframe


def test_no_link_leads_to_a_file_this_server_does_not_serve(open_page):
    import re

    app = open_page("home")
    for element in [*app.markdown, *app.caption]:
        assert not re.search(r"\]\((?!https?:)", element.value)


def test_every_document_that_is_named_is_there(open_page, root):
    import re

    app = open_page("home")
    (listed,) = (e.value for e in app.markdown if e.value.startswith("In the repository"))
    names = re.findall(r"- `([^`]+)`", listed)
    assert len(names) > 5
    assert [name for name in names if not (root / name).exists()] == []
