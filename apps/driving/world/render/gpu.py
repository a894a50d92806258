"""The renderer on OpenGL 3.3 through EGL: no window, no display, and with Mesa's llvmpipe no GPU.

All faces of boxes on the picture go in three draws; colour and tag, depth and instance come back in
two targets. What a pixel sees is decided at its centre as in ``software``; depth, tags and
instances agree but where an edge passes within rounding of a centre.

A context belongs to one thread, so the renderer has one of its own and any thread may call it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from apps.driving.world.geometry import Transform
from apps.driving.world.render import shaders
from apps.driving.world.render.quads import FACE, FORMATS, quads, towards
from apps.driving.world.render.scene import FAR, NEAR, Camera, Lens, Picture, Scene, Style
from apps.driving.world.render.shading import nearest_beams
from apps.driving.world.render.shadows import casters
from apps.driving.world.render.textures import folded, glow, glow_cell, levels, noise, palette
from core.errors import ResourceError, need

T = TypeVar("T")
PACKAGES = "libegl1, libgl1 and libgl1-mesa-dri on Debian and Ubuntu"

FACES = 1024
"""Quadrilaterals for which there is room at first."""
LENSES = 16
"""Lenses whose targets are kept, 17 bytes a pixel."""


class GpuRenderer:
    """Pictures by OpenGL. UsageError without moderngl, ResourceError where EGL gives no context."""

    def __init__(self) -> None:
        moderngl = need("moderngl", "egl")
        # llvmpipe's own threads cost more than they gain: 8.4 CPU-ms for three cameras of 320 x 160
        # with two, 6.3 with none
        os.environ.setdefault("LP_NUM_THREADS", "0")
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="egl")
        try:
            self._painter = self._run(lambda: _Painter(moderngl))
        except ResourceError:
            self._thread.shutdown()
            raise

    def render(self, scene: Scene, pose: Transform, lens: Lens, rgb: bool = True) -> Picture:
        """The scene from ``pose``."""
        return self._run(lambda: self._painter.render(scene, Camera.at(pose, lens), rgb))

    def close(self) -> None:
        """Release the context and its thread; a second time does nothing."""
        if not self._closed:
            self._closed = True
            self._run(self._painter.close)
            self._thread.shutdown()

    def _run(self, work: Callable[[], T]) -> T:
        return self._thread.submit(work).result()


class _Painter:
    """Everything that lives in the context; all of it is used by one thread."""

    def __init__(self, moderngl: Any) -> None:
        try:
            self.context = moderngl.create_context(standalone=True, backend="egl", require=330)
        except Exception as error:  # glcontext raises plain Exception, ImportError or OSError
            raise ResourceError(
                f"renderer egl: no OpenGL 3.3 context ({error}); install {PACKAGES}, "
                "or use the renderer numpy"
            ) from error
        self.gl = moderngl
        context = self.context
        self.screen = context.buffer(np.array([-1, -1, 3, -1, -1, 3], np.float32).tobytes())
        # the faces of each group of boxes, and those that throw shadows
        self.faces = [context.buffer(reserve=1) for _ in (*_GROUPS, "dark")]
        self.corners = context.buffer(reserve=1)
        self.room = 0
        self.shadowed: tuple[Scene, tuple[bytes, float], int] | None = None
        self.programs: dict[tuple[str, tuple[str, ...]], tuple[Any, Any]] = {}
        self.targets: dict[Lens, _Target] = {}
        self.textures: dict[str, Any] = {"noise": self._texture(noise(), "f4")}
        self.known: dict[str, Any] = {"ground": None, "lamps": None, "glowing": None}
        context.depth_func = "<="
        self._reserve(FACES)

    def _program(self, name: str, traits: tuple[str, ...], group: int = 0) -> tuple[Any, Any]:
        """A program and its vertex array, compiled when first wanted."""
        known = self.programs.get((name, (*traits, str(group))))
        if known is not None:
            return known
        vertex, fragment = _SOURCES[name]
        program = self.context.program(
            vertex_shader=vertex, fragment_shader=shaders.variant(fragment, traits)
        )
        for place, sampler in enumerate(_SAMPLERS):
            if sampler in program:
                program[sampler].value = place
        if name in ("box", "shadow"):
            content = [(self.faces[group], *_layout(program))]
            array = self.context.vertex_array(program, content, index_buffer=self.corners)
        else:
            array = self.context.vertex_array(program, [(self.screen, "2f", "corner")])
        self.programs[name, (*traits, str(group))] = program, array
        return program, array

    def _texture(self, values: np.ndarray, dtype: str, components: int = 1) -> Any:
        height, width = values.shape[:2]
        data = np.ascontiguousarray(values)
        texture = self.context.texture((width, height), components, data, alignment=1, dtype=dtype)
        texture.filter = (self.gl.NEAREST, self.gl.NEAREST)
        return texture

    def render(self, scene: Scene, camera: Camera, rgb: bool) -> Picture:
        self._keep(scene, rgb)
        frame = _frame(scene, camera)
        lens = camera.lens
        target = self.targets.get(lens)
        if target is None:
            if len(self.targets) == LENSES:
                self.targets.pop(next(iter(self.targets))).release()
            target = self.targets[lens] = _Target(self.context, lens)
        for place, name in enumerate(_SAMPLERS):
            if name in self.textures:
                self.textures[name].use(place)
        context = self.context
        data = frame.tobytes()
        traits = _traits(scene) if rgb else ()
        dark = self._dark(scene, camera) if rgb else 0
        if dark:
            traits = (*traits, "SHADOWS")
            self._shade(dark, target, data)
        target.frame.use()
        context.enable_only(self.gl.DEPTH_TEST)
        target.frame.clear(depth=1.0 - NEAR / FAR)
        for group, count in enumerate(self._upload(scene, camera)):
            if count:
                own = (*traits, *_GROUPS[group]) if rgb else ()
                self._draw("box", own, data, 6 * count, group)
        for name in ("ground", "sky"):
            self._draw(name, traits, data, 3)
        return target.read(rgb)

    def _draw(
        self, name: str, traits: tuple[str, ...], frame: bytes, corners: int, group: int = 0
    ) -> None:
        """Draw; a compiler shortens ``frame`` to what its program reads."""
        program, array = self._program(name, traits, group)
        if "frame" in program:
            numbers = program["frame"]
            numbers.write(frame[: 16 * numbers.array_length])
        array.render(vertices=corners)

    def _dark(self, scene: Scene, camera: Camera) -> int:
        """How many faces throw shadows; uploaded once for cameras at one place in one scene."""
        key = (camera.eye.tobytes(), camera.lens.focal)
        if self.shadowed is None or self.shadowed[0] is not scene or self.shadowed[1] != key:
            solids = scene.solids.take(casters(scene, camera))
            sunny = towards(solids.turned(scene.weather.sun))
            faces = quads(solids, camera.eye, sunny)
            self._reserve(len(faces) // 4)
            count = self._fill(len(_GROUPS), faces)
            self.shadowed = scene, key, count
        return self.shadowed[2]

    def _shade(self, dark: int, target: _Target, frame: bytes) -> None:
        """Draw what faces the sun flattened along its rays into the target's shadow."""
        target.shade.use()
        target.shade.clear()
        self.context.enable_only(self.gl.NOTHING)
        self._draw("shadow", (), frame, 6 * dark, len(_GROUPS))
        target.shadow.use(_SAMPLERS.index("shadow"))

    def _upload(self, scene: Scene, camera: Camera) -> list[int]:
        """How many faces each group has, nearest first: what is hidden costs no shading."""
        rows = camera.sees(scene.solids)
        away = scene.solids.centre[rows] - camera.eye
        group = _GROUP_OF[scene.solids.style[rows]]
        order = np.lexsort(((away * away).sum(1), group))
        seen, group = scene.solids.take(rows[order]), group[order]
        front = towards(seen.turned(-away[order]), seen.half)
        faces = quads(seen, camera.eye, front)
        count = np.bincount(np.repeat(group, front.sum(1)), minlength=len(_GROUPS))
        ends = np.cumsum(count)
        self._reserve(int(ends[-1]))
        return [
            self._fill(g, faces[4 * (end - n) : 4 * end])
            for g, (n, end) in enumerate(zip(count, ends))
        ]

    def _fill(self, group: int, faces: np.ndarray) -> int:
        """Upload faces (4 F); F."""
        if len(faces):
            self.faces[group].write(faces.view(np.uint8))
        return len(faces) // 4

    def _reserve(self, faces: int) -> None:
        """Room for ``faces`` in each group; where it has to grow, what they held is lost."""
        if faces <= self.room:
            return
        self.room = 2 * faces
        self.shadowed = None
        for buffer in self.faces:
            buffer.orphan(self.room * 4 * FACE.itemsize)
        numbers = np.arange(self.room, dtype=np.int32)[:, None] * 4
        numbers = numbers + np.array([0, 1, 2, 0, 2, 3], np.int32)
        self.corners.orphan(numbers.nbytes)
        self.corners.write(numbers.tobytes())

    def _keep(self, scene: Scene, rgb: bool) -> None:
        """Upload the ground and the light of the lamps when they are others than before."""
        ground, known, textures = scene.ground, self.known, self.textures
        if known["ground"] is not ground:
            for name in ("cells", "tag_of", "palette", "coarse", "coarsest"):
                if name in textures:
                    textures.pop(name).release()
            textures["cells"] = self._texture(folded(ground.cells), "u1")
            textures["tag_of"] = self._texture(ground.tag[None], "u1")
            textures["palette"] = self._texture(_bytes(palette(ground)[None]), "f1", 4)
            for name, level in zip(("coarse", "coarsest"), levels(ground), strict=True):
                textures[name] = self._texture(_bytes(folded(level)), "f1", 4)
            known["ground"], known["glowing"] = ground, None
        night = rgb and scene.weather.dark
        if night and (known["glowing"] is None or known["lamps"] is not scene.lamps):
            if "glow" in textures:
                textures.pop("glow").release()
            lamps = np.zeros((0, 3)) if scene.lamps is None else scene.lamps
            textures["glow"] = self._texture(glow(ground, lamps), "f4")
            known["lamps"], known["glowing"] = scene.lamps, True

    def close(self) -> None:
        self.context.release()


