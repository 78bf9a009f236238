"use strict";
// The pictures: how they come in, are sent a few at once, and go out; one list, and one of them is selected.
const AT_ONCE = Math.min(6, known.workers);
const UNDOABLE = 30;
const CUT_FILE = { output_format: "png", png_level: "fastest" };  // while the result is to be something else
const entries = [];
const undos = [];
let running = 0;

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
const suffixes = Object.values(known.inputs).flat();
const isPicture = (file) => file.type.startsWith("image/") || suffixes.some((suffix) => file.name.toLowerCase().endsWith(suffix));

// --- pictures come in
function take(files, folder = "") {
  for (const file of files) add({ file, name: file.name, folder: folder || (file.webkitRelativePath || "").replace(/[^/]*$/, "") });
}

function takeFolder(files, folder) {
  const pictures = files.filter(isPicture).sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true })), others = files.length - pictures.length;
  take(pictures, folder);
  if (others) notify(`${others} ${others === 1 ? "file that is" : "files that are"} no picture left out`);
}

function takeLinks(text) {
  const links = text.match(/https?:\/\/[^\s<>"]+/g) || [];
  if (links.length && !known.links) notify("This service fetches no links: it was started without --image-url. Save the picture, and drop it here.");
  else for (const link of links) add({ link, name: link.replace(/[?#].*/, "").split("/").filter(Boolean).pop(), folder: "" });
  return links.length > 0;
}

let opening = Promise.resolve();  // one after the other: each is decoded, which takes memory

function add(entry) {
  Object.assign(entry, { state: "opening", step: "", sent: null, error: "", run: null });
  entry.canvas = make("canvas", { width: 3, height: 2 });
  entry.mark = make("span", { className: "mark" });
  entry.button = make("button", { type: "button", title: entry.name, onclick: () => select(entry) }, make("span", { className: "frame" }, entry.canvas),
    make("span", { textContent: entry.name }), entry.mark);
  entry.item = make("li", {}, entry.button);
  entries.push(entry);
  at("strip").append(entry.item);
  if (!shown) select(entry);
  begin(entry);
}

function begin(entry) {
  entry.run = { stopped: false };
  Object.assign(entry, { state: "opening", step: "", sent: null, held: false, error: "" });
  update(entry);
  const there = entry.file ? Promise.resolve(true) : fetchLink(entry);
  there.then((found) => { if (found) opening = opening.then(() => decoded(entry)).catch(() => null).then((image) => { check(entry, image); }); });
}

async function fetchLink(entry) {
  const form = new FormData();
  form.append("image_url", entry.link);
  const answer = await call(entry, "page/link", form, "fetching the link");
  if (!answer) return false;
  if (answer.status !== 200) { fail(entry, answer.error); return false; }
  entry.file = new File([answer.blob], entry.name);
  return true;
}

async function decoded(entry) {
  if (entry.run.stopped || !entry.file.size) return null;
  entry.url ||= URL.createObjectURL(entry.file);
  const image = await loaded(entry.url);
  if (image) original(entry, image);
  return image;
}

function original(entry, image) {
  entry.size = [image.naturalWidth, image.naturalHeight];
  thumbnail(entry, image);
  update(entry);
}

// Looks at the limits before anything is sent.
async function check(entry, image) {
  const { run, file } = entry;
  if (run.stopped) return;
  const large = file.size > known.bytes ? `${megabytes(file.size)}, but this service takes at most ${megabytes(known.bytes)} a picture.` : "";
  const pixels = image && !entry.preview ? image.naturalWidth * image.naturalHeight : 0;
  if (!image && !large) {  // a format that browsers do not show, or no picture
    const form = new FormData();
    form.append("file", file);
    const answer = await call(entry, "page/preview", form, "opening");
    if (!answer || run.stopped) return;
    if (answer.status >= 400 && answer.status < 500) return fail(entry, answer.error);
    if (answer.status === 200) {
      Object.assign(entry, { preview: true, url: URL.createObjectURL(answer.blob) });
      image = await loaded(entry.url);
      if (image) original(entry, image);
    }
  }
  if (run.stopped) return;
  if (!image) entry.url = null;
  if (large) return fail(entry, large, { forGood: true });
  if (pixels > known.pixels) return fail(entry, `${Math.round(pixels / 1e6)} megapixels, but this service takes at most ${Math.floor(known.pixels / 1e6)}.`, { forGood: true });
  Object.assign(entry, { state: "waiting", step: "" });
  update(entry);
  next();
}

// --- to the service, a few at once
function next() {
  while (running < AT_ONCE) {
    const entry = entries.find((one) => one.state === "waiting");
    if (!entry) return;
    running += 1;
    cut(entry).finally(() => { running -= 1; next(); });
  }
}

async function cut(entry) {
  const run = entry.run = { stopped: false }, out = output();
  const direct = out.format.name === "png" && !out.back;  // what is shown is the file
  entry.options = cutOptions();
  entry.state = "working";
  const answer = await call(entry, "remove-background", formOf(entry, entry.options, direct ? out : { options: CUT_FILE }), "working");
  if (!answer || run.stopped) return;
  if (answer.status !== 200) return fail(entry, answer.error);
  const url = URL.createObjectURL(answer.blob);
  entry.cut = { blob: answer.blob, url, size: answer.size, box: answer.box, seconds: answer.seconds, warning: answer.warning };
  entry.size ||= answer.size;
  entry.final = direct ? { key: out.key, blob: answer.blob, url, visible: true } : null;
  Object.assign(entry, { state: "done", step: "" });
  const image = await loaded(url);
  if (image) thumbnail(entry, image);
  update(entry);
}

// The file as it is downloaded: the service makes it anew where background or format are others than before.
async function finished(entry) {
  const out = output();
  if (entry.final?.key === out.key) return entry.final;
  const run = entry.run = { stopped: false };
  const answer = await call(entry, "remove-background", formOf(entry, entry.options, out), `making the ${out.format.title}`);
  if (!answer || run.stopped) return null;
  entry.step = "";
  if (answer.status === 200) {
    if (entry.final && entry.final.url !== entry.cut.url) URL.revokeObjectURL(entry.final.url);
    const url = URL.createObjectURL(answer.blob);
    entry.final = { key: out.key, blob: answer.blob, url, visible: Boolean(await loaded(url)) };
  } else notify(`${entry.name}: ${answer.error}`);
  update(entry);
  return answer.status === 200 ? entry.final : null;
}

function fail(entry, error, { forGood = false } = {}) {
  Object.assign(entry, { state: "failed", step: "", error, forGood });
  update(entry);
}

function halt(entry) {
  if (!entry.run) return;
  entry.run.stopped = true;
  entry.run.request?.abort();
  entry.run.wake?.();
}

// --- pictures go
function remember(text, revert, drop = () => {}) {
  undos.push({ text, revert, drop });
  if (undos.length > UNDOABLE) undos.shift().drop();
  notify(text, true);
}

function undo() {
  const last = undos.pop();
  if (!last) return;
  last.revert();
  notify(`Undone: ${last.text[0].toLowerCase()}${last.text.slice(1)}`);
}

function remove(gone) {
  const places = gone.map((entry) => [entry, entries.indexOf(entry)]).sort((one, other) => one[1] - other[1]);
  const at_ = entries.indexOf(shown);
  for (const entry of gone) {
    halt(entry);
    entries.splice(entries.indexOf(entry), 1);
    entry.item.remove();
  }
  if (gone.includes(shown)) select(entries[Math.min(at_, entries.length - 1)] || null);
  remember(gone.length === 1 ? `Removed ${gone[0].name}` : `Removed ${gone.length} pictures`, () => {
    for (const [entry, index] of places) {
      entries.splice(index, 0, entry);
      at("strip").insertBefore(entry.item, at("strip").children[index] || null);
      if (entry.state !== "done" && entry.state !== "failed") begin(entry);
    }
    select(places[0][0]);
  }, () => {
    for (const { url, cut: made, final } of gone) for (const each of new Set([url, made?.url, final?.url])) if (each) URL.revokeObjectURL(each);
  });
  refresh();
  (shown ? shown.button : at("choose")).focus();
}

// Other options for pictures that are done: made again, the old result is shown until then.
function apply(again) {
  const before = again.map(({ options, cut: made, final, state, error }) => ({ options, cut: made, final, state, error }));
  for (const entry of again) {
    halt(entry);
    Object.assign(entry, { state: "waiting", step: "", held: false, error: "", run: null });
    update(entry);
  }
  remember(again.length === 1 ? `New options for ${again[0].name}` : `New options for ${again.length} pictures`, () => {
    again.forEach((entry, number) => {
      halt(entry);
      Object.assign(entry, before[number], { step: "" });
      if (entry.cut) loaded(entry.cut.url).then((image) => image && thumbnail(entry, image));
      update(entry);
    });
  });
  next();
}

const outdated = () => {
  const now = JSON.stringify(cutOptions());
  return entries.filter((entry) => entry.options && ["done", "failed"].includes(entry.state) && JSON.stringify(entry.options) !== now);
};

function settingsChanged() {
  hints();
  const out = output();
  for (const entry of entries) ground(entry, out);
  if (shown) show(shown);
  refresh();
  blurSoon();
}

// A blur is made of what is around the subject, which the service alone knows.
function blurSoon() {
  clearTimeout(blurSoon.later);
  const out = output(), entry = shown;
  if (out.back?.kind !== "blur" || entry?.state !== "done" || entry.final?.key === out.key) return;
  blurSoon.later = setTimeout(() => { halt(entry); finished(entry); }, 500);
}

// --- what is seen
function thumbnail(entry, image) {
  const by = Math.min(1, 208 / image.naturalWidth, 148 / image.naturalHeight);
  entry.canvas.width = Math.max(1, image.naturalWidth * by);
  entry.canvas.height = Math.max(1, image.naturalHeight * by);
  entry.canvas.getContext("2d").drawImage(image, 0, 0, entry.canvas.width, entry.canvas.height);
  ground(entry);
}

function ground(entry, { back, format } = output()) {
  const fit = valueOf(at("option-background_fit"));
  const style = entry.cut ? groundStyle(back, fit) || (format.alpha || back ? "" : "#fff") : "";
  entry.canvas.style.background = style;
  entry.canvas.className = entry.cut && !style ? "checks" : "";
}

function select(entry) {
  show(entry);
  for (const each of entries) each.button.setAttribute("aria-current", String(each === entry));
  entry?.item.scrollIntoView({ block: "nearest", inline: "nearest" });
  blurSoon();
  refresh();
}

function update(entry) {
  entry.button.className = `thumb ${entry.state}`;
  entry.mark.textContent = { done: "✓ done", failed: "! failed" }[entry.state] || (entry.step && entry.state === "working" ? entry.step : entry.state);
  entry.button.setAttribute("aria-current", String(entry === shown));
  if (entry === shown) show(entry);
  refresh();
}

let active = false;
function refresh() {
  const count = (...states) => entries.filter((entry) => states.includes(entry.held ? "waiting" : entry.state)).length;
  const [waiting, working, done, failed] = [count("opening", "waiting"), count("working"), count("done"), count("failed")];
  document.body.classList.toggle("busy", entries.length > 0);
  at("list").hidden = !entries.length;
  const parts = [[waiting, "waiting"], [working, "working"], [done, "done"], [failed, "failed"]];
  at("counts").textContent = parts.filter(([many]) => many).map(([many, word]) => `${many} ${word}`).join(" · ");
  at("all").disabled = !done;
  const old = outdated();
  at("changed").hidden = !old.length;
  at("outdated").textContent = old.length === 1 ? `${old[0].name} was made with other settings.` : `${old.length} pictures were made with other settings.`;
  at("apply-one").hidden = old.length < 2 && old[0] === shown;
  at("apply-all").textContent = old.length === 1 ? "Apply" : `Apply to all ${old.length}`;
  at("apply-all").disabled = !at("settings").checkValidity();
  at("apply-one").disabled = at("apply-all").disabled || !old.includes(shown);
  const before = active;
  active = waiting + working > 0;
  if (before && !active) at("spoken").textContent = `${done} done` + (failed ? `, ${failed} failed` : "");
  if (before !== active) ask();
}

function notify(text, undoable = false) {
  at("said").textContent = text;
  at("undo").hidden = !undoable;
  at("notice").className = "on";
  clearTimeout(notify.later);
  notify.later = setTimeout(() => { at("notice").className = at("said").textContent = ""; at("undo").hidden = true; }, 10000);
}

async function ask() {
  clearTimeout(ask.later);
  try {
    const answer = await fetch("ready"), status = await answer.json();
    at("queue").textContent = answer.ok
      ? `Service on ${status.device}: ${status.waiting} waiting, ${status.running} working`
      : status.error.message;
  } catch { at("queue").textContent = "the service cannot be reached"; }
  ask.later = setTimeout(ask, active && !document.hidden ? 1000 : 5000);
}

// --- wiring
function foldersOf(transfer) {  // asked for at once: later the browser has forgotten
  return [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.() || item.getAsFile());
}
async function walk(item) {
  if (item.isFile) return [await new Promise((found, lost) => { item.file(found, lost); })];
  const reader = item.createReader(), inside = [];
  for (;;) {
    const some = await new Promise((found, lost) => { reader.readEntries(found, lost); });
    if (!some.length) break;
    inside.push(...some);
  }
  const files = [];
  for (const each of inside) {
    if (each.isFile) files.push(await walk(each).then(([file]) => file));
    else await walk(each).then((found) => takeFolder(found, each.fullPath.slice(1) + "/"));
  }
  return files;
}
async function dropped(items) {
  for (const item of items) {
    if (item instanceof File) take([item]);
    else if (item.isFile) take(await walk(item));
    else takeFolder(await walk(item), item.fullPath.slice(1) + "/");
  }
}

addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const items = foldersOf(event.dataTransfer);
  if (items.length) dropped(items);
  else takeLinks(event.dataTransfer.getData("text/uri-list") || event.dataTransfer.getData("text/plain"));
});
addEventListener("paste", (event) => {
  if (event.target.closest("input")) return;
  if (event.clipboardData.files.length) take([...event.clipboardData.files]);
  else if (!takeLinks(event.clipboardData.getData("text/plain"))) notify("There is neither a picture nor a link to paste");
});
addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input:is([type=text], [type=number], [type=url], [type=password]), dialog");
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && !typing) { event.preventDefault(); undo(); }
});
at("strip").onkeydown = (event) => {
  const now = entries.indexOf(shown), to = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: entries.length - 1 }[event.key];
  if (event.key === "Delete") remove([shown]);
  else if (entries[to]) { select(entries[to]); entries[to].button.focus(); }
  else return;
  event.preventDefault();
};
for (const [button, input] of [["choose", "files"], ["folder", "folders"]]) {
  at(button).onclick = () => at(input).click();
  at(input).onchange = (event) => { (input === "files" ? take : takeFolder)([...event.target.files]); event.target.value = ""; };
}
at("files").accept = at("backdrop").accept = ["image/*", ...suffixes].join(",");
at("folder").hidden = !("webkitdirectory" in at("folders"));  // on phones
at("link-form").hidden = !known.links;
at("link-form").onsubmit = (event) => {
  event.preventDefault();
  takeLinks(at("link").value);
  at("link").value = "";
};
if (known.links) at("invite").textContent = "Drop pictures, folders or links here";
at("limits").textContent = `Up to ${megabytes(known.bytes)} and ${Math.floor(known.pixels / 1e6)} megapixels each. `;
at("formats").textContent = `${Object.keys(known.inputs).join(", ")}. They go to this service only.`;
at("again").onclick = () => begin(shown);
at("remove").onclick = () => remove([shown]);
at("clear").onclick = () => remove([...entries]);
at("undo").onclick = undo;
at("download").onclick = () => download(shown);
at("all").onclick = downloadAll;
at("apply-one").onclick = () => apply([shown]);
at("apply-all").onclick = () => apply(outdated());
if (known.keys && !sessionStorage.getItem("key")) at("unlock").hidden = false;
hints();
ask();
