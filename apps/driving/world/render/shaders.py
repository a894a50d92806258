"""The pictures of ``shading`` in GLSL 3.30; the same numbers under the same names.

One program draws boxes, one the ground, one the sky. A camera's depth t becomes the window depth
1 - NEAR / t, which is linear on the picture for every plane: the ground's triangle needs no depth
of its own from the fragment shader, and hidden ground costs nothing. The depth buffer is cleared to
that of FAR, so what is beyond fails the test, and no shader discards: llvmpipe then tests depth
before it shades. Row 0 of the target is the top.
"""

from __future__ import annotations

from apps.driving.world.render.scene import FAR, NEAR, Style
from apps.driving.world.render.shading import BEAM, BEAMS, LAMPLIGHT
from apps.driving.world.render.surfaces import LIT, WINDOW
from apps.driving.world.render.textures import FOLD, FROM, NOISE

FRAME = 16 + BEAMS
"""vec4 of numbers a frame: see ``_HEAD``."""

_HEAD = f"""#version 330
uniform vec4 frame[{FRAME}];
#define EYE frame[0].xyz
#define HEIGHT frame[0].w
#define FORWARD frame[1].xyz
#define RIGHT frame[2].xyz
#define UP frame[3].xyz
#define SIZE frame[4].xy
#define FOCAL frame[4].z
#define COLUMNS int(frame[4].w)
#define AMBIENT frame[5].xyz
#define MEAN_AMBIENT frame[5].w
#define DIRECT frame[6].xyz
#define SUN frame[7].xyz
#define PER_GLOW frame[7].w
#define ZENITH frame[8].xyz
#define HORIZON frame[9].xyz
#define FOG frame[10].xyz
#define EXTINCTION frame[10].w
#define CLOUD frame[11].xyz
#define COVER frame[11].w
#define FOG_START frame[12].x
#define MURK frame[12].y
#define WET frame[12].z
#define PUDDLES frame[12].w
#define OVERCAST frame[13].x
#define BEAM_COUNT int(frame[13].y)
#define NIGHT_LIGHT frame[13].z
#define ROWS int(frame[13].w)
#define ORIGIN frame[14].xy
#define PER_METRE frame[14].z
#define OUTSIDE frame[14].w
#define SUN_RGB frame[15].xyz
const float FAR = {FAR};
const float NEAR = {NEAR};
"""

_LIGHT = f"""
uniform sampler2D noise;
uniform sampler2D glow;
const vec3 LAMPLIGHT = vec3{LAMPLIGHT};
float noise_at(vec2 at) {{
    return texelFetch(noise, ivec2(floor(at)) & {NOISE - 1}, 0).r;
}}
vec3 misty(vec3 rgb, float t) {{
    return mix(FOG, rgb, exp(-EXTINCTION * max(t - FOG_START, 0.0)));
}}
float lamps(vec3 at) {{
    vec2 cell = clamp((at.xy - ORIGIN) * PER_GLOW, vec2(0.0), vec2(textureSize(glow, 0) - 1));
    float light = texelFetch(glow, ivec2(cell), 0).r;
    light *= clamp(1.25 - at.z / 8.0, 0.0, 1.0);
    for (int i = 0; i < BEAM_COUNT; ++i) {{
        vec4 lamp = frame[16 + i];
        vec2 ray = vec2(cos(lamp.w), sin(lamp.w));
        vec2 away = at.xy - lamp.xy;
        float ahead = dot(ray, away);
        float aside = abs(ray.x * away.y - ray.y * away.x);
        float fade = clamp(1.0 - ahead / {BEAM}, 0.0, 1.0);
        float beam = clamp((0.8 + 0.42 * ahead - aside) * 0.5, 0.0, 1.0) * fade * fade;
        if (ahead > 0.2 && at.z < lamp.z + 0.6 + 0.03 * ahead) light += beam;
    }}
    return min(light, 1.5) * NIGHT_LIGHT;
}}
"""

_OUT = """
layout(location = 0) out vec4 colour;
layout(location = 1) out uvec2 meet;
void emit(vec3 rgb, float t, uint tag, uint instance) {
    colour = vec4((rgb - 0.5) / 255.0, float(tag) / 255.0);  // clamped and rounded by the target
    meet = uvec2(floatBitsToUint(t), instance);
}
"""

