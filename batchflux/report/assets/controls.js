// The bar that stays in sight: views, search, filters and order. It shows only what can tell pictures apart.
import { barHeight, byId, choice, control, focusIn, h, segment } from "./dom.js";
import { countsOf, distinct, field, NONE, sayValue, SORTS, tagNames } from "./fields.js";
import { openHelp } from "./help.js";
import { sheetAxes } from "./axes.js";
import { activeFilters, change, ofPictures, state } from "./state.js";
import { presentRows, rowCount, setup, versionsSum } from "./store.js";
import { called, labelOf, say, whole } from "./words.js";

/** @type {["gallery" | "sheet" | "charts" | "night", string][]} */
export const VIEWS = [
  ["gallery", say.views.gallery],
  ["sheet", say.views.sheet],
  ["charts", say.views.charts],
  ["night", say.views.night],
];
let controlsFor = "";
let shownFor = "";

export function showControls(rows) {
  const shown = { ...state, open: "" };
  const wanted = JSON.stringify([rowCount, versionsSum, shown]);
  const same = JSON.stringify(shown) === shownFor;
  // New rows must not shut a list that somebody has open, or take a word from under the pen.
  const busy = focusIn(byId("controls"))?.matches("select, input");
  if (wanted !== controlsFor && !(same && busy)) {
    controlsFor = wanted;
    shownFor = JSON.stringify(shown);
    rebuildControls();
  }
  const count = presentRows().length;
  const all = count === rows.length;
  byId("count").classList.toggle("all", all);
  byId("count").textContent = all
    ? say.jobs(rows.length)
    : say.jobsOf(rows.length, count);
}

// Built anew when something changed, with the focus kept on the control that had it.
function rebuildControls() {
  const host = byId("controls");
  const focused = focusIn(host)?.dataset.for;
  const search = byId("search") ?? searchField();
  const charts = !ofPictures();
  const top = h(
    "div",
    { class: "bar" },
    viewSwitch(),
    h("span", { class: "search", hidden: charts }, search),
    h(
      "button",
      {
        type: "button",
        class: "filters-toggle",
        "data-for": "filters",
        hidden: charts,
        "aria-expanded": String(host.classList.contains("open")),
        onclick: toggleFilters,
      },
      say.filters,
    ),
    h("span", { class: "spring" }),
    h("span", { id: "count", class: "count", role: "status", hidden: charts }),
    h("span", { class: "arrange", hidden: charts }, arrangement()),
    h(
      "button",
      {
        type: "button",
        class: "plain help",
        "data-for": "help",
        "aria-label": say.keysButton,
        title: `${say.keysButton} (?)`,
        onclick: openHelp,
      },
      h("kbd", null, "?"),
    ),
  );
  const parts = [statusPills(), ...facets(), clearButton()].filter((part) => part !== null);
  const filters = h("div", { class: "bar filters", hidden: charts || !parts.length }, parts);
  host.replaceChildren(top, filters);
  document.documentElement.style.setProperty("--bar", `${barHeight()}px`);
  if (focused) control(host, focused)?.focus();
}

function viewSwitch() {
  return h(
    "div",
    { class: "segments", role: "navigation", "aria-label": say.viewsName },
    VIEWS.map(([view, label]) =>
      segment(label, false, () => change({ view }), {
        "aria-current": state.view === view ? "page" : "false",
        "data-for": `view-${view}`,
      }),
    ),
  );
}

function searchField() {
  let timer = 0;
  const input = h("input", {
    type: "search",
    id: "search",
    "data-for": "search",
    placeholder: say.search,
    "aria-label": say.search,
    autocomplete: "off",
    spellcheck: "false",
    oninput: () => {
      clearTimeout(timer);
      timer = setTimeout(() => change({ q: input.value.trim() }), 120);
    },
  });
  input.value = state.q;
  return input;
}

function toggleFilters(event) {
  const on = byId("controls").classList.toggle("open");
  event.currentTarget.setAttribute("aria-expanded", String(on));
}

function clearButton() {
  const active = activeFilters();
  if (!active.length && !state.q) return null;
  const blank = Object.fromEntries(active.map((name) => [name, ""]));
  return h(
    "button",
    {
      type: "button",
      class: "plain",
      "data-for": "clear",
      onclick: () => {
        byId("search").value = "";
        change({ ...blank, q: "" });
        byId("search").focus();
      },
    },
    say.clearFilters,
  );
}

