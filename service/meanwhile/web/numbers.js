// Formats numbers, times and values. A value keeps its number of digits while it changes, so columns do not move.

const grouped = [0, 1, 2, 3].map(
  (digits) => new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits, signDisplay: "negative" }),
);
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

/** A number in six or seven characters, such as 21.496, 1,024.50 or 6.022e+23. */
export function short(number) {
  if (number === null || number === undefined) return "–";
  const size = Math.abs(number);
  if (size !== 0 && (size >= 1e9 || size < 1e-3)) return number.toExponential(3);
  if (size >= 1e5) return grouped[0].format(number);
  if (size >= 1e3) return grouped[1].format(number);
  if (size >= 100) return grouped[2].format(number);
  if (size >= 1 || size === 0) return grouped[3].format(number);
  return number.toPrecision(4);
}

/** A number in about four characters, for lists of components. */
export function brief(number) {
  const size = Math.abs(number);
  if (size >= 1e6 || (size !== 0 && size < 1e-3)) return number.toExponential(1);
  return size >= 100 ? grouped[0].format(number) : size >= 10 ? grouped[1].format(number) : grouped[2].format(number);
}

/** All digits of a double in two parts: the first significant ones, and the rest. */
export function exact(number) {
  if (number === null || number === undefined) return ["–", ""];
  const text = String(number);
  const head = /^-?0?\.?0*(?:\d\.?){5}/.exec(text)?.[0];
  if (text.includes("e") || !text.includes(".") || head === undefined) return [text, ""];
  const end = Math.max(head.length, text.indexOf(".") + 2);
  return [text.slice(0, end), text.slice(end)];
}

export const whole = (number) => grouped[0].format(number);

export function rate(perSecond) {
  if (perSecond < 0.005) return "–";
  return perSecond >= 100 ? grouped[0].format(perSecond) : perSecond >= 10 ? grouped[1].format(perSecond) : grouped[2].format(perSecond);
}

const UNITS = [[60, "s"], [60, "min"], [24, "h"], [365.25, "d"], [Infinity, "y"]];

/** A duration in its largest fitting unit: 3 s, 12 min, 5 h, 9 d, 22 y. */
export function age(seconds) {
  if (seconds < -5) return "in " + age(-seconds);
  let left = Math.max(0, seconds);
  for (const [size, unit] of UNITS) {
    if (left < size) return `${Math.floor(left)} ${unit}`;
    left /= size;
  }
}

export const timeOfDay = (milliseconds) => clock.format(milliseconds);
export const fullTime = (milliseconds) => moment.format(milliseconds);

export function bytes(size) {
  return size < 10_000 ? `${whole(size)} bytes` : `${grouped[1].format(size / 1024)} KiB`;
}

/** The components of a value as [label, number] pairs; a plain number has an empty label. */
export function components(value) {
  if (typeof value === "number") return [["", value]];
  if (Array.isArray(value)) return value.map((number, place) => [`[${place}]`, number]);
  if (value === null || value === undefined) return [];
  return Object.entries(value).flatMap(([name, part]) =>
    Array.isArray(part) ? part.map((number, place) => [`${name}[${place}]`, number]) : [[name, part]],
  );
}
