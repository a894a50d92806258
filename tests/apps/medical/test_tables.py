"""Statistics as rows and as CSV, read back by another reader."""

from __future__ import annotations

import csv
import io

import pandas as pd

from apps.medical.tables import as_csv, volume_rows

STATS = {
    "unit": "mL",
    "labels": {
        "front": {
            "label": 2, "voxels": 10, "mL": 1.5, "mean_intensity": [3.0, None], "confidence": 0.9,
            "expected_dice": 0.8, "dice_at_least": None, "range_mL": [1.0, 2.0],
        },
        "=back": {
            "label": 5, "voxels": 0, "mL": 0.0, "mean_intensity": [None, None], "confidence": None,
            "expected_dice": None, "range_mL": None,
        },
    },
}  # fmt: skip


def test_every_row_has_the_same_columns() -> None:
    front, back = volume_rows(STATS)
    assert list(front) == list(back)
    assert front == {
        "structure": "front", "label": 2, "voxels": 10, "mL": 1.5, "mL from": 1.0, "mL to": 2.0,
        "mean intensity 1": 3.0, "mean intensity 2": None, "confidence": 0.9, "expected Dice": 0.8,
        "Dice at least": None,
    }  # fmt: skip
    assert back["mL from"] is None


def test_what_was_not_measured_has_no_column() -> None:
    labels = {"a": {"label": 1, "voxels": 3, "pixels": 3.0, "mean_intensity": 7.0}}
    (row,) = volume_rows({"unit": "pixels", "labels": labels})
    assert row == {"structure": "a", "label": 1, "voxels": 3, "pixels": 3.0, "mean intensity": 7.0}


def test_objects_are_one_row() -> None:
    objects = {
        "count": 4, "median_size_mm2": 2.5, "total_size_mm2": 11.0, "mean_intensity": 9.0
    }  # fmt: skip
    (row,) = volume_rows({"unit": "mm2", "objects": objects})
    assert (row["count"], row["median size (mm2)"], row["mean intensity"]) == (4, 2.5, 9.0)


def test_csv_is_read_back_and_holds_no_formula() -> None:
    text = as_csv(volume_rows(STATS))
    table = pd.read_csv(io.StringIO(text))
    assert table["mL"].tolist() == [1.5, 0.0]
    assert table["confidence"].isna().tolist() == [False, True]
    assert [row["structure"] for row in csv.DictReader(io.StringIO(text))] == ["front", "'=back"]
    assert as_csv([]) == ""
