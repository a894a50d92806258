"""What the verbs print for a person, and the report behind ``models``. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from apps.timeseries import catalog
from core import cli
from core.errors import DataError
from core.files import read_json
from core.shipped import model_cards

INPUTS = {
    "files": ["csv", "csv.gz", "parquet", "xlsx"],
    "layouts": {
        "wide": "a column of stamps and a column for each variate",
        "long": "unique_id, ds, y and covariates: a row for each series and stamp",
    },
}


def list_models() -> dict[str, str]:
    """Every name that stands for a model, and what it is: shipped ones, those to train, baselines.

    ``forecast`` takes shipped ones and baselines, ``fit`` those to train, ``backtest`` all.  Raises
    DataError for a shipped model whose card cannot be read.
    """
    cards = {name: _card(path) for name, path in model_cards("timeseries").items()}
    shipped = {
        name: f"shipped: {about['model']} trained on {about['data']}, {about['lookback']} rows to "
        f"{about['horizon']}"
        for name, about in cards.items()
    }
    trained = {name: f"to train: {entry.summary}" for name, entry in catalog.MODELS.items()}
    naive = {name: f"baseline: {summary}" for name, summary in catalog.BASELINES.items()}
    return {**shipped, **trained, **naive}


def listing(verbs: Sequence[str]) -> dict[str, Any]:
    """Models, baselines, shipped weights, protocols, inputs, verbs and exit codes."""
    from apps.timeseries.data.protocols import PROTOCOLS

    return {
        "name": "timeseries",
        "verbs": list(verbs),
        "models": {name: _model(entry) for name, entry in catalog.MODELS.items()},
        "baselines": catalog.BASELINES,
        "weights": {name: _card(path) for name, path in model_cards("timeseries").items()},
        "protocols": PROTOCOLS,
        "inputs": INPUTS,
        "exit_codes": cli.EXIT_CODES,
    }


def _model(entry: catalog.Entry) -> dict[str, Any]:
    recipe = asdict(entry.recipe)
    return {
        "summary": entry.summary,
        "paper": entry.paper,
        "covariates": list(entry.covariates),
        "variates": "joint" if entry.joint else "each on its own",
        "horizon": "any" if entry.any_horizon else "as fitted",
        "published_settings": entry.published or None,
        "recipe": recipe,
    }


def _card(path: Any) -> dict[str, Any]:
    values = read_json(path)
    try:
        shape = values["network"]["shape"]
        return {
            "model": values["network"]["name"],
            "lookback": shape["lookback"],
            "horizon": shape["horizon"],
            "data": values["data"]["file"],
            "targets": values["data"]["targets"],
            "freq": values["data"]["freq"],
            "test": values.get("metrics", {}).get("test"),
            "licence": values.get("licence"),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is not a model description ({error!r})") from error


def print_listing(report: Mapping[str, Any]) -> None:
    """``listing`` for a person."""
    print("Models (fit, backtest, evaluate, tune):")
    for name, about in report["models"].items():
        able = ", ".join(about["covariates"]) or "no"
        print(f"  {name:<13} {about['summary']}")
        print(
            f"  {'':<13} {about['paper']}; variates {about['variates']}, {able} covariates, horizon "
            f"{about['horizon']}"
        )
        if about["published_settings"]:
            print(f"  {'':<13} settings of {about['published_settings']}")
    print("Baselines (need no fitting; every backtest runs them):")
    for name, summary in report["baselines"].items():
        print(f"  {name:<14} {summary}")
    print("Shipped weights (forecast --model NAME):")
    for name, about in report["weights"].items():
        print(
            f"  {name:<18} {about['model']} on {about['data']}, lookback {about['lookback']}, horizon "
            f"{about['horizon']}; columns {', '.join(about['targets'])}"
        )
    if not report["weights"]:
        print("  none here")
    print("Benchmark protocols (evaluate):")
    for name, text in report["protocols"].items():
        print(f"  {name:<11} {text}")
    print(f"Verbs: {', '.join(report['verbs'])}")


def print_fit(report: Mapping[str, Any]) -> None:
    """What ``fit`` did, for a person."""
    from apps.timeseries.data.splits import Borders

    training, borders = report["training"], report["borders"]
    for note in report["notes"]:
        print(f"note: {note}")
    print(f"borders (longest series): {Borders(**borders).text()}")
    print(
        f"{report['model']}: {training['parameters']:,} parameters, {training['steps']} steps in "
        f"{training['seconds']:.0f} s ({training['stopped_because']}); model in {report['folder']}"
    )
    test = report["metrics"].get("test", {})
    if test:
        print(f"test, {test['windows']} windows, scaled space:")
        print(f"  {'':<18}{'MSE':>9}{'MAE':>9}")
        for name, row in {report["model"]: test, **test["naive"]}.items():
            print(f"  {name:<18}{row['mse']:>9.4f}{row['mae']:>9.4f}")
    for entry in report["coverage"].get("levels", []):
        print(
            f"{entry['level']:g} % intervals ({entry['kind']}) held {entry['measured']:.1f} % of "
            f"{entry['count']:,} test values"
        )


def print_evaluation(report: Mapping[str, Any]) -> None:
    """What ``evaluate`` measured, for a person."""
    print(
        f"{report['dataset']}, protocol {report['protocol']}, lookback {report['lookback']}, horizon "
        f"{report['horizon']}, seed {report['seed']}: {report['windows']} test windows, scaled space"
    )
    print(f"  {'':<18}{'MSE':>9}{'MAE':>9}")
    for name, row in {report["model"]: report, **report["naive"]}.items():
        print(f"  {name:<18}{row['mse']:>9.4f}{row['mae']:>9.4f}")


def print_classification(report: Mapping[str, Any], out: Any) -> None:
    """How well ``classify`` did, for a person."""
    about = report["train"]
    print(
        f"{about['fitted']} training cases fitted, {about['held_back']} held back to choose; classes "
        f"{', '.join(report['classes'])}"
    )
    scores = report.get("scores")
    if scores:
        lo, hi = scores["accuracy_interval_95"]
        print(
            f"accuracy on the test file: {scores['accuracy']:.3f} [{lo:.3f}, {hi:.3f}] of "
            f"{scores['cases']} cases"
        )
        for name, accuracy in report["baselines"].items():
            if accuracy is not None:
                print(f"  {name.replace('_', ' ')}: {accuracy:.3f}")
    print(f"model and report.json in {out}")
