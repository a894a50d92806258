"""The viewer on a page: planes, what is under the crosshair, and the controls, in one fragment.

Moving the crosshair or a slider runs the fragment alone, not the page around it. Everything a viewer
remembers is kept under its ``key``; a page gives every image and result a key of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from apps.medical.data.volume import Volume
from apps.medical.overlay import colour_of
from apps.medical.windowing import Window, value_range, windows_of
from demos.viewer import planes, rotating
from demos.viewer.paint import Style, heat_colours
from demos.viewer.scene import AXIAL, CORONAL, NAMES, SAGITTAL, Crosshair, Layers, Position, Scene

OWN = "Own"  # the window that the sliders say
ZOOM = 8.0  # times
MANY = 12  # structures: above, the legend is a list to pick from
LETTERS = {AXIAL: ("I", "S"), CORONAL: ("P", "A"), SAGITTAL: ("L", "R")}


Under = Callable[[Crosshair], None]


def show(volume: Volume, layers: Layers, key: str, under: Under | None = None) -> Crosshair:
    """Draw the viewer of ``volume`` with ``layers`` here; returns what the crosshair points at.

    ``key`` names the image and the layers (a hash of them): the viewer's state lives under it. The
    crosshair returned is that of the page's last run; the fragment may have moved on since. What
    follows the crosshair is drawn by ``under(crosshair)``, inside the fragment below the planes; a
    widget there that concerns the page calls ``st.rerun(scope="app")``.
    Raises DataError for a layer that is not on the image's grid.
    """
    scene = Scene(volume, layers)
    state = _State(key, scene)
    _fragment(scene, key, under)
    return scene.describe(state.position)


class _State:
    """One viewer's part of the session state."""

    def __init__(self, key: str, scene: Scene) -> None:
        self.key, self.scene = key, scene
        if self.name("at") not in st.session_state:
            st.session_state[self.name("at")] = scene.start()
            st.session_state[self.name("seq")] = 0

    def name(self, part: str) -> str:
        """The session state's key of a part or widget."""
        return f"viewer/{self.key}/{part}"

    def get(self, part: str, default: Any = None) -> Any:
        return st.session_state.get(self.name(part), default)

    def put(self, part: str, value: Any) -> None:
        st.session_state[self.name(part)] = value

    @property
    def position(self) -> Position:
        return self.scene.clip(self.get("at"))

    def move(self, position: Position) -> None:
        self.put("at", self.scene.clip(position))


@st.fragment
def _fragment(scene: Scene, key: str, under: Under | None) -> None:
    state = _State(key, scene)
    turning = False
    slices = st.container()
    if rotating.offered(scene):
        slices, turned = st.tabs(
            ["Slices", "Rotate in 3-D"], key=state.name("tab"), on_change="rerun"
        )
        turning = bool(turned.open)
    with slices:
        above, middle, words, below = (st.container() for _ in range(4))
        with above:
            axes, radiological, zoom = _view(state)
        with below:
            first, second, third = st.columns(3, gap="medium")
            with first:
                _sliders(state)
                _go_to(state)
            with second:
                channel, window = _window(state)
            with third:
                style = _layers(state)
    if turning:
        with turned:
            rotating.show(scene, window.limits, channel, style, radiological, state.name("turned"))
        return
    position = state.position
    at = scene.describe(position)
    cuts = [
        scene.cut(
            axis, position[axis], window.limits, channel=channel, radiological=radiological
        ).zoomed(zoom, position, scene.size)
        for axis in axes
    ]
    with middle:
        planes.draw(
            scene, cuts, position, style,
            seq=state.get("seq", 0), key=state.name("planes"), on_moved=_moved(state),
        )  # fmt: skip
    with words:
        _readout(scene, at, style)
        if under is not None:
            under(at)


def _moved(state: _State) -> Callable[[], None]:
    """Go to the position that the planes sent."""

    def moved() -> None:
        sent = accepted(st.session_state[state.name("planes")].moved, len(state.scene.size))
        if sent is not None:
            state.move(sent[0])
            state.put("seq", sent[1])

    return moved


def accepted(sent: Any, rank: int) -> tuple[Position, int] | None:
    """A position and its number as planes.js sends them; None for anything else, for what comes from
    a browser need not come from planes.js."""
    try:
        at, seq = tuple(int(p) for p in sent["at"]), int(sent["seq"])
    except (TypeError, KeyError, ValueError, OverflowError):
        return None
    return (at, seq) if len(at) == rank and 0 <= seq < 2**53 else None


