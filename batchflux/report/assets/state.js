// What is looked at lives in the URL's fragment, so that a link, a reload and the back button bring it back.
const DEFAULTS = {
  view: "gallery",
  q: "",
  status: "",
  code: "",
  style: "",
  ratio: "",
  seed: "",
  provider: "",
  model: "",
  variant: "",
  review: "",
  reviewer: "",
  sort: "manifest",
  group: "",
  size: "m",
  rows: "",
  cols: "",
  open: "",
  compare: "", // ids, a line each
  night: "", // which run: when it began
  mode: "beside", // how the open picture is shown
};
const FILTERS = ["status", "code", "style", "ratio", "seed", "provider", "model", "variant", "review", "reviewer"];
export const state = { ...DEFAULTS };
let showAll = (_how = {}) => {}; // shows the page anew
let soon = 0;
let pressed = false;
let held = false;

// Name the function that shows the page anew after each change.
export function onChange(show) {
  showAll = show;
}

// Whether pictures are looked at, and not what the run did.
export const ofPictures = () => state.view !== "charts" && state.view !== "night";

export function readHash() {
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
export function change(changes, { step = false } = {}) {
  Object.assign(state, changes);
  for (const name of Object.keys(state)) if (name.startsWith("tag.") && state[name] === "") delete state[name];
  history[step ? "pushState" : "replaceState"](null, "", hashOf());
  showAll();
}

export const activeFilters = () => [
  ...FILTERS.filter((name) => state[name] !== ""),
  ...Object.keys(state).filter((name) => name.startsWith("tag.")),
];

// Not while a button is held down: what is being clicked would be torn out from under the pointer, and the click lost.
export function refreshSoon() {
  if (pressed) {
    held = true;
    return;
  }
  soon ||= requestAnimationFrame(() => {
    soon = 0;
    if (pressed) held = true;
    else showAll({ keepPlace: true });
  });
}

export function watchPointer() {
  const release = () => {
    pressed = false;
    if (held) setTimeout(refreshSoon);
    held = false;
  };
  addEventListener("pointerdown", () => (pressed = true), true);
  for (const name of ["pointerup", "pointercancel"]) addEventListener(name, release, true);
  addEventListener("blur", release); // the window's own
  addEventListener("pointermove", ({ buttons }) => pressed && buttons === 0 && release(), {
    capture: true,
    passive: true,
  });
}
