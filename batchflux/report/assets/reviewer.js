// Who judges: asked once, without standing in anybody's way, and kept in this browser.
import { byId, h } from "./dom.js";
import { set, settings } from "./settings.js";
import { say } from "./words.js";

export function showReviewer({ asking = settings.reviewer === null } = {}) {
  const host = byId("reviewer");
  if (!asking) {
    const change = h("button", { type: "button", class: "plain", onclick: ask }, say.whoChange);
    host.replaceChildren(h("span", null, say.whoIs(settings.reviewer)), change);
    return;
  }
  const name = h("input", { id: "reviewer-name", maxlength: "100", autocomplete: "name", value: settings.reviewer ?? "" });
  const keep = (given) => {
    set({ reviewer: given.trim() });
    showReviewer();
    host.querySelector("button").focus();
  };
  const onsubmit = (event) => {
    event.preventDefault();
    keep(name.value);
  };
  host.replaceChildren(
    h(
      "form",
      { onsubmit },
      h("label", { for: "reviewer-name" }, say.who),
      name,
      h("button", { type: "submit" }, say.whoSave),
      h("button", { type: "button", class: "plain", onclick: () => keep("") }, say.whoNone),
    ),
  );
}

function ask() {
  showReviewer({ asking: true });
  byId("reviewer-name").focus();
}
