// The fields that pictures are filtered, grouped and laid out by, and the order they are shown in.
import { activeFilters, state } from "./state.js";
import { columns, presentRows, rowCount, searchText, shapeSum } from "./store.js";
import { called, labelOf, say } from "./words.js";

const text = (name) => (row) => (columns[name][row] === null ? "" : String(columns[name][row]));
const FIELDS = {
  __proto__: null, // names come from the URL
  status: { label: labelOf("status"), of: text("status"), say: (value) => called(say.statuses, value) },
  code: { label: labelOf("error_code"), of: text("error_code"), none: say.noError },
  style: { label: labelOf("style"), of: text("style") },
  ratio: { label: labelOf("aspect_ratio"), of: text("aspect_ratio"), none: say.ownRatio },
  seed: { label: labelOf("seed"), of: text("seed"), none: say.noSeed },
  provider: { label: labelOf("provider"), of: text("provider") },
  model: { label: labelOf("model"), of: text("model") },
  variant: { label: labelOf("variant"), of: text("variant") },
  review: {
    label: labelOf("review"),
    of: text("review"),
    say: (value) => called(say.reviews, value),
    none: say.reviews[""],
  },
  reviewer: { label: labelOf("reviewer"), of: text("reviewer"), none: say.noName },
  prompt: { label: labelOf("prompt"), of: text("prompt") },
  reference: {
    label: labelOf("reference"),
    of: (row) => columns.references[row].map(({ label }) => label).join(" + "),
    none: say.noReference,
    picture: (row) => columns.references[row][0]?.src,
  },
  siblings: {
    label: labelOf("siblings"),
    of: (row) => siblingsOf(row),
    say: (value) => value.replaceAll("\0", " · "),
    picture: (row) => columns.references[row][0]?.src,
  },
  maker: { label: labelOf("maker"), of: (row) => `${columns.provider[row]} · ${columns.model[row]}` },
  seed_ratio: {
    label: labelOf("seed_ratio"),
    of: (row) =>
      `${columns.seed[row] === null ? say.noSeed : say.seed(columns.seed[row])}, ${columns.aspect_ratio[row] ?? say.ownRatioShort}`,
  },
};
export const SORTS = {
  __proto__: null,
  manifest: (a, b) => columns.position[a] - columns.position[b],
  newest: (a, b) => compare(columns.finished_at[b], columns.finished_at[a]),
  oldest: (a, b) => compare(columns.finished_at[a], columns.finished_at[b]),
  slowest: (a, b) => (columns.api_seconds[b] ?? -1) - (columns.api_seconds[a] ?? -1),
  attempts: (a, b) => columns.attempts[b] - columns.attempts[a],
  id: (a, b) => byName.compare(columns.id[a], columns.id[b]),
};
export const byName = new Intl.Collator(say.tag, { numeric: true });
export const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

export function field(name) {
  if (!name.startsWith("tag.")) return FIELDS[name];
  const tag = name.slice(4);
  return {
    label: tag,
    of: (row) => (Object.hasOwn(columns.tags[row], tag) ? columns.tags[row][tag] : ""),
    none: say.noTag(tag),
  };
}

export const sayValue = (of, value) => (value === "" ? (of.none ?? say.none) : of.say ? of.say(value) : value);

// Which pictures are tries at the same: siblings have the same prompt and the same references in the same order, and
// differ in seed, ratio, model or whatever else. A label that was cut short is told apart by its file.
export const siblingsOf = (row) =>
  [columns.prompt[row], ...columns.references[row].map(({ label, src, url }) => (label.endsWith("…") ? (url ?? src ?? label) : label))].join("\0");

// Whether the same was made at several providers, to compare them: more than half of what there is at each of them. Where
// one only took jobs over from another, it has other pictures.
export function makersCompared() {
  if (distinct("provider") < 2) return false;
  const made = new Set(presentRows().map((row) => `${siblingsOf(row)}\0${FIELDS.maker.of(row)}`));
  return 2 * made.size > distinct("siblings") * distinct("maker");
}

// Distinct values of a field and how often each occurs, by name; the tags' names come from the rows themselves.
export function countsOf(name) {
  const of = field(name).of;
  const counts = new Map();
  for (const row of presentRows()) {
    const value = of(row);
    counts.set(value, (counts.get(value) ?? 0) + 1);
  }
  return new Map([...counts].sort(([a], [b]) => byName.compare(a, b)));
}

export function tagNames() {
  const names = new Set();
  let last = null;
  for (const row of presentRows()) {
    const tags = columns.tags[row];
    if (tags !== last) for (const name of Object.keys(tags)) names.add(name);
    last = tags;
  }
  return [...names];
}

// The rows that pass the filters, in order. NONE stands in the URL for rows that have no value.
export const NONE = "(none)";
export function filtered() {
  const tests = activeFilters()
    .filter((name) => field(name))
    .map((name) => {
      const of = field(name).of;
      const wanted = state[name] === NONE ? "" : state[name];
      return (row) => of(row) === wanted;
    });
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length) tests.push((row) => words.every((word) => searchText(row).includes(word)));
  const rows = presentRows().filter((row) => tests.every((test) => test(row)));
  return rows.sort(SORTS[state.sort] ?? SORTS.manifest);
}

// Groups of rows by a field, in order of first appearance; groups of one go together at the end.
export function grouped(rows, name) {
  const of = field(name);
  const groups = new Map();
  for (const row of rows) {
    const value = of.of(row);
    const group = groups.get(value);
    if (group) group.push(row);
    else groups.set(value, [row]);
  }
  const made = [];
  const singles = [];
  for (const [value, members] of groups) {
    if (members.length > 1 || groups.size <= 50)
      made.push({ label: sayValue(of, value), picture: of.picture?.(members[0]), rows: members });
    else singles.push(...members);
  }
  if (singles.length) made.push({ label: say.oneEach(of.label), rows: singles });
  return made;
}

// How many values a field has that is no verdict.
const counted = new Map();
let countedFor = "";
export function distinct(name) {
  const now = `${rowCount} ${shapeSum}`;
  if (now !== countedFor) counted.clear();
  countedFor = now;
  if (!counted.has(name)) counted.set(name, new Set(presentRows().map(field(name).of)).size);
  return counted.get(name);
}

// A redo's id: its job's with -redo1 and so on, and 8 digits of its key where that was taken.
export const REDO = /-redo\d+(-[0-9a-f]{8})?$/;