function arrangement() {
  if (state.view === "sheet") {
    const axes = sheetAxes();
    const pairs = axes.names.map((name) => [name, field(name).label]);
    return [
      ["rows", say.axisNames.rows, axes.rows],
      ["cols", say.axisNames.cols, axes.cols],
    ].map(([name, label, value]) =>
      h(
        "label",
        null,
        label,
        choice(
          { "data-for": name, onchange: (event) => change(swapped(axes, name, event.target.value)) },
          pairs,
          value,
        ),
      ),
    );
  }
  const groups = [
    "prompt",
    "reference",
    "seed_ratio",
    "status",
    "provider",
    "model",
    ...tagNames()
      .slice(0, MOST_TAGS)
      .map((tag) => `tag.${tag}`),
  ].filter((name) => name === state.group || distinct(name) > 1);
  // Where only one of the two varies, siblings are what has the same of it.
  if (state.group === "siblings" || (groups.includes("prompt") && groups.includes("reference"))) groups.splice(2, 0, "siblings");
  return [
    h(
      "span",
      null,
      choice(
        { "aria-label": say.group, "data-for": "group", onchange: (event) => change({ group: event.target.value }) },
        [["", say.notGrouped], ...groups.map((name) => [name, say.groupBy(field(name)?.label ?? name)])],
        state.group,
      ),
    ),
    h(
      "span",
      null,
      choice(
        { "aria-label": say.sort, "data-for": "sort", onchange: (event) => change({ sort: event.target.value }) },
        Object.keys(SORTS).map((name) => [name, say.sorts[name]]),
        state.sort,
      ),
    ),
    h(
      "div",
      { class: "segments", role: "group", "aria-label": say.sizesName },
      Object.entries(say.sizes).map(([size, label]) =>
        segment(say.sizeLetters[size], state.size === size, () => change({ size }), {
          "data-for": `size-${size}`,
          "aria-label": label,
          title: label,
        }),
      ),
    ),
  ];
}

// One field cannot go both ways: taking the other's turns the sheet.
function swapped(axes, name, value) {
  const next = { rows: axes.rows, cols: axes.cols, [name]: value };
  if (next.rows === next.cols) next[name === "rows" ? "cols" : "rows"] = axes[name];
  return next;
}

// The filters: one control for each field that has more than one value.
const FACETS = ["code", "style", "ratio", "seed", "provider", "model", "variant", "review", "reviewer"];
const MOST_CHOICES = 200;
const MOST_TAGS = 6;

function statusPills() {
  const counts = countsOf("status");
  if (counts.size < 2 && !state.status) return null;
  const pills = [
    ["", say.all, presentRows().length],
    ...["done", "failed", "unknown"]
      .filter((name) => counts.has(name))
      .map((name) => [name, called(say.statuses, name), counts.get(name)]),
  ];
  return h(
    "div",
    { class: "segments", role: "group", "aria-label": labelOf("status") },
    pills.map(([value, label, count]) =>
      segment([label, h("small", null, whole.format(count))], state.status === value, () => change({ status: value }), {
        "data-for": `status-${value}`,
      }),
    ),
  );
}

function facets() {
  const tags = tagNames()
    .slice(0, MOST_TAGS)
    .map((tag) => `tag.${tag}`);
  const active = activeFilters().filter((name) => name.startsWith("tag.") && !tags.includes(name));
  return [...FACETS, ...tags, ...active].map((name) => facet(name));
}

function facet(name) {
  const of = field(name);
  const counts = countsOf(name);
  const value = state[name] ?? "";
  if (counts.size < 2 && !value && !(name === "review" && setup.live)) return null;
  const set = value ? "set" : null;
  if (counts.size > MOST_CHOICES) {
    const input = h("input", {
      type: "search",
      class: set,
      value,
      "data-for": name,
      placeholder: of.label,
      "aria-label": of.label,
      autocomplete: "off",
      onchange: () => change({ [name]: input.value.trim() }),
    });
    return h("span", { class: "facet" }, input);
  }
  const pairs = [
    ["", say.any(of.label)],
    ...[...counts].map(([found, count]) => [
      found === "" ? NONE : found,
      `${sayValue(of, found)} (${whole.format(count)})`,
    ]),
  ];
  if (value && !pairs.some(([found]) => found === value)) pairs.push([value, `${value} (0)`]);
  return h(
    "span",
    { class: "facet" },
    choice(
      {
        class: set,
        "data-for": name,
        "aria-label": of.label,
        onchange: (event) => change({ [name]: event.target.value }),
      },
      pairs,
      value,
    ),
  );
}
