//! Which of our crates may know which. ARCHITECTURE.md draws and explains the same.

use crate::metadata::Metadata;

/// `(crate, what it may depend on)`; what those may depend on is included.
const ARROWS: [(&str, &[&str]); 14] = [
    ("kernels", &[]),
    ("model", &["kernels"]),
    ("engine", &["model"]),
    ("learn", &["engine"]),
    ("perceive", &["kernels"]),
    ("compress", &["learn", "perceive"]),
    ("explain", &["learn"]),
    ("guard", &[]),
    ("bundle", &[]),
    ("protocol", &[]),
    ("serve", &["engine", "guard"]),
    ("agent", &["serve", "learn", "perceive", "guard", "bundle", "protocol"]),
    ("fleet", &["bundle", "protocol"]),
    ("cli", &["compress", "explain", "agent", "fleet"]),
];

/// Every dependency between our crates that is no arrow.
pub fn findings(metadata: &Metadata) -> Vec<String> {
    let ours: Vec<_> = metadata.packages.iter().filter(|package| metadata.is_ours(package)).collect();
    let mut findings = Vec::new();
    for package in &ours {
        let from = short(&package.name);
        // The chores know nobody, and nobody knows them.
        if from != "xtask" && direct(from).is_none() {
            findings.push(format!(
                "{}: not in xtask/src/arrows.rs; add it there and to ARCHITECTURE.md",
                package.name
            ));
        }
        for dependency in &package.dependencies {
            let is_ours = ours.iter().any(|other| other.name == dependency.name);
            let to = short(&dependency.name);
            if is_ours && !reaches(from, to) {
                findings.push(format!("{from} -> {to}: {from} must not know {to} (ARCHITECTURE.md)"));
            }
        }
    }
    findings
}

/// `edgeward-kernels` -> `kernels`; the binary's package is `edgeward`, in the folder `cli`.
fn short(package: &str) -> &str {
    match package {
        "edgeward" => "cli",
        _ => package.strip_prefix("edgeward-").unwrap_or(package),
    }
}

fn direct(from: &str) -> Option<&'static [&'static str]> {
    ARROWS.iter().find(|(name, _)| *name == from).map(|(_, to)| *to)
}

/// Terminates because every crate in `ARROWS` points only to crates above it in the table.
fn reaches(from: &str, to: &str) -> bool {
    direct(from).unwrap_or_default().iter().any(|next| *next == to || reaches(next, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_so_has_no_cycle() {
        for (idx, (name, targets)) in ARROWS.iter().enumerate() {
            for to in *targets {
                assert!(ARROWS[..idx].iter().any(|(above, _)| above == to), "{name} -> {to}");
            }
        }
    }

    #[test]
    fn finds_what_is_no_arrow() {
        let package = |name: &str, dependencies: &[&str]| {
            let dependencies: Vec<_> =
                dependencies.iter().map(|name| serde_json::json!({ "name": name })).collect();
            serde_json::json!({ "id": name, "name": name, "version": "1.0.0", "dependencies": dependencies })
        };
        let metadata: Metadata = serde_json::from_value(serde_json::json!({
            "workspace_members": ["edgeward-kernels", "edgeward-model", "edgeward-engine", "edgeward", "edgeward-utils"],
            "packages": [
                package("edgeward-kernels", &["edgeward-model"]),
                package("edgeward-model", &["edgeward-kernels", "serde"]),
                package("edgeward-engine", &["edgeward-model", "edgeward-kernels"]),
                package("edgeward", &["edgeward-engine", "edgeward-kernels", "edgeward-utils"]),
                package("edgeward-utils", &[]),
                package("serde", &["edgeward-of-someone-else"]),
            ],
        }))
        .unwrap();
        let found = findings(&metadata);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("kernels -> model:"), "{found:?}");
        assert!(found[1].starts_with("cli -> utils:"), "{found:?}");
        assert!(found[2].starts_with("edgeward-utils: not in"), "{found:?}");
    }
}
