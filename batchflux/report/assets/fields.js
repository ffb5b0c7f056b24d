// The fields that pictures are filtered, grouped and laid out by, and the order they are shown in.
import { activeFilters, state } from "./state.js";
import { columns, presentRows, searchText } from "./store.js";
import { REVIEW_WORDS, STATUS_WORDS } from "./words.js";

const text = (name) => (row) => (columns[name][row] === null ? "" : String(columns[name][row]));
const FIELDS = {
  __proto__: null, // names come from the URL
  status: { label: "Status", of: text("status"), say: (value) => STATUS_WORDS[value] ?? value },
  code: { label: "Error code", of: text("error_code"), none: "no error" },
  style: { label: "Style", of: text("style") },
  ratio: { label: "Ratio", of: text("aspect_ratio"), none: "as the reference" },
  seed: { label: "Seed", of: text("seed"), none: "no seed" },
  model: { label: "Model", of: text("model") },
  variant: { label: "Variant", of: text("variant") },
  review: { label: "Verdict", of: text("review"), say: (value) => REVIEW_WORDS[value] ?? value, none: "Not judged" },
  prompt: { label: "Prompt", of: text("prompt") },
  reference: {
    label: "Reference",
    of: (row) => columns.references[row].map(({ label }) => label).join(" + "),
    none: "no reference",
    picture: (row) => columns.references[row][0]?.src,
  },
  seed_ratio: {
    label: "Seed and ratio",
    of: (row) =>
      `${columns.seed[row] === null ? "no seed" : `seed ${columns.seed[row]}`}, ${columns.aspect_ratio[row] ?? "own ratio"}`,
  },
};
export const SORTS = {
  __proto__: null,
  manifest: ["Manifest order", (a, b) => columns.position[a] - columns.position[b]],
  newest: ["Newest first", (a, b) => compare(columns.finished_at[b], columns.finished_at[a])],
  oldest: ["Oldest first", (a, b) => compare(columns.finished_at[a], columns.finished_at[b])],
  slowest: ["Slowest first", (a, b) => (columns.api_seconds[b] ?? -1) - (columns.api_seconds[a] ?? -1)],
  attempts: ["Most attempts first", (a, b) => columns.attempts[b] - columns.attempts[a]],
  id: ["By id", (a, b) => byName.compare(columns.id[a], columns.id[b])],
};
export const byName = new Intl.Collator("en", { numeric: true });
export const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

export function field(name) {
  if (!name.startsWith("tag.")) return FIELDS[name];
  const tag = name.slice(4);
  return {
    label: tag,
    of: (row) => (Object.hasOwn(columns.tags[row], tag) ? columns.tags[row][tag] : ""),
    none: `no ${tag}`,
  };
}

export const sayValue = (of, value) => (value === "" ? (of.none ?? "none") : of.say ? of.say(value) : value);

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
  return rows.sort((SORTS[state.sort] ?? SORTS.manifest)[1]);
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
  if (singles.length) made.push({ label: `One picture each, by ${of.label.toLowerCase()}`, rows: singles });
  return made;
}

// How many values a field has.
export function distinct(name) {
  const of = field(name).of;
  const values = new Set();
  for (const row of presentRows()) values.add(of(row));
  return values.size;
}

// A redo's id: its job's with -redo1 and so on, and 8 digits of its key where that was taken.
export const REDO = /-redo\d+(-[0-9a-f]{8})?$/;
