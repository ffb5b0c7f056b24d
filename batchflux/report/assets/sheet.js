// The contact sheet: one field down, another across, in each cell the pictures that have both values.
import { byId, h, picture } from "./dom.js";
import { byName, distinct, field, sayValue, tagNames } from "./fields.js";
import { thumbOf } from "./gallery.js";
import { Lines } from "./lines.js";
import { openLarge, setShown } from "./selection.js";
import { state } from "./state.js";
import { columns } from "./store.js";
import { plural } from "./words.js";

const MOST_COLUMNS = 60;
const IN_CELL = 4;
let sheetLines = null;

function sheetFields() {
  const names = [
    "prompt",
    "reference",
    "seed",
    "ratio",
    "style",
    "model",
    "variant",
    "status",
    ...tagNames().map((tag) => `tag.${tag}`),
  ];
  return names.filter((name) => distinct(name) > 1);
}

// Where nobody chose: what varies most goes down, what varies least goes across.
export function sheetAxes() {
  const names = sheetFields();
  const sizes = new Map(names.map((name) => [name, distinct(name)]));
  const few = names.filter((name) => sizes.get(name) <= MOST_COLUMNS).sort((a, b) => sizes.get(a) - sizes.get(b));
  const cols = names.includes(state.cols)
    ? state.cols
    : (["seed", "ratio"].find((name) => few.includes(name) && name !== state.rows) ??
      few.find((name) => name !== state.rows) ??
      names[0] ??
      "status");
  const left = names.filter((name) => name !== cols);
  const rows = left.includes(state.rows)
    ? state.rows
    : (["reference", "prompt"].find((name) => left.includes(name)) ?? left[0] ?? "prompt");
  return { names, rows, cols };
}

export function showSheet(rows) {
  const { rows: down, cols: over } = sheetAxes();
  const vertical = field(down);
  const horizontal = field(over);
  const table = new Map();
  const across = new Set();
  for (const row of rows) {
    const cells = table.get(vertical.of(row)) ?? new Map();
    table.set(vertical.of(row), cells);
    const value = horizontal.of(row);
    across.add(value);
    const cell = cells.get(value);
    if (cell) cell.push(row);
    else cells.set(value, [row]);
  }
  const all = [...across].sort(byName.compare);
  const values = all.slice(0, MOST_COLUMNS);
  const wide = sheetWidths(values.length);
  const template = `${wide[0]}px repeat(${values.length}, ${wide[1]}px)`;
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
  const lines = [...table].map(([value, cells]) => ({ value, cells, height: wide[1] }));
  const note = h(
    "p",
    { class: "note" },
    `${vertical.label} down, ${horizontal.label.toLowerCase()} across: ${plural(table.size, "row")}, ${plural(all.length, "column")}.`,
    all.length > MOST_COLUMNS && ` The first ${MOST_COLUMNS} columns are shown; filter to see others.`,
  );
  const scroller = h(
    "div",
    {
      class: "scroller",
      tabindex: "0",
      role: "rowgroup",
      "aria-label": "Rows of the contact sheet",
      onscroll: () => {
        heads.scrollLeft = scroller.scrollLeft;
      },
    },
    body,
  );
  byId("sheet").replaceChildren(
    note,
    h(
      "div",
      {
        class: "table",
        role: "table",
        "aria-label": `${vertical.label} by ${horizontal.label}`,
        "aria-rowcount": table.size + 1,
      },
      heads,
      scroller,
    ),
  );
  body.style.width = head.style.width = `${wide[0] + values.length * wide[1]}px`;
  sheetLines?.stop();
  sheetLines = new Lines(body, (line, k) => makeSheetLine(line, k, { vertical, values, template }));
  setShown(lines.flatMap(({ cells }) => values.flatMap((value) => cells.get(value) ?? [])));
  sheetLines.set(lines);
}

// Cells take the room there is: the first column for names, then equal squares.
function sheetWidths(count) {
  const small = innerWidth < 700;
  const names = small ? 96 : 176;
  const room = (byId("sheet").clientWidth - names - 2) / count;
  return [names, Math.floor(Math.min(small ? 200 : 300, Math.max(small ? 120 : 160, room)))];
}

function makeSheetLine({ value, cells }, k, { vertical, values, template }) {
  const first = cells.values().next().value[0];
  const image = vertical.picture?.(first);
  const node = h(
    "div",
    { class: "line", role: "row", "aria-rowindex": k + 2 },
    h(
      "div",
      { role: "rowheader" },
      image && picture(image, { alt: "" }, () => null),
      h("span", null, h("bdi", null, sayValue(vertical, value))),
    ),
    values.map((over) => makeCell(cells.get(over) ?? [])),
  );
  node.style.gridTemplateColumns = template;
  return node;
}

// The pictures of a cell: one fills it, two to four share it as a square.
function makeCell(rows) {
  if (!rows.length) return h("div", { role: "cell" }, h("span", { class: "none" }, "–"));
  const some = rows.slice(0, IN_CELL);
  const buttons = some.map((row) => cellButton(row, some.length > 1));
  const left = rows.length - some.length;
  if (left) buttons.at(-1).append(h("span", { class: "more" }, `+${left}`, unseen(" more in this cell")));
  return h("div", { role: "cell", class: some.length > 1 ? "several" : null }, buttons);
}

const unseen = (words) => h("span", { class: "unseen" }, words);

function cellButton(row, small) {
  const failed = columns.status[row] !== "done";
  const why = failed ? (columns.error_code[row] ?? columns.status[row]) : "no preview";
  const button = h(
    "button",
    {
      type: "button",
      class: failed ? "failed" : null,
      onclick: () => openLarge(row),
      title: columns.thumb[row] ? null : why,
    },
    unseen(`Open ${columns.id[row]}: `),
  );
  if (columns.thumb[row]) button.append(thumbOf(row, () => "no preview"));
  else button.append(...(small ? ["✕", unseen(why)] : [why]));
  return button;
}
