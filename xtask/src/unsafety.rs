//! `unsafe` is where it may be: in `kernels`, and in one file of `model` that maps memory.
//!
//! The crates' own `forbid(unsafe_code)` says the same and could be forgotten in a new crate; this cannot.

use std::fs;
use std::path::Path;

/// Folders and files with `unsafe`, relative to the repository.
const ALLOWED: [&str; 2] = ["crates/kernels", "crates/model/src/mmap.rs"];
/// Deeper than our folders go.
const MAX_DEPTH: usize = 12;

/// Every line with `unsafe` elsewhere.
pub fn findings(root: &Path) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    visit(root, root, 0, &mut findings)?;
    findings.sort();
    Ok(findings)
}

fn visit(root: &Path, dir: &Path, depth: usize, findings: &mut Vec<String>) -> Result<(), String> {
    let unreadable = |path: &Path, error| format!("could not read {}: {error}", path.display());
    if depth > MAX_DEPTH {
        return Err(format!("{} lies too deep", dir.display()));
    }
    for entry in fs::read_dir(dir).map_err(|error| unreadable(dir, error))? {
        let entry = entry.map_err(|error| unreadable(dir, error))?;
        let path = entry.path();
        let name = entry.file_name();
        // Not ours, or made by tools.
        let is_skipped = name == "target" || name.to_string_lossy().starts_with('.');
        let is_allowed = ALLOWED.iter().any(|allowed| path == root.join(allowed));
        if is_skipped || is_allowed {
            continue;
        }
        let kind = entry.file_type().map_err(|error| unreadable(&path, error))?;
        if kind.is_dir() {
            visit(root, &path, depth + 1, findings)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
            let shown = path.strip_prefix(root).unwrap_or(&path).display();
            for line in lines_with_unsafe(&text) {
                findings.push(format!("{shown}:{line}: `unsafe` belongs in {}", ALLOWED.join(" or ")));
            }
        }
    }
    Ok(())
}

/// Numbers of the lines with the keyword, outside comments and literals.
fn lines_with_unsafe(text: &str) -> Vec<usize> {
    let code = without_comments_and_literals(text);
    let has_keyword =
        |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
    code.lines().enumerate().filter(|(_, line)| has_keyword(line)).map(|(idx, _)| idx + 1).collect()
}

/// The code with everything else blanked, line breaks kept. Lexical structure: The Rust Reference, chapters "Comments"
/// and "Tokens".
fn without_comments_and_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut idx = 0;
    while idx < chars.len() {
        let end = match (chars[idx], chars.get(idx + 1)) {
            ('/', Some('/')) => line_end(&chars, idx),
            ('/', Some('*')) => block_comment_end(&chars, idx),
            ('"', _) => string_end(&chars, idx),
            ('r', Some('"' | '#')) if !follows_word(&chars, idx) => raw_string_end(&chars, idx),
            ('\'', _) => char_end(&chars, idx),
            _ => idx,
        };
        if end == idx {
            code.push(chars[idx]);
            idx += 1;
        } else {
            code.push(' ');
            code.extend(chars[idx..end].iter().filter(|c| **c == '\n'));
            idx = end;
        }
    }
    code
}

/// Whether the character at `idx` goes on a word; `b` and `c` before `r"` are prefixes of the literal.
fn follows_word(chars: &[char], idx: usize) -> bool {
    let is_word = |idx: usize| chars[idx].is_alphanumeric() || chars[idx] == '_';
    match idx {
        0 => false,
        1 => is_word(0) && !matches!(chars[0], 'b' | 'c'),
        _ => is_word(idx - 1) && (!matches!(chars[idx - 1], 'b' | 'c') || is_word(idx - 2)),
    }
}

fn line_end(chars: &[char], start: usize) -> usize {
    chars[start..].iter().position(|c| *c == '\n').map_or(chars.len(), |len| start + len)
}

/// Block comments nest.
fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut idx = start;
    while idx < chars.len() {
        match (chars[idx], chars.get(idx + 1)) {
            ('/', Some('*')) => (depth, idx) = (depth + 1, idx + 2),
            ('*', Some('/')) => (depth, idx) = (depth - 1, idx + 2),
            _ => idx += 1,
        }
        if depth == 0 {
            return idx;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut idx = start + 1;
    while idx < chars.len() {
        match chars[idx] {
            '\\' => idx += 2,
            '"' => return idx + 1,
            _ => idx += 1,
        }
    }
    chars.len()
}

/// `r"..."`, `r#"..."#`; `start` itself for a raw identifier such as `r#type`.
fn raw_string_end(chars: &[char], start: usize) -> usize {
    let n_hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + n_hashes;
    if chars.get(open) != Some(&'"') {
        return start;
    }
    let mut idx = open + 1;
    while idx < chars.len() {
        let closes = chars[idx] == '"'
            && chars[idx + 1..].iter().take(n_hashes).filter(|c| **c == '#').count() == n_hashes;
        if closes {
            return idx + 1 + n_hashes;
        }
        idx += 1;
    }
    chars.len()
}

/// `'x'` or `'\n'`; `start` itself for a lifetime.
fn char_end(chars: &[char], start: usize) -> usize {
    match (chars.get(start + 1), chars.get(start + 2)) {
        (Some('\\'), Some(_)) => {
            let close = chars[start + 3..].iter().position(|c| *c == '\'');
            close.map_or(chars.len(), |len| start + 3 + len + 1)
        }
        (Some(_), Some('\'')) => start + 3,
        _ => start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_keyword_and_only_it() {
        let found = |text: &str| lines_with_unsafe(text);
        assert_eq!(found("fn f() {\n    unsafe { g() }\n}"), [2]);
        assert_eq!(found("unsafe\nfn f() {}"), [1]);
        assert_eq!(found("#[unsafe(no_mangle)]"), [1]);
        for harmless in [
            "#![forbid(unsafe_code)]",
            "// unsafe",
            "/* unsafe /* unsafe */ unsafe */",
            "let a = \"unsafe \\\" unsafe\";",
            "let a = r#\"unsafe \" unsafe\"#;",
            "let a = br\"\\\"; let unsafely = 1;",
            "let a = b\"unsafe\";",
        ] {
            assert!(found(harmless).is_empty(), "{harmless}");
        }
        // What looks like the beginning of a literal and is none, or ends sooner than it seems.
        for (text, line) in [
            ("let a = '\"';\nunsafe {}", 2),
            ("let a = '\\'';\nunsafe {}", 2),
            ("let a = '\\\\';\nunsafe {}", 2),
            ("fn f<'a>(x: &'a str) {\nunsafe {}", 2),
            ("let a = r#type;\nunsafe {}", 2),
            ("let a = \"\\\\\";\nunsafe {}", 2),
            ("bar\"x\";\nunsafe {}", 2),
            ("let a = \"\n\n\";\nunsafe {}", 4),
            ("/* \n */ unsafe {}", 2),
        ] {
            assert_eq!(found(text), [line], "{text}");
        }
    }
}
