"""Write the README's result tables from benchmarks/results/*.json, between its two markers.

    python benchmarks/tables.py            # print
    python benchmarks/tables.py --write    # put them into README.md

A test compares README.md with this output, so that no figure there is typed by hand.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
INTRODUCTION = {
    "hippocampus": (
        "**Hippocampus, 3-D.** {cases} T1 MR crops, five-fold cross-validation; every network from"
        " scratch with one budget: {steps} steps of {batch} patches of {patch}, the same folds,"
        " augmentation and schedule, small presets. Steps are equal, not parameters or seconds."
    ),
    "nuclei": (
        "**Nuclei, 2-D.** {cases} held-out pictures (one fold of five); {steps} steps of {batch}"
        " patches of {patch}. Dice of all nuclei as one mask; F1 and AP at IoU 0.5 of single nuclei"
        " after watershed."
    ),
    "skin": (
        "**Skin lesions, 2-D.** {cases} dermoscopic pictures, five-fold cross-validation; {steps} steps"
        " of {batch} patches of {patch}, from scratch, small presets; pictures shrunk to 256 pixels on the"
        " longer side, folds by picture, HD95 in these pixels. The papers' Dice of 0.89 to 0.92 come from"
        " 2,000 pictures and ImageNet weights."
    ),
}
UNITS = {"skin": "px"}
"""Of HD95, where it is not mm."""
BASELINES = ("unet", "dynunet")
UNCONVERGED = 0.7
"""Below this Dice a network of these tables marks little more than a place."""


def tables(results: Path = ROOT / "benchmarks" / "results") -> str:
    """All tables as Markdown."""
    return "\n\n".join(text for _, text in sections(results))


def sections(results: Path = ROOT / "benchmarks" / "results") -> list[tuple[str, str]]:
    """Each table with its words as Markdown, in order, and what it is about.

    That is ``medical``, ``timeseries``, ``driving``, ``core`` or, of the note that ends them, ``note``.
    """
    parts: list[tuple[str, str]] = []

    def add(about: str, name: str, write: Callable[[dict[str, Any]], str]) -> None:
        if (results / f"{name}.json").exists():
            parts.append((about, write(load(results, name))))

    for name in INTRODUCTION:
        add("medical", f"{name}_cv", partial(segmentation, name=name))
        if (results / f"{name}_cv.json").exists():
            models = load(results, f"{name}_cv")["models"]
            if any("dice_minus_ablation" in model for model in models.values()):
                parts.append(("medical", ablations(models)))
        add("medical", f"{name}_long", longer)
    names = [n for n in ("calibration", "calibration_nuclei") if (results / f"{n}.json").exists()]
    if names:
        parts.append(("medical", calibration([load(results, name) for name in names])))
    add("medical", "pretraining", pretraining)
    add("medical", "pretraining_five", pretraining_again)
    add("medical", "detection_synthetic", detection)
    add("medical", "sliding_window", sliding)
    add("core", "selective_scan", scan)
    add("core", "sequence_scaling", scaling)
    add("timeseries", "forecasting", forecasting)
    add("timeseries", "interval_coverage", interval_coverage)
    add("timeseries", "forecast_steps", forecast_steps)
    add("timeseries", "many_series", many_series)
    add("driving", "driving_world", driving_world)
    add("driving", "driving_agent", driving_agent)
    add("driving", "driving_balance", driving_balance)
    add("driving", "driving_expert", driving_expert)
    add("driving", "driving_collection", driving_collection)
    add("core", "startup", startup)
    note = (
        "Intervals are 95 % bootstrap intervals of the mean over cases. Every figure comes from"
        " [benchmarks/results](benchmarks/results), where the command, commit, seed and machine"
        " stand beside it; [benchmarks/README.md](benchmarks/README.md) says how to repeat it."
    )
    return [*parts, ("note", note)]


def calibration(found: list[dict[str, Any]]) -> str:
    """Calibration error of each shipped model as trained and as scaled; what its ranges hold."""
    lines = [
        "**Calibration of the shipped segmentation models** on the cases their training held out,"
        " cross-fitted between halves: what is measured on a case was fitted without it. Calibration"
        " error is of the voxels within three of the mask. A range should hold the true volume in 90 %"
        " of the cases, an extent miss at most 10 % of the structure.",
        "",
        "| model | cases | calibration error, as trained | scaled (T) | structure | missed by the mask"
        " | missed by the extent | true volume in its range |",
        "|---" * 8 + "|",
    ]
    for result in found:
        run = result["runs"]["plain"]
        start = [
            result["model"], str(run["ece_before"]["n"]), spread(run["ece_before"], 3),
            f"{spread(run['ece_after'], 3)} ({run['temperature']:.2f})",
        ]  # fmt: skip
        labels = run["labels"] or {"numbered objects": None}
        for name, values in labels.items():
            row = [*start, name]
            for key in ("miss_rate", "extent_miss_rate", "volume_coverage"):
                mean = None if values is None else values.get(key)
                row.append("not measured" if mean is None else f"{100 * mean['mean']:.1f} %")
            lines.append("| " + " | ".join(row) + " |")
            start = ["", "", "", ""]
    return "\n".join(lines)


def pretraining(result: dict[str, Any]) -> str:
    """Dice of each arm by number of labelled cases; pre-trained arms with their gain over scratch."""
    sizes, cost = result["labelled_cases"], result["pretraining"]
    arms = list(next(iter(sizes.values())))
    heads = ["encoder from", "pre-training, CPU-s", *(f"{size} labelled" for size in sizes)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    gains = []
    for arm in arms:
        row = [arm, f"{cost[arm]['cpu_seconds']:.0f}" if arm in cost else "none"]
        for size in sizes.values():
            dice, gain = size[arm]["dice"], size[arm].get("minus_scratch")
            row.append(
                spread(dice | {"undefined": 0}, 3)
                if gain is None
                else f"{dice['mean']:.3f} ({signed(gain)})"
            )
            gains += [] if gain is None else [gain]
        lines.append("| " + " | ".join(row) + " |")
    better, worse = sum(g["low"] > 0 for g in gains), sum(g["high"] < 0 for g in gains)
    seeds = len(result["seeds"])
    few, many = min(sizes, key=int), max(sizes, key=int)
    worth = sizes[many]["scratch"]["dice"]["mean"] - sizes[few]["scratch"]["dice"]["mean"]
    said = f"Of {len(gains)} comparisons {better} {'is' if better == 1 else 'are'} clearly better"
    said += f" than from scratch and {worse} clearly worse (interval beyond zero)."
    said += f" From scratch, {many} labelled cases instead of {few} are worth {worth:.3f}."
    return (
        f"**Pre-training with few labels.** {result['model']}, hippocampus: the encoder is pre-trained on"
        f" the images of all training cases but {many}, then the whole network trained on"
        f" {few} to {many} labelled ones with one budget ({result['steps']} steps), beside the"
        f" same from scratch; mean Dice of {result['test_cases']} test cases over {seeds}"
        f" {'choice' if seeds == 1 else 'choices'} of the labelled ones, in brackets intervals over choices"
        f" and cases, behind the mean the difference to scratch. {said}\n\n" + "\n".join(lines)
    )


def pretraining_again(result: dict[str, Any]) -> str:
    """One number of labelled cases on further choices of them; said whatever comes of it."""
    ((size, arms),) = result["labelled_cases"].items()
    seeds = result["seeds"]
    heads = ["encoder from", f"{size} labelled", "difference to scratch"]
    heads += ["choices in which it is better"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    said = []
    for arm, row in arms.items():
        cells = [arm, spread(row["dice"] | {"undefined": 0}, 3), "", ""]
        if gain := row.get("minus_scratch"):
            better = sum(value > 0 for value in gain["by_seed"])
            cells[2:] = [signed(gain), f"{better} of {len(seeds)}"]
            said.append(f"{arm} {told(gain, 'harms', 'does not help clearly', 'helps')}")
        lines.append("| " + " | ".join(cells) + " |")
    return (
        f"**Pre-training with {size} labels, measured once more**, where the differences above come"
        f" nearest to being clear: on {len(seeds)} further choices of the labelled cases (seeds"
        f" {min(seeds)} to {max(seeds)}), all else equal. Number, arms and seeds were fixed before"
        f" the first was run, and nothing of the table above is in it. {'; '.join(said)}.\n\n"
        + "\n".join(lines)
    )


def detection(result: dict[str, Any]) -> str:
    """Lesion detection on painted lesions, best first, with the floor that learns nothing."""
    models = result["models"]
    heads = ["network", "parameters", "CPU-s a fold", "AUROC", "AP", "found"]
    heads += ["sensitivity at 0.5 false positives a case"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]

    def figure(value: dict[str, Any]) -> str:
        return spread(value | {"mean": value["value"]}, 3)

    for name, row in sorted(models.items(), key=lambda item: -item[1]["ap"]["value"]):
        floor = name == "arithmetic"
        cells = [
            "arithmetic, which learns nothing" if floor else name,
            "none" if floor else f"{row['parameters'] / 1e6:.1f} M",
            f"{row['cpu_seconds_per_fold']:.0f}",
            figure(row["auroc"]),
            figure(row["ap"]),
            f"{row['found']} of {row['lesions']}",
            figure(row["sensitivity"]["0.5"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    first = next(iter(models.values()))
    ours = [name for name in models if name not in (*BASELINES, "arithmetic")]
    said = []
    for name in ours:
        gap = models[name]["minus_dynunet"]["ap"]
        verdict = told(gap, "is behind", "is not told from", "is ahead of")
        said.append(
            f"{name} {verdict} the convolutional dynunet (AP {signed(gap | {'mean': gap['value']})})"
        )
    return (
        f"**Lesion detection, end to end, on painted lesions.** {result['cases']} studies of"
        f" {first['patients']} invented patients, painted over one real prostate study, cross-validated by"
        f" patient; {result['steps']} steps each. It tests the path and compares networks; no lesion in it"
        " is real and it says nothing about cancer. Scored by picai_eval, intervals over patients."
        f"{' ' + '; '.join(said) + '.' if said else ''}\n\n" + "\n".join(lines)
    )


def load(results: Path, name: str) -> dict[str, Any]:
    return json.loads((results / f"{name}.json").read_text(encoding="utf-8"))


def segmentation(result: dict[str, Any], name: str) -> str:
    """One head-to-head: a row for each network, best first."""
    models = result["models"]
    labels = list(next(iter(models.values()))["labels"])
    objects = "f1_50" in next(iter(models.values()))["labels"][labels[0]]
    heads = ["network", "parameters", "CPU-s a fold"]
    for label in labels:
        heads += (
            ["Dice", "F1", "AP"] if objects else [f"Dice {label}", f"HD95, {UNITS.get(name, 'mm')}"]
        )
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for key, model in sorted(models.items(), key=lambda item: -mean_dice(item[1])):
        row = [
            model["title"] + (" (baseline)" if key in BASELINES else ""),
            f"{model['parameters'] / 1e6:.1f} M",
            f"{model['cpu_seconds_per_fold']:.0f}",
        ]
        for label in labels:
            values = model["labels"][label]
            row.append(spread(values["dice"], 3))
            row += (
                [f"{values[m]['mean']:.3f}" for m in ("f1_50", "ap_50")]
                if objects
                else [spread(values["hd95"], 2)]
            )
        lines.append("| " + " | ".join(row) + " |")
    behind = [m["title"] for m in models.values() if mean_dice(m) < UNCONVERGED]
    text = INTRODUCTION[name].format(
        cases=result["cases"],
        steps=result["steps"],
        batch=result["batch"],
        patch=" × ".join(map(str, result["patch"])),
    )
    note = (
        f" {listed(behind)} {'has' if len(behind) == 1 else 'have'} not converged in so few steps at"
        " the one learning rate that all share."
        if behind
        else ""
    )
    return f"{text} {verdict(models)}{note}\n\n" + "\n".join(lines)


def ablations(models: dict[str, Any]) -> str:
    """Networks with Mamba layers beside the same without, case by case."""
    pairs = [(m, models[m["ablation"]]) for m in models.values() if "dice_minus_ablation" in m]
    labels = list(pairs[0][0]["labels"])
    heads = [
        "network",
        *(f"Dice {label}, with − without" for label in labels),
        "CPU-s, with / without",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    counts = {"better": 0, "worse": 0, "the same": 0}
    for model, without in pairs:
        differences = [model["dice_minus_ablation"][label] for label in labels]
        clear = {d["low"] > 0 for d in differences} == {True}
        behind = {d["high"] < 0 for d in differences} == {True}
        counts["better" if clear else "worse" if behind else "the same"] += 1
        row = [model["title"]]
        row += [signed(d) for d in differences]
        row.append(f"{model['cpu_seconds_per_fold']:.0f} / {without['cpu_seconds_per_fold']:.0f}")
        lines.append("| " + " | ".join(row) + " |")
    said = ", ".join(
        f"{how if how != 'the same' else 'not clearly different'} in {n}"
        for how, n in counts.items()
        if n
    )
    residuals = "; ".join(
        f"{models[key.partition(':')[0]]['title']} "
        + " and ".join(f"{signed(d)} {label}" for label, d in model["dice_minus_default"].items())
        for key, model in models.items()
        if "residual=true" in key and "dice_minus_default" in model
    )
    around = (
        f" A residual around the layer, which U-Mamba leaves out, changes Dice by: {residuals}."
    )
    return (
        "**What the Mamba layers do.** The same network without them, same folds and budget: with"
        f" them it is {said} of {len(pairs)} (both intervals beyond zero count as clear). VM-UNet is"
        " nearly linear without them: its row says that they are all there is, not how good they are."
        f"{around if residuals else ''}"
        "\n\n" + "\n".join(lines)
    )


def longer(result: dict[str, Any]) -> str:
    """Two networks with a larger budget, in a sentence: the shipped recipe and the baseline's."""
    models = result["models"]
    (ours,) = [key for key in models if key not in BASELINES]
    (base,) = [key for key in models if key in BASELINES]
    labels = models[ours]["labels"]
    scores = {
        key: " and ".join(
            f"{models[key]['labels'][label]['dice']['mean']:.3f} {label}" for label in labels
        )
        for key in models
    }
    differences = models[ours][f"dice_minus_{base}"]
    where = " and ".join(signed(d) for d in differences.values())
    if all(d["low"] > 0 for d in differences.values()):
        verdict = f"{models[ours]['title']} stays ahead"
    elif all(d["high"] < 0 for d in differences.values()):
        verdict = f"{models[base]['title']} wins"
    else:
        verdict = "the two cannot be told apart"
    return (
        f"With {result['steps']:,} steps on one fold ({result['cases']} held-out cases)"
        f" {models[ours]['title']}, which is shipped, reaches Dice {scores[ours]}, and"
        f" {models[base]['title']} {scores[base]}: {verdict} (difference {where})."
    )