_FACE = """
in vec3 centre;
in vec3 half_size;
in vec2 turn;
in vec4 paint;
in int instance;
in uvec4 kind;
int side() {
    return int(kind.z);
}
vec3 corner() {
    int n = gl_VertexID & 3;
    float a = n == 1 || n == 2 ? 1.0 : -1.0, b = n > 1 ? 1.0 : -1.0;
    float c = (side() & 1) == 0 ? 1.0 : -1.0;
    return half_size * (side() < 2 ? vec3(c, a, b) : side() < 4 ? vec3(b, c, a) : vec3(a, b, c));
}
vec3 from_eye(vec3 p) {
    return centre + vec3(turn.x * p.x - turn.y * p.y, turn.y * p.x + turn.x * p.y, p.z);
}
vec4 seen(vec3 p) {
    float t = dot(FORWARD, p);
    vec2 focal = 2.0 * FOCAL / SIZE;
    return vec4(dot(RIGHT, p) * focal.x, -dot(UP, p) * focal.y, t - 2.0 * NEAR, t);
}
"""

BOX_VERTEX = (
    _HEAD
    + _FACE
    + """
flat out ivec4 of;
flat out vec3 base;
flat out vec3 lit;
flat out vec2 span;
flat out float key;
out vec2 spot;
out vec3 where;
void main() {
    vec3 local = corner();
    vec3 p = from_eye(local);
    gl_Position = seen(p);
    bool front = side() < 2;
    of = ivec4(int(kind.x), instance, int(kind.y), side());
    key = float(instance % 97);
    base = paint.rgb * 255.0;
    span = vec2(front ? half_size.y : half_size.x, half_size.z);
    spot = vec2(front ? local.y : local.x, local.z);
    where = p + EYE;
    float ahead = dot(turn, SUN.xy), aside = turn.x * SUN.y - turn.y * SUN.x;
    float cosine = front ? ahead : side() < 4 ? aside : SUN.z;
    if ((side() & 1) == 1) cosine = -cosine;
    float sky = front ? 0.86 : side() < 4 ? 0.8 : side() == 4 ? 1.0 : 0.55;
    lit = AMBIENT * sky + DIRECT * max(cosine, 0.0);
}
"""
)

