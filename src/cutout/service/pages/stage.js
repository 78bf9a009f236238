"use strict";
// The selected picture: before and after, zoom, pan, and the background behind it as the service would compose it.
const view = at("view");
const zoom = { scale: 0, x: 0, y: 0 };  // a scale of 0 fits
let shown = null;  // the entry
let size = [1, 1];

const wide = matchMedia("(min-width: 56rem)");
const fitting = () => Math.min(view.clientWidth / size[0], view.clientHeight / size[1], 2);
const scale = () => zoom.scale || fitting();
const isDone = () => Boolean(shown?.cut);

function place() {
  const [across, down] = [view.clientWidth, view.clientHeight], by = scale(), [width, height] = size.map((side) => side * by);
  const inside = (offset, room, side) => side <= room ? (room - side) / 2 : Math.min(0, Math.max(room - side, offset));
  zoom.x = inside(zoom.x, across, width);
  zoom.y = inside(zoom.y, down, height);
  Object.assign(at("sheet").style, { width: `${width}px`, height: `${height}px`, transform: `translate(${zoom.x}px, ${zoom.y}px)` });
  at("sheet").classList.toggle("large", by >= 3);
  view.classList.toggle("zoomed", width > across + 1 || height > down + 1);
  const left = Math.max(0, zoom.x), right = Math.min(across, zoom.x + width);
  const edge = left + (right - left) * at("divider").value / 100;
  const top = Math.max(0, zoom.y), bottom = Math.max(0, down - zoom.y - height);
  Object.assign(at("edge").style, { left: `${edge}px`, top: `${top}px`, bottom: `${bottom}px` });
  const [start, over, end, under] = shown?.cut?.box || [0, 0, ...size];  // of the original in the result
  const box = { left: `${start * by}px`, top: `${over * by}px`, width: `${(end - start) * by}px`, height: `${(under - over) * by}px` };
  for (const name of ["before", "blurred"]) Object.assign(at(name).style, box);
  const compared = isDone() && shown.url;
  at("before").style.clipPath = compared ? `inset(0 ${zoom.x + end * by - edge}px 0 0)` : "";
  at("ground").style.clipPath = at("after").style.clipPath = compared ? `inset(0 0 0 ${edge - zoom.x}px)` : "";
  at("blurred").style.filter = `blur(${at("radius").value / 100 * Math.max(...size) * by}px)`;
  if (at("ground").dataset.tile) at("ground").style.backgroundSize = `${backdrop.width * by}px ${backdrop.height * by}px`;
}

function zoomTo(wanted, x = view.clientWidth / 2, y = view.clientHeight / 2) {
  const before = scale(), after = Math.min(16, Math.max(Math.min(fitting(), 1), wanted));
  zoom.x = x - (x - zoom.x) * after / before;
  zoom.y = y - (y - zoom.y) * after / before;
  zoom.scale = !wanted || after === fitting() ? 0 : after;
  place();
}

// --- the background
function groundStyle(back, fit) {
  switch (back?.kind) {
    case "color": return back.text;
    case "gradient": {
      const [start, end, angle] = back.text.slice("gradient:".length).split(",");
      return `linear-gradient(${angle}deg, ${start}, ${end})`;
    }
    case "picture": {
      const how = { cover: "center / cover no-repeat", contain: "center / contain no-repeat #fff", stretch: "0 0 / 100% 100%", tile: "0 0" };
      return backdrop.url ? `url(${backdrop.url}) ${how[fit]}` : "";
    }
    default: return "";
  }
}

// The file itself is shown once there is one; before that the transparent cut-out over the same background.
function paint() {
  const out = output(), fit = valueOf(at("option-background_fit")), ground = at("ground");
  const final = shown?.final?.key === out.key && shown.final.visible ? shown.final : null;
  source(at("after"), final?.url || shown?.cut?.url);
  at("after").alt = shown ? "Cut-out of " + shown.name : "";
  const style = final ? "" : groundStyle(out.back, fit) || (out.format.alpha || out.back ? "" : "#fff");
  ground.style.background = isDone() ? style : "";
  ground.className = isDone() && !style ? "checks" : "";
  ground.dataset.tile = out.back?.kind === "picture" && fit === "tile" && style ? "1" : "";
  const blur = isDone() && !final && out.back?.kind === "blur";
  source(at("blurred"), blur ? shown.url : null);
  place();
}

