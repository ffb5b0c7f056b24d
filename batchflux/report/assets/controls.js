// The bar that stays in sight: views, search, filters and order. It shows only what can tell pictures apart.
const VIEWS = [
  ["gallery", "Gallery"],
  ["sheet", "Contact sheet"],
  ["charts", "Charts"],
];
let controlsFor = "";
let shownFor = "";

// How much of the window's top the bar covers while the page is scrolled; CSS knows it as --bar.
const barHeight = () => (getComputedStyle(byId("controls")).position === "sticky" ? byId("controls").offsetHeight : 0);

const segment = (label, pressed, onclick, props = {}) =>
  h(
    "button",
    { type: "button", onclick, ...props, "aria-pressed": props["aria-current"] === undefined ? String(pressed) : null },
    label,
  );

function showControls(rows) {
  const shown = { ...state, open: "" };
  const wanted = JSON.stringify([rowCount, versionsSum, shown]);
  const same = JSON.stringify(shown) === shownFor;
  // New rows must not shut a list that somebody has open, or take a word from under the pen.
  const busy = byId("controls").contains(document.activeElement) && document.activeElement.matches("select, input");
  if (wanted !== controlsFor && !(same && busy)) {
    controlsFor = wanted;
    shownFor = JSON.stringify(shown);
    rebuildControls();
  }
  const count = presentRows().length;
  const all = count === rows.length;
  byId("count").classList.toggle("all", all);
  byId("count").textContent = all
    ? plural(rows.length, "job")
    : `${whole.format(rows.length)} of ${plural(count, "job")}`;
}

// Built anew when something changed, with the focus kept on the control that had it.
function rebuildControls() {
  const host = byId("controls");
  const focused = host.contains(document.activeElement) ? document.activeElement.dataset.for : null;
  const search = byId("search") ?? searchField();
  const charts = state.view === "charts";
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
      "Filters",
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
        "aria-label": "Keys",
        title: "Keys (?)",
        onclick: openHelp,
      },
      h("kbd", null, "?"),
    ),
  );
  const parts = [statusPills(), ...facets(), clearButton()].filter((part) => part !== null);
  const filters = h("div", { class: "bar filters", hidden: charts || !parts.length }, parts);
  host.replaceChildren(top, filters);
  document.documentElement.style.setProperty("--bar", `${barHeight()}px`);
  if (focused) host.querySelector(`[data-for="${CSS.escape(focused)}"]`)?.focus();
}

function viewSwitch() {
  return h(
    "div",
    { class: "segments", role: "navigation", "aria-label": "Views" },
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
    placeholder: "Search prompts and ids",
    "aria-label": "Search prompts and ids",
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
    "Clear filters",
  );
}

function arrangement() {
  if (state.view === "sheet") {
    const axes = sheetAxes();
    const pairs = axes.names.map((name) => [name, field(name).label]);
    return [
      ["rows", "Down", axes.rows],
      ["cols", "Across", axes.cols],
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
    "model",
    ...tagNames()
      .slice(0, MOST_TAGS)
      .map((tag) => `tag.${tag}`),
  ].filter((name) => name === state.group || distinct(name) > 1);
  return [
    h(
      "span",
      null,
      choice(
        { "aria-label": "Group", "data-for": "group", onchange: (event) => change({ group: event.target.value }) },
        [["", "Not grouped"], ...groups.map((name) => [name, `By ${(field(name)?.label ?? name).toLowerCase()}`])],
        state.group,
      ),
    ),
    h(
      "span",
      null,
      choice(
        { "aria-label": "Sort", "data-for": "sort", onchange: (event) => change({ sort: event.target.value }) },
        Object.entries(SORTS).map(([name, [label]]) => [name, label]),
        state.sort,
      ),
    ),
    h(
      "div",
      { class: "segments", role: "group", "aria-label": "Size of the pictures" },
      [
        ["s", "Small"],
        ["m", "Medium"],
        ["l", "Large"],
      ].map(([size, label]) =>
        segment(label[0], state.size === size, () => change({ size }), {
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
