"""What a model, a forecast, a backtest or a comparison is worth, in one page: HTML and Markdown.

``report.html`` carries its pictures in itself and asks no network; ``report.md`` has the same text
and tables and names the pictures beside it.  Everything is taken from what ``fit``, ``forecast``,
``backtest`` and ``compare`` measured and wrote; only a model's errors by horizon and its residuals,
which no folder holds, are computed anew, from the file (``data``) and from rows after the model's
training alone.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from apps.timeseries import catalog, plots
from apps.timeseries.matching import listed
from core.errors import DataError, UsageError
from core.files import read_json, require_writable, results_folder, sha256, write_text
from core.progress import Progress, SilentProgress
from core.weights.folder import METADATA, TENSORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from apps.timeseries.store import LoadedModel

HTML, MARKDOWN = "report.html", "report.md"
PICTURES = ("error_by_horizon.png", "coverage.png", "residuals.png", "forecast.png")
ORIGINS = 500
"""Test origins of a model whose errors by horizon are computed, at most."""
LAGS = 60
ROWS = 30
"""Rows of a table at most; the JSON files hold the rest."""

LIMITS = (
    "Coverage is that of past errors: where the series changes its ways, intervals hold less.",
    "pointwise: each value of a path lies inside with the stated probability, a whole path lies "
    "inside far less often.",
    "Errors are means over the rows that were measured; a single forecast may be far worse.",
    "What drives the series and is not in the file, the model cannot know.",
)


@dataclass
class Table:
    """Numbers are right-aligned; ``rows`` are text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Picture:
    """A figure to draw, or a PNG's bytes; ``text`` is its caption."""

    name: str
    text: str
    figure: Figure | None = None
    data: bytes = b""

    def png(self) -> bytes:
        """The bytes of the picture's file."""
        return self.data if self.figure is None else plots.png(self.figure)


@dataclass
class Points:
    """A list of sentences."""

    lines: Sequence[str]


Block = str | Table | Picture | Points


@dataclass
class Document:
    """A title and sections of text, lists, tables and pictures."""

    title: str
    sections: list[tuple[str, list[Block]]] = field(default_factory=list)

    def add(self, title: str, *blocks: Block) -> None:
        """A section; empty ones are left out."""
        if blocks:
            self.sections.append((title, list(blocks)))


def report(
    source: str | Path,
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    force: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
    **reading: Any,
) -> dict[str, Any]:
    """Write report.html and report.md about a model folder (or shipped name) or a folder of results.

    Results are those of ``forecast``, ``backtest`` or ``compare``.  The page goes to ``out``, by
    default ``source``/report.  ``data``: the file that a model is measured on by horizon
    (``reading`` goes to ``read_panel``).  Returns what was written and on what.

    Raises UsageError for a folder that is none of these and for reports that exist; DataError where
    it is damaged.
    """
    folder, kind = _kind(source)
    if data is not None and kind != "model":
        raise UsageError(f"--data is for model folders; {folder} is a {kind}")
    place = Path(out) if out is not None else folder / "report"
    names = (HTML, MARKDOWN, *PICTURES)
    require_writable(place, names, force)
    if kind == "model":
        document = _of_model(folder, data, device, progress or SilentProgress(), reading)
    elif kind == "forecast":
        document = _of_forecast(folder)
    else:
        document = _of_backtest(folder)
    with results_folder(place, names, force=force) as temporary:
        pictures = [b for _, blocks in document.sections for b in blocks if isinstance(b, Picture)]
        drawn = {picture.name: picture.png() for picture in pictures}
        for name, content in drawn.items():
            (temporary / name).write_bytes(content)
        write_text(temporary / HTML, to_html(document, drawn))
        write_text(temporary / MARKDOWN, to_markdown(document))
    return {
        "kind": kind,
        "source": str(folder),
        "folder": str(place),
        "files": [HTML, MARKDOWN, *drawn],
        "sections": [title for title, _ in document.sections],
    }


def print_report(written: Mapping[str, Any]) -> None:
    """Where it lies, for a person, on standard output."""
    print(f"{written['kind']} {written['source']}: {', '.join(written['sections'])}")
    print(f"{written['folder']}: {', '.join(written['files'])}")


