// The contact sheet: one field down, another across, in each cell the pictures that have both values. One of them is
// the current one: it has the focus, and keeps it when the sheet is laid out anew.
import { sheetTable } from "./axes.js";
import { barHeight, byId, find, focusIn, h, picture } from "./dom.js";
import { sayValue } from "./fields.js";
import { Lines } from "./lines.js";
import { badgeOf, pickButton, showPicked, thumbOf } from "./marks.js";
import { compared, current, large, onPicks, onTileClick, picked, setCurrentRow, takeShown } from "./selection.js";
import { state } from "./state.js";
import { columns, rowCount, shapeSum, versions, versionsSum } from "./store.js";
import { called, say, whole } from "./words.js";

const IN_CELL = 16;
const GAP_IN_CELL = 2;
const PADDING = 4; // of a cell
const TEXT_LINE = 18;
const OWN_PICTURE = 52; // of a line's name
const NO_SHAPE = 0.5; // height by width of where there are no pictures
let sheetLines = null;
let sheetFor = "";
let cellWidth = 0;
let layout = { lines: [], values: [], places: new Map() }; // places: row -> [line, column, place in the cell]
const shots = new Map(); // row -> {node, small, version}: pictures in the document, kept when the sheet is laid out anew

export function startSheet() {
  const host = byId("sheet");
  host.addEventListener("click", (event) => onTileClick(event, setCurrentShot));
  host.addEventListener("focusin", ({ target }) => {
    const shot = /** @type {Element} */ (target).closest("[data-row]");
    // What closes above the sheet gives the focus back to where it was opened, which may not be where one is by now.
    if (shot && large === null && !compared.length) setCurrentShot(Number(/** @type {HTMLElement} */ (shot).dataset.row));
  });
  onPicks(showShotPicks);
}

export function showSheet(rows) {
  const host = byId("sheet");
  const judgedBy = state.review || state.reviewer ? versionsSum : 0;
  const shown = { ...state, open: "", mode: "", compare: "" };
  const now = JSON.stringify([shown, judgedBy, shapeSum, rowCount, host.clientWidth]);
  if (now === sheetFor && host.firstChild) return renewShots();
  sheetFor = now;
  const focused = focusIn(host)?.closest("[data-row]") ?? null;
  const table = sheetTable(rows);
  const { lines, values } = table;
  const [names, width] = sheetWidths(values.length);
  cellWidth = width;
  const places = new Map();
  for (const [k, line] of lines.entries()) {
    line.height = lineHeight(line, values, width, Boolean(table.vertical.picture));
    for (const [c, value] of values.entries())
      // What a full cell has no room for is where its last picture is.
      for (const [i, row] of (line.cells.get(value) ?? []).entries()) places.set(row, [k, c, Math.min(i, IN_CELL - 1)]);
  }
  layout = { lines, values, places };
  takeShown(lines.flatMap(({ cells }) => values.flatMap((value) => cells.get(value) ?? [])));
  build(table, names, width);
  for (const [row, { node }] of shots) if (!node.isConnected) shots.delete(row);
  markShot();
  if (focused) focusCurrentShot();
}

function build({ vertical, horizontal, values, columnsInAll, lines }, names, width) {
  const template = `${names}px repeat(${values.length}, ${width}px)`;
  const body = h("div", { class: "lines" });
  const head = h(
    "div",
    { class: "head", role: "row", "aria-rowindex": 1 },
    h("div", { class: "corner", role: "columnheader" }, `${vertical.label} ↓ ${horizontal.label} →`),
    values.map((value) =>
      h("div", { role: "columnheader" }, h("span", null, h("bdi", null, sayValue(horizontal, value)))),
    ),
  );
  head.style.gridTemplateColumns = template;
  const heads = h("div", { class: "heads", role: "rowgroup" }, head);
  const onscroll = () => (heads.scrollLeft = scroller.scrollLeft);
  const scroller = h(
    "div",
    { class: "scroller", tabindex: "0", role: "rowgroup", "aria-label": say.sheetRows, onscroll },
    body,
  );
  const left = find(byId("sheet"), ".scroller")?.scrollLeft ?? 0;
  const says = say.sheetSays(vertical.label, horizontal.label, lines.length, columnsInAll);
  const name = say.sheetName(vertical.label, horizontal.label);
  byId("sheet").replaceChildren(
    h("p", { class: "note" }, says, columnsInAll > values.length && say.sheetCut(values.length)),
    h("div", { class: "table", role: "table", "aria-label": name, "aria-rowcount": lines.length + 1 }, heads, scroller),
  );
  body.style.width = head.style.width = `${names + values.length * width}px`;
  sheetLines?.stop();
  sheetLines = new Lines(body, (line, k) => makeSheetLine(line, k, { vertical, values, template, width }));
  sheetLines.set(lines);
  scroller.scrollLeft = left;
}

