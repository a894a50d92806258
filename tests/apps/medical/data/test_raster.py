from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from apps.medical.data.volume import peek, read_image, read_label, write_label_like
from core.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
MASK = (RGB[..., 0] > 128).astype(np.uint8)


def save(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def test_colour_picture_is_channels_first_in_rows_and_columns(tmp_path: Path) -> None:
    volume = read_image(save(tmp_path / "a.png", RGB))
    np.testing.assert_array_equal(volume.array, RGB.transpose(2, 0, 1))
    assert (volume.rank, volume.channels, volume.shape) == (2, 3, (5, 7))
    assert not volume.physical
    assert peek(tmp_path / "a.png") == peek(save(tmp_path / "b.tif", RGB))


def test_alpha_of_an_image_is_dropped(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full((5, 7), 9, np.uint8)])
    volume = read_image(save(tmp_path / "a.png", rgba))
    np.testing.assert_array_equal(volume.array, RGB.transpose(2, 0, 1))
    grey_alpha = np.dstack([RGB[..., 0], np.full((5, 7), 9, np.uint8)])
    np.testing.assert_array_equal(
        read_image(save(tmp_path / "b.png", grey_alpha)).array, RGB[..., 0]
    )


def test_sixteen_bit_grey_keeps_its_values(tmp_path: Path) -> None:
    deep = np.arange(35, dtype=np.uint16).reshape(5, 7) * 1800
    for name in ("a.png", "a.tif"):
        volume = read_image(save(tmp_path / name, deep))
        np.testing.assert_array_equal(volume.array, deep)
        assert volume.channels == 1


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_in_either_planar_layout(tmp_path: Path, planar: str) -> None:
    deep = RGB.astype(np.uint16) * 200
    stored = deep if planar == "contig" else deep.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, deep.transpose(2, 0, 1))


def test_stack_of_pages_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5, 6), np.uint8), photometric="minisblack")
    with pytest.raises(DataError, match="pages"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_alike_to_jpeg_png_and_tiff(tmp_path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    stored = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, np.ones((8, 8), np.uint8))
    for name in ("a.png", "a.jpg"):
        save(tmp_path / name, stored, exif=exif, **({"quality": 100} if "jpg" in name else {}))
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", extratags=tags)
    png, jpg, tif = (read_image(tmp_path / f"a.{s}").array for s in ("png", "jpg", "tif"))
    np.testing.assert_array_equal(png, tif)
    np.testing.assert_array_equal(np.rint(png / 40), np.rint(jpg / 40))
    assert (png.shape == stored.shape) == (orientation < 5)
    assert peek(tmp_path / "a.png").shape == png.shape
    if orientation == 6:  # the camera was turned: shown upright after a quarter turn clockwise
        np.testing.assert_array_equal(png, np.rot90(stored, -1))
    # A mask with the same tag turns with its image.
    save(tmp_path / "m.png", stored, exif=exif)
    np.testing.assert_array_equal(read_label(tmp_path / "m.png").array, png)


def test_palette_mask_reads_as_indices_and_palette_image_as_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(MASK).convert("P")
    picture.putpalette([0, 0, 0, 200, 10, 30] + [0] * 750)
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png").array, MASK)
    image = read_image(tmp_path / "a.png").array
    assert image[:, MASK == 1][:, 0].tolist() == [200, 10, 30]


def test_one_bit_and_0_255_masks(tmp_path: Path) -> None:
    Image.fromarray(MASK * 255).convert("1").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png").array, MASK)
    stored = read_label(save(tmp_path / "b.png", MASK * 255)).array
    np.testing.assert_array_equal(stored, MASK * 255)  # mapped to 0/1 by the data set, not here


@pytest.mark.parametrize("where", ["alpha", "colour", "grey"])
def test_masks_in_rgba(tmp_path: Path, where: str) -> None:
    on, flat = MASK * 255, np.full((5, 7), 255, np.uint8)
    planes = {
        "alpha": [flat, flat, flat, on],
        "colour": [on, on, on, flat],
        "grey": [on, flat],
    }[where]
    label = read_label(save(tmp_path / "a.png", np.dstack(planes)))
    np.testing.assert_array_equal(label.array, on)


def test_colour_coded_mask_is_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"colour mask.*ids"):
        read_label(save(tmp_path / "a.png", RGB))


def test_noisy_jpeg_mask_is_refused_unless_thresholded(tmp_path: Path) -> None:
    big = np.kron(MASK * 255, np.ones((9, 9), np.uint8))
    path = save(tmp_path / "a.jpg", big, quality=60)
    with pytest.raises(DataError, match=r"JPEG mask.*PNG"):
        read_label(path)
    np.testing.assert_array_equal(read_label(path, threshold=127).array, big // 255)


@pytest.mark.parametrize(("highest", "dtype"), [(3, np.uint8), (4000, np.uint16)])
def test_label_of_a_picture_as_png_and_as_nifti(tmp_path: Path, highest: int, dtype: type) -> None:
    reference = read_image(save(tmp_path / "a b.c.png", RGB))
    labels = MASK.astype(np.int64) * highest
    for name in ("seg.png", "seg.tif", "seg.nii.gz"):
        back = read_label(write_label_like(reference, labels, tmp_path / name))
        np.testing.assert_array_equal(back.array, labels)
        assert back.array.dtype == dtype
    nifti = nib.load(tmp_path / "seg.nii.gz")
    np.testing.assert_array_equal(nifti.affine, np.eye(4))
    assert nifti.shape == (5, 7)


def test_label_is_never_written_as_jpeg(tmp_path: Path) -> None:
    reference = read_image(save(tmp_path / "a.png", RGB))
    with pytest.raises(DataError, match="JPEG"):
        write_label_like(reference, MASK, tmp_path / "seg.jpg")
    assert not (tmp_path / "seg.jpg").exists()


def test_truncated_picture_and_bomb(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    path = save(tmp_path / "a.png", noise)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(path)
    bomb = bytearray(whole)
    bomb[16:24] = (60000).to_bytes(4, "big") * 2  # IHDR width and height
    import zlib

    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    path.write_bytes(bomb)
    with pytest.raises(DataError, match=r"limit|bomb"):
        read_image(path)
