// An event stream that reconnects. EventSource cannot send an API key, so this reads the body of a fetch.

import * as key from "./key.js";

const LONGEST_SILENCE = 40_000; // The service sends a comment every 15 s.
const LONGEST_PAUSE = 10_000;

/** How far the service's clock is ahead of this one, in milliseconds. */
export let skew = 0;

/**
 * Follows `path`. Calls `on.event(event, data)` for each event, `on.open()` when connected, `on.away(seconds)` when the
 * connection is lost and will be retried in that many seconds, and `on.refused(problem)` when the service refuses the
 * request for good.
 */
export function follow(path, on) {
  const stopping = new AbortController();
  let lastId = "";

  async function once() {
    const silent = new AbortController();
    let watchdog;
    const heard = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => silent.abort(), LONGEST_SILENCE);
    };
    heard();
    try {
      const reply = await fetch(path, {
        headers: { ...key.headers(), Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) },
        signal: AbortSignal.any([stopping.signal, silent.signal]),
        cache: "no-store",
      });
      if (!reply.ok) return await refusal(reply);
      const ahead = Date.parse(reply.headers.get("date")) - Date.now();
      skew = Math.abs(ahead) > 3_000 ? ahead : 0;
      on.open();
      const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return null;
        heard();
        text += value;
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) dispatch(event);
      }
    } finally {
      clearTimeout(watchdog);
    }
  }

  function dispatch(text) {
    const fields = {};
    for (const line of text.split("\n")) {
      const colon = line.indexOf(": ");
      if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 2);
    }
    if (fields.id) lastId = fields.id;
    if (fields.event && !stopping.signal.aborted) on.event(fields.event, JSON.parse(fields.data));
  }

  (async () => {
    let failures = 0;
    while (!stopping.signal.aborted) {
      const opened = performance.now();
      let refused = null;
      try {
        refused = await once();
      } catch {
        // Whatever the error was: reconnect.
      }
      if (stopping.signal.aborted) return;
      if (refused?.status === 401) {
        await key.ask(key.key() === null ? "" : "The key is not valid.");
        continue;
      }
      if (refused?.status === 403) {
        await key.ask("This key does not allow reading. Use one with the scope “read”.");
        continue;
      }
      if (refused !== null && refused.status < 500) return on.refused(refused);
      failures = performance.now() - opened > 5_000 ? 0 : failures + 1;
      const pause = Math.min(LONGEST_PAUSE, 250 * 2 ** failures) * (0.75 + Math.random() / 2);
      on.away(pause / 1000);
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  })();

  return { close: () => stopping.abort() };
}

async function refusal(reply) {
  try {
    return { ...(await reply.json()), status: reply.status };
  } catch {
    return { status: reply.status, title: reply.statusText };
  }
}
