"""Forecasting: a file, what is wrong with it, models, past folds, the future with measured intervals.

streamlit run demos/timeseries.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from demos.forecasting.page import main  # noqa: E402

main()
