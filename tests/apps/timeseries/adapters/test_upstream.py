"""pytorch-forecasting's own checks of estimators, run on our two packages.

``pytorch_forecasting.utils.check_estimator`` picks the test class by the package's ``object_type``
tag (``TestAllPtForecasters``, ``TestAllPtForecastersV2``) and gives it our class; what it runs:

v1  test_doctest_examples, test_pkg_linkage, and test_integration (fit, test, their checkpoint,
    predict) for two networks with each of their point, quantile and distribution losses.
v2  test_doctest_examples, test_pkg_linkage, and test_integration, test_checkpointing,
    test_predict_modes for a point loss with logging and a scheduler, and for quantiles.

Not run, as they do not apply: cross-entropy (our targets are numbers, tag ``info:y_type``); v1's
MQF2DistributionLoss, which their table leaves out; the tests of ``_registry``, ``all_objects`` and
``test_all_estimators`` by discovery, which crawl the modules of pytorch_forecasting alone; those of
skbase for objects built by ``get_test_params`` (v1's packages are never instantiated, v2's take
dictionaries that they fill). Their data come from the network for v1, so the package makes its own.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

POINT = {"MAE", "RMSE", "SMAPE", "MAPE", "PoissonLoss", "MASE", "TweedieLoss", "QuantileLoss"}
DISTRIBUTIONS = {
    "NormalDistributionLoss",
    "NegativeBinomialDistributionLoss",
    "MultivariateNormalDistributionLoss",
    "LogNormalDistributionLoss",
    "BetaDistributionLoss",
    "ImplicitQuantileNetworkDistributionLoss",
}


@pytest.fixture
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their tests log to TensorBoard, which is not among our dependencies."""
    from lightning.pytorch.loggers import CSVLogger
    from lightning.pytorch.loggers.logger import DummyExperiment
    from pytorch_forecasting.tests import test_all_estimators
    from pytorch_forecasting.tests.test_all_v2 import utils

    class Silent(CSVLogger):
        @property
        def experiment(self) -> Any:
            return DummyExperiment()  # has every method, and none does anything

        def log_metrics(self, *_: Any, **__: Any) -> None: ...
        def log_hyperparams(self, *_: Any, **__: Any) -> None: ...
        def save(self) -> None: ...

    for module in (test_all_estimators, utils):
        monkeypatch.setattr(module, "TensorBoardLogger", Silent)


def failures(results: dict[str, Any]) -> dict[str, Any]:
    return {name: result for name, result in results.items() if result != "PASSED"}


@pytest.mark.usefixtures("no_tensorboard")
def test_v1(v1: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_forecasting.utils import check_estimator

    monkeypatch.chdir(tmp_path)
    results = check_estimator(v1.TriptychForecaster, verbose=False)
    assert failures(results) == {}
    package = "TriptychForecaster_pkg"
    assert set(results) == {
        "test_doctest_examples[TriptychForecaster]",
        "test_pkg_linkage[TriptychForecaster_pkg-TriptychForecaster]",
        *(
            f"test_integration[{package}-base_params-{i}-{loss}]"
            for i in (0, 1)
            for loss in POINT | DISTRIBUTIONS
        ),
    }


@pytest.mark.usefixtures("no_tensorboard")
def test_v2(v2: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_forecasting.utils import check_estimator

    monkeypatch.chdir(tmp_path)
    results = check_estimator(v2.TriptychForecaster_pkg_v2, verbose=False)
    assert failures(results) == {}
    package = "TriptychForecaster_pkg_v2"
    assert set(results) == {
        "test_doctest_examples[TriptychForecaster_v2]",
        f"test_pkg_linkage[{package}-TriptychForecaster_v2]",
        *(
            f"test_{what}[{package}-{i}]"
            for i in (0, 1)
            for what in ("integration", "checkpointing", "predict_modes")
        ),
    }
