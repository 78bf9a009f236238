"use strict";
// What the service told the page, and the settings: a control for every option that it describes.
const at = (id) => document.getElementById(id);
const known = JSON.parse(at("known").textContent);

const make = (tag, properties = {}, ...inside) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...inside);
  return element;
};

const APART = ["file", "output_format", "model", "background", "background_fit", "refine", "matting"];
const FILES = "Files";  // the group of what changes the file, and nothing that is seen in it
const FRAMED = ["crop", "margin", "canvas", "scale", "position", "shadow"];
const FRAMES = {
  "As it is": ["The picture's own size and place.", {}],
  "Cut to subject": ["As large as the subject.", { crop: "true" }],
  "Shop square": ["2000 × 2000 pixels, the subject on 80 % of them, with a soft shadow.",
    { canvas: "2000x2000", margin: "10%", shadow: "default" }],
  "Passport": ["413 × 531 pixels: 35 × 45 mm at 300 dpi, the subject at the bottom.",
    { canvas: "413x531", margin: "8%,4%,0", position: "bottom" }],
};
const OWN_FRAME = "As set below";
const EDGES = { off: ["Off", "As the model sees them."], refine: ["Refine"], matting: ["Matting"] };
const SWATCHES = ["#ffffff", "#000000", "#e8e8e8", "#f5e9dc", "#2563c9", "#2a9d4b"];
const GROUNDS = { own: "Colour", picture: "Picture", blur: "Blur", gradient: "Gradient" };

// --- one control
const kindsOf = (field) => field.anyOf || [field];
const words = (name) => name[0].toUpperCase() + name.slice(1).replaceAll("_", " ").replace(/^ng /, "NG ");

function inputOf(name, field) {
  const kinds = kindsOf(field), choices = kinds.find((kind) => kind.enum)?.enum;
  const is = (...types) => kinds.every((kind) => types.includes(kind.type));
  if (choices || (is("boolean") && field.default === undefined)) {
    const list = make("select");
    if (field.default === undefined && name !== "model") list.append(make("option", { value: "", textContent: "as the model likes" }));
    for (const choice of choices || ["true", "false"]) {
      list.append(make("option", { value: choice, textContent: { true: "yes", false: "no" }[choice] || choice, defaultSelected: choice === field.default }));
    }
    return list;
  }
  if (is("boolean")) return make("input", { type: "checkbox" });
  const input = make("input", { type: is("integer", "number") ? "number" : "text", placeholder: String(field.default ?? "") });
  if (input.type === "number") Object.assign(input, { min: kinds[0].minimum ?? "", max: kinds[0].maximum ?? "", step: is("integer") ? 1 : "any" });
  return input;
}

function control(name, field, title = words(name)) {
  const input = Object.assign(inputOf(name, field), { id: "option-" + name });
  input.dataset.option = name;
  const { minimum, maximum } = kindsOf(field)[0], unit = field["x-unit"] || "";
  const bounds = input.type !== "number" ? "" : maximum === undefined ? ` At least ${minimum}.` : ` ${minimum} to ${maximum}.`;
  const hint = make("p", { className: "quiet", id: "about-" + name, textContent: (field.description || "") + bounds });
  if (hint.textContent) input.setAttribute("aria-describedby", hint.id);
  const label = make("label", { htmlFor: input.id, textContent: title });
  if (input.type === "checkbox") return make("div", { className: "field" }, make("label", { className: "tick" }, input, title), hint);
  return make("div", { className: "field" }, label, input.type === "number" ? make("div", { className: "number" }, input, unit) : input, hint);
}

function choice(name, value, title, defaultChecked, ...shown) {
  return make("label", {}, make("input", { type: "radio", name, value, defaultChecked }), ...shown.length ? shown : [title]);
}

// --- all of them
function build() {
  const { fields } = known, groups = {};
  for (const [name, field] of Object.entries(fields)) {
    if (APART.includes(name)) continue;
    (groups[field["x-group"]] ||= []).push(control(name, field));
  }
  for (const [name, inside] of Object.entries(groups)) {
    const summary = make("summary", { textContent: name });
    at("groups").append(make("details", {}, summary, ...inside));
  }
  const formats = { ...fields.output_format, enum: known.formats.map((format) => format.name) };
  at("first").append(control("output_format", formats, "Format"));
  for (const option of at("option-output_format").options) option.textContent = known.formats.find((format) => format.name === option.value).title;
  if (fields.model.enum.length > 1) at("first").append(control("model", fields.model));
  at("on-picture").append(control("background_fit", fields.background_fit, "How it fills"));
  for (const name of [...Object.keys(FRAMES), OWN_FRAME]) at("frames").append(choice("frame", name, name, name === "As it is"));
  for (const [value, [title]] of Object.entries(EDGES)) at("edges").append(choice("edges", value, title, value === "off"));
  const swatch = (value, title, shown) => {
    const label = choice("ground", value, title, value === "transparent", shown);
    label.firstChild.setAttribute("aria-label", title);
    at("swatches").append(label);
  };
  swatch("transparent", "Transparent", make("span", { className: "checks" }));
  for (const color of SWATCHES) {
    const shown = make("span");
    shown.style.background = color;
    swatch(color, color, shown);
  }
  for (const [value, title] of Object.entries(GROUNDS)) swatch(value, title, make("span", { textContent: title }));
}

