# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Forecasting a time series, and knowing how far to trust it
#
# Two years of an electricity transformer, seven variates, an hour a row. We look at the file,
# forecast four days, put honest intervals around them, ask whether the model is any better than
# yesterday's values, train one of our own, and see which variates it mixes.
#
# Everything runs on the processor of a laptop. Each function here is also a command of
# `python apps/timeseries/run.py`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

if Path.cwd().name == "notebooks":
    os.chdir("..")  # paths are those of the repository

from apps.timeseries import (
    attention,
    backtest,
    check_file,
    compare,
    fit,
    forecast,
    list_models,
    read_panel,
)

FAST = bool(os.environ.get("NOTEBOOK_FAST"))  # fewer steps and windows, for the tests
OUT = Path(os.environ.get("NOTEBOOK_OUT", "out/notebooks")) / "forecasting"
FILE = "samples/ETTh1.csv"
DAY = 24
plt.rcParams.update({"figure.figsize": (10, 3.2), "axes.spines.top": False, "figure.dpi": 80})
plt.rcParams.update({"axes.spines.right": False, "legend.frameon": False})
plt.rcParams["date.converter"] = "concise"
pd.set_option("display.float_format", "{:.3f}".format)

# %% [markdown]
# ## What is in the file
#
# `check_file` says how a file was understood and what is wrong with it. It takes CSV, Excel and
# Parquet, or a data frame; wide (a column for each variate) or long (`unique_id, ds, y`).

# %%
profile = check_file(FILE)
about = ("rows", "layout", "targets", "freq", "season", "start", "end", "missing", "ok")
display(pd.Series({name: profile[name] for name in about}, name=profile["file"]).to_frame())

# %%
table = pd.read_csv(FILE, parse_dates=["date"])
latest = table.iloc[-14 * DAY :]
for name in ("HUFL", "LUFL", "OT"):
    plt.plot(latest["date"], latest[name], label=name)
plt.gca().set(ylabel="as recorded", title="The last two weeks")
plt.legend(ncols=3, loc="lower left")
plt.show()

# %% [markdown]
# `HUFL` (a load) repeats itself day by day, with noise. `OT` (the oil's temperature) drifts. Any
# forecast has to be compared with what the daily rhythm alone gives: that is what the baselines are
# for. Real files are seldom as tidy as this one. The same table with a hole in it:

# %%
torn = table.drop(index=range(300, 310))
torn.loc[100:104, "OT"] = np.nan
problems = pd.DataFrame(check_file(torn)["problems"])
with pd.option_context("display.max_colwidth", None):
    display(problems[["level", "kind", "column", "says", "fix"]])

# %% [markdown]
# Nothing is repaired unasked. What repairs it on the command line (`--fill seasonal`) is an argument
# here, of `read_panel` and of every function that reads a file, and a note says what was done:

# %%
mended = read_panel(torn, fill="seasonal")
print(*mended.notes, sep="\n")

# %% [markdown]
# ## The models there are
#
# Shipped ones are trained and ready, those to train are a call of `fit` away, and baselines need no
# training. Wherever a model is asked for, a baseline's name will do.

# %%
for name, what in list_models().items():
    print(f"{name:<15} {what}")

# %% [markdown]
# ## Four days ahead
#
# We hide the last four days, forecast them from what came before, and look what really happened.
# `etth1-96` is shipped: a small OLinear that learnt from the hours up to October 2017, so these days
# of June 2018 are far from everything it has seen.

# %%
HORIZON = 4 * DAY
past, hidden = table.iloc[:-HORIZON], table.iloc[-HORIZON:]
ahead = forecast(past, "etth1-96", levels=(50, 80, 95))
naive = forecast(past, "seasonal-naive", horizon=HORIZON, levels=())
display(ahead.frame.head(3))


# %%
def fan(ax, frame, name, before, truth):
    """The forecast of one variate with its intervals, between what was before and what came."""
    rows = frame[frame["unique_id"] == name]
    for level, shade in ((95, 0.12), (80, 0.2), (50, 0.3)):
        low, high = rows[f"lo-{level}"], rows[f"hi-{level}"]
        ax.fill_between(rows["ds"], low, high, color="C0", alpha=shade, lw=0, label=f"{level} %")
    ax.plot(before["date"], before[name], color="0.3", lw=1, label="known")
    if len(truth):
        ax.plot(truth["date"], truth[name], color="black", lw=1, ls=":", label="what came")
    ax.plot(rows["ds"], rows["yhat"], color="C0", label="forecast")
    ax.set(ylabel=name)
    ax.margins(x=0)