def to_html(document: Document, pictures: Mapping[str, bytes]) -> str:
    """The document as one page with its pictures inside."""
    parts = []
    for title, blocks in document.sections:
        parts.append(f"<h2>{html.escape(title)}</h2>")
        for block in blocks:
            if isinstance(block, str):
                parts.append(f"<p>{html.escape(block)}</p>")
            elif isinstance(block, Picture):
                image = plots.embedded(pictures[block.name], block.text)
                parts.append(f"<p>{image}<br>{html.escape(block.text)}</p>")
            elif isinstance(block, Points):
                lines = "".join(f"<li>{html.escape(line)}</li>" for line in block.lines)
                parts.append(f"<ul>{lines}</ul>")
            else:
                parts.append(_html_table(block))
    return plots.page(document.title, "\n".join(parts))


def to_markdown(document: Document) -> str:
    """The document in Markdown; pictures are files beside it."""
    lines = [f"# {_plain(document.title)}", ""]
    for title, blocks in document.sections:
        lines += [f"## {title}", ""]
        for block in blocks:
            if isinstance(block, str):
                lines += [_plain(block), ""]
            elif isinstance(block, Picture):
                lines += [f"![{_plain(block.text)}]({block.name})", ""]
            elif isinstance(block, Points):
                lines += [*(f"- {_plain(line)}" for line in block.lines), ""]
            else:
                right = [
                    "---",
                    *["---:" if len(block.header) > 2 else "---"] * (len(block.header) - 1),
                ]
                for row in (block.header, None, *block.rows):
                    lines.append(f"| {' | '.join(right if row is None else map(_plain, row))} |")
                lines.append("")
    return "\n".join(lines)


def _kind(source: str | Path) -> tuple[Path, str]:
    from core.shipped import find_model

    folder = Path(source)
    if not folder.exists():
        folder = find_model(source, "timeseries")
    for name, kind in ((METADATA, "model"), ("forecast.json", "forecast")):
        if (folder / name).is_file():
            return folder, kind
    if (folder / "report.json").is_file() and (folder / "backtest.csv").is_file():
        # A backtest that overwrote a comparison leaves compare.csv behind: the report decides.
        return folder, "comparison" if "ranks" in read_json(folder / "report.json") else "backtest"
    raise UsageError(
        f"{folder}: holds no model, forecast or backtest ({METADATA}, forecast.json or report.json); "
        "give a folder that fit, forecast, backtest or compare wrote"
    )


def _of_model(
    folder: Path, data: str | Path | None, device: str, progress: Progress, reading: dict[str, Any]
) -> Document:
    from apps.timeseries.store import load

    loaded = load(folder, device)
    spec, shape = loaded.spec, loaded.spec.network.shape
    entry = catalog.model(spec.network.name)
    document = Document(f"Model {spec.name}: {shape.horizon} steps from {shape.lookback}")
    document.add("In short", *_verdict(spec.metrics.get("test", {}), entry.name))
    about = {
        "network": f"{entry.name}: {entry.summary} ({entry.paper})",
        "parameters": f"{sum(p.numel() for p in loaded.network.parameters()):,}",
        "weights": f"sha256 {sha256(folder / TENSORS)}",
        "options": _pairs(spec.network.options),
        "quantiles": ", ".join(f"{q:g}" for q in spec.quantiles) or "none",
        "intended use": spec.intended_use or "not stated",
        "licence": spec.licence or "not stated",
    }
    document.add("Model", _facts(about))
    document.add("Data", *_data_of(loaded))
    training = dict(spec.training)
    recipe = training.pop("recipe", {})
    document.add("Training", _facts({"recipe": _pairs(recipe), **_flat(training)}))
    test = spec.metrics.get("test", {})
    if test:
        rows = [[entry.name, *_errors(test)]]
        rows += [[name, *_errors(found)] for name, found in test.get("naive", {}).items()]
        windows = f"Over {test.get('windows', 0):,} windows after training and validation, in scaled units."
        document.add("Test errors", windows, Table(("", "MSE", "MAE"), rows))
    levels = spec.coverage.get("levels", [])
    document.add("Coverage of intervals", *_coverage(levels))
    if data is not None:
        document.add(
            "On the file's rows after training", *_measured(loaded, data, reading, progress)
        )
    document.add("Limits", Points(LIMITS))
    return document


