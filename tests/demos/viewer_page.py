"""A page with nothing but the viewer, for its tests.

?show=hippocampus (the default), wrong (labels of another shape), picture (a colour picture with numbered
objects), slice (one plane in space), many (20 structures in two channels).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import streamlit as st  # noqa: E402

from apps.medical.data.volume import Volume, read_image, read_label  # noqa: E402
from demos.shared.words import guarded  # noqa: E402
from demos.viewer import Crosshair, Layers, show  # noqa: E402

NAMES = {1: "anterior", 2: "posterior"}


def example(what: str) -> tuple[Volume, Layers]:
    if what == "picture":
        folder = ROOT / "samples/nuclei"
        file = sorted((folder / "images").iterdir())[0]
        labels = read_label(next((folder / "instances").glob(f"{file.stem}*"))).array
        return read_image(file), Layers(labels=labels, instances=True)
    folder = ROOT / "samples/hippocampus"
    image = read_image(sorted((folder / "imagesTr").glob("*.nii.gz"))[0])
    truth = read_label(sorted((folder / "labelsTr").glob("*.nii.gz"))[0]).array
    if what == "slice":
        flat = replace(image, array=image.array[:, :, 15], spacing=image.spacing[:2], rank=2)
        return flat, Layers(labels=truth[:, :, 15], names=NAMES)
    if what == "many":
        two = replace(image, array=np.stack([image.array, -image.array]))
        bands = (np.arange(image.shape[1]) // 3 + 1).astype(np.uint8)[None, :, None]
        labels = np.broadcast_to(bands, image.shape)
        return two, Layers(labels=labels, names={n: f"band {n}" for n in range(1, 18)})
    labels = np.roll(truth, 1, 0)  # a segmentation that is off by a voxel
    doubt = (labels != truth).astype(np.float32)
    if what == "wrong":
        labels = labels[1:]
    return image, Layers(labels=labels, names=NAMES, reference=truth, uncertainty=doubt)


def under(at: Crosshair) -> None:
    st.caption(f"Followed to {at.voxel}")


st.set_page_config(page_title="Viewer", layout="wide")
what = st.query_params.get("show", "hippocampus")
st.title("Viewer")
with guarded("The viewer"):
    crosshair = show(*example(what), key=what, under=under)
    st.write(f"The page knows {crosshair.voxel}")
