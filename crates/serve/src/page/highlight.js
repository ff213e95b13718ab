// Colours for code: comments, texts, numbers and words of the language. It guesses by the language's name only, and
// what it does not know stays plain.

import { element } from "./dom.js";

const C_COMMENT = "\\/\\/[^\\n]*|\\/\\*[\\s\\S]*?(?:\\*\\/|$)";
const SHELL_COMMENT = "(?:^|(?<=\\s))#[^\\n]*";
const TEXT = "\"(?:\\\\.|[^\"\\\\\\n])*\"?|'(?:\\\\.|[^'\\\\\\n])*'?";

const FAMILIES = [
  [/^(python|py|python3)$/i, "#[^\\n]*", `"""[\\s\\S]*?(?:"""|$)|'''[\\s\\S]*?(?:'''|$)|${TEXT}`,
    "and as assert async await break case class continue def del elif else except False finally for from global if import in is lambda match None nonlocal not or pass raise return self True try while with yield"],
  [/^(javascript|js|jsx|typescript|ts|tsx)$/i, C_COMMENT, `\`(?:\\\\.|[^\`\\\\])*\`?|${TEXT}`,
    "async await break case catch class const continue default delete do else enum export extends false finally for from function if implements import in instanceof interface let new null of return static super switch this throw true try type typeof undefined var void while yield"],
  [/^(rust|rs)$/i, C_COMMENT, "\"(?:\\\\.|[^\"\\\\])*\"?|'(?:\\\\.|[^'\\\\\\n])'",
    "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub ref return self Self static struct super trait true type unsafe use where while"],
  [/^(c|cpp|c\+\+|h|hpp|java|go|golang|swift|kotlin|cs|csharp|php|scala|dart)$/i, C_COMMENT, TEXT,
    "auto bool boolean break case catch char class const continue default defer delete do double else enum extends false final float for func fun go if implements import in int interface let long namespace new nil null package private protected public return short signed sizeof static string struct super switch template this throw true try type typedef unsigned using var val void volatile while"],
  [/^(bash|sh|shell|zsh|console)$/i, SHELL_COMMENT, TEXT, "case cd do done echo elif else esac exit export fi for function if in local return set sudo then while"],
  [/^(sql)$/i, "--[^\\n]*|\\/\\*[\\s\\S]*?(?:\\*\\/|$)", TEXT,
    "all and as asc between by case create delete desc distinct drop else end exists from group having in index inner insert into is join key left like limit not null on or order outer primary right select set table then union unique update values when where with", "i"],
  [/^(json|jsonc|yaml|yml|toml|ini)$/i, "#[^\\n]*|\\/\\/[^\\n]*", TEXT, "true false null yes no"],
  [/^(css|scss)$/i, "\\/\\*[\\s\\S]*?(?:\\*\\/|$)", TEXT, "important"],
  [/^(html|xml|svg)$/i, "<!--[\\s\\S]*?(?:-->|$)", TEXT, ""],
];

const NUMBER = "\\b(?:0[xXbBoO][\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\b";
/** More than this is not worth the time it takes at each piece of an answer, characters. */
const MAX_LEN = 20000;

/** Nodes of a piece of code. */
export function highlight(code, language) {
  const family = FAMILIES.find(([names]) => names.test(language));
  if (!family || code.length > MAX_LEN) return [code];
  const [, comment, text, words, flags] = family;
  const word = words ? `\\b(?:${words.replaceAll(" ", "|")})\\b` : "(?!)";
  const pattern = new RegExp(`(${comment})|(${text})|(${NUMBER})|(${word})`, `gm${flags ?? ""}`);
  const made = [];
  let end = 0;
  for (const found of code.matchAll(pattern)) {
    if (!found[0]) continue;
    made.push(code.slice(end, found.index));
    const kind = ["comment", "text", "number", "word"][found.slice(1).findIndex((group) => group !== undefined)];
    made.push(element("span", { class: `code-${kind}` }, found[0]));
    end = found.index + found[0].length;
  }
  made.push(code.slice(end));
  return made;
}
