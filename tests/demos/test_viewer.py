"""The viewer without a browser: its geometry, its pictures, its controls."""

from __future__ import annotations

import base64
import gzip
import io
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
from nibabel import orientations
from PIL import Image

from apps.medical.data.volume import Volume
from apps.medical.overlay import colour_of
from core.errors import DataError

pytest.importorskip("streamlit", reason="needs the extra 'demos'")

from demos.viewer import panel, rotating
from demos.viewer.paint import LONGEST, Style, jpeg, paint, size_of
from demos.viewer.planes import described
from demos.viewer.scene import AXIAL, CORONAL, FLAT, SAGITTAL, Crosshair, Layers, Scene

if TYPE_CHECKING:
    from streamlit.testing.v1 import AppTest

PAGE = Path(__file__).with_name("viewer_page.py")
ORANGE, BLUE = (tuple(int(colour_of(n)[i : i + 2], 16) for i in (1, 3, 5)) for n in (1, 2))
ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*axes)
]
OBLIQUE = np.array(
    [[0.9, 0.3, -0.1, -20], [-0.3, 1.1, 0.2, 5], [0.15, -0.2, 2.0, 40], [0, 0, 0, 1]]
)


def volume(array: np.ndarray, affine: np.ndarray, physical: bool = True) -> Volume:
    rank = 2 if not physical else array.ndim
    spacing = tuple(np.linalg.norm(affine[:3, :rank], axis=0)) if physical else (1.0, 1.0)
    return Volume(
        array=array, affine=affine, spacing=spacing, rank=rank, path=Path("x.nii.gz"),
        physical=physical,
    )  # fmt: skip


def oriented(codes: str, shape: tuple[int, ...] = (5, 6, 7)) -> Volume:
    """A dark volume whose axes run towards ``codes``, with edges of 1, 2 and 3 mm."""
    turn = orientations.axcodes2ornt(tuple(codes))
    affine = np.zeros((4, 4))
    for axis, (to, way) in enumerate(turn):
        affine[int(to), axis] = way * (axis + 1)
    affine[:, 3] = (3, -4, 5, 1)
    return volume(np.zeros(shape, np.int16), affine)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_what_is_clicked_is_what_is_drawn_there(codes: str) -> None:
    grid = oriented(codes)
    at = (1, 4, 2)
    labels = np.zeros(grid.shape, np.uint8)
    labels[at] = 1
    scene = Scene(grid, Layers(labels=labels, names={1: "spot"}, reference=labels * 2))
    position = scene.start()
    assert scene.voxel(position) == at
    assert scene.position(at) == position
    assert scene.describe(position).name == "spot"
    for axis, radiological in itertools.product((AXIAL, CORONAL, SAGITTAL), (True, False)):
        cut = scene.cut(axis, position[axis], (0, 1), radiological=radiological)
        [[row, column]] = np.argwhere(cut.plane.labels)
        # As planes.js has it, from a click to the position and back.
        shown = [column, row]
        for side, along in enumerate((cut.across, cut.up)):
            n = scene.size[along]
            index = n - 1 - position[along] if cut.mirrored[side] else position[along]
            assert shown[side] == index
        assert cut.reference is not None
        np.testing.assert_array_equal(cut.reference, cut.plane.labels * 2)


@pytest.mark.parametrize("zoom", [1.5, 2, 3.7, 8, 100])
@pytest.mark.parametrize("radiological", [True, False])
def test_a_zoomed_plane_holds_the_crosshair_and_knows_where(
    zoom: float, radiological: bool
) -> None:
    grid = oriented("LAS", (13, 29, 8))
    for at in [(0, 0, 0), (12, 28, 7), (5, 14, 3), (7, 3, 6)]:
        labels = np.zeros(grid.shape, np.uint8)
        labels[at] = 1
        scene = Scene(grid, Layers(labels=labels, names={1: "spot"}, uncertainty=labels * 1.0))
        position = scene.start()
        for axis in scene.axes:
            whole = scene.cut(axis, position[axis], (0, 1), radiological=radiological)
            cut = whole.zoomed(zoom, position, scene.size)
            rows, columns = cut.plane.labels.shape
            assert (columns, rows) == tuple(
                max(1, math.ceil(scene.size[a] / zoom)) for a in (cut.across, cut.up)
            )
            [[row, column]] = np.argwhere(cut.plane.labels)
            [[whole_row, whole_column]] = np.argwhere(whole.plane.labels)
            assert (whole_column, whole_row) == (column + cut.first[0], row + cut.first[1])
            assert cut.uncertainty is not None
            np.testing.assert_array_equal(cut.uncertainty, cut.plane.labels)
            assert cut.plane.image.shape == cut.plane.labels.shape


