//! Grammars in llama.cpp's notation, GBNF, as Lark grammars that `llguidance` reads.
//!
//! Source: llama.cpp, `grammars/README.md`. Rules are `name ::= alternatives`, of literals, classes of characters, names,
//! groups and repetitions; the answer is what `root` says. Classes become regular expressions of one character, and names
//! numbers, as Lark has other rules for names. A text that may be read as a literal or as characters is read as the longer,
//! so an ambiguous grammar may allow less here than there, never more.

use std::fmt::Write;

/// The longest grammar, bytes: published ones have a tenth.
const MAX_BYTES: usize = 64 << 10;
/// Groups within groups, and repetitions of repetitions, at most: `llguidance` bears fewer.
const MAX_DEPTH: usize = 64;

/// The Lark grammar.
///
/// # Errors
/// What is wrong, and on which line.
pub fn to_lark(source: &str) -> Result<String, String> {
    if source.len() > MAX_BYTES {
        return Err(format!("the grammar has {} bytes where {MAX_BYTES} are the most", source.len()));
    }
    let mut reader = Reader { rest: source, source, rules: Vec::new(), out: String::new() };
    reader.space(true);
    while !reader.rest.is_empty() {
        reader.rule()?;
    }
    if let Some((name, _)) = reader.rules.iter().find(|(_, is_defined)| !is_defined) {
        return Err(format!("the rule {name:?} is used and not defined"));
    }
    match reader.rules.iter().position(|(name, _)| *name == "root") {
        Some(root) => Ok(format!("start: r{root}\n{}", reader.out)),
        None => Err("there is no rule \"root\"".into()),
    }
}

struct Reader<'a> {
    rest: &'a str,
    source: &'a str,
    /// Names of rules in order of appearance, and whether they are defined yet: the place is the name in Lark.
    rules: Vec<(&'a str, bool)>,
    out: String,
}

impl<'a> Reader<'a> {
    fn error<T>(&self, what: &str) -> Result<T, String> {
        let line = self.source[..self.source.len() - self.rest.len()].matches('\n').count() + 1;
        Err(format!("line {line}: {what}"))
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next();
        self.rest = chars.as_str();
        next
    }

    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Passes over blanks and comments, and over ends of lines where they mean nothing.
    fn space(&mut self, over_lines: bool) {
        loop {
            match self.peek() {
                Some(' ' | '\t') => self.rest = &self.rest[1..],
                Some('\r' | '\n') if over_lines => self.rest = &self.rest[1..],
                Some('#') => {
                    let end = self.rest.find(['\r', '\n']).unwrap_or(self.rest.len());
                    self.rest = &self.rest[end..];
                }
                _ => return,
            }
        }
    }

