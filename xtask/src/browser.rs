//! A Chromium for the tests of the page: the one that is here, else Debian's, installed.

use std::path::PathBuf;
use std::process::Command;

/// Its names, by distribution.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// Where it is. Where it cannot be had, that is said, and `None`.
pub fn chromium() -> Option<PathBuf> {
    if let Some(path) = find() {
        return Some(path);
    }
    eprintln!("test: there is no Chromium here; installing Debian's");
    let outcome =
        apt(&["update"]).and_then(|()| apt(&["install", "--yes", "--no-install-recommends", "chromium"]));
    let found = find();
    if found.is_none() {
        let why = outcome.err().unwrap_or_else(|| "it is not on the path".to_owned());
        eprintln!(
            "test: the page is NOT tested, as there is no Chromium ({why}); `apt-get install chromium`"
        );
    }
    found
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|path| path.is_file())
}

/// Runs apt-get, with sudo if it lets us without asking.
pub fn apt(args: &[&str]) -> Result<(), String> {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let mut command = if is_root { Command::new("apt-get") } else { Command::new("sudo") };
    if !is_root {
        command.args(["-n", "apt-get"]);
    }
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    let output = command.output().map_err(|error| format!("apt-get could not be started: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("apt-get {} failed", args.join(" "))) }
}