BOX_FRAGMENT = (
    _HEAD
    + _LIGHT
    + _OUT
    + f"""
flat in ivec4 of;
flat in vec3 base;
flat in vec3 lit;
flat in vec2 span;
flat in float key;
in vec2 spot;
in vec3 where;
vec3 facade(vec3 rgb) {{
    vec2 size = 2.0 * span;
    vec2 cell = (spot + span) / size * max(floor(size / vec2({WINDOW[0]}, {WINDOW[1]})), 1.0);
    vec2 pane = floor(cell), inside = cell - pane;
    bool glass = abs(inside.x - 0.5) < 0.27 && abs(inside.y - 0.56) < 0.25;
    if (!glass || size.x <= 3.0 || size.y <= 2.2) return rgb;
    float wave = sin(pane.x * 12.9898 + pane.y * 78.233 + key * 3.77) * 437.585;
    float chance = abs(wave - trunc(wave));
#ifdef DARK
    return chance < {LIT} ? vec3(236.0, 198.0, 132.0) * (0.55 + chance) : rgb * 0.5;
#else
    return mix(rgb * 0.38, 0.55 * ZENITH, 0.25 + 0.35 * chance);
#endif
}}
vec3 body(vec3 rgb) {{
    vec2 q = spot / span;
    if (q.y < -0.62) rgb *= 0.45;
    float middle = span.y > 0.6 ? 0.3 - span.y : 0.25 * span.y;
    bool lamp = abs(q.x) > 0.62 && abs(q.x) < 0.95
             && abs(spot.y - middle) < min(0.3 * span.y, 0.14);
    if (!lamp || of.w > 1) return rgb;
#ifdef DARK
    return of.w == 0 ? vec3(250.0, 246.0, 228.0) : vec3(226.0, 34.0, 28.0);
#else
    vec3 shine = of.w == 0 ? vec3(250.0, 246.0, 228.0) : vec3(150.0, 22.0, 20.0);
    return shine * (MEAN_AMBIENT + 0.3);
#endif
}}
vec3 cabin(vec3 rgb) {{
    vec2 q = spot / span;
    if (abs(q.x) >= 0.9 || q.y >= 0.68 || q.y <= -0.85) return rgb;
    return vec3(22.0, 26.0, 30.0) * 0.7 + 0.11 * (ZENITH + HORIZON);
}}
vec3 signal() {{
    float dim = MEAN_AMBIENT + 0.2;
    vec3 rgb = vec3(34.0, 36.0, 38.0) * dim;
    if (of.w != 1) return rgb;
    int lit = base.r > 1.6 * base.g ? 0 : base.g > 1.25 * base.r ? 2 : 1;
    if (max(base.r, base.g) < 100.0) lit = -1;
    float radius = min(0.8 * span.x, 0.29 * span.y);
    vec3 off[3] = vec3[3](vec3(58, 18, 16), vec3(56, 44, 14), vec3(14, 48, 30));
    for (int lamp = 0; lamp < 3; ++lamp) {{
        vec2 q = vec2(spot.x, spot.y - 0.64 * float(1 - lamp) * span.y);
        if (dot(q, q) < radius * radius) rgb = lit == lamp ? base : off[lamp] * dim;
    }}
    return rgb;
}}
void main() {{
    float t = 1.0 / gl_FragCoord.w;
    vec3 rgb = vec3(0.0);
#ifdef RGB
    rgb = base * lit * min(0.8 + where.z * (0.2 / 1.5), 1.0);
#ifdef DARK
    rgb += base * lamps(where) * LAMPLIGHT;
#endif
#ifdef HOUSES
    if (of.z == {int(Style.FACADE)}) rgb = facade(rgb);
#endif
#ifdef PARTS
    if (of.z == {int(Style.BODY)}) rgb = body(rgb);
    else if (of.z == {int(Style.CABIN)}) rgb = cabin(rgb);
    else if (of.z == {int(Style.SIGNAL)}) rgb = signal();
    else if (of.z == {int(Style.LEAVES)})
        rgb *= 0.72 + 0.5 * noise_at(vec2(spot.x * 34.0 + key * 57.0, spot.y * 34.0));
#endif
    rgb = misty(rgb, t);
#endif
    emit(rgb, t, uint(of.x), uint(of.y));
}}
"""
)

GROUND_VERTEX = (
    _HEAD
    + """
in vec2 corner;
out vec3 ray;
void main() {
    vec2 uv = vec2(corner.x, -corner.y) * SIZE / (2.0 * FOCAL);
    ray = FORWARD + uv.x * RIGHT + uv.y * UP;
    gl_Position = vec4(corner, 1.0 + 2.0 * NEAR * ray.z / HEIGHT, 1.0);
}
"""
)

