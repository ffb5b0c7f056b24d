// Which picture is the current one, whatever the view, and how to go on from it.
import { byId } from "./dom.js";
import { siblingsOf } from "./fields.js";
import { move, moveLine, setCurrentTile } from "./gallery.js";
import { current, focusOpener, placeOf, shownRows } from "./selection.js";
import { focusCurrentShot, moveInSheet, setCurrentShot } from "./sheet.js";
import { state } from "./state.js";

export function setCurrent(row, how) {
  if (state.view === "sheet") setCurrentShot(row);
  else setCurrentTile(row, how);
}

// Give the focus back to the view when what lay over it is closed.
export function focusView() {
  if (state.view === "sheet") focusCurrentShot();
  else focusOpener();
}

export function goBeside(right) {
  if (state.view === "sheet") moveInSheet(right, 0);
  else move(right);
}

export function goBelow(down) {
  if (state.view === "sheet") moveInSheet(0, down);
  else moveLine(down);
}

export function goToEnd(end) {
  if (state.view !== "sheet") return move(end);
  setCurrentShot(end < 0 ? shownRows[0] : shownRows.at(-1));
  return focusCurrentShot();
}

// The next picture in order to judge; past its siblings when they were judged with it. Undefined at the end.
export function following(row, pastSiblings = false) {
  const of = siblingsOf(row);
  let at = placeOf.get(row) + 1;
  while (pastSiblings && at < shownRows.length && siblingsOf(shownRows[at]) === of) at++;
  return shownRows[at];
}

// Make it the current one, in sight. The focus goes along where the sheet has it.
export function goTo(row) {
  if (row === undefined || row === current) return;
  if (state.view !== "sheet") return setCurrentTile(row);
  const inSheet = byId("sheet").contains(document.activeElement) || document.activeElement === document.body;
  setCurrentShot(row);
  return inSheet ? focusCurrentShot() : undefined;
}
