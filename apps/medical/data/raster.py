"""Pictures (.png .jpg .tif .bmp) through Pillow and tifffile. Internal to `volume`.

Arrays are (row, column), colours (C, row, column). EXIF orientation is applied to images and masks
alike, so both lie as a viewer shows them. Alpha is dropped from images; a mask may live in it.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps

from apps.medical.data.volume import Peek, Volume, check_voxels, suffix_of
from core.errors import DataError

# Pillow's own hard limit against decompression bombs (twice Image.MAX_IMAGE_PIXELS).
MAX_PIXELS = 178_956_970
_EXIF_ORIENTATION = 274


def peek(path: Path) -> Peek:
    if _is_tiff(path):
        with tifffile.TiffFile(path) as tiff:
            page = _first_page(tiff)
            colour = page.photometric == tifffile.PHOTOMETRIC.PALETTE or page.samplesperpixel >= 3
            return Peek((page.imagelength, page.imagewidth), 3 if colour else 1)
    with _open(path) as picture:
        colour = picture.mode not in ("1", "L", "LA", "I", "F") and "I;" not in picture.mode
        width, height = picture.size
        if picture.getexif().get(_EXIF_ORIENTATION, 1) >= 5:
            width, height = height, width
        return Peek((height, width), 3 if colour else 1)


def read(path: Path, *, channels_last_axis: bool, as_label: bool) -> Volume:
    notes: dict[str, str] = {}
    array, palette = _tiff(path) if _is_tiff(path) else _picture(path, as_label, notes)
    if as_label:
        array = _single_mask(array, path)
    else:
        if palette is not None:
            array = palette[array]
        if array.dtype == bool:
            array = array.astype(np.uint8) * 255
        if array.ndim == 3:  # alpha carries no intensity
            array = array[..., 0] if array.shape[-1] == 2 else np.moveaxis(array[..., :3], -1, 0)
    return Volume(
        array=np.ascontiguousarray(array),
        affine=np.eye(4),
        spacing=(1.0, 1.0),
        rank=2,
        path=path,
        physical=False,
        notes=notes,
    )


def write_label(reference: Volume, labels: np.ndarray, path: Path) -> None:
    plane = labels.reshape([n for n in labels.shape if n != 1]) if labels.ndim > 2 else labels
    if plane.ndim != 2:
        raise DataError(f"{path}: a picture holds one plane, the labels have shape {labels.shape}")
    if suffix_of(path) in (".jpg", ".jpeg"):
        raise DataError(f"{path}: JPEG would alter the label ids; write .png")
    if plane.dtype == np.uint32 and not _is_tiff(path):
        raise DataError(f"{path}: ids above 65535 do not fit this format; write .nii.gz or .tif")
    if plane.dtype != np.uint8 and suffix_of(path) == ".bmp":
        raise DataError(f"{path}: ids above 255 do not fit BMP; write .png")
    if _is_tiff(path):
        tifffile.imwrite(path, plane, photometric="minisblack", compression="zlib")
    else:
        Image.fromarray(plane).save(path)


def _is_tiff(path: Path) -> bool:
    return suffix_of(path) in (".tif", ".tiff")


def _open(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        picture = Image.open(path)
    check_voxels(path, picture.size, MAX_PIXELS)
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise DataError(f"{path}: holds {frames} frames; one per file is needed")
    return picture


def _picture(
    path: Path, as_label: bool, notes: dict[str, str]
) -> tuple[np.ndarray, np.ndarray | None]:
    with _open(path) as picture:
        if picture.format == "PNG" and not as_label and _png_depth(path) == (16, True):
            notes["depth"] = "16-bit colour PNG read at 8 bits"
        upright = ImageOps.exif_transpose(picture)
        if upright.mode == "P":
            if as_label:
                return np.asarray(upright), None  # the palette's indices are the ids
            upright = upright.convert("RGB")
        elif upright.mode == "PA":
            upright = upright.convert("RGBA")
        elif upright.mode in ("CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa", "La"):
            upright = upright.convert("LA" if upright.mode == "La" else "RGB")
        array = np.asarray(upright)
    return array.astype(array.dtype.newbyteorder("=")), None


def _tiff(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with tifffile.TiffFile(path) as tiff:
        if len(tiff.series) != 1 or len(tiff.series[0].shape) > 3 or len(tiff.pages) > 1:
            raise DataError(
                f"{path}: holds {len(tiff.pages)} pages; one 2-D image per file is needed"
            )
        series, page = tiff.series[0], _first_page(tiff)
        check_voxels(path, series.shape, MAX_PIXELS * 4)
        array = series.asarray()
        if array.ndim == 3:
            if series.axes.startswith("S"):
                array = np.moveaxis(array, 0, -1)
            elif not series.axes.endswith("S"):
                raise DataError(f"{path}: axes {series.axes}; one 2-D image per file is needed")
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind in "ub":
            array = ~array
        palette = None
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            palette = (np.asarray(page.colormap).T // 257).astype(np.uint8)
        tag = page.tags.get(_EXIF_ORIENTATION)
        orientation = int(tag.value) if tag is not None else 1
    return _upright(array, orientation), palette


def _first_page(tiff: tifffile.TiffFile) -> tifffile.TiffPage:
    page = tiff.pages[0]
    assert isinstance(page, tifffile.TiffPage)  # the first one is never abbreviated to a frame
    return page


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo EXIF orientation 1 to 8 on (row, column, ...)."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    flips: dict[int, tuple[int, ...]] = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.flip(array, flips.get(orientation, ()))


def _png_depth(path: Path) -> tuple[int, bool]:
    """Bit depth and whether in colour, from the IHDR chunk."""
    with path.open("rb") as stream:
        head = stream.read(26)
    return head[24], bool(head[25] & 2)


def _single_mask(array: np.ndarray, path: Path) -> np.ndarray:
    """One plane of ids from a mask stored as grey, grey with alpha, RGB or RGBA."""
    if array.ndim == 2:
        return array
    planes = np.moveaxis(array, -1, 0)
    colour, alpha = (planes[:-1], planes[-1]) if len(planes) in (2, 4) else (planes, None)
    if (colour != colour[0]).any():
        raise DataError(
            f"{path}: a colour mask; save class ids (0 background, 1, 2, ...) as grey or palette PNG"
        )
    if alpha is not None and (colour[0] == colour[0].flat[0]).all() and alpha.min() != alpha.max():
        return alpha  # a mask drawn in the alpha channel over one flat colour
    return colour[0]
