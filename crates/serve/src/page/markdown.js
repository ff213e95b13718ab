// Markdown to elements. What a model says becomes elements and text nodes, never markup: there is no string of HTML
// anywhere, so there is nothing to escape and nothing to forget.
//
// Blocks: fenced code, headings, rules, quotes, lists (nested, ordered), tables, paragraphs. Within them: code, bold,
// italics, strikethrough, links. An image becomes its text, since nothing may be loaded from elsewhere. Anything else,
// HTML included, is text. Nesting is bounded, so that no text can exhaust the stack.

import { copy, element, icon } from "./dom.js";
import { highlight } from "./highlight.js";
import { word } from "./words.js";

const MAX_DEPTH = 8;

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+)(.*)$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

/** Nodes of a text. */
export const markdown = (text) => blocks(text.replaceAll("\r\n", "\n").split("\n"), 0);

function blocks(lines, depth) {
  if (depth > MAX_DEPTH) return [element("p", {}, lines.join("\n"))];
  const made = [];
  for (let i = 0; i < lines.length; ) {
    const line = lines[i];
    let found;
    if (!line.trim()) i++;
    else if ((found = line.match(FENCE))) {
      const [, fence, language] = found;
      const code = [];
      const isEnd = (line) => line.trim().startsWith(fence) && !line.trim().replaceAll(fence[0], "");
      for (i++; i < lines.length && !isEnd(lines[i]); i++) code.push(lines[i]);
      i++;
      made.push(codeBlock(code.join("\n"), language));
    } else if ((found = line.match(HEADING))) {
      // The page's own headings are the first two levels.
      made.push(element(`h${Math.min(6, found[1].length + 2)}`, {}, ...inline(found[2])));
      i++;
    } else if (RULE.test(line)) {
      made.push(element("hr"));
      i++;
    } else if (QUOTE.test(line)) {
      const inner = [];
      for (; i < lines.length && QUOTE.test(lines[i]); i++) inner.push(lines[i].replace(QUOTE, ""));
      made.push(element("blockquote", {}, ...blocks(inner, depth + 1)));
    } else if (ITEM.test(line)) {
      const [list, next] = listFrom(lines, i, depth);
      made.push(list);
      i = next;
    } else if (isTable(lines, i)) {
      const rows = [];
      const head = lines[i];
      for (i += 2; i < lines.length && lines[i].includes("|"); i++) rows.push(lines[i]);
      made.push(table(head, rows));
    } else {
      const paragraph = [];
      for (; i < lines.length && lines[i].trim() && !(paragraph.length && opensBlock(lines, i)); i++) paragraph.push(lines[i].trim());
      made.push(element("p", {}, ...paragraph.flatMap((line, n) => (n ? [element("br"), ...inline(line)] : inline(line)))));
    }
  }
  return made;
}

const isTable = (lines, i) => lines[i].includes("|") && DIVIDER.test(lines[i + 1] ?? "") && (lines[i + 1] ?? "").includes("-");

const opensBlock = (lines, i) =>
  [FENCE, HEADING, RULE, QUOTE, ITEM].some((opening) => opening.test(lines[i])) || isTable(lines, i);

/** The list that begins at a line, and the line after it. */
function listFrom(lines, start, depth) {
  const [, indent, marker] = lines[start].match(ITEM);
  const isOrdered = /\d/.test(marker);
  const list = element(isOrdered ? "ol" : "ul", isOrdered && parseInt(marker) !== 1 ? { start: parseInt(marker) } : {});
  let i = start;
  while (i < lines.length) {
    const item = lines[i].match(ITEM);
    if (!item || item[1].length > indent.length + 1 || item[1].length < indent.length || /\d/.test(item[2]) !== isOrdered) break;
    const width = item[1].length + item[2].length + 1;
    const inner = [item[4]];
    for (i++; i < lines.length; i++) {
      const line = lines[i];
      const isInside = line.length - line.trimStart().length >= Math.min(width, indent.length + 2);
      if (line.trim() && !isInside && (!inner.at(-1).trim() || opensBlock(lines, i))) break;
      inner.push(isInside ? line.slice(Math.min(width, line.length - line.trimStart().length)) : line.trim());
    }
    const children = blocks(inner, depth + 1);
    // An item of one paragraph needs no paragraph.
    if (children[0]?.localName === "p" && children.filter((child) => child.localName === "p").length === 1) {
      children[0].replaceWith(...children[0].childNodes);
      children.splice(0, 1, ...children[0].childNodes);
    }
    list.append(element("li", {}, ...children));
  }
  return [list, i];
}

