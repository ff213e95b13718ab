//! Examples from a folder: images, or short recordings.

use std::path::{Path, PathBuf};

use edgeward_perceive::learner::Input;
use edgeward_perceive::vision::features;

use super::Examples;
use super::augment::Plan;
use crate::commands::net::FileError;
use crate::commands::pictures::{EXTENSIONS, files, load};
use crate::commands::sounds;
use crate::store::Progress;

/// Parts of a name are separated so.
const SEPARATOR: char = '_';

/// The class of a file is the folder it lies in, if there are several; else its name up to the first `_`.
pub(super) fn read(
    folder: &Path,
    group: Option<u8>,
    like: Option<&Input>,
    plan: impl FnOnce(&Input) -> Result<Option<Plan>, String>,
    progress: &Progress,
) -> Result<(Examples, Option<Plan>), Box<dyn std::error::Error>> {
    let (images, sounds) = (files(folder, &EXTENSIONS)?, files(folder, &sounds::EXTENSIONS)?);
    let (paths, input) = match (images.is_empty(), sounds.is_empty()) {
        (false, true) => (images, Input::Image),
        (true, false) => (sounds, Input::Sound),
        (true, true) => {
            let kinds = [&EXTENSIONS[..], &sounds::EXTENSIONS].concat().join(", ");
            return Err(
                FileError::new(folder, format!("there are no images and no recordings ({kinds})")).into()
            );
        }
        (false, false) => {
            return Err(FileError::new(folder, "images and recordings are mixed: keep them apart").into());
        }
    };
    if like.is_some_and(|like| *like != input) {
        return Err(FileError::new(folder, "these are other things than those that were learnt from").into());
    }
    let folder_of = |path: &PathBuf| path.parent().and_then(Path::file_name).map(|name| name.to_os_string());
    let are_sorted = paths.iter().any(|path| folder_of(path) != folder_of(&paths[0]));
    let plan = plan(&input)?;
    let n_copies = plan.as_ref().map_or(0, Plan::n_changed);
    let mut examples = Examples::new(input, "class");
    for (i, path) in paths.iter().enumerate() {
        if i % 100 == 0 {
            progress.note(&format!("Reading file {} of {}", i + 1, paths.len()));
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut parts = stem.split(SEPARATOR);
        examples.targets.push(match folder_of(path) {
            Some(name) if are_sorted => name.to_string_lossy().into_owned(),
            _ => parts.clone().next().unwrap_or_default().to_owned(),
        });
        if let Some(group) = group {
            let name = parts.nth(usize::from(group) - 1);
            examples.groups.push(name.ok_or_else(|| no_part(path, group))?.to_owned());
        }
        let (features, copies) = match (&examples.input, &plan) {
            (Input::Image, plan) => {
                let image = load(path)?;
                let copy = |copy, plan: &Plan| features(&plan.image(&image, &mut plan.chance(i, copy)));
                let copies = (0..n_copies).filter_map(|c| plan.as_ref().map(|plan| copy(c, plan)));
                (features(&image), copies.collect::<Vec<_>>())
            }
            (_, plan) => {
                let (rate, samples) = sounds::load(path)?;
                let mut clip = sounds::clip(path, rate)?;
                let whole = clip.features(&samples).to_vec();
                let mut copy =
                    |copy, plan: &Plan| plan.recording(&mut clip, &samples, &mut plan.chance(i, copy));
                let copies = (0..n_copies).filter_map(|c| plan.as_ref().map(|plan| copy(c, plan)));
                (whole, copies.collect())
            }
        };
        examples.samples.push(&features);
        for copy in copies {
            examples.copies.push(&copy);
            examples.copy_of.push(i);
        }
    }
    Ok((examples, plan))
}

fn no_part(path: &Path, group: u8) -> FileError {
    FileError::new(path, format!("its name has no part {group} between {SEPARATOR}"))
}