_SOURCES = {
    "box": (shaders.BOX_VERTEX, shaders.BOX_FRAGMENT),
    "ground": (shaders.GROUND_VERTEX, shaders.GROUND_FRAGMENT),
    "sky": (shaders.SKY_VERTEX, shaders.SKY_FRAGMENT),
    "shadow": (shaders.SHADOW_VERTEX, shaders.SHADOW_FRAGMENT),
}
# Houses, what has parts to paint, and plain boxes: each with a program of its own, and those that
# hide most first.
_GROUPS: tuple[tuple[str, ...], ...] = (("HOUSES",), ("PARTS",), ())
_GROUP_OF = np.full(256, 1)
_GROUP_OF[Style.FACADE], _GROUP_OF[Style.PLAIN] = 0, 2
_SAMPLERS = ("cells", "tag_of", "palette", "coarse", "coarsest", "noise", "glow", "shadow")


def _layout(program: Any) -> list[str]:
    """Format and names of the fields of FACE that ``program`` uses; the others are skipped."""
    used = [name in program for name in FORMATS]
    parts = [
        form if wanted else f"{FACE[name].itemsize}x"
        for (name, form), wanted in zip(FORMATS.items(), used, strict=True)
    ]
    return [" ".join(parts), *(n for n, wanted in zip(FORMATS, used, strict=True) if wanted)]