def _of_forecast(folder: Path) -> Document:
    found = read_json(folder / "forecast.json")
    try:
        model, about = dict(found["model"]), found["data"]
        document = Document(f"Forecast of {about['file']} with {model['name']}")
        cutoffs = sorted(set(found["cutoffs"].values()))
        facts = {
            "steps": str(found["horizon"]),
            "series": f"{found['series']:,}",
            "after": " to ".join(dict.fromkeys((cutoffs[0], cutoffs[-1]))),
            "data": f"{about['file']}, sha256 {about['sha256']}",
            "frequency": str(about["freq"]),
            "intervals": _pairs(found["intervals"]),
        }
        document.add("Forecast", _facts(facts), *_file(folder / "forecast.png", "The forecast"))
        document.add("Coverage of intervals", *_coverage(found["coverage"]))
        document.add("Model", _facts(_flat(model)))
        if found["notes"]:
            document.add("Notes", Points(found["notes"]))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / 'forecast.json'}: lacks {error}; forecast again") from error
    document.add("Limits", Points(LIMITS))
    return document


def _of_backtest(folder: Path) -> Document:
    """Of a comparison as well, which is a backtest with ranks and pairs."""
    from apps.timeseries.backtest_report import title
    from apps.timeseries.compare import CAPTION, HEADING, pair_lines, pair_table

    found = read_json(folder / "report.json")
    compared = "ranks" in found
    try:
        loss, scores = found["loss"], found["scores"]
        document = Document(title(found))
        conclusion = [found["conclusion"]] if compared else []
        document.add(
            "In short", *conclusion, found["verdict"], Points(list(found["verdicts"].values()))
        )
        if compared:
            table, lines = Table(*pair_table(found)), Points(pair_lines(found))
            document.add(HEADING, f"{CAPTION}:", table, lines)
        facts = {
            "windows": f"{found['windows']} of {found['horizon']} steps, {found['step']} rows apart",
            "series": f"{found['evaluated']:,} measured",
            "data": f"{found['file']}, sha256 {found['sha256']}",
            "frequency and season": f"{found['freq']}, {found['season']} rows",
            "learnt from rows up to": str(found["trained_until"]),
            "first and last cutoff": f"{found['cutoffs'][0]}, {found['cutoffs'][-1]}",
        }
        document.add("How", _facts(facts))
        measures = ("mae_scaled", "mse_scaled", "rmse", "mase", "smape", "crps_scaled")
        rows = [[name, *(_number(s.get(m)) for m in measures)] for name, s in scores.items()]
        document.add("Errors", Table(("", *measures), rows))
        by_step = {
            name: np.asarray(s["per_horizon"][f"{loss}_scaled"], float)
            for name, s in list(scores.items())[:5]
        }
        figure = plots.draw_by_horizon(by_step, f"{loss.upper()}, scaled")
        text = f"{loss.upper()} (scaled) of the first {len(by_step)} methods at each step ahead"
        document.add("Error by horizon", Picture(PICTURES[0], text, figure))
        rows = [
            [name, f"{level} %", f"{100 * i['coverage']:.1f} %", _number(i["width_scaled"])]
            for name, s in scores.items()
            for level, i in s["intervals"].items()
            if i["coverage"] is not None
        ]
        document.add(
            "Coverage of intervals",
            *([Table(("", "pointwise level", "measured", "width (scaled)"), rows)] if rows else []),
        )
        name = (found["named"] or list(scores))[0]
        residuals, series = _residuals(folder / "backtest.csv", name, found["step"])
        document.add(
            "Residuals", *_autocorrelations(residuals, f"{name}, series {series}", found["season"])
        )
        document.add(
            "Notes", Points([*found["notes"], *(f"{k}: {v}" for k, v in found["rules"].items())])
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        again = "compare again" if compared else "backtest again"
        raise DataError(f"{folder / 'report.json'}: lacks {error}; {again}") from error
    document.add("Limits", Points(LIMITS))
    return document


def _verdict(test: Mapping[str, Any], name: str) -> list[Block]:
    naive = test.get("naive", {})
    if not naive:
        return [
            "No test error was measured, so nothing says that this model beats a naive forecast."
        ]
    best = min(naive, key=lambda n: naive[n]["mse"])
    change = test["mse"] / naive[best]["mse"] - 1 if naive[best]["mse"] else float("nan")
    word = "below" if change < 0 else "above"
    text = (
        f"On the test rows the mean squared error of {name} is {abs(100 * change):.1f} % {word} that of "
        f"the best naive forecast ({best}): {test['mse']:.4g} against {naive[best]['mse']:.4g}."
    )
    return [text if change < 0 else text + " Use the naive forecast."]


def _data_of(loaded: LoadedModel) -> list[Block]:
    data = loaded.spec.data
    facts = {
        "file": f"{data.file}, sha256 {data.sha256}",
        "layout": f"{data.layout}, {len(data.series):,} series, {data.rows:,} rows",
        "frequency and season": f"{data.freq}, {data.season} rows",
        "targets": listed(data.targets),
        "covariates": (
            f"past: {listed(data.past) or 'none'}; known: {listed(data.known) or 'none'}; static: "
            f"{listed(data.static) or 'none'}; calendar: {'yes' if data.marks else 'no'}"
        ),
        "borders (rows of the longest series)": _pairs(data.borders or {}),
        "trained or chosen on rows up to": str(data.trained_until),
        "scaler": "each target by the mean and population standard deviation of its training rows",
    }
    rows = [
        [f"{series}: {target}", _number(mean), _number(std)]
        for series, scaling in loaded.scalings.items()
        for target, mean, std in zip(data.targets, scaling.values.mean, scaling.values.std)
    ]
    return [_facts(facts), Table(("scaling", "mean", "standard deviation"), rows[:ROWS])]


def _measured(
    loaded: LoadedModel, data: str | Path, reading: dict[str, Any], progress: Progress
) -> list[Block]:
    """Errors by horizon beside naive ones, and residuals one step ahead, on the first series."""
    from apps.timeseries.data.panel import rows_until
    from apps.timeseries.matching import read_matching
    from apps.timeseries.methods import BaselinePredictor, Predictor
    from apps.timeseries.predictor import ModelPredictor

    panel = read_matching(Path(data), loaded.spec.data, reading)
    same = panel.sha256 == loaded.spec.data.sha256
    model, horizon = ModelPredictor(loaded), loaded.spec.network.shape.horizon
    series = panel.series[0]
    border = rows_until(series, model.trained_until)
    first = max(border, model.lookback)
    if len(series) - horizon < first:
        rows = max(0, len(series) - first)
        return [
            f"{panel.source} has {rows} rows after those that the model was trained on; {horizon} "
            "are needed to measure an error"
        ]
    every = np.arange(first, len(series) - horizon + 1)
    chosen = every[:: max(1, -(-len(every) // ORIGINS))]
    truth = series.values[chosen[:, None] + np.arange(horizon)]
    std = model.scaling(series, first).values.std
    methods: list[Predictor] = [model]
    methods += [
        BaselinePredictor(name) for name in ("seasonal-naive", "seasonal-mean", "last-value")
    ]
    errors = {}
    with progress.task("measure", total=len(methods)) as task:
        for method in methods:
            error = (method.predict(series, chosen.tolist(), horizon) - truth) / std
            errors[method.name] = np.nanmean(np.abs(error), axis=(0, 2))
            task.advance(note=method.name)
        last = every[-1000:] + horizon - 1  # one step ahead needs no more than one row
        residuals = series.values[last, 0] - model.predict(series, last.tolist(), 1)[:, 0, 0]
    name = panel.names(series)[0]
    text = f"Mean absolute error, scaled, over {len(chosen):,} origins of {series.id}"
    if not same:
        text += f", from {panel.source}, which is not the file of training"
    figure = plots.draw_by_horizon(errors, "MAE, scaled")
    return [
        Picture(PICTURES[0], text, figure),
        *_autocorrelations(residuals, f"{name}, one step ahead", model.season),
    ]


def _residuals(path: Path, model: str, step: int) -> tuple[np.ndarray, str]:
    """Truth minus forecast of a model's first series, joined in time: what no later window repeats."""
    columns = ["unique_id", "model", "cutoff", "ds", "y", "yhat"]
    parts, first = [], None
    texts = {"unique_id": str, "model": str}  # as converters, which know no NA: it may be a series
    for chunk in pd.read_csv(path, usecols=columns, converters=texts, chunksize=200_000):
        mine = chunk[chunk["model"] == model]
        if first is None and len(mine):
            first = str(mine["unique_id"].iloc[0])
        parts.append(mine[mine["unique_id"] == first])
    rows = pd.concat(parts)
    kept = rows.groupby("cutoff", sort=False).head(step)
    return (kept["y"] - kept["yhat"]).to_numpy(float), str(first)


def _autocorrelations(residuals: np.ndarray, what: str, season: int) -> list[Block]:
    count = int(np.isfinite(residuals).sum())
    lags = min(max(LAGS, 2 * season), count // 3)
    if lags < 2:
        return [f"{count} residuals are too few for an autocorrelation"]
    figure = plots.draw_autocorrelation(residuals, lags, f"residuals: {what}")
    text = (
        f"Autocorrelation of {count:,} residuals ({what}). Bars outside the band are structure that "
        "the forecasts left unused; errors of several steps ahead follow each other by nature."
    )
    return [Picture(PICTURES[2], text, figure)]


def _coverage(levels: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not levels:
        return ["No coverage was measured: there were too few past forecasts, or no intervals."]
    rows = []
    for entry in levels:
        by = entry.get("by_series", {})
        spread = f"{by['least']:.1f} to {by['most']:.1f} %" if by else ""
        rows.append(
            [f"{entry['level']:g} % ({entry['kind']})", f"{entry['measured']:.1f} %",
             f"{entry['count']:,}", spread]
        )  # fmt: skip
    blocks: list[Block] = [
        "Intervals were made at past origins from what was known then, and what followed was counted.",
        Table(("level", "measured", "held-back values", "by series"), rows),
    ]
    stepwise = [entry for entry in levels if entry.get("by_step")]
    if stepwise:
        by_step = [
            np.asarray([np.nan if v is None else v for v in e["by_step"]], float) / 100
            for e in stepwise
        ]
        figure = plots.draw_coverage([e["level"] for e in stepwise], by_step)
        blocks.append(
            Picture(PICTURES[1], "Measured coverage at each step ahead, pointwise", figure)
        )
    return blocks


def _file(path: Path, text: str) -> list[Block]:
    return [Picture(path.name, text, data=path.read_bytes())] if path.is_file() else []


def _facts(facts: Mapping[str, str]) -> Table:
    return Table(("", ""), [[key, value] for key, value in facts.items() if value])


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: _text(value) for key, value in values.items() if value is not None}


def _text(value: Any) -> str:
    return _pairs(value) if isinstance(value, dict) else _number(value) if isinstance(value, float) else str(value)  # fmt: skip


def _pairs(values: Mapping[str, Any]) -> str:
    told = {key: _text(value) for key, value in values.items() if value is not None}
    return ", ".join(f"{key} {text}" for key, text in told.items() if text)


def _errors(found: Mapping[str, Any]) -> list[str]:
    return [_number(found.get("mse")), _number(found.get("mae"))]


def _number(value: Any) -> str:
    return "" if value is None or not np.isfinite(value) else f"{float(value):.4g}"


def _html_table(table: Table) -> str:
    def cell(tag: str, i: int, text: str) -> str:
        number = ' class="number"' if i and len(table.header) > 2 else ""
        return f"<{tag}{number}>{html.escape(text)}</{tag}>"

    head = "".join(cell("th", i, text) for i, text in enumerate(table.header))
    rows = (
        "<tr>" + "".join(cell("td", i, text) for i, text in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    shown = f"<thead><tr>{head}</tr></thead>" if any(table.header) else ""
    return f"<table>{shown}<tbody>{''.join(rows)}</tbody></table>"


def _plain(text: str) -> str:
    """Text that Markdown leaves alone, in a table as well."""
    flat = " ".join(str(text).split())
    for mark in ("\\", "|", "*", "_", "`", "<", "#", "[", "]"):
        flat = flat.replace(mark, "\\" + mark)
    return flat
