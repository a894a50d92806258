"""Which way round the picture is, to what scale, and that it is drawn at all."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.medical.data.volume import Volume
from apps.medical.overlay import colour_of, draw, planes, save_overlay
from core.errors import UsageError


def volume(array: np.ndarray, affine: np.ndarray, physical: bool = True) -> Volume:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    rank = 2 if not physical else array.ndim
    return Volume(
        array=array,
        affine=affine,
        spacing=tuple(spacing[:rank]) if physical else (1.0, 1.0),
        rank=rank,
        path=Path("x.nii.gz"),
        physical=physical,
    )


def marked() -> tuple[np.ndarray, np.ndarray]:
    """RAS arrays of 6 x 8 x 10 that grow brighter to the right, to anterior and to superior."""
    image = 100.0 + np.indices((6, 8, 10)).sum(0)
    labels = np.zeros(image.shape, np.uint8)
    labels[2:4, 3:5, 4] = 1  # the largest axial section
    labels[3, 4, 4:7] = 2
    labels[5, 7, 9] = 1
    return image, labels


def test_largest_sections_and_where_the_patients_sides_are() -> None:
    image, labels = marked()
    labels[3, :, :] = 2
    labels[:, 7, :] = 1
    labels[:, :, 9] = 1
    axial, coronal, sagittal = planes(volume(image, np.eye(4)), labels)
    assert (axial.title, coronal.title) == ("axial, slice 10 of 10", "coronal, slice 8 of 8")
    assert axial.image.shape == (8, 6)
    assert coronal.image.shape == (10, 6)
    assert sagittal.image.shape == (10, 8)
    assert axial.letters == ("R", "L", "A", "P")
    assert coronal.letters == ("R", "L", "S", "I")
    assert sagittal.letters == ("A", "P", "S", "I")
    # Right, anterior and superior are at the left and at the top.
    assert axial.image[0, 0] == axial.image.max() > axial.image[-1, -1]
    assert coronal.image[0, 0] == coronal.image.max() > coronal.image[-1, -1]


def test_the_picture_does_not_depend_on_how_the_voxels_are_stored() -> None:
    """All 48 axis orders and directions of one volume give the same picture."""
    image, labels = marked()
    affine = np.diag([0.5, 1.0, 2.0, 1.0])
    expected = planes(volume(image, affine), labels)
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            turned, marks, columns = image.transpose(order), labels.transpose(order), affine.copy()
            columns[:3, :3] = affine[:3, list(order)]
            for axis, sign in enumerate(signs):
                if sign < 0:
                    turned, marks = np.flip(turned, axis), np.flip(marks, axis)
                    columns[:3, 3] += columns[:3, axis] * (turned.shape[axis] - 1)
                    columns[:3, axis] *= -1
            for got, want in zip(planes(volume(turned, columns), marks), expected):
                np.testing.assert_array_equal(got.labels, want.labels)
                np.testing.assert_allclose(got.image, want.image)
                assert got.edges == pytest.approx(want.edges)
                assert (got.letters, got.title) == (want.letters, want.title)


def test_millimetres_are_to_scale() -> None:
    image, labels = marked()
    cuts = planes(volume(image, np.diag([0.5, 1.0, 3.0, 1.0])), labels)
    assert [cut.edges for cut in cuts] == [(1.0, 0.5), (3.0, 0.5), (3.0, 1.0)]
    figure = draw(cuts, {1: "a, 1 mL"})
    for ax, cut in zip(figure.axes, cuts):
        width = cut.labels.shape[1] * cut.edges[1]
        height = cut.labels.shape[0] * cut.edges[0]
        box = ax.get_window_extent()
        ax.apply_aspect()
        box = ax.get_window_extent()
        assert box.height / box.width == pytest.approx(height / width, rel=1e-6)


def test_nothing_segmented_shows_the_middle() -> None:
    image, labels = marked()
    titles = [cut.title for cut in planes(volume(image, np.eye(4)), np.zeros_like(labels))]
    assert titles == ["axial, slice 6 of 10", "coronal, slice 5 of 8", "sagittal, slice 4 of 6"]


def test_flat_images_have_one_plane() -> None:
    image, labels = marked()
    slice_2d = planes(volume(image[:, :, 4], np.diag([0.5, 2, 1, 1])), labels[:, :, 4])
    slice_3d = planes(volume(image[:, :, 4:5], np.diag([0.5, 2, 1, 1])), labels[:, :, 4:5])
    for cuts in (slice_2d, slice_3d):
        assert len(cuts) == 1
        assert cuts[0].letters == ("R", "L", "A", "P")
        assert cuts[0].edges == (2.0, 0.5)
    colour = np.zeros((3, 5, 7), np.uint8)
    colour[0] = 255
    (cut,) = planes(volume(colour, np.eye(4), physical=False), np.zeros((5, 7), np.uint8))
    assert cut.letters is None
    assert cut.image.shape == (5, 7, 3)
    assert cut.image[0, 0].tolist() == [1, 0, 0]


def test_text_on_the_picture(tmp_path) -> None:
    image, labels = marked()
    figure = draw(planes(volume(image, np.eye(4)), labels), {1: "front, 1.5 mL"}, title="case 7")
    shown = [text.get_text() for text in figure.texts]
    assert "case 7" in shown
    assert any("patient's right is on the left" in text for text in shown)
    assert any("Not a medical device" in text for text in shown)
    assert [t.get_text() for t in figure.legends[0].texts] == ["front, 1.5 mL"]
    letters = {text.get_text() for ax in figure.axes for text in ax.texts}
    assert set("RLAPSI") <= letters
    assert any(text.endswith(" mm") for text in letters)


def test_file_is_written_once(tmp_path) -> None:
    image, labels = marked()
    image[0, 0, 0] = np.nan
    path = tmp_path / "overlay.png"
    save_overlay(path, volume(image, np.eye(4)), labels, {1: "a"})
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    wanted = np.array([int(colour_of(1)[i : i + 2], 16) for i in (1, 3, 5)])
    assert (np.abs(picture - wanted).sum(-1) < 40).any()
    with pytest.raises(UsageError, match="--force"):
        save_overlay(path, volume(image, np.eye(4)), labels, {1: "a"})


def test_objects_are_outlined(tmp_path) -> None:
    ids = np.zeros((40, 50), np.uint16)
    ids[5:15, 5:15], ids[20:35, 20:45] = 1, 300
    image = volume(np.full((40, 50), 128, np.uint8), np.eye(4), physical=False)
    save_overlay(tmp_path / "o.png", image, ids, {0: "2 objects"}, instances=True)
    assert Image.open(tmp_path / "o.png").size[0] > 800


def test_several_maps_are_cut_alike() -> None:
    image, labels = marked()
    other = np.zeros_like(labels)
    other[:, :, 8] = 3  # its own largest axial section lies elsewhere
    scan = volume(image, np.eye(4))
    own, alike = planes(scan, other), planes(scan, other, through=labels)
    assert own[0].title == "axial, slice 9 of 10"
    assert [cut.title for cut in alike] == [cut.title for cut in planes(scan, labels)]
    assert not (alike[0].labels == 3).any()
    np.testing.assert_array_equal(alike[0].image, planes(scan, labels)[0].image)
