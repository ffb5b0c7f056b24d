// Makes elements. Text becomes text nodes and attributes only: nothing on this page ever parses HTML.
const SVG = "http://www.w3.org/2000/svg";
/** @type {(id: string) => any} */
export const byId = (id) => document.getElementById(id);
/** @type {(host: ParentNode, selector: string) => any} */
export const find = (host, selector) => host.querySelector(selector);
// The control of a name (data-for) below `host`; `more` narrows it.
export const control = (host, name, more = "") => find(host, `[data-for="${CSS.escape(name)}"]${more}`);
// The element below `host` that has the focus, null when none has.
/** @type {(host: Node) => any} */
export const focusIn = (host) => (host.contains(document.activeElement) ? document.activeElement : null);
export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);
export const s = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

export function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// A select of [value, label] pairs.
export function choice(props, pairs, value) {
  const options = pairs.map(([of, label]) => h("option", { value: of, selected: of === value }, label));
  return h("select", props, options);
}

// An image, or what `lost` makes where it cannot be had. Whoever was asked in vain once is not asked again.
export const lostImages = new Set();
export function picture(src, props, lost) {
  if (lostImages.has(src)) return lost();
  const image = h("img", props);
  image.addEventListener("error", () => {
    lostImages.add(src);
    image.replaceWith(lost() ?? "");
  });
  image.src = src;
  return image;
}

// Only http and https leave the page, and they take nothing with them.
export function outside(url) {
  const fine = /^https?:\/\//i.test(url) && !url.endsWith("…");
  return fine ? h("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, url) : url;
}

// Call back when an element's width changes; its height is nobody's business.
export function onNewWidth(node, then) {
  let width = node.clientWidth;
  new ResizeObserver(() => {
    if (node.clientWidth === width) return;
    width = node.clientWidth;
    then();
  }).observe(node);
}

let newsTimer = 0;
export function tell(text, { bad = false, action = null } = {}) {
  const line = h("p", { class: bad ? "bad" : null }, text, action && " ", action);
  const news = byId("news");
  news.replaceChildren(line);
  // As a popover it lies above an open dialog, too; shown anew, above the latest.
  if (news.matches(":popover-open")) news.hidePopover();
  news.showPopover();
  clearTimeout(newsTimer);
  newsTimer = setTimeout(
    () => {
      line.remove();
      news.hidePopover();
    },
    bad ? 15000 : 8000,
  );
}

// One button of a row of them, of which some are pressed.
export const segment = (label, pressed, onclick, props = {}) =>
  h(
    "button",
    { type: "button", onclick, ...props, "aria-pressed": props["aria-current"] === undefined ? String(pressed) : null },
    label,
  );

// How much of the window's top the bar covers while the page is scrolled; CSS knows it as --bar.
export const barHeight = () => (getComputedStyle(byId("controls")).position === "sticky" ? byId("controls").offsetHeight : 0);