    fn name(&mut self) -> Result<usize, String> {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        let (name, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        if name.is_empty() {
            return self.error("a name is expected here");
        }
        self.rest = rest;
        Ok(self.rules.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            self.rules.push((name, false));
            self.rules.len() - 1
        }))
    }

    fn rule(&mut self) -> Result<(), String> {
        let name = self.name()?;
        self.space(false);
        if !self.eat("::=") {
            return self.error("`::=` is expected here");
        }
        if std::mem::replace(&mut self.rules[name].1, true) {
            let what = format!("the rule {:?} is defined twice", self.rules[name].0);
            return self.error(&what);
        }
        self.space(true);
        let _ = write!(self.out, "r{name}: ");
        self.alternatives(0)?;
        if !matches!(self.peek(), None | Some('\r' | '\n')) {
            return self.error("a rule must end where its line ends");
        }
        self.out.push('\n');
        self.space(true);
        Ok(())
    }

    fn alternatives(&mut self, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return self.error("there are too many groups within groups");
        }
        self.sequence(depth)?;
        while self.eat("|") {
            self.out.push_str(" | ");
            self.space(true);
            self.sequence(depth)?;
        }
        Ok(())
    }

    fn sequence(&mut self, depth: usize) -> Result<(), String> {
        let mut is_empty = true;
        loop {
            let start = self.out.len();
            match self.peek() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.next();
                    self.out.push_str("/(?s:.)/");
                }
                Some('(') => {
                    self.next();
                    self.space(true);
                    self.out.push('(');
                    self.alternatives(depth + 1)?;
                    if !self.eat(")") {
                        return self.error("`)` is expected here");
                    }
                    self.out.push(')');
                }
                Some(c) if c.is_ascii_alphanumeric() => {
                    let name = self.name()?;
                    let _ = write!(self.out, "r{name}");
                }
                Some(c) if !matches!(c, '|' | ')' | '\r' | '\n') => {
                    return self.error(&format!("{c:?} is not expected here"));
                }
                _ => {
                    if is_empty {
                        self.out.push_str("\"\"");
                    }
                    return Ok(());
                }
            }
            is_empty = false;
            self.repetitions(start)?;
            self.out.push(' ');
            self.space(depth > 0);
        }
    }

    /// What is repeated begins at `start` of what is written. Several repetitions after each other apply one to the other.
    fn repetitions(&mut self, start: usize) -> Result<(), String> {
        for _ in 0..=MAX_DEPTH {
            self.space(false);
            let Some(c @ ('*' | '+' | '?' | '{')) = self.peek() else { return Ok(()) };
            self.next();
            if c != '{' {
                self.out.push(c);
            } else {
                let Some((range, rest)) = self.rest.split_once('}') else {
                    return self.error("`}` is expected after `{`");
                };
                let numbers = range.split_once(',').unwrap_or((range, range));
                let (min, max) = (numbers.0.trim(), numbers.1.trim());
                let is_number =
                    |text: &str| text.len() <= 6 && text.bytes().all(|byte| byte.is_ascii_digit());
                if min.is_empty() || !is_number(min) || !is_number(max) {
                    return self.error("a repetition is `{m}`, `{m,}` or `{m,n}`");
                }
                self.rest = rest;
                let _ = write!(self.out, "{{{min},{max}}}");
            }
            self.out.insert(start, '(');
            self.out.push(')');
        }
        self.error("there are too many repetitions of repetitions")
    }

    fn literal(&mut self) -> Result<(), String> {
        self.next();
        let mut text = String::new();
        loop {
            match self.peek() {
                None | Some('\n') => return self.error("the literal does not end"),
                Some('"') => break,
                Some(_) => text.push(self.char()?),
            }
        }
        self.next();
        self.out.push_str(&serde_json::Value::from(text).to_string());
        Ok(())
    }

    fn class(&mut self) -> Result<(), String> {
        self.next();
        let mut class = String::from(if self.eat("^") { "[^" } else { "[" });
        let mut is_empty = true;
        while !self.eat("]") {
            if matches!(self.peek(), None | Some('\n')) {
                return self.error("the class of characters does not end");
            }
            let first = self.char()?;
            let _ = write!(class, "\\x{{{:x}}}", u32::from(first));
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.next();
                let last = self.char()?;
                if last < first {
                    return self.error("a range of characters goes upwards");
                }
                let _ = write!(class, "-\\x{{{:x}}}", u32::from(last));
            }
            is_empty = false;
        }
        if is_empty {
            return self.error("the class of characters is empty");
        }
        let _ = write!(self.out, "/{class}]/");
        Ok(())
    }

    /// A character of a literal or a class, perhaps escaped.
    fn char(&mut self) -> Result<char, String> {
        let next = self.next();
        if next != Some('\\') {
            return next.map_or_else(|| self.error("there is more expected here"), Ok);
        }
        let n_digits = match self.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^')) => return Ok(c),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => return self.error("this is no escape: there are \\n \\r \\t \\\\ \\\" \\[ \\] \\x \\u \\U"),
        };
        let digits = self.rest.get(..n_digits).unwrap_or_default();
        let char = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
        let Some(char) = char.filter(|_| digits.bytes().all(|byte| byte.is_ascii_hexdigit())) else {
            return self.error(&format!("{n_digits} hexadecimal digits of a character are expected here"));
        };
        self.rest = &self.rest[n_digits..];
        Ok(char)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_rules() {
        let lark =
            to_lark("root ::= \"a\"{5,5} | item-list # so\nitem-list ::= ([^x\\n]+\n  \",\")? .").unwrap();
        let expected =
            "start: r0\nr0: (\"a\"{5,5})  | r1 \nr1: (((/[^\\x{78}\\x{a}]/+) \",\" )?) /(?s:.)/ \n";
        assert_eq!(lark, expected);
        assert_eq!(
            to_lark("root ::= [a-z0-] \"\\u00e9\\\"\"").unwrap(),
            "start: r0\nr0: /[\\x{61}-\\x{7a}\\x{30}\\x{2d}]/ \"é\\\"\" \n"
        );
        assert_eq!(to_lark("root ::= \"x\" |\n  ").unwrap(), "start: r0\nr0: \"x\"  | \"\"\n");
    }

    #[test]
    fn repetitions_of_repetitions_have_an_end() {
        let repeated = |n: usize| to_lark(&format!("root ::= \"a\"{}", "*".repeat(n)));
        assert!(repeated(MAX_DEPTH).is_ok());
        assert!(repeated(60_000).unwrap_err().contains("too many repetitions"));
    }

    #[test]
    fn what_is_no_grammar_is_said_by_line() {
        for (source, what) in [
            ("", "no rule \"root\""),
            ("root ::= this is (not valid GBNF", "line 1: `)`"),
            ("root ::= a", "\"a\" is used"),
            ("a ::= \"x\"\nroot := a", "line 2: `::=`"),
            ("root ::= \"x", "does not end"),
            ("root ::= [a", "does not end"),
            ("root ::= []", "empty"),
            ("root ::= [z-a]", "upwards"),
            ("root ::= \"\\q\"", "no escape"),
            ("root ::= \"\\u12\"", "4 hexadecimal"),
            ("root ::= \"\\x+1\"", "2 hexadecimal"),
            ("root ::= \"a\"{x}", "repetition"),
            ("root ::= \"a\"{1", "`}`"),
            ("root ::= <think>", "not expected"),
            ("root ::= \"a\"\nroot ::= \"b\"", "twice"),
            ("root ::= \"a\" )", "must end"),
        ] {
            let error = to_lark(source).unwrap_err();
            assert!(error.contains(what), "{source:?}: {error}");
        }
        assert!(to_lark(&"(".repeat(1000).replace("((", "root ::= ((")).is_err());
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(100), ")".repeat(100));
        assert!(to_lark(&deep).unwrap_err().contains("groups within groups"));
        assert!(to_lark(&" ".repeat(MAX_BYTES + 1)).is_err());
    }
}
