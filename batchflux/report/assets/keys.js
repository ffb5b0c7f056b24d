// The keyboard. Keys that write or choose in a control are the control's own; those that are one sign alone (letters,
// digits, punctuation) can be turned off (WCAG 2.1.4).
import { choosePlace, closeCompare } from "./compare.js";
import { byId, tell } from "./dom.js";
import { openHelp } from "./help.js";
import { pickKey, tellHidden, verdictKey, VERDICTS } from "./judge.js";
import { closeLarge, focusNote, MODES, noteAwaited, setMode, step } from "./large.js";
import { openNote } from "./notes.js";
import {
  chosen,
  compared,
  current,
  judged,
  large,
  openCompare,
  openLarge,
  pick,
  pickAll,
  pickBetween,
  picked,
  pickNone,
  picksChanged,
  placeOf,
  shownPicks,
} from "./selection.js";
import { settings } from "./settings.js";
import { change, ofPictures, state } from "./state.js";
import { setup } from "./store.js";
import { undoLast } from "./verdicts.js";
import { focusView, goBelow, goBeside, goToEnd } from "./view.js";
import { say } from "./words.js";

const writing = (node) => node.matches?.("textarea, select, input:not([type=checkbox])") && node.id !== "slider";

export function onKey(event) {
  if (event.defaultPrevented || event.altKey || document.querySelector(".small-dialog[open]")) return;
  const target = event.target;
  if (noteAwaited) return awaitNote(event);
  if (writing(target)) {
    if (event.key === "Escape" && target.id === "search") focusView();
    return;
  }
  const chord = event.ctrlKey || event.metaKey;
  if (!chord && !settings.singleKeys && event.key.length === 1 && event.key !== " ") return;
  const action = chord
    ? chords(event)
    : compared.length
      ? compareKeys(event)
      : large !== null
        ? largeKeys(event)
        : viewKeys(event);
  if (!action) return;
  event.preventDefault();
  action();
}

function chords(event) {
  if (!setup.live) return null;
  if (event.key === "z") return undoLast;
  return event.key === "a" && large === null && !compared.length && ofPictures() ? pickAll : null;
}

function compareKeys(event) {
  const own = {
    ArrowLeft: () => choosePlace(chosen - 1),
    ArrowRight: () => choosePlace(chosen + 1),
    c: closeCompare,
    "?": openHelp,
  };
  if (/^[1-4]$/.test(event.key)) return () => choosePlace(Number(event.key) - 1);
  return own[event.key] ?? judgeKeys(event);
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

function viewKeys(event) {
  const views = {
    "/": focusSearch,
    "?": openHelp,
    g: () => change({ view: "gallery" }),
    s: () => change({ view: "sheet" }),
    t: () => change({ view: "night" }),
    c: picked.size && ofPictures() ? compareKey : () => change({ view: "charts" }),
  };
  if (views[event.key]) return views[event.key];
  const host = event.target.closest?.("#gallery, #sheet");
  if (!ofPictures() || !(host || event.target === document.body)) return null;
  const arrows = {
    ArrowLeft: () => moved(event, () => goBeside(-1)),
    ArrowRight: () => moved(event, () => goBeside(1)),
    ArrowUp: () => moved(event, () => goBelow(-1)),
    ArrowDown: () => moved(event, () => goBelow(1)),
    Home: () => goToEnd(-Infinity),
    End: () => goToEnd(Infinity),
    " ": () => current !== null && openLarge(current),
    Enter: () => current !== null && openLarge(current),
    "+": () => resize(1),
    "-": () => resize(-1),
  };
  if ([" ", "Enter"].includes(event.key) && event.target.matches("button")) return null; // its own click does it
  const arrow = arrows[event.key];
  if (!arrow) return judgeKeys(event);
  return () => {
    byId("gallery").classList.add("keyed");
    arrow();
  };
}

// With Shift a move takes the pictures it passes into the selection; in the contact sheet those at its two ends.
function moved(event, go) {
  if (!setup.live || !event.shiftKey) return go();
  const from = current;
  go();
  if (from === null || current === null) return;
  if (state.view !== "sheet") pickBetween(placeOf.get(from) ?? 0, placeOf.get(current) ?? 0);
  else for (const row of [from, current]) picked.add(row);
  picksChanged();
}

function judgeKeys(event) {
  if (!setup.live) return null;
  const key = event.key.toLowerCase();
  const verdict = VERDICTS.find(([, , of]) => of === key);
  if (verdict) return () => verdictKey(verdict[0]);
  const inView = large === null && !compared.length;
  if (key === "p") return pickKey;
  if (key === "z") return undoLast;
  if (key === "n") return writeNote;
  if (inView && key === "x") return () => current !== null && pick(current, !picked.has(current));
  if (inView && key === "escape" && picked.size) return pickNone;
  return null;
}

function compareKey() {
  const rows = shownPicks();
  if (rows.length < 2 || rows.length > 4) tell(say.compareHow);
  else openCompare(rows);
}

function writeNote() {
  if (compared.length || (large === null && picked.size)) {
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
  if (!ofPictures()) change({ view: "gallery" });
  byId("search").focus();
  byId("search").select();
}

function resize(by) {
  const sizes = ["s", "m", "l"];
  change({ size: sizes[Math.min(2, Math.max(0, sizes.indexOf(state.size) + by))] });
}
