// What is looked at lives in the URL's fragment, so that a link, a reload and the back button bring it back.
const DEFAULTS = {
  view: "gallery",
  q: "",
  status: "",
  code: "",
  style: "",
  ratio: "",
  seed: "",
  model: "",
  variant: "",
  review: "",
  sort: "manifest",
  group: "",
  size: "m",
  rows: "",
  cols: "",
  open: "",
  mode: "beside", // how the open picture is shown
};
const FILTERS = ["status", "code", "style", "ratio", "seed", "model", "variant", "review"];
const state = { ...DEFAULTS };

function readHash() {
  const found = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(state)) if (!(name in DEFAULTS)) delete state[name];
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (name === "mode" && !found.has("open")) continue; // the next picture opens as the last one was shown
    state[name] = found.get(name) ?? value;
  }
  for (const [name, value] of found) if (name.startsWith("tag.")) state[name] = value;
}

function hashOf() {
  const text = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value !== (DEFAULTS[name] ?? "") && (name !== "mode" || state.open !== "")) text.set(name, value);
  }
  return `#${text}`;
}

// Change the state. Opening a picture is a step back can undo; all else replaces where we are.
function change(changes, { step = false } = {}) {
  Object.assign(state, changes);
  for (const name of Object.keys(state)) if (name.startsWith("tag.") && state[name] === "") delete state[name];
  history[step ? "pushState" : "replaceState"](null, "", hashOf());
  refresh();
}

const activeFilters = () => [
  ...FILTERS.filter((name) => state[name] !== ""),
  ...Object.keys(state).filter((name) => name.startsWith("tag.")),
];
