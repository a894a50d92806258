// Three linked planes. The server draws the pictures; here are the crosshair, the pointer and the keys.
//
// data: { planes: [{ axis, name, title, alt, jpeg, across, up, mirrored: [bool, bool],
//                    first: [column, row], count: [columns, rows],
//                    letters: [left, right, top, bottom] | null, wide, share, stacked, tallest,
//                    bar: { share, text } }],
//         size: [n, ...], at: [n, ...], seq, id }
// Sends the trigger "moved": { at: [n, ...], seq }. Positions are absolute, so that the last one wins.

const PATIENCE = 2000; // ms
const viewers = new WeakMap();

export default function (component) {
  const root = component.parentElement.querySelector(".planes");
  let viewer = viewers.get(root);
  if (!viewer) viewers.set(root, (viewer = create(root)));
  viewer.send = (at, seq) => component.setTriggerValue("moved", { at, seq });
  viewer.update(component.data);
}

function create(root) {
  const viewer = { at: [], seq: 0, answered: 0, asked: 0, waiting: false, timer: 0,
    figures: [], data: null };

  viewer.update = (data) => {
    if (viewer.data && viewer.data.id !== data.id) {
      Object.assign(viewer, { seq: 0, answered: 0, waiting: false }); // another image
      clearTimeout(viewer.timer);
    }
    viewer.data = data;
    // Where the person has moved on since, the answer is late: they keep seeing their own crosshair.
    const late = viewer.waiting || (data.seq < viewer.seq && fresh());
    if (!late) viewer.at = data.at.slice();
    viewer.seq = Math.max(viewer.seq, data.seq);
    viewer.answered = Math.max(viewer.answered, data.seq);
    if (viewer.figures.length !== data.planes.length) build(data.planes.length);
    data.planes.forEach(fill);
    root.dataset.at = data.at.join(",");
    lines();
    if (viewer.waiting) ask();
  };

  function build(count) {
    root.replaceChildren();
    viewer.figures = [];
    for (let i = 0; i < count; i++) {
      const figure = document.createElement("figure");
      const frame = element("div", "frame", figure);
      frame.tabIndex = 0;
      frame.setAttribute("role", "application");
      const parts = { figure, frame, img: element("img", "", frame) };
      parts.img.draggable = false;
      parts.down = element("div", "line down", frame);
      parts.along = element("div", "line along", frame);
      parts.letters = ["left", "right", "top", "bottom"].map((s) => element("span", "letter " + s, frame));
      parts.bar = element("div", "bar", frame);
      parts.length = element("span", "length", frame);
      parts.caption = element("figcaption", "", figure);
      listen(frame, i);
      root.append(figure);
      viewer.figures.push(parts);
    }
  }

  function fill(plane, i) {
    const parts = viewer.figures[i];
    parts.figure.style.setProperty("--share", plane.share);
    parts.figure.style.setProperty("--stacked", plane.stacked);
    parts.figure.style.setProperty("--wide", plane.wide);
    parts.figure.style.setProperty("--tallest", plane.tallest + "px");
    parts.figure.style.setProperty("--gaps", 8 * (viewer.data.planes.length - 1) + 1 + "px");
    parts.frame.style.aspectRatio = plane.wide;
    parts.frame.dataset.plane = plane.name;
    parts.frame.dataset.columns = plane.count[0];
    parts.frame.setAttribute("aria-label", plane.alt);
    parts.img.alt = plane.alt;
    const source = "data:image/jpeg;base64," + plane.jpeg;
    if (parts.img.src !== source) parts.img.src = source;
    parts.letters.forEach((span, n) => { span.textContent = plane.letters ? plane.letters[n] : ""; });
    parts.bar.style.width = 100 * plane.bar.share + "%";
    parts.length.textContent = plane.bar.text;
    parts.caption.textContent = plane.title;
  }

  function lines() {
    viewer.data.planes.forEach((plane, i) => {
      const [u, v] = [0, 1].map((side) => {
        const axis = side ? plane.up : plane.across;
        const n = viewer.data.size[axis];
        const index = plane.mirrored[side] ? n - 1 - viewer.at[axis] : viewer.at[axis];
        return (index - plane.first[side] + 0.5) / plane.count[side];
      });
      viewer.figures[i].down.style.left = 100 * u + "%";
      viewer.figures[i].along.style.top = 100 * v + "%";
    });
  }

  function move(at) {
    at = at.map((p, a) => Math.min(Math.max(p, 0), viewer.data.size[a] - 1));
    if (at.every((p, a) => p === viewer.at[a])) return;
    viewer.at = at;
    lines();
    ask();
  }

  function fresh() {
    return performance.now() - viewer.asked < PATIENCE;
  }

  // One question at a time: the next one, with wherever the crosshair is by then, after the answer.
  function ask() {
    viewer.waiting = viewer.answered < viewer.seq && fresh();
    clearTimeout(viewer.timer);
    if (viewer.waiting) {
      viewer.timer = setTimeout(ask, PATIENCE); // an answer may be lost; what the person did may not
      return;
    }
    if (viewer.at.every((p, a) => p === viewer.data.at[a])) return;
    viewer.seq += 1;
    viewer.asked = performance.now();
    viewer.send(viewer.at.slice(), viewer.seq);
  }

  function listen(frame, i) {
    const point = (event) => {
      const plane = viewer.data.planes[i];
      const box = frame.getBoundingClientRect();
      const at = viewer.at.slice();
      [[plane.across, (event.clientX - box.left) / box.width],
       [plane.up, (event.clientY - box.top) / box.height]].forEach(([axis, f], side) => {
        const n = viewer.data.size[axis];
        const seen = Math.min(Math.max(Math.floor(f * plane.count[side]), 0), plane.count[side] - 1);
        const index = plane.first[side] + seen;
        at[axis] = plane.mirrored[side] ? n - 1 - index : index;
      });
      move(at);
    };
    const step = (axis, by) => {
      const at = viewer.at.slice();
      at[axis] += by;
      move(at);
    };
    frame.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      frame.focus({ preventScroll: true });
      if (event.pointerType === "mouse") frame.setPointerCapture(event.pointerId);
      point(event);
    });
    frame.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse" && frame.hasPointerCapture(event.pointerId)) point(event);
    });
    frame.addEventListener("keydown", (event) => {
      const plane = viewer.data.planes[i];
      const far = event.shiftKey ? 10 : 1;
      const ways = {
        ArrowLeft: [plane.across, plane.mirrored[0] ? far : -far],
        ArrowRight: [plane.across, plane.mirrored[0] ? -far : far],
        ArrowUp: [plane.up, plane.mirrored[1] ? far : -far],
        ArrowDown: [plane.up, plane.mirrored[1] ? -far : far],
      };
      if (plane.axis >= 0) Object.assign(ways, { PageUp: [plane.axis, far], PageDown: [plane.axis, -far] });
      if (!(event.key in ways) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      step(...ways[event.key]);
    });
    frame.addEventListener("wheel", (event) => {
      const plane = viewer.data.planes[i];
      if (plane.axis < 0 || frame.getRootNode().activeElement !== frame) return; // let the page scroll
      event.preventDefault();
      step(plane.axis, event.deltaY < 0 ? 1 : -1);
    }, { passive: false });
  }

  return viewer;
}

function element(tag, name, parent) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  parent.append(made);
  return made;
}
