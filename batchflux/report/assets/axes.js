// What the contact sheet lays out: two fields, their values in the manifest's order, and the pictures of each cell.
import { distinct, field, makersCompared, SORTS, tagNames } from "./fields.js";
import { state } from "./state.js";

const MOST_COLUMNS = 60;

function sheetFields() {
  const names = [
    "prompt",
    "reference",
    "seed",
    "ratio",
    "style",
    "model",
    "provider",
    ...(distinct("provider") > 1 ? ["maker"] : []), // elsewhere it says what the model does
    "variant",
    "status",
    ...tagNames().map((tag) => `tag.${tag}`),
  ];
  const several = names.filter((name) => distinct(name) > 1);
  if (several.length === 1) several.push(several[0] === "model" ? "prompt" : "model"); // something to lay it out by
  return several;
}

// Where nobody chose: what varies most goes down, what varies least goes across.
export function sheetAxes() {
  const names = sheetFields();
  const sizes = new Map(names.map((name) => [name, distinct(name)]));
  const few = names.filter((name) => sizes.get(name) <= MOST_COLUMNS).sort((a, b) => sizes.get(a) - sizes.get(b));
  const cols = names.includes(state.cols)
    ? state.cols
    : ((makersCompared() ? ["maker", "seed", "ratio"] : ["seed", "ratio"]).find((name) => few.includes(name) && name !== state.rows) ??
      few.find((name) => name !== state.rows) ??
      names[0] ??
      "status");
  const left = names.filter((name) => name !== cols);
  const rows = left.includes(state.rows)
    ? state.rows
    : (["reference", "prompt"].find((name) => left.includes(name)) ?? left[0] ?? "prompt");
  return { names, rows, cols };
}

// The rows as a table: `lines` of {value, cells}, a cell being the rows that have both values, by column.
export function sheetTable(rows) {
  const axes = sheetAxes();
  const vertical = field(axes.rows);
  const horizontal = field(axes.cols);
  const table = new Map();
  const across = new Map(); // column -> its lines, in the manifest's order
  for (const row of [...rows].sort(SORTS.manifest)) {
    const [down, over] = [vertical.of(row), horizontal.of(row)];
    const cells = table.get(down) ?? new Map();
    table.set(down, cells);
    if (!cells.has(over)) {
      cells.set(over, []);
      if (!across.has(over)) across.set(over, []);
      across.get(over).push(down);
    }
    cells.get(over).push(row);
  }
  const all = inOrder([...table.values()].map((cells) => [...cells.keys()]));
  const lines = inOrder([...across.values()]).map((value) => ({ value, cells: table.get(value), height: 0 }));
  return { vertical, horizontal, values: all.slice(0, MOST_COLUMNS), columnsInAll: all.length, lines };
}

// One order from sequences that each lack some of the values: a new value goes behind the one before it, or in front of
// the first one after it that has a place. (A run that is under way, or failed here and there, leaves such gaps.)
function inOrder(sequences) {
  const order = [];
  const known = new Set();
  for (const sequence of sequences) {
    let before;
    for (const value of sequence) {
      if (!known.has(value)) {
        const after = before === undefined ? sequence.find((other) => known.has(other)) : undefined;
        if (before !== undefined) order.splice(order.lastIndexOf(before) + 1, 0, value);
        else order.splice(after === undefined ? order.length : order.indexOf(after), 0, value);
        known.add(value);
      }
      before = value;
    }
  }
  return order;
}
