// Puts the page together: first from what has been read so far, then from all of it, then after every change.
import { showCharts } from "./charts.js";
import { showControls, VIEWS } from "./controls.js";
import { byId, onNewWidth } from "./dom.js";
import { filtered } from "./fields.js";
import { followCompare, startCompare } from "./compare.js";
import { anchorOf, backTo, showGallery, startGallery } from "./gallery.js";
import { showHeader } from "./header.js";
import { placeNews, showJudging } from "./judge.js";
import { onKey } from "./keys.js";
import { followOpen, startLarge } from "./large.js";
import { follow } from "./live.js";
import { showNight } from "./night.js";
import { watchLeaving } from "./notes.js";
import { showReviewer } from "./reviewer.js";
import { onPicks } from "./selection.js";
import { focusCurrentShot, showSheet, startSheet } from "./sheet.js";
import { ofPictures, onChange, readHash, refreshSoon, state, watchPointer } from "./state.js";
import { presentRows, readBlocks, setup } from "./store.js";
import { say } from "./words.js";

function refresh({ keepPlace = false } = {}) {
  const rows = filtered();
  showHeader();
  showControls(rows);
  for (const [view] of VIEWS) byId(view).hidden = state.view !== view;
  byId("view-title").textContent = say.views[state.view] ?? say.picturesTitle;
  const message =
    presentRows().length === 0 && state.view !== "night"
      ? say.noJobs
      : rows.length === 0 && ofPictures()
        ? say.nothingPasses
        : "";
  byId("empty").hidden = message === "";
  byId("empty").textContent = message;
  const anchor = anchorOf();
  if (state.view === "sheet") showSheet(rows);
  else if (state.view === "charts") showCharts();
  else if (state.view === "night") showNight();
  else showGallery(rows);
  if (keepPlace) backTo(anchor);
  if (setup.live) showJudging();
  followOpen();
  followCompare();
}

// What the page has from the start is said in its language, too.
function speak() {
  document.documentElement.lang = say.tag;
  byId("skip").textContent = say.skip;
  byId("view-title").textContent = say.picturesTitle;
  const names = { controls: say.controlsName, judging: say.judgingName, reviewer: say.whoName };
  for (const [id, name] of Object.entries(names)) byId(id)?.setAttribute("aria-label", name);
}

async function start() {
  // The cookie lets in from here on; the token need not stand in the address that is shown and bookmarked.
  const search = new URLSearchParams(location.search);
  if (search.has("token")) {
    search.delete("token");
    history.replaceState(null, "", location.pathname + (search.size ? `?${search}` : "") + location.hash);
  }
  speak();
  readHash();
  if (!VIEWS.some(([view]) => view === state.view)) state.view = "gallery";
  onChange(refresh);
  startGallery();
  startSheet();
  startLarge();
  startCompare();
  if (setup.live) {
    onPicks(showJudging);
    showReviewer();
  }
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
  byId("skip").addEventListener("click", () => (state.view === "sheet" ? focusCurrentShot() : byId("gallery").focus()));
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
