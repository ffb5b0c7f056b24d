// Shows a long list of lines of known heights, and has only those near the window in the document.
import { lastAtMost } from "./numbers.js";

export class Lines {
  // `make(line, k)` gives a line's element; it is asked again after each `set`.
  constructor(host, make) {
    this.host = host;
    this.make = make;
    this.lines = [];
    this.tops = [];
    this.shown = new Map();
    this.asked = 0;
    this.later = () => {
      this.asked ||= requestAnimationFrame(() => {
        this.asked = 0;
        this.show();
      });
    };
    addEventListener("scroll", this.later, { passive: true });
    addEventListener("resize", this.later, { passive: true });
  }

  // Show nothing any more.
  stop() {
    removeEventListener("scroll", this.later);
    removeEventListener("resize", this.later);
    cancelAnimationFrame(this.asked);
  }

  set(lines) {
    this.lines = lines;
    this.tops = new Array(lines.length);
    let top = 0;
    for (let k = 0; k < lines.length; k++) {
      this.tops[k] = top;
      top += lines[k].height;
    }
    this.host.style.height = `${top}px`;
    for (const node of this.shown.values()) node.remove();
    this.shown.clear();
    this.show();
  }

  show() {
    if (!this.host.offsetParent) return;
    const box = this.host.getBoundingClientRect();
    const first = this.at(-box.top - innerHeight * 0.75);
    const last = this.at(-box.top + innerHeight * 1.75);
    for (const [k, node] of this.shown) {
      if (k < first || k > last) {
        node.remove();
        this.shown.delete(k);
      }
    }
    const fresh = document.createDocumentFragment();
    for (let k = first; k <= last && k < this.lines.length; k++) {
      if (this.shown.has(k)) continue;
      const node = this.make(this.lines[k], k);
      node.style.top = `${this.tops[k]}px`;
      node.style.height = `${this.lines[k].height}px`;
      this.shown.set(k, node);
      fresh.append(node);
    }
    if (fresh.childNodes.length) this.host.append(fresh);
  }

  // The line at this height.
  at(y) {
    return this.tops.length ? lastAtMost(this.tops, y) : 0;
  }

  // Bring a line into the window; `under` is how much of its top something covers.
  reveal(k, under) {
    const top = this.host.getBoundingClientRect().top + this.tops[k];
    const bottom = top + this.lines[k].height;
    if (top < under) scrollBy(0, top - under - 8);
    else if (bottom > innerHeight) scrollBy(0, bottom - innerHeight + 8);
    this.show();
  }
}