def listed(names: list[str]) -> str:
    """``a, b and c``; ``a, with x; b; and c`` where a name has a comma of its own."""
    if len(names) > 2 and any("," in name for name in names):
        return "; ".join(names[:-1]) + f"; and {names[-1]}"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def mean_dice(model: dict[str, Any]) -> float:
    values = [label["dice"]["mean"] for label in model["labels"].values()]
    return sum(values) / len(values)


def spread(value: dict[str, Any], digits: int) -> str:
    if value["mean"] is None:
        return "undefined"
    if "ci95" in value:
        value = {"low": value["ci95"][0], "high": value["ci95"][1], "undefined": 0} | value
    low, high = value["low"], value["high"]
    undefined = f", {value['undefined']} undefined" if value["undefined"] else ""
    return f"{value['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{undefined}"


def verdict(models: dict[str, Any]) -> str:
    """Who is best, and whether the paired difference to DynUNet leaves out zero."""
    best = max(models, key=lambda key: mean_dice(models[key]))
    if best in BASELINES:
        return f"{models[best]['title']}, a convolutional baseline, is best."
    differences = models[best].get("dice_minus_dynunet", {})
    clear = [label for label, d in differences.items() if d["low"] > 0]
    where = " and ".join(f"{label} {signed(d)}" for label, d in differences.items())
    how = "above" if len(clear) == len(differences) else "not clearly above"
    return f"{models[best]['title']} is best at this budget, {how} DynUNet case by case (Dice {where})."


