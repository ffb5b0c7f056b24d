// Axes, bars and lines for the charts. A unit is a pixel: a chart is drawn as wide as its column is.
import { h, s } from "./dom.js";
import { niceStep } from "./numbers.js";
import { clock, clockShort, day, dayAndClock, say } from "./words.js";

export let WIDE = 560;
export const TALL = 220;
export const LEFT = 52;
export const BOTTOM = 26;
export const TOP = 18;
let plotWide = 0;
const plotTall = TALL - BOTTOM - TOP;

export function setWidth(width) {
  WIDE = width;
  plotWide = WIDE - LEFT - 6;
}

// A chart's frame with a vertical axis up to `most` and labels under it; `labels` are [share of the width, text].
export function frame({ title, says, most, format, labels, least = 0 }) {
  const step = Math.max(least, niceStep(most / 4));
  const top = Math.max(step, Math.ceil(most / step - 1e-9) * step);
  const y = (value) => TOP + plotTall * (1 - value / top);
  const svg = s("svg", { viewBox: `0 0 ${WIDE} ${TALL}`, role: "img", "aria-label": `${title}. ${says}` });
  for (let value = 0; value <= top + step / 2; value += step) {
    svg.append(
      s("line", { class: value ? "grid" : "axis", x1: LEFT, x2: WIDE - 6, y1: y(value), y2: y(value) }),
      s("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, format(value)),
    );
  }
  for (const [share, label] of labels) {
    const anchor = share < 0.05 ? "start" : share > 0.95 ? "end" : "middle";
    svg.append(s("text", { x: LEFT + share * plotWide, y: TALL - 6, "text-anchor": anchor }, label));
  }
  return { svg, y, x: (share) => LEFT + share * plotWide };
}

// Bars over bins; several series stand on one another. `fills` are the classes of the series.
export function bars({ svg, x, y }, series, fills) {
  const count = series[0].length;
  const gap = count > 40 ? 0.5 : 1;
  const wide = plotWide / count;
  for (let k = 0; k < count; k++) {
    let base = 0;
    for (const [at, counts] of series.entries()) {
      if (!counts[k]) continue;
      const height = y(base) - y(base + counts[k]);
      svg.append(
        s("rect", {
          class: `bar ${fills[at] ?? ""}`,
          x: x(k / count) + gap / 2,
          width: Math.max(0.5, wide - gap),
          y: y(base + counts[k]),
          height,
        }),
      );
      base += counts[k];
    }
  }
}

const spanOf = ({ starts, width }) => starts.at(-1) + width - starts[0];
export const sayTime = (bins, time) => {
  const at = new Date(time * 1000);
  if (spanOf(bins) >= 86400) return bins.width >= 86400 ? day.format(at) : dayAndClock.format(at);
  return spanOf(bins) >= 7200 ? clockShort.format(at) : clock.format(at);
};

// Where the axis says the time: at its ends, in the middle of a run without cuts, at the cuts where there is room.
export function timeLabels(bins) {
  const { starts, width, cuts } = bins;
  const labels = [
    [0, sayTime(bins, starts[0])],
    [1, sayTime(bins, starts.at(-1) + width)],
  ];
  if (!cuts.length && starts.length > 1) labels.push([0.5, sayTime(bins, starts[0] + (starts.length * width) / 2)]);
  let last = 0;
  for (const cut of cuts) {
    const share = cut / starts.length;
    if ((share - last) * plotWide < 110 || (1 - share) * plotWide < 110) continue;
    labels.push([share, sayTime(bins, starts[cut])]);
    last = share;
  }
  return labels;
}

export function markCuts({ svg, x }, { starts, cuts }) {
  for (const cut of cuts) {
    const at = x(cut / starts.length);
    svg.append(
      s(
        "line",
        { class: "cut", x1: at, x2: at, y1: TOP, y2: TALL - BOTTOM },
        s("title", null, say.continued),
      ),
    );
  }
}

// The numbers of a chart as a table, for those who cannot see it or want them.
export function numbersTable(heads, rows) {
  return h(
    "details",
    null,
    h("summary", null, say.numbers),
    h(
      "div",
      { class: "numbers", tabindex: "0", role: "region", "aria-label": say.numbersOf(heads) },
      h(
        "table",
        null,
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            heads.map((head) => h("th", { scope: "col" }, head)),
          ),
        ),
        h(
          "tbody",
          null,
          rows.map((cells) =>
            h(
              "tr",
              null,
              cells.map((cell, k) => (k ? h("td", null, cell) : h("th", { scope: "row" }, cell))),
            ),
          ),
        ),
      ),
    ),
  );
}
