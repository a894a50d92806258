"""The models by name, what each can do and the settings they were published with. Data only.

Nothing is imported here that costs time, so that ``models`` and ``--help`` can show it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from core.errors import UsageError, unknown
from core.registry import canonical


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to build and train a model: options of the network, settings of the training.

    ``rate`` the learning rate, ``halving`` whether it halves after the second epoch and every later
    one (else cosine), ``loss`` "mse", "mae" or "weighted-mae" (step h counts h ** -0.5), ``batch``
    windows, ``epochs`` at most, ``patience`` epochs without a better validation, ``average`` the
    decay of the moving average of the weights that is validated and kept (None: none is). No paper's
    code averages; a single step's weights are noisier (ETTh1-96, three seeds of OLinear: MSE 0.3614
    to 0.3649 without). ``precision`` "auto": bfloat16 products where the processor has them.
    """

    options: dict[str, Any] = field(default_factory=dict)
    loss: str = "mse"
    rate: float = 1e-4
    halving: bool = True
    batch: int = 32
    epochs: int = 10
    patience: int = 3
    average: float | None = 0.99
    precision: str = "float32"
    marks: bool = False  # calendar features as known covariates


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A trainable model. ``covariates`` it can use: "past", "known"; ``joint``: variates interact."""

    name: str
    module: str
    paper: str
    summary: str
    covariates: tuple[str, ...] = ()
    joint: bool = False
    any_horizon: bool = False
    recipe: Recipe = Recipe()
    published: str = ""  # which published settings `recipe` and `protocols` follow
    # (data set, horizon or None) -> changes to the recipe for a benchmark; ("*", None) for all of them
    protocols: dict[tuple[str, int | None], dict[str, Any]] = field(default_factory=dict)


MODELS: dict[str, Entry] = {}

BASELINES = {
    "last-value": "the last value, repeated",
    "seasonal-naive": "the value one season ago",
    "seasonal-mean": "mean of the same phase in the last four seasons",
    "drift": "the line through the first and the last value",
    "ets": "exponential smoothing, form chosen by AICc",
}
REFERENCE = "seasonal-naive"
"""What every backtest compares with."""


def _add(entry: Entry) -> None:
    MODELS[entry.name] = entry


def model(name: str) -> Entry:
    """The entry of ``name`` in any spelling. Raises UsageError naming the nearest."""
    for known, entry in MODELS.items():
        if canonical(known) == canonical(name):
            return entry
    raise UsageError(unknown("model", name, [*MODELS, *BASELINES]))


def baseline(name: str) -> str | None:
    """The baseline that ``name`` means in any spelling, or None."""
    return next((b for b in BASELINES if canonical(b) == canonical(name)), None)


_add(
    Entry(
        name="itransformer",
        module="itransformer",
        paper="Liu et al., iTransformer, ICLR 2024",
        summary="attention among variates, each a token of its whole window",
        covariates=("past", "known"),
        joint=True,
        recipe=Recipe(options={"dim": 256, "depth": 2, "ffn": 256, "heads": 8}, marks=True),
        published="thuml/iTransformer scripts, lookback 96",
        protocols={
            ("*", None): {"known": "lookback"},
            ("ETTh1", 336): {"dim": 512, "ffn": 512},
            ("ETTh1", 720): {"dim": 512, "ffn": 512},
            ("ETTh2", None): {"dim": 128, "ffn": 128},
            ("ETTm1", None): {"dim": 128, "ffn": 128},
            ("Exchange", None): {"dim": 128, "ffn": 128},
            ("Exchange", 336): {"dim": 128, "ffn": 128, "epochs": 1},
        },
    )
)
_add(
    Entry(
        name="s-mamba",
        module="itransformer",
        paper="Wang et al., Is Mamba effective for time series forecasting?, 2024",
        summary="iTransformer with a Mamba in each direction over the variates",
        covariates=("past", "known"),
        joint=True,
        recipe=Recipe(
            options={"dim": 256, "depth": 2, "ffn": 256, "d_state": 2}, rate=7e-5, marks=True
        ),
        published="wzhwzhwzh0921/S-D-Mamba scripts, lookback 96",
        protocols={
            ("*", None): {"known": "lookback"},
            ("ETTh1", 336): {"rate": 5e-5},
            ("ETTh1", 720): {"rate": 5e-5},
            ("ETTh2", None): {"rate": 4e-5},
            ("ETTh2", 336): {"rate": 3e-5},
            ("ETTm1", None): {"rate": 5e-5, "dim": 128, "ffn": 128},
            ("ETTm1", 96): {"rate": 5e-5},
            ("Exchange", None): {"rate": 1e-4, "dim": 128, "ffn": 128, "d_state": 32},
            ("Exchange", 96): {
                "rate": 1e-4,
                "dim": 128,
                "ffn": 128,
                "d_state": 32,
                "batch": 16,
            },
            ("Exchange", 336): {"rate": 5e-5, "dim": 128, "ffn": 128, "d_state": 32},
            ("Exchange", 720): {"rate": 5e-5, "dim": 128, "ffn": 128, "d_state": 32},
        },
    )
)
_add(
    Entry(
        name="bimamba",
        module="bimamba",
        paper="Gu and Dao, Mamba, 2023; Liang et al., Bi-Mamba+, 2024",
        summary="Mamba in both directions over the patches of each variate",
        recipe=Recipe(options={}, rate=1e-3, halving=False),
    )
)
_add(
    Entry(
        name="patchtst",
        module="patchtst",
        paper="Nie et al., A time series is worth 64 words, ICLR 2023",
        summary="attention over the patches of each variate on its own",
        recipe=Recipe(
            options={"dim": 16, "depth": 3, "ffn": 128, "heads": 4, "dropout": 0.3},
            # Published: 1e-4 for up to 100 epochs of batches of 128; so many steps at that rate
            # take hours on a processor. Chosen on ETTh1's validation rows: 0.697 against 0.752.
            rate=1e-3,
            halving=False,
        ),
        published="yuqinie98/PatchTST scripts' networks, with lookback 96 and a training of our own",
        protocols={
            ("ETTm1", None): {"dim": 128, "heads": 16, "ffn": 256, "dropout": 0.2},
        },
    )
)
_add(
    Entry(
        name="dlinear",
        module="dlinear",
        paper="Zeng et al., Are transformers effective for time series forecasting?, AAAI 2023",
        summary="one linear map for the trend, one for the rest",
        recipe=Recipe(options={}, rate=5e-3),
        published="cure-lab/LTSF-Linear scripts, with lookback 96",
        protocols={
            ("ETTh2", None): {"rate": 5e-2},
            ("ETTm1", None): {"rate": 1e-4, "batch": 8},
            ("Exchange", None): {"rate": 5e-4, "batch": 32},
            ("Exchange", 96): {"rate": 5e-4, "batch": 8},
            ("Exchange", 192): {"rate": 5e-4, "batch": 8},
        },
    )
)
_add(
    Entry(
        name="olinear",
        module="olinear",
        paper="Yue et al., OLinear, NeurIPS 2025",
        summary="linear layers among decorrelated steps and normalised ones among variates",
        joint=True,
        recipe=Recipe(
            options={"dim": 512, "depth": 2, "ffn": 512, "dropout": 0.2},
            loss="weighted-mae",
            rate=5e-4,
            # Published: 30 epochs and no average. The rate has been halved to a 64th after eight: on
            # ETTh1-96, seed 0, patience ends all thirty after fifteen and keeps the seventh's weights,
            # the very ones of eight.
            epochs=8,
            patience=8,
        ),
        published="jackyue1994/OLinear scripts, lookback 96, but 8 epochs of 30 and averaged weights",
        protocols={
            ("ETTh1", 720): {"rate": 1e-4},
            ("ETTh2", None): {"depth": 3, "rate": 2e-4},
            ("ETTh2", 720): {"depth": 3, "rate": 2e-4, "dropout": 0.3},
            ("ETTm1", None): {"rate": 1e-4, "dropout": 0.1},
            ("ETTm1", 720): {"rate": 1e-4, "dropout": 0.2},
            ("Exchange", None): {
                "dim": 256,
                "ffn": 256,
                "rate": 1e-4,
                "dropout": 0.0,
                "epochs": 1,
                "batch": 64,
            },
            ("Exchange", 192): {
                "dim": 128,
                "ffn": 128,
                "rate": 1e-4,
                "dropout": 0.0,
                "epochs": 1,
                "batch": 32,
            },
            ("Exchange", 720): {
                "dim": 256,
                "ffn": 256,
                "rate": 1e-4,
                "dropout": 0.0,
                "epochs": 1,
                "batch": 32,
            },
        },
    )
)
_add(
    Entry(
        name="autoformer",
        module="autoformer",
        paper="Wu et al., Autoformer, NeurIPS 2021",
        summary="series decomposition and attention by autocorrelation",
        covariates=("known",),
        joint=True,
        recipe=Recipe(
            options={"dim": 512, "ffn": 2048, "factor": 3, "dropout": 0.05},
            marks=True,
            precision="auto",
        ),
        published="thuml/Autoformer scripts, lookback 96",
    )
)
_add(
    Entry(
        name="timelygpt",
        module="timelygpt",
        paper="Song et al., TimelyGPT, 2023",
        summary="retention with extrapolatable positions and causal convolutions, recurrent",
        any_horizon=True,
        recipe=Recipe(options={}, rate=1e-3, halving=False, epochs=3),
    )
)
_add(
    Entry(
        name="gpht",
        module="gpht",
        paper="Liu et al., Generative pretrained hierarchical transformer, KDD 2024",
        summary="causal attention over patches at several scales, any horizon",
        any_horizon=True,
        recipe=Recipe(options={}, rate=1e-3, halving=False, epochs=3),
    )
)