def sliding(result: dict[str, Any]) -> str:
    ratio, given = result["ratio"], result["settings"]
    ours, monai = result["best"]["ours"], result["best"]["monai"]
    return (
        f"**Sliding window.** Swin UNETR (feature size {given['features']}) over {given['size']}³"
        f" voxels, windows of {given['roi']}³, overlap {given['overlap']}, the same weights as"
        f" MONAI's, side by side: {ratio['cpu_seconds']:.2f} of its processor seconds"
        f" ({ours['cpu_seconds']:.0f} against {monai['cpu_seconds']:.0f}) and"
        f" {ratio['peak_mb']:.2f} of its peak memory ({ours['peak_mb']:.0f} against"
        f" {monai['peak_mb']:.0f} MB, the whole process)."
    )


def scan(result: dict[str, Any]) -> str:
    """The selective scan: a row for each method, fastest first."""
    given, floors, methods = result["settings"], result["floors"], result["methods"]
    threads = max(floors, key=int)
    floor = floors[threads]
    lines = [
        f"| method, {threads} threads | forward, ms | × bandwidth floor | forward + backward, ms"
        " | extra memory, MB |",
        "|---" * 5 + "|",
    ]

    def speed(method: dict[str, Any]) -> float:
        return method[threads]["forward"].get("ms", float("inf"))

    for method in sorted(methods.values(), key=speed):
        forward, both = (method[threads][kind] for kind in ("forward", "forward_backward"))
        if "absent" in forward:
            lines.append(f"| {method['title']} | {forward['absent']} | | | |")
            continue
        cells = (
            [f"{both['ms']:.1f}", f"{forward['extra_mb']:.0f} / {both['extra_mb']:.0f}"]
            if "ms" in both
            else [both["absent"], f"{forward['extra_mb']:.0f} / –"]
        )
        ratio = forward["ms"] / floor["bandwidth_ms"]
        row = [
            method["title"],
            f"{forward['ms']:.1f}",
            f"{ratio:.{0 if ratio > 10 else 1}f}",
            *cells,
        ]
        lines.append("| " + " | ".join(row) + " |")
    native, blocked = (methods[m][threads]["forward"]["ms"] for m in ("native", "blocked"))
    return (
        f"**Selective scan on a CPU.** Batch {given['batch']}, length {given['length']},"
        f" {given['channels']} channels, state {given['state']}, float32, side by side on"
        f" {result['environment']['cpu']}. The floor of a forward pass is"
        f" {floor['bandwidth_ms']:.1f} ms, to move the data once. The exponentials cost more: at the"
        " rate at which a matrix product issues its multiply-adds, the"
        f" {result['instructions_per_update']} vector instructions of each state update take"
        f" {floor['arithmetic_ms']:.1f} ms, of which the C++ takes"
        f" {native / floor['arithmetic_ms']:.2f} (it adds beside multiplying) and blocked torch"
        f" {blocked / floor['arithmetic_ms']:.0f} times. Extra memory is the peak above inputs,"
        " output and gradients, forward / both."
        "\n\n" + "\n".join(lines)
    )


