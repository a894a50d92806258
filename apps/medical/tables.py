"""A case's statistics as rows: for a table on a page, and as CSV for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any


def volume_rows(stats: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per label of a stats.json, or one for all numbered objects; plain numbers or None.

    The columns are the same in every row: "structure", "label", "voxels", the size in its unit and
    its range, mean intensity (one per channel), confidence, expected Dice, as far as they are known.
    """
    unit = stats["unit"]
    if "objects" in stats:
        about = stats["objects"]
        return [
            {
                "structure": "objects",
                "count": about["count"],
                f"median size ({unit})": about[f"median_size_{unit}"],
                f"total size ({unit})": about[f"total_size_{unit}"],
                **_intensities(about["mean_intensity"]),
            }
        ]
    known = {key for entry in stats["labels"].values() for key in entry}
    rows = []
    for name, entry in stats["labels"].items():
        row = {"structure": name, "label": entry["label"], "voxels": entry["voxels"]}
        row[unit] = entry[unit]
        if f"range_{unit}" in known:
            low, high = entry.get(f"range_{unit}") or (None, None)
            row |= {f"{unit} from": low, f"{unit} to": high}
        row |= _intensities(entry["mean_intensity"])
        for key, title in (
            ("confidence", "confidence"),
            ("expected_dice", "expected Dice"),
            ("dice_at_least", "Dice at least"),
        ):
            if key in known:
                row[title] = entry.get(key)
        rows.append(row)
    return rows


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows of ``volume_rows`` as CSV with a header; an unknown number is an empty field.

    Text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    if not rows:
        return ""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _safe(value) for key, value in row.items()})
    return stream.getvalue()


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value


def _intensities(value: Any) -> dict[str, Any]:
    if not isinstance(value, list):
        return {"mean intensity": value}
    return {f"mean intensity {number}": one for number, one in enumerate(value, 1)}
