// What is shown, in order; which of it is current, open or selected for a verdict.
import { byId } from "./dom.js";
import { change } from "./state.js";
import { columns, gone, setup } from "./store.js";

export let shownRows = []; // what the views and the large view go through
export let placeOf = new Map(); // row -> index in shownRows
export let current = null; // row
export let large = null; // the row that is open
let opener = null; // the element that had the focus when it was opened
export let compared = []; // rows that stand side by side
export let chosen = 0; // which of them keys mean
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

// Opens the picture that was clicked, or selects it: with its button, Ctrl, or Shift up to it.
export function onTileClick(event, makeCurrent) {
  const target = /** @type {Element} */ (event.target);
  const tile = /** @type {HTMLElement} */ (target.closest("[data-row]"));
  if (!tile) return;
  const row = Number(tile.dataset.row);
  if (target.closest(".pick") || (setup.live && (event.ctrlKey || event.metaKey))) return pick(row, !picked.has(row));
  if (setup.live && event.shiftKey) return pickTo(row);
  makeCurrent(row);
  openLarge(row);
}

// Keep the current row among those shown, and forget the selection of what a verdict or the manifest took away.
export function takeShown(rows) {
  for (const row of picked) if (gone.has(row)) picked.delete(row);
  const was = placeOf.get(current) ?? 0;
  setShown(rows);
  if (current === null || !placeOf.has(current)) setCurrentRow(shownRows[Math.min(was, shownRows.length - 1)] ?? null);
  for (const row of leaving) if (!placeOf.has(row)) picked.delete(row);
  leaving.clear();
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

// Give the focus back to where a picture was opened in the gallery.
export const focusOpener = () => (opener?.isConnected ? opener : byId("gallery")).focus({ preventScroll: true });

export function openCompare(rows) {
  change({ compare: rows.map((row) => columns.id[row]).join("\n") }, { step: true });
}

export function setCompared(rows) {
  compared = rows;
  chosen = Math.max(0, Math.min(chosen, rows.length - 1));
}

export function choose(place) {
  chosen = place;
}

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
export function judged() {
  if (compared.length) return [compared[chosen]];
  if (large !== null) return [large];
  return picked.size ? shownPicks() : current !== null ? [current] : [];
}
