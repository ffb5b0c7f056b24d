// Puts the page together: first from what has been read so far, then from all of it, then after every change.
let versionsSum = 0;
let soon = 0;
let pressed = false;
let held = false;

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

// Not while a button is held down: what is being clicked would be torn out from under the pointer, and the click lost.
function refreshSoon() {
  if (pressed) {
    held = true;
    return;
  }
  soon ||= requestAnimationFrame(() => {
    soon = 0;
    if (pressed) held = true;
    else refresh({ keepPlace: true });
  });
}

function watchPointer() {
  const release = () => {
    pressed = false;
    if (held) setTimeout(refreshSoon);
    held = false;
  };
  addEventListener("pointerdown", () => (pressed = true), true);
  for (const name of ["pointerup", "pointercancel"]) addEventListener(name, release, true);
  addEventListener("blur", release); // the window's own
  addEventListener("pointermove", ({ buttons }) => pressed && buttons === 0 && release(), {
    capture: true,
    passive: true,
  });
}

async function start() {
  // The cookie lets in from here on; the token need not stand in the address that is shown and bookmarked.
  if (location.search.includes("token=")) history.replaceState(null, "", location.pathname + location.hash);
  readHash();
  if (!VIEWS.some(([view]) => view === state.view)) state.view = "gallery";
  startGallery();
  startLarge();
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
