// Puts the page together: first from what has been read so far, then from all of it, then after every change.
import { showCharts } from "./charts.js";
import { showControls, VIEWS } from "./controls.js";
import { byId, onNewWidth } from "./dom.js";
import { filtered } from "./fields.js";
import { anchorOf, backTo, showGallery, startGallery } from "./gallery.js";
import { showHeader } from "./header.js";
import { placeNews, showJudging } from "./judge.js";
import { onKey } from "./keys.js";
import { followOpen, startLarge } from "./large.js";
import { follow } from "./live.js";
import { watchLeaving } from "./notes.js";
import { onPicks } from "./selection.js";
import { showSheet } from "./sheet.js";
import { onChange, readHash, refreshSoon, state, watchPointer } from "./state.js";
import { presentRows, readBlocks, setup } from "./store.js";

function refresh({ keepPlace = false } = {}) {
  const rows = filtered();
  showHeader();
  showControls(rows);
  for (const [view] of VIEWS) byId(view).hidden = state.view !== view;
  byId("view-title").textContent = VIEWS.find(([view]) => view === state.view)?.[1] ?? "Pictures";
  const message =
    presentRows().length === 0
      ? "No job of this folder has ended yet."
      : rows.length === 0 && state.view !== "charts"
        ? "No picture passes these filters."
        : "";
  byId("empty").hidden = message === "";
  byId("empty").textContent = message;
  const anchor = anchorOf();
  if (state.view === "sheet") showSheet(rows);
  else if (state.view === "charts") showCharts();
  else showGallery(rows);
  if (keepPlace) backTo(anchor);
  if (setup.live) showJudging();
  followOpen();
}

async function start() {
  // The cookie lets in from here on; the token need not stand in the address that is shown and bookmarked.
  if (location.search.includes("token=")) history.replaceState(null, "", location.pathname + location.hash);
  readHash();
  if (!VIEWS.some(([view]) => view === state.view)) state.view = "gallery";
  onChange(refresh);
  startGallery();
  startLarge();
  if (setup.live) onPicks(showJudging);
  await readBlocks({ packed: false });
  refresh();
  watchPointer();
  document.addEventListener("keydown", onKey);
  onNewWidth(byId("main"), () => {
    if (state.view !== "gallery") refreshSoon();
  });
  addEventListener("pointerdown", () => byId("gallery").classList.remove("keyed"));
  addEventListener("popstate", () => {
    readHash();
    if (byId("search")) byId("search").value = state.q;
    refresh();
  });
  byId("controls").addEventListener("focusout", refreshSoon);
  byId("skip").addEventListener("click", () => byId("gallery").focus());
  if (document.readyState === "loading")
    await new Promise((done) => addEventListener("DOMContentLoaded", done, { once: true }));
  await readBlocks({ packed: true });
  document.documentElement.dataset.ready = "yes";
  refresh();
  if (setup.live) {
    follow();
    watchLeaving();
    onNewWidth(byId("judging"), placeNews);
  }
}

start();
