// The monitor: the server's own metrics, every second, as lines over the last two minutes.
//
// It watches while the page is seen, so that there is something to look at when the monitor is opened. When metrics may
// not be read, it asks again only while the monitor is open.

import { reason } from "./chat.js";
import { $, element, icon, svg } from "./dom.js";
import { headers } from "./settings.js";
import { word } from "./words.js";

const N_SAMPLES = 120;
const PERIOD_MS = 1000;

const number = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
const milliseconds = (value) => (value >= 1000 ? `${number(value / 1000)} s` : `${number(value)} ms`);
const bytes = (value) => (value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(2)} GiB` : `${(value / 2 ** 20).toFixed(0)} MiB`);

/** `series` are functions of how much counters have grown and of what there is now; null is "not known". */
const CHARTS = [
  { name: "rate", text: number, series: { rate: (grown) => grown("generated_tokens_total") / grown("at_s") } },
  { name: "prompt", text: number, series: { prompt: (grown) => grown("prompt_tokens_total") / grown("at_s") } },
  { name: "ttft", text: milliseconds, series: { ttft: (grown) => mean(grown, "ttft_seconds") } },
  { name: "gap", text: milliseconds, series: { gap: (grown) => mean(grown, "inter_token_seconds") } },
  { name: "queue", text: number, series: { active: (_, now) => now.requests_active, queued: (_, now) => now.requests_waiting } },
  {
    name: "hits", text: (value) => `${number(value)} %`, most: 100,
    series: { hits: (grown) => share(100 * grown("cached_tokens_total"), grown("cached_tokens_total") + grown("prompt_tokens_total")) },
  },
  { name: "memory", text: bytes, series: { memory: (_, now) => now.resident_bytes ?? null } },
  { name: "kv", text: bytes, series: { reserved: (_, now) => now.kv_reserved_bytes, cache: (_, now) => now.cache_bytes } },
  { name: "heat", text: (value) => `${number(value)} °C`, isOptional: true, series: { heat: (_, now) => now.temperature_celsius ?? null } },
];

const share = (part, whole) => (whole > 0 ? part / whole : null);
const mean = (grown, name) => share(1000 * grown(`${name}_sum`), grown(`${name}_count`));

/** By the name of a series, the values of the last two minutes. */
const samples = new Map(CHARTS.flatMap((chart) => Object.keys(chart.series).map((name) => [name, []])));
let last = null;
let trouble = null;
let timer = null;
let isOpen = false;

/** Metrics by name, summed over their labels. */
export function parse(text) {
  const sums = {};
  for (const line of text.split("\n")) {
    const found = line.match(/^edgeward_(\w+)(?:\{.*\})? (\S+)$/);
    if (found) sums[found[1]] = (sums[found[1]] ?? 0) + Number(found[2]);
  }
  return sums;
}

async function watch() {
  if (document.hidden || (trouble && !isOpen)) return;
  try {
    const response = await fetch("/metrics", { headers: headers() });
    if (!response.ok) throw new Error(await reason(response));
    const now = { ...parse(await response.text()), at_s: performance.now() / 1000 };
    if (last) {
      const grown = (name) => (now[name] ?? 0) - (last[name] ?? 0);
      for (const { series } of CHARTS) {
        for (const [name, value] of Object.entries(series)) put(name, value(grown, now));
      }
    }
    last = now;
    trouble = null;
  } catch (error) {
    last = null;
    trouble = error instanceof TypeError ? word("unreachable") : error.message;
  }
  if (isOpen) draw();
}

function put(name, value) {
  const line = samples.get(name);
  line.push(value);
  if (line.length > N_SAMPLES) line.shift();
}

export function start() {
  timer ??= setInterval(watch, PERIOD_MS);
  watch();
}

/** The monitor is opened or closed. */
export function setOpen(isNowOpen) {
  isOpen = isNowOpen;
  if (isOpen) {
    draw();
    watch();
  }
}

export function showModels(models) {
  $("models").replaceChildren(...models.map(({ id, meta }) =>
    element("li", {}, element("b", {}, id),
      element("span", { class: "soft" }, [meta?.family, meta && bytes(meta.size), meta && word("tokensOfContext")(meta.n_ctx)].filter(Boolean).join(" · ")))));
}

// ---- Drawing

/** Charts in the language of the page; their lines are drawn by `draw`. */
export function build() {
  $("charts").replaceChildren(...CHARTS.map((chart) => {
    const names = Object.keys(chart.series);
    const title = element("h3", {}, word(chart.name));
    chart.now = element("b", { class: "now" });
    const legend = names.length < 2 ? [] : names.map((name, i) => element("span", { class: `key key-${i}` }, word(name)));
    chart.lines = names.map((_, i) => [svg("path", { class: `area area-${i}` }), svg("path", { class: `line line-${i}` })]);
    chart.cross = svg("line", { class: "cross", y1: 0, y2: 100 });
    chart.drawing = svg("svg", { viewBox: `0 0 ${N_SAMPLES - 1} 100`, preserveAspectRatio: "none", role: "img" },
      ...[0, 50, 100].map((y) => svg("line", { class: "grid", x1: 0, x2: N_SAMPLES - 1, y1: y, y2: y })), ...chart.lines.flat(), chart.cross);
    chart.top = element("span", { class: "top" });
    chart.at = null;
    const point = (event) => {
      const box = chart.drawing.getBoundingClientRect();
      chart.at = Math.round(((event.clientX - box.left) / box.width) * (N_SAMPLES - 1));
      drawChart(chart);
    };
    chart.drawing.onpointermove = point;
    chart.drawing.onpointerleave = () => {
      chart.at = null;
      drawChart(chart);
    };
    chart.figure = element("figure", { id: `chart-${chart.name}` },
      element("figcaption", {}, element("div", {}, title, ...legend), chart.now),
      element("div", { class: "plot" }, chart.drawing, chart.top),
      element("div", { class: "axis", "aria-hidden": "true" }, element("span", {}, word("ago")), element("span", {}, word("now"))));
    return chart.figure;
  }));
  draw();
}

export function draw() {
  $("pulse").className = `pulse ${trouble ? "wrong" : last ? "live" : ""}`;
  $("pulse").textContent = word(trouble ? "away" : last ? "live" : "waiting");
  $("monitor-trouble").hidden = !trouble;
  $("monitor-trouble").replaceChildren(...(trouble ? [icon("warning"), element("div", {}, element("b", {}, word("noMonitor")), " ", trouble)] : []));
  CHARTS.forEach(drawChart);
}

/** The least of 1, 2 and 5 times a power of ten that is no less. */
function round(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((times) => times * power).find((rounded) => rounded >= value * 0.999);
}

/** What charts of bytes go up to: a power of two of them. */
const topOf = (chart, most) => chart.most ?? (most <= 0 ? 1 : chart.text === bytes ? 2 ** Math.ceil(Math.log2(most * 1.05)) : round(most * 1.05));

function drawChart(chart) {
  const lines = Object.keys(chart.series).map((name) => samples.get(name));
  const known = lines.flat().filter((value) => value !== null);
  chart.figure.hidden = Boolean(chart.isOptional) && known.length === 0;
  const top = topOf(chart, Math.max(0, ...known));
  chart.top.textContent = known.length ? chart.text(top) : "";
  lines.forEach((line, i) => {
    const first = N_SAMPLES - line.length;
    const points = line.flatMap((value, x) => (value === null ? [] : [[first + x, 100 - (100 * value) / top]]));
    const path = points.map(([x, y], n) => `${n ? "L" : "M"}${x} ${y.toFixed(2)}`).join("");
    // A single point is no line.
    chart.lines[i][1].setAttribute("d", points.length === 1 ? `${path}h0.01` : path);
    chart.lines[i][0].setAttribute("d", points.length > 1 ? `${path}L${points.at(-1)[0]} 100L${points[0][0]} 100Z` : "");
  });
  const first = N_SAMPLES - lines[0].length;
  const at = chart.at !== null && chart.at >= first ? chart.at - first : null;
  chart.cross.classList.toggle("on", at !== null);
  if (at !== null) {
    chart.cross.setAttribute("x1", chart.at);
    chart.cross.setAttribute("x2", chart.at);
  }
  // What was last known stands for now.
  const value = (line) => (at !== null ? line[at] : line.findLast((value) => value !== null));
  const shown = lines.map(value).map((value) => (value === null || value === undefined ? "–" : chart.text(value))).join(" / ");
  const when = at !== null ? element("small", {}, word("secondsAgo")(lines[0].length - 1 - at)) : "";
  chart.now.replaceChildren(shown, when);
  const name = word(chart.name);
  const label = known.length ? word("chart")(name, shown, chart.text(Math.min(...known)), chart.text(Math.max(...known))) : `${name}: ${word("nothing")}`;
  chart.drawing.setAttribute("aria-label", label);
}
