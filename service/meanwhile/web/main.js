// The page: selects the view, follows its streams and shows the state of the connection.

import { Detail } from "./detail.js";
import { follow, skew } from "./events.js";
import { curlToPost, demo, sends } from "./post.js";
import { arrange, isStale, rateNow, update } from "./streams.js";
import { Table } from "./table.js";
import * as numbers from "./numbers.js";

const byId = (id) => document.getElementById(id);
const NAME = /^[A-Za-z0-9][A-Za-z0-9._:~/-]{0,254}$/;

const streams = new Map();
const held = new Map(); // The latest event of each stream that arrived while paused.
const table = new Table(() => render());
const detail = new Detail();
const search = byId("search");

let connection;
let opened = null; // The name of the stream in the detail view, or null for the list.
let isReady = false; // Whether the current state of all streams has been received.
let isTooMuch = false; // Whether there are too many streams to follow them all.
let seen = null; // The streams received on this connection until it is ready.
let pausedAt = null;
let phase = { state: "connecting", text: "Connecting" };

const now = () => pausedAt ?? Date.now() + skew;

function setPhase(state, text) {
  phase = { state, text };
  const isPaused = pausedAt !== null && state === "live";
  byId("state").dataset.state = isPaused ? "paused" : state;
  const shown = isPaused ? "Paused" : text;
  if (byId("state-text").textContent !== shown) byId("state-text").textContent = shown;
}

function take(event, data) {
  if (event === "ready") return ready(data);
  seen?.add(data.stream);
  if (pausedAt !== null) held.set(data.stream, [event, data]);
  else apply(event, data);
}

function apply(event, data) {
  if (event === "deleted") {
    streams.delete(data.stream);
    if (data.stream === opened) detail.gone();
    return;
  }
  const isFirst = isReady && streams.size === 0;
  const stream = update(streams.get(data.stream), data, now());
  streams.set(data.stream, stream);
  if (isFirst) render(); // Show the first stream at once; the timer draws all others.
  if (data.stream === opened) detail.add(stream, now());
}

/** All current states have been received. If the connection was not resumed, streams that are missing were deleted. */
function ready({ resumed }) {
  if (!resumed && seen !== null && opened === null) {
    for (const name of streams.keys()) if (!seen.has(name)) take("deleted", { stream: name });
  }
  seen = null;
  isReady = true;
  render();
}

function connect() {
  connection?.close();
  isReady = false;
  const prefix = isTooMuch ? `&prefix=${encodeURIComponent(search.value.trim())}` : "";
  const path = opened === null ? `v1/events?interval=1${prefix}` : `v1/events?interval=0.25&stream=${opened}`;
  connection = follow(path, {
    event: take,
    open() {
      seen = new Set();
      setPhase("live", "Live");
    },
    away(seconds) {
      setPhase("away", `Not connected, reconnecting in ${Math.ceil(seconds)} s`);
      setTimeout(() => phase.state === "away" && setPhase("away", "Not connected, reconnecting"), seconds * 1000);
    },
    refused(problem) {
      isTooMuch = opened === null && problem.status === 422;
      setPhase("away", isTooMuch ? "Too many streams to show all of them. Type the start of a name." : problem.title);
    },
  });
}

function route() {
  const name = location.hash.slice(2);
  const wanted = NAME.test(name) ? name : null;
  if (connection !== undefined && wanted === opened) return;
  const last = opened;
  opened = wanted;
  byId("list").hidden = opened !== null;
  byId("detail").hidden = opened === null;
  document.title = opened === null ? "Meanwhile" : `${opened} – Meanwhile`;
  if (opened !== null) {
    scrollTo(0, 0);
    detail.open(opened);
    if (streams.has(opened)) detail.add(streams.get(opened), now());
  }
  connect();
  render();
  if (opened === null && last !== null) table.focus(table.streams.findIndex((stream) => stream.name === last));
}

function render() {
  if (opened !== null) return detail.show(streams.get(opened), now());
  const prefix = search.value.trim();
  const found = arrange(streams.values(), prefix, table.column, table.descending, now());
  const isEmpty = isReady && streams.size === 0 && !isTooMuch;
  byId("empty").hidden = !isEmpty;
  byId("tools").hidden = byId("streams").hidden = isEmpty;
  byId("none").hidden = found.length > 0 || streams.size === 0;
  table.show(found, now());
  totals(found);
}

function totals(found) {
  const stale = found.filter((stream) => isStale(stream, now())).length;
  const perSecond = found.reduce((sum, stream) => sum + rateNow(stream, now()), 0);
  const parts = [
    [numbers.whole(found.length), found.length === 1 ? "stream" : "streams"],
    [numbers.rate(perSecond), "readings per second"],
  ];
  if (stale) parts.push([numbers.whole(stale), "quiet"]);
  byId("totals").replaceChildren(...parts.flatMap(([number, word], i) => {
    const bold = document.createElement("b");
    bold.textContent = number;
    return [i ? "  ·  " : "", bold, ` ${word}`];
  }));
}

function togglePause() {
  pausedAt = pausedAt === null ? now() : null;
  byId("pause").setAttribute("aria-pressed", pausedAt !== null);
  byId("pause").textContent = pausedAt === null ? "Pause" : "Resume";
  if (pausedAt === null) {
    for (const [event, data] of held.values()) apply(event, data);
    held.clear();
  }
  setPhase(phase.state, phase.text);
  render();
}

byId("pause").addEventListener("click", togglePause);
byId("back").addEventListener("click", () => byId("list").focus());
let typing;
search.addEventListener("input", () => {
  scrollTo(0, 0);
  render();
  clearTimeout(typing);
  if (isTooMuch) typing = setTimeout(connect, 400);
});
search.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown") {
    event.preventDefault();
    table.focus(0);
  }
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, dialog")) return;
  if (event.key === "/" && opened === null) {
    event.preventDefault();
    search.focus();
  } else if (event.key === "p") togglePause();
  else if (event.key === "Escape" && opened !== null) location.hash = "#/";
});
addEventListener("hashchange", route);

byId("empty-curl").textContent = curlToPost("kitchen/temperature", 21.4);
byId("empty-demo").textContent = demo();
sends(byId("first"), () => byId("first").elements.stream.value.trim());

setInterval(render, 500);
route();
