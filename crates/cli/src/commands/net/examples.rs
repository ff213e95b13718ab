//! Examples for a network: images that are prepared, or files of plain numbers.

use std::fs;
use std::path::{Path, PathBuf};

use edgeward_perceive::Network;

use super::FileError;
use crate::commands::pictures::{EXTENSIONS, PictureArgs, ends_in, load, paths};
use crate::commands::see::labels;
use crate::store;

/// Bytes of the largest file of numbers.
const MAX_FILE_BYTES: u64 = 1 << 30;
/// Numbers of all examples.
const MAX_NUMBERS: usize = 1 << 28;

/// What networks are asked, and what is right.
#[derive(clap::Args)]
pub(super) struct QuestionArgs {
    /// Images, folders of images, or files of float32 numbers, one input after the other
    #[arg(long, short, required = true, num_args = 1..)]
    inputs: Vec<PathBuf>,
    /// Names of the classes, in order: an image's is the name of the folder in which it lies
    #[arg(long, short)]
    labels: Option<String>,
    /// A file with the number of each input's right class on a line
    #[arg(long, conflicts_with = "labels")]
    targets: Option<PathBuf>,
    /// Most inputs to use
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    examples: u32,
    #[command(flatten)]
    pictures: PictureArgs,
}

impl QuestionArgs {
    /// The inputs as `network` takes them.
    pub(super) fn read(&self, network: &Network) -> Result<Examples, Box<dyn std::error::Error>> {
        self.read_at_most(network, self.examples as usize)
    }

    /// At most `n` of them.
    pub(super) fn read_at_most(
        &self,
        network: &Network,
        n: usize,
    ) -> Result<Examples, Box<dyn std::error::Error>> {
        read(&self.inputs, network, &self.pictures, n)
    }

    /// The right class of each of `examples`, which were read by this, if it is known.
    pub(super) fn right_classes(
        &self,
        examples: &Examples,
        n_classes: usize,
    ) -> Result<Option<Vec<usize>>, Box<dyn std::error::Error>> {
        examples.right_classes(self.labels.as_deref(), self.targets.as_deref(), n_classes)
    }
}

/// Inputs of a network, one example after the other.
pub(super) struct Examples {
    /// Of each example, its inputs.
    pub(super) values: Vec<Vec<Vec<f32>>>,
    /// The folder in which each image lies, by name; of numbers there is none.
    pub(super) folders: Vec<String>,
    /// Whether they were images.
    are_images: bool,
    /// How many there were before some were taken.
    n_before: usize,
}

/// One example of so many is kept to compare on.
const HELD_OUT: usize = 4;

/// What black and white are to a network of floats, unless that is said.
const USUAL_RANGE: (f32, f32) = (0.0, 1.0);

impl Examples {
    /// What black and white are to the network; of numbers nothing is known.
    pub(super) fn input_range(&self, pictures: &PictureArgs) -> Option<(f32, f32)> {
        self.are_images.then(|| pictures.range.unwrap_or(USUAL_RANGE))
    }

    /// Which of them are to be learnt from, and which are kept to compare on: of too few, all are both.
    pub(super) fn split(&self) -> (Vec<usize>, Vec<usize>) {
        let all = 0..self.values.len();
        if all.len() < HELD_OUT {
            return (all.clone().collect(), all.collect());
        }
        all.partition(|i| i % HELD_OUT != HELD_OUT - 1)
    }

    /// Of one thing for each input that was given, those of the inputs that were taken.
    fn pick<T>(&self, all: Vec<T>) -> Vec<T> {
        spread(all, self.values.len())
    }

    /// The right class of each input, if it is known: by the name of its folder, or by a line of a file.
    pub(super) fn right_classes(
        &self,
        names: Option<&str>,
        targets: Option<&Path>,
        n_classes: usize,
    ) -> Result<Option<Vec<usize>>, Box<dyn std::error::Error>> {
        if let Some(names) = names {
            return self.classes(&labels(Some(names), n_classes)?).map(Some);
        }
        let Some(path) = targets else { return Ok(None) };
        let text = fs::read_to_string(path).map_err(|error| FileError::new(path, error))?;
        let classes: Result<Vec<usize>, _> = text.lines().map(|line| line.trim().parse()).collect();
        let classes = classes.map_err(|_| FileError::new(path, "give the number of a class on each line"))?;
        if classes.len() != self.n_before {
            let what = format!("{} classes for {} inputs: give one for each", classes.len(), self.n_before);
            return Err(FileError::new(path, what).into());
        }
        Ok(Some(self.pick(classes)))
    }