def test_a_zoomed_plane_stands_still_for_small_steps() -> None:
    scene = Scene(volume(np.zeros((100, 100, 2)), np.eye(4)), Layers())
    starts = []
    for x in range(100):
        cut = scene.cut(AXIAL, 0, (0, 1)).zoomed(4, (x, 50, 0), scene.size)
        assert 0 <= 99 - x - cut.first[0] < 25
        starts.append(cut.first[0])
    assert 6 <= len(set(starts)) <= 9  # not with every step


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA"])
@pytest.mark.parametrize("radiological", [True, False])
def test_the_letters_tell_the_patients_sides(codes: str, radiological: bool) -> None:
    grid = oriented(codes)
    scene = Scene(grid, Layers())
    index = np.indices(grid.shape).reshape(3, -1)
    world = grid.affine[:3, :3] @ index + grid.affine[:3, 3:]
    ways = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    for axis in (AXIAL, CORONAL, SAGITTAL):
        for letter, (along, way) in ways.items():
            bright = (world[along] * way).reshape(grid.shape)
            lit = Scene(volume(bright, grid.affine), Layers())
            cut = lit.cut(
                axis, scene.size[axis] // 2, (bright.min(), bright.max()), radiological=radiological
            )
            image, letters = cut.plane.image, cut.letters
            assert letters is not None
            if letter not in letters:
                continue
            side = letters.index(letter)
            ends = (image[:, 0], image[:, -1], image[0], image[-1])
            assert ends[side].mean() == max(end.mean() for end in ends)
    axial, sagittal = scene.cut(AXIAL, 0, None, radiological=radiological), scene.cut(0, 0, None)
    sides = ("R", "L") if radiological else ("L", "R")
    assert axial.letters == (*sides, "A", "P")
    assert sagittal.letters == ("A", "P", "S", "I")


def test_millimetres_of_an_oblique_grid() -> None:
    scene = Scene(volume(np.zeros((9, 8, 7), np.float32), OBLIQUE), Layers())
    at = scene.describe(scene.position((2, 3, 4)))
    assert at.voxel == (2, 3, 4)
    assert at.mm == pytest.approx(tuple((OBLIQUE @ [2, 3, 4, 1])[:3]))
    assert at.mm is not None
    assert scene.voxel(scene.nearest(at.mm)) == (2, 3, 4)
    assert scene.voxel(scene.nearest((1e9, -1e9, 0.0))) is not None  # outside: the nearest there is
    crosshair = Crosshair(voxel=(0, 0, 0), mm=(-17.6, 35.26, -0.04), value=(1.0,))
    assert crosshair.place == "L 17.6, A 35.3, I 0.0 mm"


def test_planes_have_their_size_in_millimetres() -> None:
    grid = oriented("RAS", (10, 20, 30))  # 10, 40, 90 mm
    scene = Scene(grid, Layers())
    for axis, size in ((AXIAL, (10, 40)), (CORONAL, (10, 90)), (SAGITTAL, (40, 90))):
        cut = scene.cut(axis, 3, (0, 1))
        assert size_of(cut, 2.0) == (size[0] * 2, size[1] * 2)
        assert max(size_of(cut, 1e3)) == LONGEST
        assert paint(cut, Style(), 2.0).shape == (size[1] * 2, size[0] * 2, 3)


@pytest.mark.parametrize("what", ["labels", "reference", "uncertainty"])
def test_a_layer_of_another_image_is_refused(what: str) -> None:
    with pytest.raises(
        DataError, match=rf"the {what} have shape \(4, 6, 7\), the image \(5, 6, 7\)"
    ):
        Scene(oriented("RAS"), Layers(**{what: np.zeros((4, 6, 7))}))