// --- what is chosen
const picked = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const valueOf = (input) => input.type === "checkbox" ? (input.checked ? "true" : "") : input.value.trim();
const controls = () => [...at("settings").querySelectorAll("[data-option]")];
const isFile = (name) => known.fields[name]["x-group"] === FILES;

function changed(wanted) {
  const found = {};
  for (const input of controls()) {
    const name = input.dataset.option, value = valueOf(input);
    if (wanted(name) && value !== "" && value !== String(known.fields[name].default ?? "")) found[name] = value;
  }
  return found;
}

function cutOptions() {
  const edges = picked("edges");
  return { ...changed((name) => !isFile(name) && !["output_format", "background_fit"].includes(name)), ...edges === "off" ? {} : { [edges]: "true" } };
}

let backdrop = null;  // the file, its address, width and height

function background() {
  const kind = picked("ground");
  if (valueOf(at("option-mask"))) return null;  // the mask alone has none
  switch (kind) {
    case "transparent": return null;
    case "picture": return backdrop && { kind, file: backdrop.file };
    case "blur": return { kind, text: `blur:${at("radius").value}%` };
    case "gradient": return { kind, text: `gradient:${at("start").value},${at("end").value},${at("angle").value}` };
    default: return { kind: "color", text: kind === "own" ? at("color").value : kind };
  }
}

// How results are written; the key is the same where they would be.
function output() {
  const back = background(), format = known.formats.find((each) => each.name === valueOf(at("option-output_format")));
  const options = { ...changed(isFile), output_format: format.name, ...back?.kind === "picture" ? changed((name) => name === "background_fit") : {} };
  const { name, size, lastModified } = back?.file || {};
  return { options, back, format, key: JSON.stringify([options, back?.text, name, size, lastModified]) };
}

function formOf(entry, options, out) {
  const form = new FormData();
  for (const [name, value] of Object.entries({ ...options, ...out.options })) form.append(name, value);
  if (out.back) form.append("background", out.back.file || out.back.text);
  form.append("file", entry.file);
  return form;
}

// --- what is seen of it
function hints() {
  for (const group of at("groups").children) {
    const names = [...group.querySelectorAll("[data-option]")].map((input) => input.dataset.option);
    const many = Object.keys(changed((name) => names.includes(name))).length;
    const title = group.firstChild.textContent.replace(/ · .*/, "");
    group.firstChild.textContent = many ? `${title} · ${many} changed` : title;
  }
  const kind = picked("ground"), mask = valueOf(at("option-mask"));
  for (const each of ["color", "picture", "blur", "gradient"]) at("on-" + each).hidden = Boolean(mask) || each !== (kind === "own" ? "color" : kind);
  const { format, back } = output();
  at("ground-hint").textContent = mask ? "The mask alone has no background." : !back && !format.alpha ? `${format.title} has no transparency: white stands behind.` : "";
  at("ground-hint").hidden = !at("ground-hint").textContent;
  const framed = changed((name) => FRAMED.includes(name));
  const same = (values) => FRAMED.every((name) => values[name] === framed[name]);
  const frame = Object.keys(FRAMES).find((name) => same(FRAMES[name][1])) || OWN_FRAME;
  for (const input of document.getElementsByName("frame")) {
    input.checked = input.value === frame;
    if (input.value === OWN_FRAME) input.parentElement.hidden = frame !== OWN_FRAME;
  }
  at("frame-hint").textContent = FRAMES[frame]?.[0] || "Set under Framing, and Look for its shadow.";
  const edges = picked("edges");
  at("edge-hint").textContent = EDGES[edges][1] || known.fields[edges].description;
}

function setFrame(name) {
  for (const option of FRAMED) {
    const input = at("option-" + option), value = FRAMES[name][1][option];
    if (input.type === "checkbox") input.checked = Boolean(value);
    else input.value = value || "";
  }
}

async function setBackdrop(file) {
  const url = URL.createObjectURL(file), image = await loaded(url);
  if (backdrop) URL.revokeObjectURL(backdrop.url);
  backdrop = { file, url: image ? url : null, width: image?.naturalWidth, height: image?.naturalHeight };
  at("picked").textContent = image ? file.name : `${file.name}: this browser cannot show it, but the result will have it`;
  settingsChanged();
}

async function loaded(url) {
  const image = make("img", { src: url });
  try {
    await image.decode();
    return image;
  } catch { return null; }
}

build();
at("settings").oninput = (event) => {
  if (event.target.name === "frame" && event.target.value !== OWN_FRAME) setFrame(event.target.value);
  if (event.target.id !== "backdrop") settingsChanged();
};
at("settings").onsubmit = (event) => event.preventDefault();
at("defaults").onclick = () => {
  const before = [...at("settings").elements].map(({ type, checked, value }) => [/radio|checkbox/.test(type) ? "checked" : "value", { checked, value }]);
  at("settings").reset();
  settingsChanged();
  remember("Reset all settings", () => {
    before.forEach(([kind, { [kind]: value }], number) => { if (at("settings").elements[number].type !== "file") at("settings").elements[number][kind] = value; });
    settingsChanged();
  });
};
at("pick").onclick = () => at("backdrop").click();
at("backdrop").onchange = (event) => { if (event.target.files.length) setBackdrop(event.target.files[0]); };