def scaling(result: dict[str, Any]) -> str:
    """Growth with length: the picture, and what the longest length costs."""
    curves, given = result["curves"], result["settings"]
    longest = max(p["length"] for curve in curves.values() for p in curve["forward"])
    said = []
    for name, curve in curves.items():
        last = curve["forward"][-1]
        at = "" if last["length"] == longest else f" at {last['length']:,}, where it was stopped"
        said.append(f"{result['mixers'][name]['title']} {last['seconds']:.2g} s{at}")
    return (
        f"**Length.** One causal mixer of {given['width']} channels, forward, at {longest:,}"
        f" positions: {'; '.join(said)}. The picture shows time and memory from"
        f" {curves['mamba']['forward'][0]['length']:,} on, both passes."
        "\n\n![Time and memory against length](docs/images/sequence_scaling.png)"
    )


def forecasting(result: dict[str, Any]) -> str:
    """Errors by data set and horizon, ours beside the papers' and the naive rows."""
    rows = {(r["dataset"], r["horizon"], r["model"]): r for r in result["rows"]}
    published = {(r["dataset"], r["horizon"], r["model"]): r for r in result["published"]}
    keys = list(dict.fromkeys((r["dataset"], r["horizon"]) for r in result["rows"]))
    names = list(dict.fromkeys(r["model"] for r in result["rows"]))
    seeds = max(len(r["seeds"]) for r in result["rows"])
    lines = [
        "**Long-horizon forecasting.** Lookback 96, published borders and settings (see"
        " [docs/forecasting.md](docs/forecasting.md)), all test windows, scaled space, MSE / MAE."
        f" Ours: mean over seeds ({seeds} where not marked otherwise); in brackets what the papers"
        " report. Bold: the best of our rows, naive ones included. The seasonal mean and ETS look at"
        " more history than 96 rows, as an analyst would; ETS lets trends run on, and a few windows"
        " dominate its squared error." + _not_run(result),
        "",
        f"| horizon | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for key in keys:
        best = min(r["mse"] for k, r in rows.items() if k[:2] == key and r["mse"] is not None)
        cells = [_score(rows.get((*key, name)), published.get((*key, name)), best, seeds)
                 for name in names]  # fmt: skip
        lines.append(f"| {key[0]} {key[1]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _not_run(result: dict[str, Any]) -> str:
    """What has published figures and no run of ours yet."""
    ours = {key: {r[key] for r in result["rows"]} for key in ("dataset", "model")}
    left = [
        name
        for key in ("dataset", "model")
        for name in dict.fromkeys(r[key] for r in result["published"])
        if name not in ours[key]
    ]
    return f" Not run so far: {', '.join(left)}." if left else ""


def _score(
    row: dict[str, Any] | None, paper: dict[str, Any] | None, best: float, seeds: int
) -> str:
    if row is None:
        return "–" if paper is None else f"– ({_pair(paper)})"
    text = _pair(row)
    if row["mse"] == best:
        text = f"**{text}**"
    if "steps" in row and len(row["seeds"]) < seeds:
        text += f", {len(row['seeds'])} seed{'s' if len(row['seeds']) > 1 else ''}"
    return text if paper is None else f"{text} ({_pair(paper)})"


def _pair(row: dict[str, Any]) -> str:
    return f"{row['mse']:.3f}/{row['mae']:.3f}"


def interval_coverage(result: dict[str, Any]) -> str:
    """Nominal against measured, by data set and method."""
    lines = [
        f"**Coverage of intervals**, {result['horizon']} steps ahead, every test origin, rolling"
        " recalibration on what had been realised; width in training deviations.",
        "",
        "| data, forecaster | bands | 80 % | 90 % | 95 % | width at 90 % |",
        "|---|---|---|---|---|---|",
    ]
    for name, about in result["sets"].items():
        for model, kinds in about["models"].items():
            for kind, levels in kinds.items():
                measured = " | ".join(f"{100 * levels[k]['coverage']:.1f}" for k in levels)
                lines.append(
                    f"| {name}, {model} | {kind} | {measured} | {levels['90']['width']:.2f} |"
                )
    return "\n".join(lines)


def forecast_steps(result: dict[str, Any]) -> str:
    """A training step beside neuralforecast's."""
    steps = result["steps"]
    parts = []
    for name in ("itransformer", "autoformer"):
        ours, theirs = steps[name], steps[f"neuralforecast-{name}"]
        parts.append(
            f"{name} {ours['cpu_ms']:.1f} ms and {ours['extra_mb']:.0f} MB"
            f" (neuralforecast {theirs['cpu_ms']:.1f} ms and {theirs['extra_mb']:.0f} MB)"
        )
    others = [n for n in steps if "neuralforecast" not in n and f"neuralforecast-{n}" not in steps]
    parts.append(", ".join(f"{n} {steps[n]['cpu_ms']:.1f} ms" for n in others))
    return (
        f"**A training step**, batch {result['batch']} of ETTh1, {result['lookback']} in and"
        f" {result['horizon']} out, published sizes, one thread, processor time and memory beyond the"
        f" built model, side by side: {'; '.join(parts)}."
    )


def many_series(result: dict[str, Any]) -> str:
    """Wall time and memory of a global model, by number of series."""
    lines = [
        f"**Many series.** One model for all, {result['points']} points each: `fit` ({result['steps']}"
        " steps) and `forecast` with intervals, each a process of one thread; wall seconds and peak"
        " memory.",
        "",
        "| model | series | fit | forecast |",
        "|---|---|---|---|",
    ]
    for model, about in result["models"].items():
        for row in about["sizes"]:
            cells = [
                f"{row[verb]['seconds']:.0f} s, {row[verb]['peak_mb']:.0f} MB"
                for verb in ("fit", "forecast")
            ]
            lines.append(f"| {model} | {row['series']:,} | {' | '.join(cells)} |")
    slopes = [
        f"{model} {about['slope_mb_per_series']['fit']:.3f} and"
        f" {about['slope_mb_per_series']['forecast']:.3f}"
        for model, about in result["models"].items()
    ]
    lines += ["", f"Memory grows by {'; '.join(slopes)} MB a series (fit and forecast), of which"
                  f" {result['data_mb_per_series']:.3f} are its values."]  # fmt: skip
    return "\n".join(lines)


def driving_world(result: dict[str, Any]) -> str:
    """Ticks a second of the embedded world, by cars and cameras."""
    renderers, peer = result["renderers"], result["peer"]
    lines = [
        f"**The driving world**, {Path(result['town']).stem}, synchronous, through CARLA's client:"
        " ticks a second with cars of its own traffic and cameras of 320 x 160 (three are RGB, depth"
        " and semantics of one view).",
        "",
        "| renderer | cars | no camera | 3 cameras | 9 cameras |",
        "|---|---|---|---|---|",
    ]
    for name, about in renderers.items():
        for cars, rows in about["by_cars"].items():
            cells = " | ".join(f"{row['ticks_per_s']:.0f}" for row in rows)
            lines.append(f"| {name} | {cars} | {cells} |")
    costs = "; ".join(
        f"{name} {about['camera_cpu_s']['20']:.4f} s, {about['memory_mb']:.0f} MB at most, started in"
        f" {about['start_s']:.1f} s"
        for name, about in renderers.items()
    )
    lines += ["", f"Three views, all three sensors, processor time: {costs} ({peer['name']}:"
                  f" {peer['camera_cpu_s']:.2f} s)."]  # fmt: skip
    return "\n".join(lines)


def driving_agent(result: dict[str, Any]) -> str:
    """Drivers in towns that the learned ones never saw: scores, and what went wrong."""
    towns = {
        name.replace("procedural:", "procedural "): {row["agent"]: row for row in about["rows"]}
        for name, about in result["towns"].items()
        if about["group"] == "unseen"
    }
    rows = sorted(result["unseen"], key=lambda row: -row["driving_score_2_1"])
    drives, seeds = rows[0]["routes_driven"], len(result["seeds"])
    lines = [
        f"**Driving**, {listed(list(towns))}: {drives // seeds} routes, {seeds} seeds of traffic"
        f" ({result['traffic']} vehicles, {result['walkers']} walkers) and weather; no learned driver"
        " was trained in these towns. Driving scores by the CARLA Leaderboard's formulas, without its"
        " scenarios and its minimum speed, with 95 % intervals over routes and seeds; the columns of"
        " towns are score 2.1.",
        "",
        "| driver | completion, % | score 2.1 | score 1.0 |"
        f" {' | '.join(towns)} | red lights, collisions a km | a decision, ms |",
        "|---|---|---|---|" + "---|" * len(towns) + "---|---|",
    ]
    for row in rows:
        found, bounds = row["infractions"], row["intervals"]
        hits = sum(count for kind, count in found.items() if kind.startswith("collisions"))
        cells = [
            interval(row[metric], bounds[metric])
            for metric in ("route_completion", "driving_score_2_1", "driving_score_1_0")
        ]
        cells += [f"{about[row['agent']]['driving_score_2_1']:.1f}" for about in towns.values()]
        rates = ", ".join(f"{n / row['driven_km']:.2f}" for n in (found["red_light"], hits))
        name = row["agent"].replace("+supervisor", ", supervised")
        lines.append(f"| {name} | {' | '.join(cells)} | {rates} | {row['decision_ms']:.0f} |")
    lines += [
        "",
        "`expert` sees the simulator's own state; `constant` and `blind` do not look, and `blind`"
        " follows points 10 m apart at the known limits of speed.",
    ]
    return "\n".join(lines)


def driving_balance(result: dict[str, Any]) -> str:
    """Ways to weigh the losses of the driver: mean and range over seeds, open loop."""
    rows = result["rows"]
    seeds = sorted({row["seed"] for row in rows})
    standing = rows[0]["waypoints_constant_speed"]["ade"]
    lines = [
        f"**Weighing the driver's losses**: `small` from scratch, {result['steps']} steps, {len(seeds)}"
        " seeds, same drives and held-out routes; mean and range over seeds. So short a training tells"
        f" how fast each begins, not where it ends: a constant speed is off by {standing:.2f} m.",
        "",
        "| weights | mIoU | waypoints off by, m | red light F1 | wheel |",
        "|---|---|---|---|---|",
    ]
    names = {"fixed": "fixed", "uncertainty": "uncertainty", "gradnorm": "GradNorm, every step"}
    for balance, name in names.items():
        own = [row for row in rows if row["balance"] == balance]
        columns = (
            ([row["miou"] for row in own], 3),
            ([row["waypoints"]["ade"] for row in own], 2),
            ([row["red_light"]["f1"] or 0.0 for row in own], 2),
            ([row["steer_mae"] for row in own], 4),
        )
        cells = [
            f"{sum(values) / len(values):.{places}f}"
            f" ({min(values):.{places}f} to {max(values):.{places}f})"
            for values, places in columns
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def told(difference: dict[str, Any], below: str, reaching: str, above: str) -> str:
    """The words for a difference whose interval lies below zero, reaches it, or lies above."""
    if difference["high"] < 0:
        return below
    return above if difference["low"] > 0 else reaching


def signed(difference: dict[str, Any]) -> str:
    """A difference and its interval, each with its sign: -0.000 is below zero, however little."""
    return "{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**difference)


def interval(mean: float, bounds: list[float]) -> str:
    return spread({"mean": mean, "low": bounds[0], "high": bounds[1], "undefined": 0}, 1)


def driving_expert(result: dict[str, Any]) -> str:
    """The teacher on routes of a town that everybody knows."""
    (row,) = result["known"]
    bounds = row["intervals"]
    score, done = (interval(row[m], bounds[m]) for m in ("driving_score_2_1", "route_completion"))
    return (
        f"**The expert that the drivers learn from**, {', '.join(result['towns'])},"
        f" {row['routes_driven']} drives with {result['traffic']} vehicles and {result['walkers']}"
        f" walkers ({len(result['seeds'])} seeds): route completion {done} %, driving score (2.1) {score}."
    )


def driving_collection(result: dict[str, Any]) -> str:
    return (
        "**Recording drives** (three cameras: RGB, depth, semantics; 20 vehicles, 10 walkers):"
        f" {result['frames_per_second']:.1f} frames a second in one process, the simulation included."
    )


def startup(result: dict[str, Any]) -> str:
    wall = result["commands"]["--help"]["wall"]
    return (
        f"**Start.** `run.py --help` answers in {wall['median']:.2f} s"
        f" (from {wall['min']:.2f} to {wall['max']:.2f} in {result['runs']} runs; an empty Python"
        f" takes {result['commands']['python']['wall']['median']:.2f} s)."
    )


def inserted(readme: str, text: str) -> str:
    """``readme`` with ``text`` between the markers."""
    head, rest = readme.split(BEGIN)
    return f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write into README.md")
    text = tables()
    if parser.parse_args().write:
        file = ROOT / "README.md"
        file.write_text(inserted(file.read_text(encoding="utf-8"), text), encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
