"""A traced drive as one page of HTML with a slider: for a notebook, or for somebody else's browser.

Everything is in the page, pictures included, and nothing is asked of any server. Some moments of the
drive are shown, evenly spread, so that the page stays small: 60 moments come to about 1.5 MB. Without
scripts (a notebook on a web site) the first moment shows.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import zlib
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.driving.evaluation.above import GROUND, draw_above
from core.errors import DataError, UsageError, need
from core.files import write_text

if TYPE_CHECKING:
    from apps.driving.evaluation.trace import Tick, Trace

MOST = 500  # moments
WIDTH, ABOVE = 640, 320  # pixels
QUALITY = 75  # of JPEG


class Replay:
    """``moments`` of a trace. In a notebook it shows itself; ``save`` writes it as a page.

    Raises UsageError for fewer than 1 or more than ``MOST`` moments, DataError for a trace without a
    decision.
    """

    def __init__(self, trace: Trace, moments: int = 60) -> None:
        if not 1 <= moments <= MOST:
            raise UsageError(f"{moments} moments: give 1 to {MOST}")
        if not len(trace):
            raise DataError(f"{trace.folder}: nothing has been driven yet")
        self.trace = trace
        spread = np.linspace(0, len(trace) - 1, min(moments, len(trace)))
        self.indices = [int(index) for index in spread.round()]
        self.title = f"{trace.meta.agent} on route {trace.meta.route} in {trace.meta.town}"
        self.body = self._body()

    def _repr_html_(self) -> str:
        return self.body

    def save(self, path: str | Path, force: bool = False) -> None:
        """Write a page of its own; UsageError where it exists and ``force`` is false."""
        title = html.escape(self.title)
        write_text(
            Path(path),
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title></head>\n"
            f'<body style="font-family: sans-serif; margin: 1em">\n<h1>{title}</h1>\n'
            f"{self.body}\n</body></html>\n",
            force,
        )

    def _body(self) -> str:
        shown = [self._moment(index) for index in self.indices]
        # "<" would end the script, or begin something else in it
        data = json.dumps(shown).replace("<", "\\u003c")
        mark = f"replay-{zlib.crc32(data.encode()):08x}"  # several may be in one notebook
        first = shown[0]
        return _PAGE.substitute(
            mark=mark,
            data=data,
            last=len(shown) - 1,
            title=html.escape(self.title, quote=True),
            cameras=first["cameras"],
            above=first["above"],
            said=html.escape(first["said"]),
            width=WIDTH,
            above_width=ABOVE,
        )

    def _moment(self, index: int) -> dict[str, str]:
        trace = self.trace
        image = trace.image(index, "rgb")
        if image is None:
            image = np.full((WIDTH // 6, WIDTH, 3), GROUND, np.uint8)
        return {
            "cameras": _jpeg(image, WIDTH),
            "above": _jpeg(draw_above(trace, index, size=(ABOVE, ABOVE)), ABOVE),
            "said": describe(trace, trace[index]),
        }


def describe(trace: Trace, tick: Tick) -> str:
    """A moment in a line or two: speed, pedals, opinions, what has just gone wrong."""
    limit = f" (limit {3.6 * tick.limit:.0f})" if math.isfinite(tick.limit) else ""
    said = [
        f"{tick.time:.1f} s",
        f"{3.6 * tick.speed:.0f} km/h{limit}",
        f"throttle {tick.throttle:.2f}",
        f"brake {tick.brake:.2f}",
        f"steer {round(tick.steer, 2) + 0.0:+.2f}",
        f"{tick.completion:.0f} % of the route",
    ]
    for name, value in (("red light", tick.red_light), ("stop sign", tick.stop_sign)):
        if value >= 0.5:
            said.append(f"sees a {name} ({value:.2f})")
    if tick.hazards:
        said.append(f"waits for {', '.join(tick.hazards)}")
    if tick.interventions:
        said.append(f"supervisor: {', '.join(tick.interventions)}")
    recent = (one for one in trace.infractions if 0 <= tick.time - one.time < 3)
    said += [one.message for one in recent]
    return "; ".join(said)


def _jpeg(picture: np.ndarray, width: int) -> str:
    """A data URI of a picture at most so wide."""
    image: Any = need("PIL.Image", "driving").fromarray(picture)
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


_PAGE = Template(
    """<div id="$mark" style="max-width: ${width}px">
<img data-part="cameras" src="$cameras" alt="What the cameras saw: $title"
 style="width: 100%; display: block">
<img data-part="above" src="$above" alt="The car from above: $title"
 style="width: 100%; max-width: ${above_width}px; display: block; margin: 4px 0">
<label>Moment <input type="range" min="0" max="$last" value="0" style="width: 60%"></label>
<button type="button">Play</button>
<p data-part="said" style="min-height: 3em">$said</p>
<script>
for (const root of document.querySelectorAll("#$mark")) {
  if (root.dataset.begun) continue;  // the same replay may be shown twice
  root.dataset.begun = "yes";
  const moments = $data;
  const part = name => root.querySelector("[data-part=" + name + "]");
  const slider = root.querySelector("input"), button = root.querySelector("button");
  let timer = null;
  const show = () => {
    const one = moments[slider.value];
    part("cameras").src = one.cameras;
    part("above").src = one.above;
    part("said").textContent = one.said;
    slider.setAttribute("aria-valuetext", one.said);
  };
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  slider.addEventListener("input", () => { stop(); show(); });
  button.addEventListener("click", () => {
    if (timer !== null) { stop(); return; }
    if (slider.value === slider.max) slider.value = 0;
    button.textContent = "Pause";
    timer = setInterval(() => {
      if (slider.value === slider.max) { stop(); return; }
      slider.value = Number(slider.value) + 1;
      show();
    }, 200);
  });
  show();
}
</script>
</div>"""
)