def _view(state: _State) -> tuple[tuple[int, ...], bool, float]:
    """Which planes, from which side, how much enlarged."""
    scene, axes, radiological = state.scene, state.scene.axes, True
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        if len(axes) > 1:
            options = {"All planes": axes} | {NAMES[axis]: (axis,) for axis in axes}
            picked = st.segmented_control(
                "Planes", list(options), default="All planes", key=state.name("axes"),
                help="Click a plane to move the crosshair there. Then the arrow keys move it, Page Up, "
                "Page Down and the wheel change the slice; with Shift in steps of ten.",
            )  # fmt: skip
            axes = options.get(picked or "All planes", axes)
        zoom = st.slider(
            "Zoom around the crosshair", 1.0, ZOOM, 1.0, 0.5, format="%.1f×",
            key=state.name("zoom"), width=220,
        )  # fmt: skip
        if not scene.flat:
            radiological = st.toggle(
                "Radiological convention",
                value=True,
                key=state.name("radiological"),
                help="The patient's right is on the left of the picture, as if you faced the patient.",
            )
    return axes, radiological, zoom


def _sliders(state: _State) -> None:
    """One slider a plane; a picture has one for rows and one for columns."""
    scene, position = state.scene, state.position
    if scene.flat:
        rows = [(0, "Row"), (1, "Column")]
    else:
        rows = [(a, f"{NAMES[a]} slice ({' → '.join(LETTERS[a])})") for a in scene.axes]
    for axis, label in rows:
        if scene.size[axis] < 2:
            continue
        name, first = f"slice {axis}", _first(scene)
        state.put(name, position[axis] + first)
        st.slider(
            label, first, scene.size[axis] - 1 + first,
            key=state.name(name), on_change=_slid, args=(state, axis),
        )  # fmt: skip


def _first(scene: Scene) -> int:
    """Slices are counted from 1, as radiologists do; rows and columns from 0, as arrays are."""
    return 0 if scene.flat else 1


def _slid(state: _State, axis: int) -> None:
    position = list(state.position)
    position[axis] = int(state.get(f"slice {axis}")) - _first(state.scene)
    state.move(tuple(position))


def _go_to(state: _State) -> None:
    """Type a place: millimetres, a voxel, or a structure."""
    scene = state.scene
    at = scene.describe(state.position)
    with st.popover("Go to…", width="stretch"):
        structures = scene.present
        if structures:
            st.selectbox(
                "Structure, at its largest section", list(structures), index=None,
                format_func=lambda label: structures[label], key=state.name("structure"),
                on_change=_to_structure, args=(state,), placeholder="Choose a structure",
            )  # fmt: skip
        names = ("Row", "Column") if scene.flat else ("i", "j", "k")
        columns = st.columns(len(at.voxel))
        for axis, (value, n) in enumerate(zip(at.voxel, scene.volume.shape)):
            state.put(f"voxel {axis}", value)
            columns[axis].number_input(
                f"Voxel {names[axis]}" if not scene.flat else names[axis], 0, n - 1,
                key=state.name(f"voxel {axis}"), on_change=_to_voxel, args=(state,),
            )  # fmt: skip
        if at.mm is None:
            return
        beside = st.columns(3)
        for axis, (mm, way) in enumerate(zip(at.mm, ("right", "anterior", "superior"))):
            state.put(f"mm {axis}", round(mm, 2))
            beside[axis].number_input(
                f"mm {way}", step=1.0, format="%.1f",
                key=state.name(f"mm {axis}"), on_change=_to_mm, args=(state,),
            )  # fmt: skip


def _to_structure(state: _State) -> None:
    label = state.get("structure")
    if label is not None:
        state.move(state.scene.start(label))


def _to_voxel(state: _State) -> None:
    shape = state.scene.volume.shape
    state.move(state.scene.position(tuple(state.get(f"voxel {a}") for a in range(len(shape)))))


def _to_mm(state: _State) -> None:
    x, y, z = (float(state.get(f"mm {a}")) for a in range(3))
    state.move(state.scene.nearest((x, y, z)))


def _window(state: _State) -> tuple[int, Window]:
    """The channel shown, and what is black and white in it."""
    scene, channel = state.scene, 0
    if scene.volume.channels > 1 and not scene.colour:
        channel = st.selectbox(
            "Channel", range(scene.volume.channels), key=state.name("channel"),
            format_func=lambda c: f"Channel {c + 1} of {scene.volume.channels}",
        )  # fmt: skip
    if state.get(f"windows {channel}") is None:  # percentiles of a large volume take their time
        state.put(f"windows {channel}", _choices(scene, channel))
    windows, low, high = state.get(f"windows {channel}")
    widest = max([high - low, *(w.width for w in windows.values())])
    whole = widest > 20 and scene.volume.array.dtype.kind in "iu"
    step = 1.0 if whole else float(f"{widest / 200:.1g}")
    form = "%.0f" if step >= 1 else "%.4g"

    def name(part: str) -> str:
        return state.name(f"{part} {channel}")

    def preset() -> None:
        chosen = windows.get(st.session_state[name("preset")])
        if chosen is not None:
            st.session_state[name("level")] = _within(chosen.level, low, high)
            st.session_state[name("width")] = _within(chosen.width, step, widest)

    def own() -> None:
        st.session_state[name("preset")] = OWN

    if name("preset") not in st.session_state:
        st.session_state[name("preset")] = next(iter(windows))
        preset()
    st.selectbox("Grey window", [*windows, OWN], key=name("preset"), on_change=preset)
    level = st.slider(
        "Level", low, high, step=step, format=form, key=name("level"), on_change=own,
        help="The value drawn in middle grey.",
    )  # fmt: skip
    width = st.slider(
        "Width", step, widest, step=step, format=form, key=name("width"), on_change=own,
        help="How many values lie between black and white.",
    )  # fmt: skip
    return channel, Window(OWN, level, width)


