// In which language the page speaks, and how numbers, money and times are said in it.
import { CHINESE } from "./chinese.js";
import { ENGLISH } from "./english.js";

// `?lang=` wins, then the first language of the browser's that there is.
const asked = [new URLSearchParams(location.search).get("lang") ?? "", ...navigator.languages];
const language = asked.map((tag) => tag.toLowerCase().split(/[-_]/)[0]).find((tag) => tag === "en" || tag === "zh");
export const say = language === "zh" ? CHINESE : ENGLISH;

export const whole = new Intl.NumberFormat(say.tag, { maximumFractionDigits: 0 });
export const one = new Intl.NumberFormat(say.tag, { maximumFractionDigits: 1 });
const two = new Intl.NumberFormat(say.tag, { maximumFractionDigits: 2 });
export const clock = new Intl.DateTimeFormat(say.dates, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const clockShort = new Intl.DateTimeFormat(say.dates, { hour: "2-digit", minute: "2-digit" });
export const dayAndClock = new Intl.DateTimeFormat(say.dates, {
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
});
export const day = new Intl.DateTimeFormat(say.dates, { day: "numeric", month: "short", year: "numeric" });

// What a name of the ledger's (a field, a status) is called; a name that is new here is its own word.
export const called = (names, name) => (Object.hasOwn(names, name) ? names[name] : name);
export const labelOf = (name) => called(say.labels, name);

export function money(amount, currency) {
  const places = Math.min(6, Math.max(2, (String(amount).split(".")[1] ?? "").length));
  const number = Number(amount).toLocaleString(say.tag, { minimumFractionDigits: 2, maximumFractionDigits: places });
  return currency ? `${number} ${currency}` : number;
}

export function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ${say.units.ms}`;
  if (seconds < 10) return `${two.format(seconds)} ${say.units.s}`;
  if (seconds < 60) return `${one.format(seconds)} ${say.units.s}`;
  const all = Math.round(seconds);
  /** @type {[number, string][]} */
  const parts = [
    [86400, "d"],
    [3600, "h"],
    [60, "min"],
    [1, "s"],
  ];
  const first = parts.findIndex(([size]) => all >= size);
  return parts
    .slice(first, first + 2)
    .map(([size, unit], k) => ({ unit, count: Math.floor((k ? all % parts[first][0] : all) / size) }))
    .filter(({ count }) => count > 0)
    .map(({ count, unit }) => `${count} ${say.units[unit]}`)
    .join(" ");
}

export function when(iso) {
  const at = new Date(iso);
  return Number.isNaN(at.getTime()) ? "" : say.at(day.format(at), clock.format(at));
}