// Cells take the room there is: the first column for names, then equal widths.
function sheetWidths(count) {
  const small = innerWidth < 700;
  const names = small ? 96 : 176;
  const room = (byId("sheet").clientWidth - names - 2) / Math.max(1, count);
  return [names, Math.floor(Math.min(small ? 200 : 400, Math.max(small ? 120 : 160, room)))];
}

const shownIn = ({ cells }, value) => (cells.get(value) ?? []).slice(0, IN_CELL);

// How many pictures stand beside one another in a cell of so many: as a square, and three in a line where there is room.
const besides = (count) => (count === 3 && cellWidth >= 390 ? 3 : Math.min(4, Math.ceil(Math.sqrt(count))));

// The heights of the rows of pictures in a cell: each as high as its highest picture.
function cellHeights(rows, width) {
  const beside = besides(rows.length);
  const wide = (width - 2 * PADDING - GAP_IN_CELL * (beside - 1)) / Math.max(1, beside);
  const heights = [];
  for (const [i, row] of rows.entries()) {
    const shape = columns.width[row] ? Math.min(2, Math.max(0.3, columns.height[row] / columns.width[row])) : 0;
    const at = Math.floor(i / beside);
    heights[at] = Math.max(heights[at] ?? 0, Math.round(wide * shape));
  }
  return heights.map((height) => height || Math.round(wide * NO_SHAPE));
}

// A line is as high as its highest cell, and has room for its name.
function lineHeight(line, values, width, pictured) {
  const cells = values.map((value) => {
    const heights = cellHeights(shownIn(line, value), width);
    return heights.reduce((sum, height) => sum + height, 0) + GAP_IN_CELL * Math.max(0, heights.length - 1);
  });
  const name = 16 + 2 * TEXT_LINE + (pictured ? OWN_PICTURE : 0);
  return Math.max(name, 2 * PADDING + Math.max(0, ...cells)) + 1;
}

function makeSheetLine(line, k, { vertical, values, template, width }) {
  const first = line.cells.values().next().value[0];
  const image = vertical.picture?.(first);
  const words = sayValue(vertical, line.value);
  const name = h("span", null, h("bdi", null, words));
  name.style.webkitLineClamp = String(Math.floor((line.height - 16 - (image ? OWN_PICTURE : 0)) / TEXT_LINE));
  const node = h(
    "div",
    { class: "line", role: "row", "aria-rowindex": k + 2 },
    h("div", { role: "rowheader", title: words }, image && picture(image, { alt: "" }, () => null), name),
    values.map((value) => makeCell(line, value, width)),
  );
  node.style.gridTemplateColumns = template;
  return node;
}

function makeCell(line, value, width) {
  const rows = shownIn(line, value);
  if (!rows.length) return h("div", { role: "cell" }, h("span", { class: "none" }, "–"));
  const left = line.cells.get(value).length - rows.length;
  const cell = h("div", { role: "cell" }, rows.map((row) => makeShot(row, rows.length > 1)));
  const heights = cellHeights(rows, width);
  cell.style.gridTemplateColumns = `repeat(${besides(rows.length)}, minmax(0, 1fr))`;
  cell.style.gridTemplateRows = heights.map((height) => `${height}px`).join(" ");
  if (left) cell.append(h("span", { class: "more" }, `+${whole.format(left)}`, unseen(say.moreInCell)));
  return cell;
}

const unseen = (words) => h("span", { class: "unseen" }, words);