def _choices(scene: Scene, channel: int) -> tuple[dict[str, Window], float, float]:
    """The windows to choose from by name, the first to begin with, and the range of the level."""
    windows = {window.name: window for window in windows_of(scene.volume, channel)}
    low, high = value_range(scene.volume.channel_first[channel])
    if scene.colour:
        stored = Window.between("As stored", 0.0, scene.white)
        windows, low, high = {stored.name: stored} | windows, 0.0, scene.white
    levels = [window.level for window in windows.values()]
    return windows, min(low, *levels), max(high, *levels)


def _within(value: float, low: float, high: float) -> float:
    return float(min(max(value, low), high))


def _layers(state: _State) -> Style:
    """Which layers are drawn, and how: the legend with a switch for every structure."""
    layers, name = state.scene.layers, state.name
    options: dict[str, Any] = {"instances": layers.objects}
    if layers.labels is not None:
        options["labels"] = st.toggle("Segmentation", value=True, key=name("labels"))
    if layers.reference is not None:
        options["reference"] = st.toggle(
            f"{layers.reference_name} (white outline)", value=True, key=name("reference")
        )
    if layers.uncertainty is not None:
        options["uncertainty"] = st.toggle("Uncertainty", value=False, key=name("uncertainty"))
    options["hidden"] = _legend(state)
    if layers.labels is not None and not layers.objects:
        options["fill"] = (
            st.slider("Opacity of the segmentation, %", 0, 100, 35, step=5, key=name("fill")) / 100
        )
    if options.get("uncertainty"):
        options["heat"] = (
            st.slider("Opacity of the uncertainty, %", 0, 100, 80, step=5, key=name("heat")) / 100
        )
    return Style(**options)


def _legend(state: _State) -> frozenset[int]:
    """Names and colours of the structures; returns the ids that are switched off."""
    structures = state.scene.present
    if len(structures) > MANY:
        shown = st.multiselect(
            "Structures shown", list(structures), default=list(structures),
            format_func=lambda label: structures[label], key=state.name("shown"),
        )  # fmt: skip
        return frozenset(structures) - frozenset(shown)
    hidden = set()
    for label, text in structures.items():
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.html(_swatch(colour_of(label)), width="content")
            if not st.checkbox(text, value=True, key=state.name(f"shown {label}")):
                hidden.add(label)
    return frozenset(hidden)


def _swatch(colour: str) -> str:
    return (
        f'<span aria-hidden="true" style="display:inline-block;width:14px;height:14px;'
        f'border-radius:3px;background:{colour}"></span>'
    )


def _readout(scene: Scene, at: Crosshair, style: Style) -> None:
    """One line on the point under the crosshair."""
    parts = [at.place] if at.mm is not None else []
    kind = "row, column" if scene.flat else "voxel"
    parts.append(f"{kind} {', '.join(str(v) for v in at.voxel)}")
    values = ", ".join(f"{v:.4g}" for v in at.value)
    parts.append(f"value {values}")
    if at.name is not None:
        parts.append(f"**{_plain(at.name)}**")
    if at.reference_name is not None:
        parts.append(f"{scene.layers.reference_name.lower()}: {_plain(at.reference_name)}")
    if at.uncertainty is not None:
        parts.append(f"uncertainty {at.uncertainty:.2f}")
    st.markdown(" · ".join(parts))
    if style.uncertainty and scene.layers.uncertainty is not None:
        st.html(_scale())


def _scale() -> str:
    """The colours of the uncertainty, from 0 to 1, over black."""
    colours, opacity = heat_colours()
    stops = [colours[n] * opacity[n] for n in range(0, 256, 17)]
    ramp = ", ".join(f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in stops)
    return (
        '<div role="img" aria-label="Colours of the uncertainty, black to bright yellow" '
        'style="display:flex;gap:8px;align-items:center;font-size:0.85rem">'
        "<span>certain 0</span>"
        '<span style="flex:0 1 220px;height:10px;border-radius:3px;'
        f'background:linear-gradient(to right, {ramp})"></span>'
        "<span>1 undecided</span></div>"
    )


def _plain(text: str) -> str:
    """``text`` with what Markdown would read as a sign."""
    return "".join("\\" + c if c in "\\`*_{}[]()#+-.!|<>~:$" else c for c in text)
