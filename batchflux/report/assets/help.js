// The keys, and what a person sets for themselves, as a dialog lists them.
import { byId, h } from "./dom.js";
import { languageLink } from "./header.js";
import { set, settings } from "./settings.js";
import { refreshSoon } from "./state.js";
import { setup } from "./store.js";
import { say } from "./words.js";

export function openHelp() {
  const dialog = byId("help");
  const list = (keys) =>
    h(
      "dl",
      { class: "key-list" },
      keys.map(([key, says]) => [h("dt", null, h("kbd", null, key)), h("dd", null, says)]),
    );
  const tick = (name, words) =>
    h(
      "label",
      { class: "tick" },
      h("input", { type: "checkbox", "data-for": name, checked: settings[name], onchange: ({ target }) => {
        set({ [name]: target.checked });
        refreshSoon();
      } }),
      words,
    );
  dialog.replaceChildren(
    h("h2", { id: "help-title" }, say.keysTitle),
    list(setup.live ? [...say.keyList, ...say.judgeKeyList] : say.keyList),
    h("h3", null, say.settings),
    setup.live ? tick("advance", say.advance) : "",
    tick("singleKeys", say.singleKeys),
    h("p", null, `${say.languageIs}: `, languageLink()),
    h(
      "div",
      { class: "actions" },
      h("button", { type: "button", class: "main-action", onclick: () => dialog.close() }, say.close),
    ),
  );
  dialog.showModal();
}
