//! What `cargo metadata` says, as far as the checks need it.

use std::process::{Command, Stdio};

use serde::Deserialize;

/// All packages of the dependency graph, for every platform.
#[derive(Deserialize)]
pub struct Metadata {
    /// Ours and others'.
    pub packages: Vec<Package>,
    /// Ids of ours.
    pub workspace_members: Vec<String>,
}

/// A package.
#[derive(Deserialize)]
pub struct Package {
    /// Opaque id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SPDX expression, if it states one.
    pub license: Option<String>,
    /// Declared dependencies: normal, build and dev.
    pub dependencies: Vec<Dependency>,
}

/// A declared dependency.
#[derive(Deserialize)]
pub struct Dependency {
    /// The package's name, not what it may be renamed to.
    pub name: String,
}

impl Metadata {
    /// Runs `command` and reads what it prints.
    pub fn load(mut command: Command) -> Result<Metadata, String> {
        let output = command
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("cargo metadata could not be started: {error}"))?;
        if !output.status.success() {
            return Err("`cargo metadata --locked` failed; is Cargo.lock up to date?".into());
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("cargo metadata cannot be read: {error}"))
    }

    /// Whether a package is ours.
    pub fn is_ours(&self, package: &Package) -> bool {
        self.workspace_members.contains(&package.id)
    }
}
