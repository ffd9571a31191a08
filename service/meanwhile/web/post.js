// Sends a reading by hand, and shows the equivalent commands for a terminal.

import * as key from "./key.js";

/** Makes a form send readings to the stream that `target()` returns. */
export function sends(form, target) {
  const result = form.querySelector(".result");
  const say = (text, mood) => {
    result.textContent = text;
    result.className = `result ${mood}`;
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    let reading;
    try {
      reading = { value: JSON.parse(form.elements.value.value) };
    } catch {
      return say("Expected a number, or an array or object of numbers, as JSON.", "bad");
    }
    const time = form.elements.time?.value.trim();
    if (time) reading.time = Number.isFinite(Number(time)) ? Number(time) : time;
    say("Sending…", "");
    try {
      const reply = await record(target(), reading);
      const content = await reply.json();
      if (reply.ok) say(`Recorded. The stream now has ${content.count} ${content.count === 1 ? "reading" : "readings"}.`, "good");
      else say([content.title, content.detail].filter(Boolean).join(". "), "bad");
      if (reply.status === 401) await key.ask("");
    } catch {
      say("The service did not answer. The reading may or may not have been recorded.", "bad");
    }
  });
}

/** POSTs a reading, with an idempotency key only if the service requires one, because a stream remembers few producers. */
async function record(stream, reading) {
  const send = (headers) => fetch(`v1/streams/${stream}/readings`, {
    method: "POST",
    headers: { ...key.headers(), "Content-Type": "application/json", ...headers },
    body: JSON.stringify(reading),
  });
  const reply = await send({});
  if (reply.status !== 400) return reply;
  const producer = `page-${crypto.getRandomValues(new Uint32Array(1))[0].toString(16)}`;
  return send({ "Idempotency-Key": `${producer}:${Date.now() * 1000}` });
}

const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const base = () => new URL(".", location.href).href.replace(/\/$/, "");

/** A shell command. Names and values from others are quoted. */
function curl(path, ...options) {
  const credentials = key.key() === null ? [] : [`-H "Authorization: Bearer $MEANWHILE_KEY"`];
  return [`curl ${base()}/v1/streams/${path}`, ...credentials, ...options].join(" \\\n  ");
}

export const curlToPost = (stream, value) =>
  curl(`${stream}/readings`, "-H 'Content-Type: application/json'", `-d ${quote(JSON.stringify({ value }))}`);
export const curlToRead = (stream) => curl(`${stream}/average`, "-H 'Accept: text/plain'");
export const curlToFollow = (stream) => curl(`${stream}/events`, "--no-buffer");
export const demo = () => `meanwhile demo --url ${base()}`;

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copy).textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}