function table(head, rows) {
  const cells = (row) => row.trim().replace(/^\|/, "").replace(/\|$/, "").split("|").map((cell) => cell.trim());
  const line = (row, tag) => element("tr", {}, ...cells(row).map((cell) => element(tag, tag === "th" ? { scope: "col" } : {}, ...inline(cell))));
  const made = element("table", {}, element("thead", {}, line(head, "th")), element("tbody", {}, ...rows.map((row) => line(row, "td"))));
  return element("div", { class: "table", tabindex: "0" }, made);
}

function codeBlock(code, language) {
  const button = element("button", { type: "button", class: "plain small" }, icon("copy"), word("copyCode"));
  button.onclick = async () => {
    await copy(code);
    button.replaceChildren(icon("done"), word("copied"));
    setTimeout(() => button.replaceChildren(icon("copy"), word("copyCode")), 1500);
  };
  const bar = element("div", { class: "code-bar" }, element("span", {}, language), button);
  return element("div", { class: "code" }, bar, element("pre", { tabindex: "0" }, element("code", {}, ...highlight(code, language))));
}

/** Marks that surround a text, the longer before the shorter. */
const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];

function inline(text, depth = 0) {
  if (depth > MAX_DEPTH) return [text];
  const made = [];
  let plain = "";
  const put = (node) => {
    if (plain) made.push(plain);
    plain = "";
    made.push(node);
  };
  for (let i = 0; i < text.length; ) {
    const rest = text.slice(i, i + 2048);
    let found;
    if ((found = rest.match(/^\\([!-/:-@[-`{-~])/))) {
      plain += found[1];
      i += 2;
    } else if ((found = rest.match(/^(`+)([^`]+)\1(?!`)/))) {
      put(element("code", {}, found[2].length > 2 ? found[2].replace(/^ (.*) $/, "$1") : found[2]));
      i += found[0].length;
    } else if ((found = rest.match(/^!?\[([^\][]*)\]\(([^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)?)(?:\s+"[^"]*")?\)/))) {
      put(rest[0] === "!" ? element("em", {}, found[1]) : link(found[2], inline(found[1], depth + 1)));
      i += found[0].length;
    } else if ((found = rest.match(/^https?:\/\/[^\s<>"'`*|，。；：！？、（）]+/)) && !/\w/.test(text[i - 1] ?? "")) {
      const url = found[0].replace(/[).,;:!?\]]+$/, "");
      put(link(url, [url]));
      i += url.length;
    } else {
      const mark = MARKS.find(([mark]) => rest.startsWith(mark));
      const end = mark ? closing(text, i, mark[0]) : -1;
      if (end > 0) {
        put(element(mark[1], {}, ...inline(text.slice(i + mark[0].length, end), depth + 1)));
        i = end + mark[0].length;
      } else {
        // A run of marks that opens nothing is text as a whole.
        const run = rest.match(/^([*_~])\1*/)?.[0] ?? rest[0];
        plain += run;
        i += run.length;
      }
    }
  }
  if (plain) made.push(plain);
  return made;
}

/** Where the mark that stands at `start` is closed; -1 if it opens nothing. */
function closing(text, start, mark) {
  const inner = start + mark.length;
  const isWord = (i) => /[\p{L}\p{N}]/u.test(text[i] ?? "");
  if (!text[inner] || /\s/.test(text[inner]) || (mark[0] === "_" && isWord(start - 1))) return -1;
  for (let end = text.indexOf(mark, inner + 1); end > 0; end = text.indexOf(mark, end + 1)) {
    const isPartOfLonger = mark.length === 1 && (text[end + 1] === mark || text[end - 1] === mark);
    if (!/\s/.test(text[end - 1]) && !isPartOfLonger && !(mark[0] === "_" && isWord(end + mark.length))) return end;
    if (isPartOfLonger) end++;
  }
  return -1;
}

/** A link, if it is one to the web; else its text. */
function link(url, children) {
  if (!/^https?:\/\//i.test(url)) return element("span", {}, ...children);
  return element("a", { href: url, rel: "noopener noreferrer", target: "_blank" }, ...children);
}