def _traits(scene: Scene) -> tuple[str, ...]:
    """What the programs of this frame must know."""
    weather = scene.weather
    traits = {"RGB": True, "DARK": weather.dark, "SOAKED": weather.wet > 0}
    return tuple(name for name, wanted in traits.items() if wanted)


class _Target:
    """What a lens draws into and is read from."""

    def __init__(self, context: Any, lens: Lens) -> None:
        size = (lens.width, lens.height)
        self.shape = (lens.height, lens.width)
        self.colour = context.texture(size, 4)
        self.meet = context.texture(size, 2, dtype="u4")
        self.depth = context.depth_renderbuffer(size)
        self.frame = context.framebuffer([self.colour, self.meet], self.depth)
        self.shadow = context.texture(size, 1)
        self.shade = context.framebuffer([self.shadow])

    def release(self) -> None:
        for part in (self.frame, self.shade, self.colour, self.meet, self.depth, self.shadow):
            part.release()

    def read(self, rgb: bool) -> Picture:
        colour = np.frombuffer(
            self.frame.read(components=4, attachment=0, alignment=1), np.uint8
        ).reshape(*self.shape, 4)
        meet = np.frombuffer(
            self.frame.read(components=2, attachment=1, alignment=1, dtype="u4"), np.uint32
        ).reshape(*self.shape, 2)
        # views: four copies would take 0.2 of 1.6 ms a camera of 320 x 160
        return Picture(
            meet.view(np.float32)[..., 0],
            colour[..., 3],
            meet.view(np.int32)[..., 1],
            colour[..., :3] if rgb else None,
        )


def _bytes(packed: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 of packed colours."""
    return np.ascontiguousarray(packed).astype("<u4").view(np.uint8).reshape(*packed.shape, 4)


def _frame(scene: Scene, camera: Camera) -> np.ndarray:
    """(FRAME, 4) float32 in the order of ``shaders``."""
    weather, ground, lens = scene.weather, scene.ground, camera.lens
    night = weather.dark
    beams = nearest_beams(scene, camera) if night else []
    direct = weather.direct
    rows = np.zeros((shaders.FRAME, 4), np.float32)
    rows[0] = *camera.eye, camera.height
    rows[1:4, :3] = camera.axes.T
    rows[4] = lens.width, lens.height, lens.focal, ground.cells.shape[1]
    rows[5] = *weather.ambient, weather.ambient.mean()
    rows[6, :3] = direct
    rows[7] = *weather.sun, 1 / glow_cell(ground)
    rows[8, :3], rows[9, :3] = weather.zenith, weather.horizon
    rows[10] = *weather.fog, weather.extinction
    rows[11] = *weather.cloud, weather.cover
    rows[12] = weather.fog_distance, weather.murk, weather.wet, weather.puddles
    rows[13] = weather.overcast, len(beams), weather.lamplight, ground.cells.shape[0]
    rows[14] = *ground.origin, 1 / ground.resolution, ground.outside
    rows[15, :3] = 255 * np.minimum(direct / max(float(direct.max()), 1e-6), 1)
    for row, beam in zip(rows[16:], beams, strict=False):
        row[:] = beam
    return rows
