// The keyboard. Keys that write or choose in a control are the control's own.
import { byId } from "./dom.js";
import { move, moveLine } from "./gallery.js";
import { openHelp } from "./help.js";
import { tellHidden, verdictKey, VERDICTS } from "./judge.js";
import { closeLarge, focusNote, MODES, noteAwaited, setMode, step } from "./large.js";
import { openNote } from "./notes.js";
import {
  current,
  judged,
  large,
  openLarge,
  pick,
  pickAll,
  pickBetween,
  picked,
  pickNone,
  picksChanged,
  placeOf,
} from "./selection.js";
import { change, state } from "./state.js";
import { setup } from "./store.js";

const writing = (node) => node.matches?.("textarea, select, input") && node.id !== "slider";

export function onKey(event) {
  if (event.defaultPrevented || event.altKey || document.querySelector(".small-dialog[open]")) return;
  const target = event.target;
  if (noteAwaited) return awaitNote(event);
  if (writing(target)) {
    if (event.key === "Escape" && target.id === "search") byId("gallery").focus();
    return;
  }
  const action = event.ctrlKey || event.metaKey ? chords(event) : large !== null ? largeKeys(event) : gridKeys(event);
  if (!action) return;
  event.preventDefault();
  action();
}

function chords(event) {
  return setup.live && event.key === "a" && large === null && state.view === "gallery"
    ? pickAll
    : null;
}

function largeKeys(event) {
  const onSlider = event.target.id === "slider";
  const pressable = event.target.matches?.("button, a, summary");
  const modes = Object.fromEntries(MODES.map(([name, , key]) => [key, () => setMode(name)]));
  const own = {
    ArrowLeft: onSlider ? null : () => step(-1),
    ArrowRight: onSlider ? null : () => step(1),
    " ": pressable && event.target.dataset.for !== "close" ? null : closeLarge,
    "?": openHelp,
    ...modes,
  };
  return own[event.key] ?? judgeKeys(event);
}

function gridKeys(event) {
  const inGrid =
    event.target === document.body || event.target === byId("gallery") || event.target.closest?.("#gallery");
  const views = {
    "/": focusSearch,
    "?": openHelp,
    g: () => change({ view: "gallery" }),
    s: () => change({ view: "sheet" }),
    c: () => change({ view: "charts" }),
  };
  if (views[event.key]) return views[event.key];
  if (state.view !== "gallery" || !inGrid) return null;
  const keyed = (go) => () => {
    byId("gallery").classList.add("keyed");
    go();
  };
  const arrows = {
    ArrowLeft: () => moved(event, () => move(-1)),
    ArrowRight: () => moved(event, () => move(1)),
    ArrowUp: () => moved(event, () => moveLine(-1)),
    ArrowDown: () => moved(event, () => moveLine(1)),
    Home: () => move(-Infinity),
    End: () => move(Infinity),
    " ": () => current !== null && openLarge(current),
    Enter: () => current !== null && openLarge(current),
    "+": () => resize(1),
    "-": () => resize(-1),
  };
  if (arrows[event.key]) return keyed(arrows[event.key]);
  return judgeKeys(event);
}

// With Shift a move takes the pictures it passes into the selection.
function moved(event, go) {
  if (!setup.live || !event.shiftKey) return go();
  const from = placeOf.get(current) ?? 0;
  go();
  pickBetween(from, placeOf.get(current) ?? 0);
  picksChanged();
}

function judgeKeys(event) {
  if (!setup.live) return null;
  const key = event.key.toLowerCase();
  const verdict = VERDICTS.find(([, , of]) => of === key);
  if (verdict) return () => verdictKey(verdict[0]);
  if (key === "n")
    return writeNote;
  if (large === null && key === "x") return () => current !== null && pick(current, !picked.has(current));
  if (large === null && key === "escape" && picked.size) return pickNone;
  return null;
}

function writeNote() {
  if (large === null && picked.size) {
    const rows = judged();
    return rows.length ? openNote(rows) : tellHidden();
  }
  if (large === null) {
    if (current === null) return;
    openLarge(current);
  }
  focusNote();
}

// What is typed before the note stands there was meant for it: it must not judge the picture.
function awaitNote(event) {
  if (event.key === "Escape") closeLarge();
  else if (event.ctrlKey || event.metaKey || /^F\d/.test(event.key)) return;
  event.preventDefault();
}

function focusSearch() {
  if (state.view === "charts") change({ view: "gallery" });
  byId("search").focus();
  byId("search").select();
}

function resize(by) {
  const sizes = ["s", "m", "l"];
  change({ size: sizes[Math.min(2, Math.max(0, sizes.indexOf(state.size) + by))] });
}
