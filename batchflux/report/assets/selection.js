// What is shown, in order; which of it is current, open or selected for a verdict.
import { byId } from "./dom.js";
import { change } from "./state.js";
import { columns } from "./store.js";

export let shownRows = []; // what the views and the large view go through
export let placeOf = new Map(); // row -> index in shownRows
export let current = null; // row
export let large = null; // the row that is open
let opener = null; // the element that had the focus when it was opened
export const picked = new Set(); // rows selected for a verdict
export const leaving = new Set(); // rows just judged: those that a filter hides now are not selected any more
const showers = []; // called when the selection or the current row has changed

// Have a function called whenever the selection has changed.
export function onPicks(show) {
  showers.push(show);
}

export function picksChanged() {
  for (const show of showers) show();
}

export function setShown(rows) {
  shownRows = rows;
  placeOf = new Map(rows.map((row, k) => [row, k]));
}

export function setCurrentRow(row) {
  current = row;
}

export function setLarge(row) {
  large = row;
}

export function openLarge(row, step = true) {
  const { open } = byId("large");
  if (!open) opener = document.activeElement === document.body ? null : document.activeElement;
  change({ open: columns.id[row] }, { step: step && !open });
}

// Give the focus back to where a picture was opened.
export const focusOpener = () => (opener?.isConnected ? opener : byId("gallery")).focus({ preventScroll: true });

export function pick(row, on) {
  if (on) picked.add(row);
  else picked.delete(row);
  current = row;
  picksChanged();
}

export function pickTo(row) {
  pickBetween(placeOf.get(current) ?? 0, placeOf.get(row) ?? 0);
  current = row;
  picksChanged();
}

export function pickBetween(one, other) {
  for (let k = Math.min(one, other); k <= Math.max(one, other); k++) picked.add(shownRows[k]);
}

export function pickAll() {
  for (const row of shownRows) picked.add(row);
  picksChanged();
}

export function pickNone() {
  picked.clear();
  picksChanged();
}

// Another ledger is in the folder: none of the rows is meant any more.
export function forgetSelection() {
  picked.clear();
  leaving.clear();
  current = null;
  picksChanged();
}

export const shownPicks = () => shownRows.filter((row) => picked.has(row));

// Whom a key means just now. Of a selection only what is shown: nobody judges what nobody sees.
export const judged = () => (large !== null ? [large] : picked.size ? shownPicks() : current !== null ? [current] : []);
