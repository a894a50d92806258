"""The volume in NiiVue, turned with the mouse: drawn by the browser itself, with WebGL 2.

NiiVue (https://github.com/niivue/niivue, BSD-2-Clause) comes whole inside the package
niivue-streamlit (MIT), which is optional; nothing is fetched from elsewhere. The browser gets a copy
of the volume: at most ``LONGEST`` voxels along an edge, grey in 256 steps of the window chosen for the
slices, and the structures as one RGBA overlay, so that they have the colours of every other picture.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any, cast

import nibabel as nib
import numpy as np
import streamlit as st

from apps.medical.data.volume import Volume
from apps.medical.overlay import COLOURS
from core.errors import UsageError, need
from demos.viewer.paint import Style
from demos.viewer.scene import Scene

LONGEST = 160  # voxels: a software renderer shows 128 x 128 x 64 in 8 s, 256 x 256 x 128 in 45 s
HEIGHT, MENU = 640, 76  # CSS pixels; its menu and the line below are part of the height
CROSSHAIR_FROM = 100.0  # mm
RGBA = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])

_probe = st.components.v2.component(
    "triptych_webgl",
    js="""
export default function (component) {
  const canvas = document.createElement("canvas");
  component.setStateValue("webgl", canvas.getContext("webgl2") !== null);
}
""",
)


def offered(scene: Scene) -> bool:
    """Whether there is something to turn: a volume in space, of more than one slice."""
    return not scene.flat and scene.volume.rank == 3 and len(scene.axes) == 3


def show(
    scene: Scene,
    window: tuple[float, float],
    channel: int,
    style: Style,
    radiological: bool,
    key: str,
) -> None:
    """Draw the volume, or say in a sentence what is missing for it."""
    try:
        viewer = cast(Callable[..., Any], need("niivue_component", "demos").niivue_viewer)
    except UsageError:
        st.info(
            "The rotating view needs the package niivue-streamlit, which is not installed: "
            "`pip install niivue-streamlit`. The slices work without it."
        )
        return
    webgl = _probe(key=f"{key}/webgl", on_webgl_change=lambda: None).webgl
    if webgl is None:
        st.caption("Looking at what this browser can draw…")
        return
    if not webgl:
        st.info(
            "This browser has no WebGL 2 (it may be switched off in its settings), which the rotating "
            "view needs. The slices work without it."
        )
        return
    image, overlay = copies(scene, window, channel, style)
    overlays = [{"data": overlay, "name": "structures.nii.gz", "opacity": 1.0}] if overlay else []
    x, y, z = (n * edge for n, edge in zip(scene.size, scene.edges))
    panes = (HEIGHT - MENU) * (x + y) / (y + z)  # four of them, two by two
    with st.container(width=min(max(320, round(panes) + 12), 1200)):
        viewer(
            nifti_data=image,
            filename="image.nii.gz",
            overlays=overlays,
            height=HEIGHT,
            view_mode="multiplanar",
            styled=True,
            settings={
                # Its lines are 1 mm thick: bars across the crop of a small structure.
                "crosshair": min(x, y, z) > CROSSHAIR_FROM,
                "radiological": radiological,
                "interpolation": True,
            },
            update_interval_ms=None,
            key=f"{key}/niivue",
        )
    steps = _steps(scene.volume.shape)
    told = " × ".join(str(step) for step in steps)
    reduced = f" Here {told} voxels are drawn as one, to keep it fast." if max(steps) > 1 else ""
    st.caption(
        "Drag in the lower right pane to turn the volume; click in the others to choose the point that "
        "all of them show; the wheel changes the slice. Window and structures are those chosen under "
        f"Slices.{reduced}"
    )


def copies(
    scene: Scene, window: tuple[float, float], channel: int, style: Style
) -> tuple[bytes, bytes | None]:
    """The display copies as gzipped NIfTI: the image, and the structures if any are shown."""
    volume = scene.volume
    steps = _steps(volume.shape)
    affine = volume.affine.copy()
    affine[:3, 3] = (volume.affine @ [*((step - 1) / 2 for step in steps), 1.0])[:3]
    affine[:3, :3] *= steps
    grey = nib.Nifti1Image(_grey(volume, window, channel, steps), affine)
    low, high = window
    grey.header.set_slope_inter((high - low) / 255, low)
    grey.header["cal_min"], grey.header["cal_max"] = low, high
    if scene.layers.labels is None or not style.labels:
        return _packed(grey), None
    middle = tuple(slice(step // 2, n - n % step, step) for n, step in zip(volume.shape, steps))
    labels = scene.layers.labels[middle].astype(np.int64)
    table = np.zeros((len(COLOURS), 4), np.uint8)
    table[:, :3] = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS]
    table[:, 3] = round(255 * max(style.fill, 0.5))
    shown = (labels > 0) & ~np.isin(labels, list(style.hidden))
    paint = np.where(shown[..., None], table[(labels - 1) % len(COLOURS)], np.uint8(0))
    coloured = np.ascontiguousarray(paint).view(RGBA)[..., 0]
    return _packed(grey), _packed(nib.Nifti1Image(coloured, affine))


def _steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Voxels drawn as one, along each axis."""
    return tuple(-(-n // LONGEST) for n in shape)


def _grey(
    volume: Volume, window: tuple[float, float], channel: int, steps: tuple[int, ...]
) -> np.ndarray:
    """The channel in 256 steps of the window, means over blocks of ``steps`` voxels."""
    kept = tuple(slice(0, n - n % step) for n, step in zip(volume.shape, steps))
    values, (a, b, c) = volume.channel_first[channel][kept], steps
    low, high = window
    out = np.empty(tuple(n // step for n, step in zip(volume.shape, steps)), np.uint8)
    for i in range(out.shape[0]):  # slab by slab: a large volume is not copied as float
        slab = np.nan_to_num(values[i * a : (i + 1) * a].astype(np.float32))
        grey = (np.clip(slab, low, high) - low) * (255 / max(high - low, 1e-12))
        blocks = grey.reshape(a, out.shape[1], b, out.shape[2], c)
        out[i] = np.rint(blocks.mean((0, 2, 4)))
    return out


def _packed(image: nib.Nifti1Image) -> bytes:
    return gzip.compress(image.to_bytes(), 1, mtime=0)
