// The state of each stream, its rate of readings, and whether it has gone quiet.

const SMOOTHING = 5; // Seconds over which the rate is averaged.
const SHORTEST_SILENCE = 60; // Minimum seconds without a reading before a stream is called quiet.
const GAPS = 10; // A stream is quiet after this many of its average intervals without a reading.

/** Updates a stream with a new state; `known` is the stream so far, or undefined. */
export function update(known, state, now) {
  const stream = known ?? { name: state.stream, rate: 0, measured: 0, at: now };
  const seconds = (now - stream.at) / 1000;
  if (known && state.count > known.state.count && seconds > 0) {
    const perSecond = (state.count - known.state.count) / Math.max(seconds, 0.2);
    const weight = stream.measured ? 1 - Math.exp(-seconds / SMOOTHING) : 1;
    stream.rate += weight * (perSecond - stream.rate);
    stream.measured += 1;
  } else if (known && state.count < known.state.count) {
    stream.rate = stream.measured = 0;
  }
  stream.at = now;
  stream.state = state;
  stream.first = Date.parse(state.first_reading_at);
  stream.last = Date.parse(state.last_reading_at);
  return stream;
}

/** Readings per second now; decreases while no readings arrive. */
export function rateNow(stream, now) {
  const silence = (now - stream.at) / 1000 - Math.max(1.5, 2 / (stream.rate || 1));
  return silence > 0 ? stream.rate * Math.exp(-silence / SMOOTHING) : stream.rate;
}

/** Whether a stream has sent nothing for much longer than usual. */
export function isStale(stream, now) {
  const usual = stream.state.count > 1 ? (stream.last - stream.first) / 1000 / (stream.state.count - 1) : 30;
  return (now - stream.last) / 1000 > Math.max(SHORTEST_SILENCE, GAPS * usual);
}

const scalar = (value) => (typeof value === "number" ? value : null);

/** The sort key of each column. */
export const SORTS = {
  name: (stream) => stream.name,
  average: (stream) => scalar(stream.state.average),
  latest: (stream) => scalar(stream.state.latest),
  count: (stream) => stream.state.count,
  rate: (stream, now) => rateNow(stream, now),
  last: (stream) => stream.last,
  minimum: (stream) => scalar(stream.state.minimum),
  maximum: (stream) => scalar(stream.state.maximum),
  deviation: (stream) => scalar(stream.state.standard_deviation),
};

const byName = (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);

/** The streams whose names start with `prefix`, sorted; streams without a number in the column come last. */
export function arrange(streams, prefix, column, descending, now) {
  const found = [...streams].filter((stream) => stream.name.startsWith(prefix));
  if (column === "name") {
    found.sort(byName);
    return descending ? found.reverse() : found;
  }
  const of = new Map(found.map((stream) => [stream, SORTS[column](stream, now)]));
  const direction = descending ? -1 : 1;
  return found.sort((a, b) => {
    const x = of.get(a);
    const y = of.get(b);
    if (x === null || y === null) return x === y ? byName(a, b) : x === null ? 1 : -1;
    return direction * (x - y) || byName(a, b);
  });
}
