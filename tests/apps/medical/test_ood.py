"""Each way in which an image can be unlike what a model knows has its sentence, and its silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from apps.medical.data.plan import Intensity
from apps.medical.data.preprocess import prepare
from apps.medical.data.volume import Volume
from apps.medical.ood import body_parts, input_warnings, modality_of, output_warnings
from apps.medical.uncertainty import quantiles


def volume(shape=(20, 20, 20), edge: float = 1.0, scale: float = 1.0, **series) -> Volume:
    array = 100 + 10 * np.random.default_rng(0).normal(size=shape)
    return Volume(
        array=(scale * array).astype(np.float32),
        affine=np.diag([edge, edge, edge, 1.0]),
        spacing=(edge,) * 3,
        rank=3,
        path=Path("x"),
        store=SimpleNamespace(series=SimpleNamespace(**series)) if series else None,
    )


def told(image: Volume, plan, seen=None) -> list[str]:
    return input_warnings([image], prepare([image], plan), plan, seen)


def test_an_image_like_the_training_set_is_not_warned_of(make_plan, calibration) -> None:
    plan = make_plan()
    image = volume(modality="MR", body_part="HEAD")
    known = calibration().seen.model_copy(
        update={"quantiles": quantiles(prepare([image], plan).image), "quantile_distance": [0.05]}
    )
    assert told(image, plan, known) == []


@pytest.mark.parametrize(
    ("channel", "kind"),
    [
        ("T1w MR", "MR"), ("CT", "CT"), ("t2w", "MR"), ("adc", "MR"), ("HU", "CT"), ("PET", "PT"),
        ("red", None), ("channel 0", None), ("spect", None),
    ],
)  # fmt: skip
def test_modality_by_a_channels_name(channel, kind) -> None:
    assert modality_of(channel) == kind


def test_another_modality_and_another_body_part(make_plan) -> None:
    plan = make_plan().model_copy(update={"channels": ["T1w MR"], "dataset": "hippocampus"})
    assert body_parts(plan) == {"HEAD", "BRAIN"}
    assert body_parts(make_plan()) == set()
    (warning,) = told(volume(modality="CT"), plan)
    assert "is CT" in warning
    assert "trained on MR" in warning
    (warning,) = told(volume(modality="MR", body_part="Prostate"), plan)
    assert "prostate" in warning
    assert told(volume(modality="MR", body_part=""), plan) == []
    assert told(volume(modality="CT", body_part="PELVIS"), make_plan()) == []  # it does not say


def test_ct_in_other_units(make_plan) -> None:
    plan = make_plan(
        channels=1, normalisation=["ct"], intensity=[Intensity(mean=0, std=1, low=-50, high=50)]
    )
    (warning,) = told(volume(), plan)
    assert "Hounsfield" in warning
    assert told(volume(scale=0.3), plan) == []


def test_another_distribution_of_intensities(make_plan, calibration) -> None:
    plan, image = make_plan(), volume()
    seen = calibration().seen.model_copy(
        update={"quantiles": quantiles(prepare([image], plan).image), "quantile_distance": [0.1]}
    )
    spots = replace(image, array=np.where(image.array > 118, 2000, image.array))
    (warning,) = told(spots, plan, seen)
    assert "distributed unlike any held-out case's" in warning
    # Another scale of the same contrast is what normalisation takes out.
    assert told(volume(scale=7), plan, seen) == []


def test_field_of_view_and_spacing(make_plan, calibration) -> None:
    plan = make_plan()
    warnings = told(volume(edge=3.0), plan)
    assert any("field of view" in w and "crop" in w for w in warnings)
    assert any("voxels of 3 x 3 x 3 mm" in w for w in warnings)
    seen = calibration().seen.model_copy(update={"extent": [(5, 11)] * 3})
    (warning,) = told(volume(), plan, seen)  # the plan's median would let it pass
    assert "held-out cases had 5 x 5 x 5 mm to 11 x 11 x 11 mm" in warning


def test_results_that_no_held_out_case_had(calibration) -> None:
    seen = calibration().seen.model_copy(
        update={"volumes": {"front": (2.0, 4.0)}, "uncertainty": (0.1, 0.2)}
    )
    stats = {"unit": "mL", "labels": {"front": {"mL": 3.0}, "other": {"mL": 99.0}}}
    assert output_warnings(stats, 0.2, seen) == []
    assert output_warnings(stats, None, None) == []
    (warning,) = output_warnings(stats, 0.4, seen)
    assert "less certain" in warning
    for size in (1.0, 8.0):
        stats["labels"]["front"]["mL"] = size
        (warning,) = output_warnings(stats, None, seen)
        assert "had 2 to 4 mL" in warning
