// Settings: kept in the browser, sent with each question.

import { $, element, store } from "./dom.js";
import { word } from "./words.js";

/** Those with a range are shown as sliders. The defaults are the server's own. */
const SAMPLERS = [
  { name: "temperature", least: 0, most: 2, step: 0.05, usual: 0.8 },
  { name: "top_p", least: 0.05, most: 1, step: 0.05, usual: 0.95 },
  { name: "min_p", least: 0, most: 0.5, step: 0.01, usual: 0.05 },
  { name: "repetition_penalty", least: 1, most: 1.5, step: 0.01, usual: 1 },
  { name: "top_k", least: 0, usual: 0 },
  { name: "max_tokens", least: 1, usual: 1024 },
  { name: "seed", usual: null },
];

const settings = store.read("settings", {});

/** The value of a setting, or what is usual. */
export const setting = (name) => settings[name] ?? SAMPLERS.find((sampler) => sampler.name === name)?.usual ?? null;

export function set(name, value) {
  if (value === null || value === "" || Number.isNaN(value)) delete settings[name];
  else settings[name] = value;
  store.write("settings", settings);
}

/** The fields of a request that settings make. */
export function samplerFields() {
  const chosen = SAMPLERS.map(({ name }) => [name, setting(name)]);
  return Object.fromEntries(chosen.filter(([, value]) => value !== null));
}

/** Headers of every request. */
export function headers() {
  const key = setting("key");
  return { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
}

/** Builds the fields for samplers, in the language of the page. */
export function showSamplers() {
  $("samplers").replaceChildren(...SAMPLERS.map((sampler) => {
    const { name, least, most, step = 1 } = sampler;
    const isSlider = most !== undefined;
    const input = element("input", {
      id: name, type: isSlider ? "range" : "number", min: least, max: most, step, inputmode: "decimal", "aria-describedby": `${name}-note`,
    });
    input.value = setting(name) ?? "";
    const shown = element("output", { for: name }, isSlider ? String(setting(name)) : "");
    input.oninput = () => {
      const value = input.value === "" ? null : Number(input.value);
      if (input.checkValidity()) set(name, value);
      if (isSlider) shown.textContent = input.value;
    };
    const label = element("label", { for: name }, element("span", {}, word(name)), shown);
    return element("div", { class: "sampler" }, label, input, element("p", { id: `${name}-note`, class: "soft" }, word(`${name}Note`)));
  }));
}

/** Back to what is usual, but for the key and the model. */
export function reset() {
  for (const { name } of SAMPLERS) set(name, null);
  set("system", null);
  $("system").value = "";
  showSamplers();
}