def test_a_slice_in_space_and_a_slab_show_the_plane_they_have() -> None:
    flat = Scene(volume(np.zeros((4, 5)), np.diag([2.0, 3, 1, 1])), Layers())
    assert flat.axes == (AXIAL,)
    assert flat.describe(flat.position((1, 2))).mm == (2, 6, 0)
    slab = Scene(volume(np.zeros((4, 1, 5)), np.eye(4)), Layers())
    assert slab.axes == (CORONAL,)
    assert not rotating.offered(flat)
    assert not rotating.offered(slab)
    assert rotating.offered(Scene(oriented("RAS"), Layers()))


def test_a_picture_is_as_it_is() -> None:
    array = np.zeros((3, 4, 6), np.uint8)
    array[:, 1, 5] = (200, 100, 50)
    labels = np.zeros((4, 6), np.uint16)
    labels[1, 5] = 300
    scene = Scene(volume(array, np.eye(4), physical=False), Layers(labels=labels))
    assert scene.axes == (FLAT,)
    at = scene.describe(scene.start())
    assert (at.voxel, at.mm, at.place) == ((1, 5), None, "")
    assert (at.value, at.name) == ((200, 100, 50), "object 300")
    assert scene.present == {}  # a legend of objects says nothing
    picture = paint(scene.cut(FLAT, 0, (0, 255)), Style(labels=False), 1.0)
    assert picture[1, 5].tolist() == [200, 100, 50]
    brighter = paint(scene.cut(FLAT, 0, (0, 100)), Style(labels=False), 1.0)
    assert brighter[1, 5].tolist() == [255, 255, 128]


def test_the_middle_of_a_structure_is_inside_it() -> None:
    labels = np.zeros((20, 20, 5), np.uint8)
    y, x = np.indices((20, 20))
    radius = np.hypot(y - 10, x - 10)
    labels[..., 3][(radius > 6) & (radius < 8)] = 4  # a ring: its centre of mass is not in it
    labels[1, 1, 1] = 7
    scene = Scene(
        volume(np.zeros((20, 20, 5)), np.eye(4)), Layers(labels=labels, names={4: "ring"})
    )
    assert scene.describe(scene.start()).label == 4
    assert scene.describe(scene.start(7)).voxel == (1, 1, 1)
    assert scene.present == {4: "ring", 7: "label 7"}
    assert scene.start(9) == (10, 10, 2)  # not there: the image's middle
    assert Scene(volume(np.zeros((4, 4, 4)), np.eye(4)), Layers()).start() == (2, 2, 2)


def painted(style: Style, **layers: Any) -> np.ndarray:
    """A grey 10 x 10 picture with a square of label 1, ten pixels a voxel."""
    square = np.zeros((10, 10), np.uint8)
    square[2:8, 2:8] = 1
    given = {"labels": square, "names": {1: "square"}} | layers
    grey = np.full((10, 10), 100.0)
    scene = Scene(volume(grey, np.eye(4), physical=False), Layers(**given))
    return paint(scene.cut(FLAT, 0, (0, 200)), style, 10.0)


def test_a_structure_is_washed_and_outlined_in_its_colour() -> None:
    picture = painted(Style(fill=0.5))
    assert picture.shape == (100, 100, 3)
    assert picture[50, 50] == pytest.approx((np.array(ORANGE) + 127.5) / 2, abs=1)
    assert tuple(picture[20, 50]) == ORANGE
    assert tuple(picture[21, 50]) == ORANGE
    assert tuple(picture[22, 50]) != ORANGE  # two pixels wide
    assert tuple(picture[19, 50]) == (128, 128, 128)


@pytest.mark.parametrize(
    "style", [Style(labels=False), Style(hidden=frozenset({1}))], ids=["off", "hidden"]
)
def test_what_is_switched_off_leaves_the_image(style: Style) -> None:
    assert (painted(style) == 128).all()