    /// SHA-256 of all numbers, little-endian, in hexadecimal.
    pub(super) fn sha256(&self) -> std::io::Result<String> {
        let numbers = self.values.iter().flatten().flatten();
        let bytes: Vec<u8> = numbers.flat_map(|number| number.to_le_bytes()).collect();
        Ok(store::sha256(bytes.as_slice())?.0.to_hex())
    }

    /// The class of each image, by the name of its folder.
    fn classes(&self, labels: &[String]) -> Result<Vec<usize>, Box<dyn std::error::Error>> {
        if self.folders.is_empty() {
            return Err("numbers have no right classes: give folders of images with --labels".into());
        }
        let class = |folder: &String| {
            labels.iter().position(|label| label == folder).ok_or_else(|| {
                format!("an image lies in the folder {folder}, and no class has this name").into()
            })
        };
        self.folders.iter().map(class).collect()
    }
}

/// Reads what `given` names: folders and images, or files of float32 numbers, little-endian, as many as the network takes
/// for each example. At most `n` of them, spread over all.
pub(super) fn read(
    given: &[PathBuf],
    network: &Network,
    pictures: &PictureArgs,
    n: usize,
) -> Result<Examples, Box<dyn std::error::Error>> {
    let are_images = given.iter().all(|path| path.is_dir() || ends_in(path, &EXTENSIONS));
    if are_images {
        let paths = paths(given)?;
        let n_before = paths.len();
        let paths = spread(paths, n);
        let (mut values, mut folders) = (Vec::new(), Vec::new());
        for path in paths {
            let image = load(&path)?;
            let prepared = pictures.preparation(None).prepare(&image, &network.inputs()[0]);
            values.push(vec![prepared.map_err(|error| FileError::new(&path, error))?.0]);
            check(values.len() * values[0][0].len())?;
            let folder = path.parent().and_then(Path::file_name);
            folders.push(folder.map_or_else(String::new, |name| name.to_string_lossy().into_owned()));
        }
        return Ok(Examples { values, folders, are_images, n_before });
    }
    let lens: Vec<usize> =
        network.inputs().iter().map(edgeward_perceive::network::Port::n_elements).collect();
    let example_len: usize = lens.iter().sum();
    let mut values = Vec::new();
    for path in given {
        let named = |error: std::io::Error| FileError::new(path, error);
        if fs::metadata(path).map_err(named)?.len() > MAX_FILE_BYTES {
            return Err(FileError::new(path, format!("it has more than {MAX_FILE_BYTES} bytes")).into());
        }
        let bytes = fs::read(path).map_err(named)?;
        let (floats, rest) = bytes.as_chunks();
        if !rest.is_empty() || !floats.len().is_multiple_of(example_len) {
            let what = format!(
                "{} bytes are no whole number of examples of {example_len} float32 each",
                bytes.len()
            );
            return Err(FileError::new(path, what).into());
        }
        let floats: Vec<f32> = floats.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        for mut example in floats.chunks_exact(example_len) {
            let mut inputs = Vec::new();
            for len in &lens {
                let (input, others) = example.split_at(*len);
                inputs.push(input.to_vec());
                example = others;
            }
            values.push(inputs);
            check(values.len() * example_len)?;
        }
    }
    let n_before = values.len();
    Ok(Examples { values: spread(values, n), folders: Vec::new(), are_images, n_before })
}

fn check(n_numbers: usize) -> Result<(), String> {
    if n_numbers > MAX_NUMBERS {
        Err("more examples than fit into memory: give fewer".into())
    } else {
        Ok(())
    }
}

/// At most `n`, at equal distances.
fn spread<T>(all: Vec<T>, n: usize) -> Vec<T> {
    let len = all.len();
    let is_taken = |i: usize| len <= n || (i * n) / len != ((i + 1) * n) / len;
    all.into_iter().enumerate().filter(|(i, _)| is_taken(*i)).map(|(_, one)| one).collect()
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn some_of_all() {
        assert_eq!(spread((0..10).collect(), 3).len(), 3);
        assert_eq!(spread((0..10).collect(), 10), (0..10).collect::<Vec<_>>());
        assert_eq!(spread((0..4).collect(), 9).len(), 4);
        assert!(spread::<u8>(vec![], 9).is_empty());
    }
}
