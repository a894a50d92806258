"""A page with nothing but the viewer, for its tests: ?show=hippocampus (default), wrong, picture."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import streamlit as st  # noqa: E402

from apps.medical.data.volume import read_image, read_label  # noqa: E402
from demos.shared.words import guarded  # noqa: E402
from demos.viewer import Layers, show  # noqa: E402

NAMES = {1: "anterior", 2: "posterior"}
what = st.query_params.get("show", "hippocampus")
st.set_page_config(page_title="Viewer", layout="wide")
st.title("Viewer")
with guarded("The viewer"):
    if what == "picture":
        folder = ROOT / "samples/nuclei"
        file = sorted((folder / "images").iterdir())[0]
        image = read_image(file)
        labels = read_label(next((folder / "instances").glob(f"{file.stem}*"))).array
        crosshair = show(image, Layers(labels=labels, instances=True), what)
    else:
        folder = ROOT / "samples/hippocampus"
        image = read_image(sorted((folder / "imagesTr").glob("*.nii.gz"))[0])
        truth = read_label(sorted((folder / "labelsTr").glob("*.nii.gz"))[0]).array
        labels = np.roll(truth, 1, 0)
        doubt = (labels != truth).astype(np.float32)
        if what == "wrong":
            labels = labels[1:]
        crosshair = show(
            image, Layers(labels=labels, names=NAMES, reference=truth, uncertainty=doubt), what
        )
    st.write("Crosshair:", str(crosshair))