figure, axes = plt.subplots(2, figsize=(10, 5.5), sharex=True, layout="constrained")
for ax, name in zip(axes, ("HUFL", "OT"), strict=True):
    fan(ax, ahead.frame, name, past.iloc[-5 * DAY :], hidden)
    rows = naive.frame[naive.frame["unique_id"] == name]
    ax.plot(rows["ds"], rows["yhat"], color="C1", lw=1, label="same hour of the last day")
axes[0].legend(ncols=7, loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=8)
plt.show()

# %% [markdown]
# ## Do the intervals hold?
#
# They are not a property of the network. They are made of the errors that it made at two hundred
# earlier origins, all of them after its training (split conformal prediction), and the coverage is
# measured on the way: each origin's band knew only what had happened by then. So before looking at
# the hidden days we already know what to expect of them.

# %%
truth = hidden.melt("date", var_name="unique_id", value_name="y").rename(columns={"date": "ds"})
joined = ahead.frame.merge(truth, on=["unique_id", "ds"], validate="one_to_one")
held = {
    entry["level"]: {
        "measured on earlier origins, %": entry["measured"],
        "of the hidden four days, %": 100
        * joined["y"]
        .between(joined[f"lo-{entry['level']:g}"], joined[f"hi-{entry['level']:g}"])
        .mean(),
    }
    for entry in ahead.report["coverage"]
}
display(pd.DataFrame(held).T.rename_axis("level, %"))

# %%
for entry in ahead.report["coverage"]:
    (line,) = plt.plot(range(1, HORIZON + 1), entry["by_step"], label=f"{entry['level']:g} %")
    plt.axhline(entry["level"], color=line.get_color(), ls="--", lw=0.8)
plt.gca().set(xlabel="hours ahead", ylabel="% inside", ylim=(0, 101), title="Coverage by step")
plt.legend(loc="lower right")
plt.show()

# %% [markdown]
# Over hundreds of forecasts the bands hold what they promise, near and far. Four days of seven
# variates are one draw from that: errors of neighbouring hours are alike, so one draw may be well
# off. The bands are pointwise; `joint=True` makes wider ones that hold the whole path. Nor need they
# be centred on the forecast: where it has lately been too low, they begin higher.
#
# ## Is it better than yesterday's values?
#
# One picture proves nothing. `backtest` forecasts many past horizons from rolling origins, lets
# every baseline do the same, and tests the difference to seasonal naive (Diebold and Mariano, with
# the correction of Harvey et al.; intervals by a block bootstrap over windows). First in the winter
# after the model's training ends:

# %%
WINDOWS = 6 if FAST else 20
BESIDE = ["seasonal-naive", "seasonal-mean"] + ([] if FAST else ["ets"])
winter = backtest(
    table.iloc[:14400], "etth1-96", horizon=HORIZON, windows=WINDOWS, baselines=BESIDE
)
spring = backtest(table, "etth1-96", horizon=HORIZON, windows=WINDOWS, baselines=BESIDE)


def scores(result):
    """The figures that matter, best first."""
    rows = {}
    for name, found in result.report["scores"].items():
        against = found["vs_seasonal_naive"] or {"skill": None, "p": None}
        rows[name] = {
            "MASE": found["mase"],
            "sMAPE, %": found["smape"],
            "MAE, scaled": found["mae_scaled"],
            "CRPS, scaled": found["crps_scaled"],
            "in 80 %": 100 * found["intervals"]["80"]["coverage"],
            "skill, %": None if against["skill"] is None else 100 * against["skill"],
            "p": against["p"],
        }
    return pd.DataFrame(rows).T.astype(float).sort_values("MAE, scaled")


print(f"from {winter.report['cutoffs'][0]}: {winter.report['verdict']}")
display(scores(winter))

# %% [markdown]
# The same question about the last windows of the file, in spring and half a year after the training:

# %%
print(f"from {spring.report['cutoffs'][0]}: {spring.report['verdict']}")
display(scores(spring))

# %% [markdown]
# This is why one backtests on one's own, latest rows. The season changed, and a network that does
# not know it is no longer clearly better than the same hour of the last day, while exponential
# smoothing (ETS), which Holt and Winters wrote down around 1960, is. The windows, and the error of
# each:

# %%
figure, (top, bottom) = plt.subplots(2, figsize=(10, 4.5), sharex=True, layout="constrained")
shown = table[table["date"] > pd.Timestamp(spring.report["cutoffs"][0]) - pd.Timedelta(days=20)]
top.plot(shown["date"], shown["HUFL"], color="0.6", lw=0.6)
cutoffs = pd.to_datetime(spring.report["cutoffs"])
for i, cutoff in enumerate(cutoffs):
    top.axvspan(cutoff, cutoff + pd.Timedelta(hours=HORIZON), color=f"C{i % 2}", alpha=0.15, lw=0)