_GROUND_FRAGMENT = (
    _HEAD
    + _LIGHT
    + _OUT
    + f"""
uniform usampler2D cells;
uniform usampler2D tag_of;
uniform sampler2D palette;
uniform sampler2D coarse;
uniform sampler2D coarsest;
uniform sampler2D shadow;
ivec2 folded(ivec2 cell, int columns) {{
    int n = cell.y * columns + cell.x;
    return ivec2(n & {FOLD - 1}, n / {FOLD});
}}
void main() {{
    vec2 uv = vec2(gl_FragCoord.x - 0.5 * SIZE.x, 0.5 * SIZE.y - gl_FragCoord.y) / FOCAL;
    vec3 ray = FORWARD + uv.x * RIGHT + uv.y * UP;
    float w = -ray.z / HEIGHT;
    float t = 1.0 / w;
    vec2 at = EYE.xy + t * ray.xy;
    vec2 place = (at - ORIGIN) * PER_METRE;
    ivec2 cell = ivec2(floor(place));
    bool inside = all(greaterThanEqual(cell, ivec2(0))) && all(lessThan(cell, ivec2(COLUMNS, ROWS)));
    int code = inside ? int(texelFetch(cells, folded(cell, COLUMNS), 0).r) : int(OUTSIDE);
    uint tag = texelFetch(tag_of, ivec2(code, 0), 0).r;
    vec3 rgb = vec3(0.0);
#ifdef RGB
    vec4 look = texelFetch(palette, ivec2(code, 0), 0);
    if (inside && t >= {FROM[1]}) look = texelFetch(coarsest, folded(cell / 16, (COLUMNS + 15) / 16), 0);
    else if (inside && t >= {FROM[0]}) look = texelFetch(coarse, folded(cell / 4, (COLUMNS + 3) / 4), 0);
    rgb = look.rgb * 255.0;
    float sunny = max(SUN.z, 0.0);
#ifdef SHADOWS
    sunny *= 1.0 - texelFetch(shadow, ivec2(gl_FragCoord.xy), 0).r;
#endif
    vec3 lit = AMBIENT + DIRECT * sunny;
#ifdef DARK
    lit += LAMPLIGHT * lamps(vec3(at, 0.0));
#endif
    rgb *= lit;
#ifdef SOAKED
    float film = look.a * WET;
    float grazing = exp(-9.0 * abs(HEIGHT) * w);
    float mirror = film * (0.06 + 0.6 * grazing);
    float hollow = noise_at(at * 14.0) - (1.0 - 0.55 * PUDDLES);
    float depth = clamp(hollow * 7.0, 0.0, 1.0) * look.a * sign(PUDDLES);
    mirror += depth * (0.9 - mirror) * (0.25 + 0.75 * grazing);
    rgb = mix(rgb * (1.0 - 0.42 * film), 0.6 * HORIZON + 0.4 * ZENITH, mirror);
#endif
    rgb = misty(rgb, t);
#endif
    emit(rgb, t, tag, 0u);
}}
"""
)
GROUND_FRAGMENT = _GROUND_FRAGMENT

SKY_VERTEX = (
    _HEAD
    + """
in vec2 corner;
void main() {
    gl_Position = vec4(corner, 1.0 - 2.0 * NEAR / (0.998 * FAR), 1.0);
}
"""
)

SKY_FRAGMENT = (
    _HEAD
    + _LIGHT
    + _OUT
    + """
void main() {
    vec3 rgb = vec3(0.0);
#ifdef RGB
    vec2 uv = vec2(gl_FragCoord.x - 0.5 * SIZE.x, 0.5 * SIZE.y - gl_FragCoord.y) / FOCAL;
    vec3 ray = FORWARD + uv.x * RIGHT + uv.y * UP;
    float size = length(ray);
    float height = max(ray.z / size, 0.0);
    rgb = mix(HORIZON, ZENITH, 1.0 - exp(-4.5 * height));
    if (COVER > 0.0) {
        float above = 60.0 / (max(ray.z, 0.0) + 0.12 * size);
        float thick = clamp((noise_at(ray.xy * above) - (1.0 - COVER)) * 3.0, 0.0, 1.0);
        rgb = mix(rgb, CLOUD, 0.85 * thick * min(height * 8.0, 1.0));
    }
    if (OVERCAST < 0.7 && SUN.z > -0.05) {
        float towards = max(dot(ray, SUN) / size, 0.0);
        float disc = clamp((towards - 0.9992) * 4000.0, 0.0, 1.0);
        float strong = (pow(towards, 16.0) * 0.35 + disc) * (1.0 - OVERCAST);
        rgb = mix(rgb, SUN_RGB, min(strong, 1.0));
    }
    if (MURK > 0.0) rgb = mix(rgb, FOG, MURK * (1.0 - 0.6 * sqrt(height)));
#endif
    emit(rgb, FAR, 11u, 0u);
}
"""
)

SHADOW_VERTEX = (
    _HEAD
    + _FACE
    + """
void main() {
    vec3 p = from_eye(corner());
    gl_Position = seen(vec3(p.xy - SUN.xy / SUN.z * (p.z + EYE.z), -EYE.z));
}
"""
)

SHADOW_FRAGMENT = """#version 330
layout(location = 0) out vec4 dark;
void main() {
    dark = vec4(1.0);
}
"""


def variant(source: str, traits: tuple[str, ...]) -> str:
    """A shader with ``traits`` defined: RGB; DARK, SOAKED, SHADOWS;
    HOUSES or PARTS for the styles of boxes. llvmpipe runs both sides of a
    branch on every pixel, so what a frame does not need is left out of its program."""
    lines = "".join(f"#define {name}\n" for name in traits)
    return source.replace("#version 330\n", "#version 330\n" + lines, 1)
