// Elements, and what the browser keeps for us.

export const $ = (id) => document.getElementById(id);

/** A new element; `attributes` that are null or false are left out. Children are nodes or texts, never markup. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

/** A new element of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** One of the page's own drawings. */
export const icon = (name) => svg("svg", { "aria-hidden": "true" }, svg("use", { href: `#icon-${name}` }));

/** A browser may forbid storage, or have no more of it: then nothing is kept, and `write` says so. */
export const store = {
  read(name, other) {
    try {
      return JSON.parse(localStorage.getItem(`edgeward.${name}`)) ?? other;
    } catch {
      return other;
    }
  },
  write(name, value) {
    try {
      localStorage.setItem(`edgeward.${name}`, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  },
};

/** Copies a text, where the browser lets us: over HTTP that is only on this machine. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element("textarea", { class: "unseen" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