def test_the_reference_is_a_white_outline() -> None:
    reference = np.zeros((10, 10), np.uint8)
    reference[4:6, 4:6] = 1
    picture = painted(Style(labels=False), reference=reference)
    assert (picture[40, 45] == 255).all()
    assert (picture[50, 50] == 128).all()
    assert (painted(Style(labels=False, reference=False), reference=reference) == 128).all()


def test_uncertainty_glows_where_it_is_and_only_if_asked() -> None:
    doubt = np.zeros((10, 10), np.float32)
    doubt[5, 5] = 1.0
    picture = painted(Style(labels=False, uncertainty=True, heat=1.0), uncertainty=doubt)
    red, _, blue = picture[55, 55].astype(int)
    assert red > 200
    assert red > blue
    assert (picture[15, 15] == 128).all()
    assert (painted(Style(labels=False), uncertainty=doubt) == 128).all()


def test_objects_that_touch_are_told_apart() -> None:
    objects = np.zeros((10, 10), np.uint16)
    objects[2:8, 2:5], objects[2:8, 5:8] = 9, 10  # 9 has the colour of 1, 10 that of 2
    picture = painted(Style(instances=True), labels=objects, names={}, instances=True)
    assert tuple(picture[50, 48]) == ORANGE
    assert tuple(picture[50, 51]) == BLUE
    assert (picture[50, 35] == 128).all()  # objects are outlined, not filled


def test_jpegs_keep_the_colour_of_a_thin_line() -> None:
    picture = np.full((64, 64, 3), 90, np.uint8)
    picture[:, 30:32] = ORANGE
    read = np.asarray(Image.open(io.BytesIO(jpeg(picture))), int)
    assert np.abs(read[:, 30:32] - np.array(ORANGE)).max() < 40
    assert np.abs(read[:, 20] - 90).max() < 12


def test_all_planes_are_to_one_scale() -> None:
    scene = Scene(oriented("RAS", (10, 20, 30)), Layers())
    position = scene.start()
    cuts = [scene.cut(axis, position[axis], (0, 1)) for axis in scene.axes]
    axial, coronal, sagittal = described(scene, cuts, position, Style(), 0)["planes"]
    assert axial["share"] == coronal["share"] == pytest.approx(sagittal["share"] / 4)
    assert axial["share"] + coronal["share"] + sagittal["share"] == pytest.approx(1)
    assert sagittal["stacked"] == 1
    assert sagittal["tallest"] > axial["tallest"]
    assert "Axial, slice 16 of 30" in axial["alt"]


def test_copies_for_the_rotating_view_are_small_and_in_place() -> None:
    shape = (rotating.LONGEST * 2 + 1, 40, 3)
    affine = np.diag([0.5, -2.0, 4.0, 1.0])
    affine[:3, 3] = (7, 8, 9)
    array = np.zeros(shape, np.float32)
    array[100:110] = 50.0
    labels = np.zeros(shape, np.uint8)
    labels[100:110] = 2
    scene = Scene(volume(array, affine), Layers(labels=labels, names={1: "a", 2: "b"}))
    image, overlay = rotating.copies(scene, (0.0, 100.0), 0, Style())
    assert overlay is not None
    grey = nib.Nifti1Image.from_bytes(gzip.decompress(image))
    assert grey.shape == (rotating.LONGEST - 53, 40, 3)  # three voxels are one along the first axis
    assert grey.get_fdata()[35] == pytest.approx(50, abs=0.3)
    # The centre of the first cube of three voxels is that of its second voxel.
    assert grey.affine @ [0, 0, 0, 1] == pytest.approx(affine @ [1, 0, 0, 1])
    coloured = nib.Nifti1Image.from_bytes(gzip.decompress(overlay))
    data = np.asarray(coloured.dataobj)
    assert tuple(data[35, 20, 1])[:3] == BLUE
    assert data[35, 20, 1]["A"] > 100
    assert data[0, 0, 0]["A"] == 0
    hidden = rotating.copies(scene, (0.0, 100.0), 0, Style(hidden=frozenset({2})))[1]
    assert hidden is not None
    assert not np.asarray(
        nib.Nifti1Image.from_bytes(gzip.decompress(hidden)).dataobj
    )["A"].any()  # fmt: skip
    assert rotating.copies(scene, (0.0, 100.0), 0, Style(labels=False))[1] is None