function makeShot(row, small) {
  const kept = shots.get(row);
  if (kept?.version === versions[row] && kept.small === small) return kept.node;
  const done = columns.status[row] === "done";
  const why = done ? say.noPreviewShort : (columns.error_code[row] ?? called(say.statuses, columns.status[row]));
  const button = h(
    "button",
    { type: "button", class: "open", tabindex: "-1", title: columns.thumb[row] ? null : why },
    unseen(`${say.open(columns.id[row])}: `),
    columns.thumb[row] ? thumbOf(row, () => say.noPreviewShort) : small ? ["✕", unseen(why)] : why,
    badgeOf(row),
  );
  const node = h(
    "div",
    { class: `shot ${columns.status[row]}`, id: `s${row}`, "data-row": row },
    button,
    pickButton(row),
  );
  shots.set(row, { node, small, version: versions[row] });
  showShot(row, node);
  return node;
}

// Verdicts have changed, and nothing else: the sheet stays as it lies.
function renewShots() {
  for (const [row, { node, small, version }] of shots) {
    if (!node.isConnected || version === versions[row]) continue;
    const focused = node.contains(document.activeElement);
    const fresh = makeShot(row, small);
    node.replaceWith(fresh);
    if (focused) find(fresh, ".open").focus({ preventScroll: true });
  }
}

function showShot(row, node) {
  node.classList.toggle("current", row === current);
  node.classList.toggle("picked", picked.has(row));
  node.querySelector(".open").tabIndex = row === current ? 0 : -1;
  showPicked(node, row);
}

function showShotPicks() {
  byId("sheet").classList.toggle("picking", picked.size > 0);
  markShot();
}

function markShot() {
  for (const [row, { node }] of shots) showShot(row, node);
}

export function setCurrentShot(row) {
  if (row === current) return;
  setCurrentRow(row);
  markShot();
}

// Bring the current picture into the window, and give it the focus.
export function focusCurrentShot() {
  const host = byId("sheet");
  const place = layout.places.get(current);
  const scroller = find(host, ".scroller");
  if (!place) return scroller?.focus({ preventScroll: true });
  setCurrentRow(shownIn(layout.lines[place[0]], layout.values[place[1]])[place[2]]);
  sheetLines.reveal(place[0], barHeight() + find(host, ".heads").offsetHeight);
  for (const [row, { node }] of shots) if (!node.isConnected) shots.delete(row);
  markShot();
  const button = find(byId(`s${current}`), ".open");
  const [box, room] = [button.getBoundingClientRect(), scroller.getBoundingClientRect()];
  const from = room.left + find(host, ".corner").offsetWidth;
  if (box.left < from) scroller.scrollLeft -= from - box.left;
  else if (box.right > room.right) scroller.scrollLeft += box.right - room.right;
  button.focus({ preventScroll: true });
}

// Move as the eye does: to the picture beside, above or below, in the cell or in the next that has one.
export function moveInSheet(right, down) {
  const place = layout.places.get(current);
  if (!place) return focusCurrentShot();
  const [k, c, i] = place;
  const rows = shownIn(layout.lines[k], layout.values[c]);
  setCurrentShot((right ? beside(k, c, i, rows, right) : above(k, c, i, rows, down)) ?? current);
  focusCurrentShot();
}

function beside(k, c, i, rows, right) {
  const across = besides(rows.length);
  const next = i + right;
  if (Math.floor(next / across) === Math.floor(i / across) && rows[next] !== undefined && next >= 0) return rows[next];
  for (let over = c + right; over >= 0 && over < layout.values.length; over += right) {
    const there = shownIn(layout.lines[k], layout.values[over]);
    if (!there.length) continue;
    const wide = besides(there.length);
    const from = Math.min(Math.floor(i / across), Math.floor((there.length - 1) / wide)) * wide;
    return right > 0 ? there[from] : there[Math.min(there.length, from + wide) - 1];
  }
  return undefined;
}

function above(k, c, i, rows, down) {
  const across = besides(rows.length);
  const inner = Math.floor(i / across) + down;
  if (inner >= 0 && inner <= Math.floor((rows.length - 1) / across))
    return rows[Math.min(rows.length - 1, inner * across + (i % across))];
  for (let line = k + down; line >= 0 && line < layout.lines.length; line += down) {
    const there = shownIn(layout.lines[line], layout.values[c]);
    if (!there.length) continue;
    const wide = besides(there.length);
    const last = down > 0 ? 0 : Math.floor((there.length - 1) / wide);
    return there[Math.min(there.length - 1, last * wide + Math.min(wide - 1, i % across))];
  }
  return undefined;
}
