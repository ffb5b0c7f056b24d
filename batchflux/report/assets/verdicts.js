// Verdicts on their way to the server: one request after the other, what is said when one is refused, and undoing.
import { find, h, tell } from "./dom.js";
import { takeRows } from "./live.js";
import { leaving } from "./selection.js";
import { settings } from "./settings.js";
import { columns, rowOfKey } from "./store.js";
import { say } from "./words.js";

const AT_ONCE = 2000; // keys a request; the server takes no endless list
const MOST_UNDOS = 50;
const onTheWay = new Map(); // key -> {review}, the latest that is being sent
const undos = []; // of each decision the numbers that the server can undo it by, the latest last
let sending = Promise.resolve(); // one request after the other, so that no older one overtakes a newer

// The verdict of a row as the server will have it.
export const verdictOf = (row) => onTheWay.get(columns.key[row])?.review ?? columns.review[row] ?? "";

// Send a verdict, and the rejection of `siblings` with it; returns what went wrong, "" when nothing did.
export function judge(rows, review, { note = null, redo = null, siblings = [] } = {}) {
  const keys = rows.map((row) => columns.key[row]);
  const others = siblings.map((row) => columns.key[row]);
  const mine = { review };
  for (const key of keys) onTheWay.set(key, mine);
  for (const key of others) onTheWay.set(key, { review: "reject" });
  return inTurn(async () => {
    try {
      return await sendAll(keys, { review, note, redo }, others);
    } finally {
      for (const key of keys) if (onTheWay.get(key) === mine) onTheWay.delete(key);
      for (const key of others) onTheWay.delete(key);
    }
  });
}

/** @type {(send: () => Promise<any>) => Promise<any>} */
export function inTurn(send) {
  const turn = sending.then(send);
  sending = turn.catch(() => null); // who asked for it hears of it
  return turn;
}

// Send a verdict on all of these keys in parts; `siblings` go with the first.
export async function sendAll(keys, verdict, siblings = []) {
  const asked = [];
  const numbers = [];
  let kept = 0;
  let why = "";
  try {
    for (; kept < keys.length; kept = Math.min(keys.length, kept + AT_ONCE)) {
      const more = kept === 0 && siblings.length ? { siblings } : {};
      const said = await sendVerdict({ ...verdict, ...more, keys: keys.slice(kept, kept + AT_ONCE) });
      asked.push(...(verdict.review === "redo" ? (said.redo ?? []) : []));
      numbers.push(said.undo);
      takeRows(said.rows);
      for (const { key } of said.rows) leaving.add(rowOfKey.get(key));
    }
  } catch (error) {
    why = whyNot(error);
    if (kept) why = say.keptSome(kept, keys.length, why);
  }
  if (numbers.length) undos.push(numbers);
  if (undos.length > MOST_UNDOS) undos.shift();
  if (why) tell(why, { bad: true });
  else if (asked.length) tell(asked.length === 1 ? say.redoAsked(asked[0].id) : say.redosAsked(asked.length));
  return why;
}

export const whyNot = (error) => (error instanceof TypeError ? say.noServer : error.message);

export const sendVerdict = (body, more) => post("/api/verdicts", { ...body, reviewer: settings.reviewer }, more);

async function post(path, body, { keepalive = false } = {}) {
  const answer = await fetch(path, {
    method: "POST",
    body: JSON.stringify(body),
    keepalive, // goes out also when the page is closed
    headers: {
      "Content-Type": "application/json",
      "X-Batchflux-Token": find(document, 'meta[name="batchflux-token"]').content,
    },
  });
  const said = await answer.json();
  if (!answer.ok) throw new Error(say.refused[answer.status] ?? said.error ?? say.answered(answer.status));
  return said;
}

// Take the last decision of this page back, as a whole; what somebody else decided since then stands.
export const undoLast = () =>
  inTurn(async () => {
    const numbers = undos.pop();
    if (numbers === undefined) return tell(say.nothingToUndo);
    try {
      for (const number of numbers.reverse()) takeRows((await post("/api/undo", { undo: number })).rows);
      return tell(say.undone);
    } catch (error) {
      return tell(whyNot(error), { bad: true });
    }
  });

export const undoButton = () => h("button", { type: "button", onclick: undoLast }, say.undo);