@pytest.mark.parametrize(
    "sent",
    [None, 5, "at", [], {}, {"at": 3, "seq": 1}, {"at": [1, 2], "seq": 1}, {"at": [1, 2, "x"], "seq": 1},
     {"at": [1, 2, 3]}, {"at": [1, 2, None], "seq": 0}, {"at": [1, 2, float("nan")], "seq": 0},
     {"at": [1, 2, float("inf")], "seq": 0}, {"at": [1, 2, 3], "seq": -1},
     {"at": [1, 2, 3], "seq": 2**60}],
)  # fmt: skip
def test_what_a_browser_sends_is_not_believed(sent: Any) -> None:
    assert panel.accepted(sent, 3) is None


def test_a_position_far_outside_is_brought_back() -> None:
    assert panel.accepted({"at": [10**12, -5, 2], "seq": 4}, 3) == ((10**12, -5, 2), 4)
    assert Scene(oriented("RAS"), Layers()).clip((10**12, -5, 2)) == (4, 0, 2)


# The page


@pytest.fixture
def open_viewer() -> Callable[..., AppTest]:
    """``open_viewer("picture")``: the test page's first paint."""
    from streamlit.testing.v1 import AppTest

    def open_(what: str = "hippocampus") -> AppTest:
        app = AppTest.from_file(str(PAGE), default_timeout=120)
        app.query_params["show"] = what
        return app.run()

    return open_


def readout(app: AppTest) -> str:
    [line] = [m.value for m in app.markdown if " · " in m.value]
    return line


def sent(app: AppTest) -> dict[str, Any]:
    """What the planes' component got."""
    [component] = app.get("bidi_component")
    return json.loads(component.proto.json)


def shown(app: AppTest, plane: int = 0) -> np.ndarray:
    data = base64.b64decode(sent(app)["planes"][plane]["jpeg"])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)


def share_of(picture: np.ndarray, colour: tuple[int, ...]) -> float:
    return float((np.abs(picture - np.array(colour)).sum(-1) < 90).mean())


def control(app: AppTest, part: str, what: str = "hippocampus") -> Any:
    return app.session_state[f"viewer/{what}/{part}"]


def test_it_starts_in_the_segmentation_with_every_layer_explained(open_viewer: Callable) -> None:
    app = open_viewer()
    assert not app.exception
    assert "R 15.0, A 28.0, S 16.0 mm · voxel 14, 27, 15" in readout(app)
    assert "**posterior**" in readout(app)
    assert "reference: posterior" in readout(app)
    assert [box.label for box in app.checkbox] == ["anterior", "posterior"]
    assert [plane["name"] for plane in sent(app)["planes"]] == ["axial", "coronal", "sagittal"]
    assert sent(app)["planes"][0]["letters"] == ["R", "L", "A", "P"]
    assert share_of(shown(app), BLUE) > 0.002


def test_sliders_numbers_and_structures_move_the_crosshair(open_viewer: Callable) -> None:
    app = open_viewer()
    app.slider(key="viewer/hippocampus/slice 2").set_value(5).run()
    assert "S 5.0 mm · voxel 14, 27, 4" in readout(app)
    app.number_input(key="viewer/hippocampus/voxel 0").set_value(20).run()
    assert "voxel 20, 27, 4" in readout(app)
    app.number_input(key="viewer/hippocampus/mm 1").set_value(10.2).run()
    assert "voxel 20, 9, 4" in readout(app)
    assert control(app, "slice 1") == 10
    app.selectbox(key="viewer/hippocampus/structure").set_value(1).run()
    assert "**anterior**" in readout(app)
    assert not app.exception


def test_layers_are_switched_off_and_on(open_viewer: Callable) -> None:
    app = open_viewer()
    app.toggle(key="viewer/hippocampus/reference").set_value(False).run()
    before = share_of(shown(app), BLUE)
    app.checkbox(key="viewer/hippocampus/shown 2").set_value(False).run()
    assert share_of(shown(app), BLUE) < before / 10
    assert share_of(shown(app), ORANGE) > 0.002
    app.toggle(key="viewer/hippocampus/labels").set_value(False).run()
    assert share_of(shown(app), ORANGE) == 0
    app.toggle(key="viewer/hippocampus/uncertainty").set_value(True).run()
    grey = shown(app)
    assert (np.ptp(grey, axis=-1) > 40).mean() > 0.01  # glows, and nothing else has a colour
    assert not app.exception