function source(image, url) {
  image.hidden = !url;
  if (url && image.getAttribute("src") !== url) image.src = url;
}

// --- the picture
function show(entry) {
  if (entry !== shown) Object.assign(zoom, { scale: 0, x: 0, y: 0 });
  shown = entry;
  at("stage").hidden = !entry;
  if (!entry) return;
  size = entry.cut?.size || entry.size || [3, 2];
  view.style.setProperty("--ratio", size[0] / size[1]);
  at("name").textContent = at("name").title = entry.name;
  at("facts").textContent = facts(entry);
  source(at("before"), entry.url);
  at("before").alt = isDone() ? "" : entry.name;
  at("edge").hidden = at("compare").hidden = !isDone() || !entry.url;
  const step = entry.step || (entry.state === "waiting" || entry.state === "opening" ? entry.state : "");
  at("doing").hidden = !step;
  at("step").textContent = step;
  if (entry.sent === null) at("progress").removeAttribute("value");
  else at("progress").value = entry.sent;
  at("failed").hidden = entry.state !== "failed";
  at("why").textContent = entry.error;
  at("again").hidden = Boolean(entry.forGood);
  at("download").disabled = !isDone() || entry.state !== "done" || Boolean(entry.step);
  paint();
}

function facts(entry) {
  const [before, after] = [entry.size, entry.cut?.size].map((both) => both && both.join(" × "));
  const parts = [before && after && before !== after ? `${before} → ${after}` : after || before];
  if (entry.cut) parts.push(`${entry.cut.seconds.toFixed(1)} s`, entry.cut.warning);
  return parts.filter(Boolean).join(" · ");
}

// --- hands
const pointers = new Map();
let dragging = "";

function compareAt(x) {
  const width = size[0] * scale(), left = Math.max(0, zoom.x), right = Math.min(view.clientWidth, zoom.x + width);
  at("divider").value = Math.round((x - left) / (right - left) * 100);
  place();
}

const within = (event) => {
  const box = view.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};
view.onpointerdown = (event) => {
  if (event.button || event.target.closest("#failed")) return;
  view.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, within(event));
  const comparing = isDone() && (event.target === at("edge") || !view.classList.contains("zoomed"));
  dragging = pointers.size > 1 ? "pinch" : comparing ? "compare" : "pan";
  if (dragging === "compare" && event.pointerType !== "touch") compareAt(within(event)[0]);  // a finger may be one of two
};
view.onpointermove = (event) => {
  const before = pointers.get(event.pointerId), now = within(event);
  if (!before) return;
  if (dragging === "compare") compareAt(now[0]);
  else if (dragging === "pan") { zoom.x += now[0] - before[0]; zoom.y += now[1] - before[1]; place(); }
  else {
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
    if (other) zoomTo(scale() * apart(now) / Math.max(1, apart(before)), ...other);
  }
  pointers.set(event.pointerId, now);
};
view.onpointerup = view.onpointercancel = (event) => { pointers.delete(event.pointerId); };
view.ondragstart = (event) => event.preventDefault();
view.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !wide.matches) return;  // where the page scrolls
  event.preventDefault();
  zoomTo(scale() * Math.exp(-event.deltaY * 0.0015), ...within(event));
}, { passive: false });
view.ondblclick = (event) => { if (!event.target.closest("#failed")) zoomTo(zoom.scale ? 0 : Math.max(1, 2 * fitting()), ...within(event)); };
view.onkeydown = (event) => {
  if (event.target !== view || event.ctrlKey || event.metaKey) return;
  const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
  if (moves && view.classList.contains("zoomed")) { zoom.x += moves[0]; zoom.y += moves[1]; place(); }
  else if (moves && isDone() && moves[0]) { at("divider").value -= Math.sign(moves[0]) * 5; place(); }
  else if (event.key === "+" || event.key === "=") zoomTo(scale() * 1.5);
  else if (event.key === "-") zoomTo(scale() / 1.5);
  else if (event.key === "0") zoomTo(0);
  else if (event.key === "1") zoomTo(1);
  else return;
  event.preventDefault();
};
at("divider").oninput = place;
at("in").onclick = () => zoomTo(scale() * 1.5);
at("out").onclick = () => zoomTo(scale() / 1.5);
at("fitted").onclick = () => zoomTo(0);
at("whole").onclick = () => zoomTo(1);
new ResizeObserver(place).observe(view);
