// The server's events: new and changed rows, and how the run stands. The stream is taken up again where it broke off.
let sequence = setup.live?.sequence ?? 0;
let lost = false;

function takeRows(rows) {
  let last = null;
  for (const object of rows) {
    const { row, fresh } = upsert(object);
    if (fresh) last = row;
  }
  versionsSum += rows.length;
  if (last !== null && /-redo\d+$/.test(columns.id[last])) {
    tell(`${columns.id[last]} has been made.`, { action: h("button", { type: "button", onclick: () => openLarge(last) }, "Show") });
  }
  refreshSoon();
}

function follow() {
  const events = new EventSource(`/api/events?since=${sequence}`);
  events.addEventListener("open", () => {
    if (lost) tell("The review server is back.");
    lost = false;
  });
  events.addEventListener("rows", (event) => {
    const data = JSON.parse(event.data);
    sequence = data.sequence;
    takeRows(data.rows);
  });
  events.addEventListener("header", (event) => {
    header = JSON.parse(event.data);
    refreshSoon();
  });
  events.addEventListener("error", () => {
    if (!lost) tell("The review server is gone; this page shows what it had and tries again.", { bad: true });
    lost = true;
    if (events.readyState === EventSource.CLOSED) setTimeout(follow, 2000);
  });
}
