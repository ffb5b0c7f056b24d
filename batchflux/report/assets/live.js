// The server's events: new and changed rows, and how the run stands. The stream is taken up again where it broke off.
import { h, lostImages, tell } from "./dom.js";
import { REDO } from "./fields.js";
import { tiles } from "./gallery.js";
import { forgetSelection, openLarge } from "./selection.js";
import { refreshSoon } from "./state.js";
import { columns, forget, setup, takeAway, takeHeader, upsert } from "./store.js";
import { say } from "./words.js";

let sequence = setup.live?.sequence ?? 0;
let lost = false;
let patience = 1000; // milliseconds until the next try

export function takeRows(rows) {
  let last = null;
  for (const object of rows) {
    const { row, fresh } = upsert(object);
    if (fresh) last = row;
  }
  if (last !== null && REDO.test(columns.id[last])) {
    tell(say.redoMade(columns.id[last]), {
      action: h("button", { type: "button", onclick: () => openLarge(last) }, say.show),
    });
  }
  refreshSoon();
}

export function follow() {
  const events = new EventSource(`/api/events?since=${sequence}`);
  events.addEventListener("open", () => {
    if (lost) {
      tell(say.serverBack);
      lostImages.clear(); // nobody was there to give them
      tiles.clear();
      refreshSoon();
    }
    lost = false;
    patience = 1000;
  });
  events.addEventListener("rows", (event) => {
    const data = JSON.parse(event.data);
    sequence = data.sequence;
    takeAway(data.gone ?? []);
    takeRows(data.rows);
  });
  events.addEventListener("reset", (event) => {
    sequence = JSON.parse(event.data).sequence;
    // Another ledger is in the folder now: begin anew.
    forget();
    tiles.clear();
    forgetSelection();
    refreshSoon();
  });
  events.addEventListener("header", (event) => {
    takeHeader(JSON.parse(event.data));
    refreshSoon();
  });
  events.addEventListener("error", () => {
    const refused = events.readyState === EventSource.CLOSED;
    events.close(); // the browser would ask every few seconds for ever
    if (!lost) {
      tell(
        refused
          ? say.serverRefuses
          : say.serverGone,
      );
    }
    lost = true;
    setTimeout(follow, patience);
    patience = Math.min(30_000, patience * 2);
  });
}