top.set(ylabel="HUFL", title="Each band is forecast from what lies before it")
for name, found in spring.report["scores"].items():
    bottom.plot(cutoffs, found["per_window"]["mae_scaled"], marker=".", label=name)
bottom.set(ylabel="MAE, scaled", ylim=(0, None))
bottom.legend(ncols=4, fontsize=8)
plt.show()

# %% [markdown]
# ## A model of one's own
#
# An iTransformer (Liu et al., ICLR 2024) for the next day, by its published recipe. `fit` trains on
# the first 80 % of the rows, chooses the epoch by the next 10 %, and measures once on the rest, which
# no part of the training has seen. Half a minute of training on two cores:

# %%
small = {"dim": 32, "ffn": 32} if FAST else {}
own = fit(
    FILE,
    "itransformer",
    lookback=4 * DAY,
    horizon=DAY,
    out=OUT / "own",
    options=small,
    max_steps=60 if FAST else 1300,
    force=True,
)
test = own.report()["metrics"]["test"]
errors = {"own": test, **test["naive"]}
display(pd.DataFrame({n: {m: e[m] for m in ("mse", "mae")} for n, e in errors.items()}).T)

# %% [markdown]
# Means over all windows of the last tenth. Is that more than chance? `compare` runs several models on
# the same windows and tests each pair, corrected for the number of pairs (Holm).

# %%
rivals = [OUT / "own", "seasonal-mean"] + ([] if FAST else ["ets"])
pairs = compare(FILE, rivals, horizon=DAY, windows=10 if FAST else 40)
columns = ["model", "rank_windows", "mae_scaled", "mase", "skill"]
display(pairs.table[columns])
print(pairs.report["conclusion"])
for pair in pairs.report["pairs"]:
    print(f"{pair['better']} before {pair['worse']}: p {pair['p_holm']:.3f} after correction")

# %% [markdown]
# ## Which variates does it mix?
#
# iTransformer makes one token of each variate's window and lets the tokens attend to each other.
# `attention` gives the weights that a forecast was really computed with, here the mean over the last
# hundred windows and the heads. The calendar's features are tokens, too: they are looked at, and
# nothing is forecast of them. Weights say what was mixed, not what caused what.

# %%
looked = attention(FILE, OUT / "own", origins=range(len(table) - 100, len(table)))
figure, axes = plt.subplots(
    1, len(looked.weights), figsize=(11, 4.6), sharey=True, layout="constrained"
)
layers = [looked.frame(layer).iloc[: looked.targets] for layer in range(len(axes))]
largest = max(float(weights.to_numpy().max()) for weights in layers)
for layer, (ax, weights) in enumerate(zip(axes, layers, strict=True)):
    image = ax.imshow(weights, cmap="viridis", vmin=0, vmax=largest)
    ax.set_xticks(range(len(weights.columns)), weights.columns, rotation=60, ha="right")
    ax.set_yticks(range(len(weights)), weights.index)
    ax.set_title(f"layer {layer}")
axes[0].set_ylabel("forecast")
figure.colorbar(image, ax=axes, label="share of attention", shrink=0.8)
plt.show()
print(f"an even share would be {1 / len(looked.names):.3f}; the largest is {largest:.3f}")

# %% [markdown]
# `HUFL` and `MUFL`, nearly the same load, look at each other; `OT` looks at itself and at the
# calendar. The second layer is more decided than the first.
#
# ## The future
#
# With nothing hidden, `forecast` goes on where the file ends, and with `out` it writes a folder:
# `forecast.csv`, a picture, an interactive page, and a record of how it was made.

# %%
final = forecast(FILE, OUT / "own", levels=(50, 80, 95), out=OUT / "tomorrow", force=True)
print("\n".join(sorted(path.name for path in final.folder.iterdir())))
figure, ax = plt.subplots(layout="constrained")
fan(ax, final.frame, "OT", table.iloc[-4 * DAY :], table.iloc[:0])
ax.legend(ncols=6, fontsize=8, loc="upper left")
plt.show()

# %% [markdown]
# ## Where to go on
#
# - Your own file: `check_file("yours.csv")` first, then replace `FILE`. Other columns need a model
#   fitted on them.
# - More models: any name of `list_models()` goes into `fit`, `backtest` and `compare`.
# - [docs/forecasting.md](../docs/forecasting.md) says what is fitted on what and how intervals are
#   made; [docs/python.md](../docs/python.md) lists the functions used here.
