"use strict";
// Results: one by one, or all in one zip, stored: pictures are compressed already.
const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xEDB88320 ^ (n >>> 1) : n >>> 1;
  return n;
});
function crc32(bytes) {
  let sum = ~0;
  for (const byte of bytes) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  return ~sum >>> 0;
}
function record(signature, size, fields) {
  const view = new DataView(new ArrayBuffer(size));
  view.setUint32(0, signature, true);
  for (const [offset, width, value] of fields) view[width === 2 ? "setUint16" : "setUint32"](offset, value, true);
  return view.buffer;
}
async function zip(files) {
  const parts = [], index = [], taken = new Set();
  let offset = 0;
  for (const { name: wanted, blob } of files) {
    let label = wanted;
    for (let again = 2; taken.has(label.toLowerCase()); again++) label = wanted.replace(/(\.[^.]*)$/, `-${again}$1`);
    taken.add(label.toLowerCase());
    const bytes = new Uint8Array(await blob.arrayBuffer()), text = new TextEncoder().encode(label), sum = crc32(bytes);
    const common = [[0, 2, 20], [2, 2, 0x800], [8, 2, 0x21], [10, 4, sum], [14, 4, bytes.length], [18, 4, bytes.length], [22, 2, text.length]];
    const shifted = (by) => common.map(([place, width, value]) => [place + by, width, value]);
    parts.push(record(0x04034b50, 30, shifted(4)), text, bytes);
    index.push(record(0x02014b50, 46, [[4, 2, 20], ...shifted(6), [42, 4, offset]]), text);
    offset += 30 + text.length + bytes.length;
  }
  const size = index.reduce((sum, part) => sum + part.byteLength, 0);
  const end = record(0x06054b50, 22, [[8, 2, files.length], [10, 2, files.length], [12, 4, size], [16, 4, offset]]);
  return new Blob([...parts, ...index, end], { type: "application/zip" });
}

function resultName(entry, blob) {
  const type = known.formats.find((format) => format.type === blob.type)?.name || "png";
  return entry.name.replace(/\.[^.]*$/, "") + "-cutout." + type;
}

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

async function download(entry) {
  const final = await finished(entry);
  if (final) save(final.blob, resultName(entry, final.blob));
}

async function downloadAll() {
  const done = entries.filter((entry) => entry.state === "done"), left = [...done], files = new Map();
  at("all").disabled = true;
  const worker = async () => {
    for (let entry = left.shift(); entry; entry = left.shift()) {
      const final = await finished(entry);
      if (final) files.set(entry, { name: entry.folder + resultName(entry, final.blob), blob: final.blob });
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  const made = done.filter((entry) => files.has(entry)).map((entry) => files.get(entry));
  if (made.reduce((sum, { blob }) => sum + blob.size, 0) > 4e9) notify("A zip holds at most 4 GB: remove some of the pictures");
  else if (made.length) save(await zip(made), "cutouts.zip");
  if (made.length < done.length) notify(`${done.length - made.length} of ${done.length} pictures are missing in the zip`);
  refresh();
}
