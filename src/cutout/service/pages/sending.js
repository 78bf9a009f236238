"use strict";
// Requests to the service: a busy one is asked again, one that wants a key waits for it.
const TRIES = 6;  // of a busy service, half a minute in all or what it asks for
const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

async function call(entry, address, form, step) {
  const { run } = entry;
  for (let tried = 1; ; tried++) {
    const answer = await post(entry, address, form, step);
    if (run.stopped) return null;
    if (answer.status === 401) {
      told(entry, "waiting for the API key", null, true);
      await unlocked(answer.sentKey);
      if (run.stopped) return null;
      tried = 0;
      continue;
    }
    // what has run out of time would do so again
    const busy = answer.status === 503 && answer.retry > 0 && answer.kind !== "timeout";
    if (!busy || tried === TRIES) return answer;
    const seconds = Math.max(answer.retry, 2 ** (tried - 1));
    told(entry, `the service is busy, trying again in ${seconds} s`, null, true);
    await new Promise((done) => { run.wake = done; setTimeout(done, seconds * 1000); });
    if (run.stopped) return null;
  }
}

// What is done with a picture now; held is one that nobody works on.
function told(entry, step, sent = null, held = false) {
  Object.assign(entry, { step, sent, held });
  update(entry);
}

function post(entry, address, form, step) {
  return new Promise((done) => {
    const request = entry.run.request = new XMLHttpRequest(), key = sessionStorage.getItem("key");
    request.open("POST", address);
    request.responseType = "blob";
    if (key) request.setRequestHeader("X-Api-Key", key);
    request.upload.onprogress = (event) => { if (event.lengthComputable) told(entry, "sending", event.loaded / event.total); };
    request.upload.onload = () => told(entry, step);
    const header = (name) => request.getResponseHeader(name);
    request.onload = async () => done({
      status: request.status, blob: request.response, retry: Number(header("Retry-After")), sentKey: key,
      seconds: Number(header("X-Processing-Time")), warning: header("X-Warning"), size: [Number(header("X-Width")), Number(header("X-Height"))],
      box: header("X-Original-Box")?.split(" ").map(Number),
      ...request.status === 200 ? {} : await reason(request.response),
    });
    request.onerror = () => done({ status: 0, error: "The service cannot be reached." });
    request.onabort = () => done({ status: 0, error: "stopped" });
    told(entry, step, 0);
    request.send(form);
  });
}

async function reason(blob) {
  try {
    const { error } = JSON.parse(await blob.text());
    return { error: [error.message, error.hint].filter(Boolean).map(sentence).join("\n"), kind: error.kind };
  } catch { return { error: "The service gave no reason." }; }
}

// --- the key: one question, on whose answer everything waits that was refused
let asked = null;
function unlocked(sent) {
  if (sessionStorage.getItem("key") !== sent) return Promise.resolve();  // another one was given meanwhile
  at("key-why").textContent = sent ? "The service does not know that key." : "Your pictures wait, and go on with it. It is kept until this tab is closed.";
  if (!at("key-dialog").open) at("key-dialog").showModal();
  at("unlock").hidden = false;
  asked ||= {};
  return asked.promise ||= new Promise((done) => { asked.done = done; });
}
at("key-form").onsubmit = () => {
  sessionStorage.setItem("key", at("key").value.trim());
  at("key").value = "";
  at("unlock").hidden = true;
  asked?.done();
  asked = null;
};
at("unlock").onclick = () => at("key-dialog").showModal();
