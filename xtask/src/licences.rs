//! Under which licences others' code may come in: permissive ones, and the Mozilla licence, which stays with its files.

use crate::metadata::Metadata;

/// SPDX ids that are fine for any dependency.
const ALLOWED: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// `(package, SPDX id)`: fine for just this package, with the reason beside it.
const EXCEPTIONS: [(&str, &str); 1] = [
    // Mozilla's list of certificate authorities: data, under a licence for data that asks only to be passed on.
    ("webpki-roots", "CDLA-Permissive-2.0"),
];

/// Every dependency whose licence does not allow what we do.
pub fn findings(metadata: &Metadata) -> Vec<String> {
    let mut findings = Vec::new();
    for package in metadata.packages.iter().filter(|package| !metadata.is_ours(package)) {
        let is_allowed =
            |id: &str| ALLOWED.contains(&id) || EXCEPTIONS.contains(&(package.name.as_str(), id));
        let verdict = match &package.license {
            None => Some("states no licence".to_owned()),
            Some(expression) => match satisfies(expression, &is_allowed) {
                Some(true) => None,
                Some(false) => {
                    Some(format!("its licence {expression:?} is not on the list in xtask/src/licences.rs"))
                }
                None => Some(format!("its licence {expression:?} cannot be read")),
            },
        };
        findings.extend(verdict.map(|verdict| format!("{} {}: {verdict}", package.name, package.version)));
    }
    findings
}

/// Whether a choice of licences that `expression` offers is allowed in all its parts; `None` if it cannot be read.
///
/// The grammar is SPDX 2.3, annex D: `WITH` binds tightest, then `AND`, then `OR`. Old crates write `/` for `OR`.
fn satisfies(expression: &str, is_allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, is_allowed };
    let verdict = parser.any()?;
    parser.words.is_empty().then_some(verdict)
}

struct Parser<'a> {
    words: &'a [&'a str],
    is_allowed: &'a dyn Fn(&str) -> bool,
}

impl Parser<'_> {
    fn take(&mut self, word: &str) -> bool {
        let is_next = self.words.first() == Some(&word);
        if is_next {
            self.words = &self.words[1..];
        }
        is_next
    }

    fn any(&mut self) -> Option<bool> {
        let mut verdict = self.all()?;
        while self.take("OR") {
            verdict |= self.all()?;
        }
        Some(verdict)
    }

    fn all(&mut self) -> Option<bool> {
        let mut verdict = self.one()?;
        while self.take("AND") {
            verdict &= self.one()?;
        }
        Some(verdict)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let verdict = self.any()?;
            return self.take(")").then_some(verdict);
        }
        let (id, rest) = self.words.split_first()?;
        if matches!(*id, ")" | "OR" | "AND" | "WITH") {
            return None;
        }
        self.words = rest;
        if self.take("WITH") {
            let (exception, rest) = self.words.split_first()?;
            self.words = rest;
            return Some((self.is_allowed)(&format!("{id} WITH {exception}")));
        }
        Some((self.is_allowed)(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        let is_allowed = |id: &str| ALLOWED.contains(&id);
        for (expression, verdict) in [
            ("MIT", Some(true)),
            ("GPL-3.0-only", Some(false)),
            ("MIT OR GPL-3.0-only", Some(true)),
            ("MIT AND GPL-3.0-only", Some(false)),
            ("GPL-3.0-only OR MIT AND Apache-2.0", Some(true)),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", Some(true)),
            ("(MIT OR Apache-2.0) AND GPL-3.0-only", Some(false)),
            ("MIT/Apache-2.0", Some(true)),
            ("Apache-2.0 WITH LLVM-exception OR MIT AND GPL-3.0-only", Some(true)),
            ("Apache-2.0 WITH Unknown-exception", Some(false)),
            ("", None),
            ("MIT MIT", None),
            ("(MIT", None),
            ("MIT OR", None),
            ("MIT)", None),
        ] {
            assert_eq!(satisfies(expression, &is_allowed), verdict, "{expression}");
        }
    }

    #[test]
    fn exceptions_are_for_one_package() {
        let metadata: Metadata = serde_json::from_value(serde_json::json!({
            "workspace_members": ["ours"],
            "packages": [
                { "id": "ours", "name": "ours", "version": "1.0.0", "dependencies": [] },
                { "id": "a", "name": "webpki-roots", "version": "1.0.0", "license": "CDLA-Permissive-2.0", "dependencies": [] },
                { "id": "b", "name": "other", "version": "1.0.0", "license": "CDLA-Permissive-2.0", "dependencies": [] },
                { "id": "c", "name": "silent", "version": "1.0.0", "license": null, "dependencies": [] },
            ],
        }))
        .unwrap();
        let found = findings(&metadata);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("other 1.0.0:") && found[1].starts_with("silent 1.0.0:"), "{found:?}");
    }
}