def test_windows_and_sides(open_viewer: Callable) -> None:
    app = open_viewer()
    app.toggle(key="viewer/hippocampus/labels").set_value(False)
    app.toggle(key="viewer/hippocampus/reference").set_value(False).run()
    automatic, sagittal = shown(app), shown(app, 2)
    app.selectbox(key="viewer/hippocampus/preset 0").set_value("All values").run()
    assert shown(app).mean() < automatic.mean() / 2  # one very bright voxel darkens the rest
    app.slider(key="viewer/hippocampus/level 0").set_value(0.0).run()
    assert control(app, "preset 0") == "Own"
    app.selectbox(key="viewer/hippocampus/preset 0").set_value("Automatic").run()
    assert np.abs(shown(app) - automatic).max() == 0
    app.toggle(key="viewer/hippocampus/radiological").set_value(False).run()
    assert sent(app)["planes"][0]["letters"] == ["L", "R", "A", "P"]
    assert np.abs(shown(app)[:, ::-1] - automatic).mean() < 2
    assert np.abs(shown(app, 2) - sagittal).max() == 0  # seen from the same side as before


def test_one_plane_alone(open_viewer: Callable) -> None:
    app = open_viewer()
    app.segmented_control(key="viewer/hippocampus/axes").set_value("Coronal").run()
    [plane] = sent(app)["planes"]
    assert plane["name"] == "coronal"
    assert max(shown(app).shape) == LONGEST


def test_zoom_enlarges_around_the_crosshair(open_viewer: Callable) -> None:
    app = open_viewer()
    before = sent(app)["planes"][0]
    app.slider(key="viewer/hippocampus/zoom").set_value(4.0).run()
    after = sent(app)["planes"][0]
    assert not app.exception
    assert (before["count"], before["first"]) == ([34, 52], [0, 0])
    assert after["count"] == [9, 13]
    assert after["wide"] == pytest.approx(before["wide"], rel=0.1)
    assert after["first"][0] <= 33 - 14 < after["first"][0] + 9


def test_a_mask_of_another_image_is_a_sentence(open_viewer: Callable) -> None:
    app = open_viewer("wrong")
    assert not app.exception
    [error] = app.error
    assert "they belong to another image" in error.value
    assert not app.get("bidi_component")


def test_a_picture_has_rows_columns_and_numbered_objects(open_viewer: Callable) -> None:
    app = open_viewer("picture")
    assert not app.exception
    assert not app.checkbox
    assert "row, column " in readout(app)
    assert "**object " in readout(app)
    assert "mm" not in readout(app)
    assert sent(app)["planes"][0]["letters"] is None
    app.slider(key="viewer/picture/slice 0").set_value(0).run()
    assert "row, column 0, " in readout(app)
    assert "background" in readout(app)


def test_a_slice_in_space_has_millimetres_and_one_plane(open_viewer: Callable) -> None:
    app = open_viewer("slice")
    assert not app.exception
    [plane] = sent(app)["planes"]
    assert plane["letters"] == ["R", "L", "A", "P"]
    assert " mm · voxel " in readout(app)
    assert not app.segmented_control


def test_many_structures_and_channels(open_viewer: Callable) -> None:
    app = open_viewer("many")
    assert not app.exception
    assert not app.checkbox
    [legend] = app.multiselect
    assert len(legend.options) == 18  # 17 with names, one without
    assert "label 18" in legend.options
    first = shown(app)
    app.selectbox(key="viewer/many/channel").set_value(1).run()
    assert not app.exception
    assert np.abs(shown(app) - first).mean() > 10
    legend = app.multiselect[0]
    legend.set_value([1]).run()
    assert not app.exception


def test_importing_it_imports_neither_torch_nor_monai() -> None:
    code = "import demos.viewer, sys; print(sorted({'torch', 'monai', 'matplotlib'} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PAGE.parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == "[]"
