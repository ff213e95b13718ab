//! How well the learners do on real data: `accuracy sounds|images|boards|classes|numbers ...`; docs/benchmarks has what it printed.
//!
//! - `sounds FOLDER`: WAV files named CLASS_SPEAKER_NUMBER.wav, judged by what the other numbers teach, and the other
//!   speakers.
//! - `images FOLDER`: a folder for each class; five parts, dealt out by ten seeds.
//! - `boards FOLDER`: DeepPCB's PCBData. A box that was found is right if it overlaps a marked one, that no larger one has
//!   taken, by more than 0.33 of what both cover together (intersection over union), DeepPCB's own rule; and, for
//!   comparison, by more than 0.5. Kinds of defects are not told.
//! - `classes TARGET IGNORED,... TRAIN.csv TEST.csv...`
//! - `numbers TARGET SERIES WINDOW TRAIN.csv TEST.csv...`: what has no target is part of the rows before the next.

use std::error::Error;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use edgeward_perceive::learner::{Fold, Kind, Learner, Samples, Target, TreesOptions, by_group, stratified};
use edgeward_perceive::sound::{Clip, WavReader};
use edgeward_perceive::table::{Records, Window};
use edgeward_perceive::vision::compare::Comparison;
use edgeward_perceive::vision::{self, Limits, decode};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["sounds", folder] => sounds(Path::new(folder)),
        ["images", folder] => images(Path::new(folder)),
        ["boards", folder] => boards(Path::new(folder)),
        ["classes", target, ignored, train, tests @ ..] => {
            let ignored: Vec<&str> = ignored.split(',').collect();
            let (samples, targets) = table(train, target, &ignored, None, 1)?;
            let of = |targets: &[f64]| Target::Classes {
                of: targets.iter().map(|y| *y as usize).collect(),
                n_classes: 2,
            };
            for kind in [Kind::Linear, Kind::Trees(TreesOptions::default())] {
                let learner = Learner::fit(kind, &samples, &of(&targets))?;
                for test in tests {
                    let (samples, targets) = table(test, target, &ignored, None, 1)?;
                    let right = n_right(&learner, &samples, &of(&targets));
                    println!("{kind:?}, {test}: {right} of {} right", samples.len());
                }
            }
            Ok(())
        }
        ["numbers", target, series, window, train, tests @ ..] => {
            let window = window.parse()?;
            let (samples, targets) = table(train, target, &[], Some(series), window)?;
            for kind in [Kind::Linear, Kind::Trees(TreesOptions::default())] {
                let learner = Learner::fit(kind, &samples, &Target::Numbers(targets.clone()))?;
                for test in tests {
                    let (samples, targets) = table(test, target, &[], Some(series), window)?;
                    let errors =
                        samples.rows().zip(&targets).map(|(row, y)| (learner.number(row) - y).powi(2));
                    let rmse = (errors.sum::<f64>() / targets.len() as f64).sqrt();
                    println!(
                        "{kind:?}, {test}: {} examples, root mean square error {rmse:.3}",
                        targets.len()
                    );
                }
            }
            Ok(())
        }
        _ => Err("say what: the file's beginning tells".into()),
    }
}

fn files(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Outcome<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn numbered(names: &[String]) -> Vec<usize> {
    let mut sorted = names.to_vec();
    sorted.sort();
    sorted.dedup();
    names.iter().map(|name| sorted.partition_point(|other| other < name)).collect()
}

fn n_right(learner: &Learner, samples: &Samples, target: &Target) -> usize {
    let Target::Classes { of, .. } = target else { return 0 };
    samples.rows().zip(of).filter(|(row, class)| learner.class(row) == **class).count()
}

fn judge(folds: &[Fold], samples: &Samples, target: &Target) -> Outcome<usize> {
    let mut right = 0;
    for Fold { train, test } in folds {
        let learner = Learner::fit(Kind::Linear, &samples.select(train), &target.select(train))?;
        right += n_right(&learner, &samples.select(test), &target.select(test));
    }
    Ok(right)
}

fn sounds(folder: &Path) -> Outcome {
    let mut samples = Samples::new(Clip::N_FEATURES);
    let mut parts: [Vec<String>; 3] = Default::default();
    for path in files(folder)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "wav")) {
        let mut reader = WavReader::new(BufReader::new(File::open(&path)?))?;
        let mut recording = Vec::new();
        reader.read(&mut recording, reader.sample_rate() as usize * Clip::MAX_SECONDS as usize)?;
        let mut clip = Clip::new(reader.sample_rate()).ok_or("too few samples a second")?;
        samples.push(&clip.features(&recording));
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        name.splitn(3, '_').zip(&mut parts).for_each(|(part, parts)| parts.push(part.to_owned()));
    }
    let [classes, speakers, numbers] = parts.map(|parts| numbered(&parts));
    let n_classes = classes.iter().max().map_or(0, |most| most + 1);
    let target = Target::Classes { of: classes, n_classes };
    for (what, groups) in [("numbers", numbers), ("speakers", speakers)] {
        let right = judge(&by_group(&groups), &samples, &target)?;
        println!("by what other {what} teach: {right} of {} right", samples.len());
    }
    Ok(())
}

fn images(folder: &Path) -> Outcome {
    let mut samples = Samples::new(vision::features::N_FEATURES);
    let mut of = Vec::new();
    for (class, folder) in files(folder)?.iter().filter(|path| path.is_dir()).enumerate() {
        for path in files(folder)? {
            samples.push(&vision::features(&decode(&fs::read(path)?, &Limits::default())?));
            of.push(class);
        }
    }
    let n_classes = of.iter().max().map_or(0, |most| most + 1);
    let target = Target::Classes { of: of.clone(), n_classes };
    for seed in 0..10 {
        let right = judge(&stratified(&of, 5, seed), &samples, &target)?;
        println!("five parts, seed {seed}: {right} of {} right", samples.len());
    }
    Ok(())
}

/// A box as left, top, right, bottom.
fn overlap(a: &[usize; 4], b: &[usize; 4]) -> f64 {
    let [left, top] = [0, 1].map(|i| a[i].max(b[i]));
    let [right, bottom] = [2, 3].map(|i| a[i].min(b[i]));
    let shared = right.saturating_sub(left) * bottom.saturating_sub(top);
    let area = |c: &[usize; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    shared as f64 / (area(a) + area(b) - shared) as f64
}

fn boards(folder: &Path) -> Outcome {
    let load = |path: PathBuf| -> Outcome<_> { Ok(decode(&fs::read(path)?, &Limits::default())?) };
    for least in [0.33, 0.5] {
        let (mut all_right, mut all_found, mut all_marked) = (0, 0, 0);
        for group in files(folder)?.into_iter().filter(|path| path.is_dir()) {
            let name = group.file_name().unwrap_or_default().to_string_lossy().replace("group", "");
            let (mut right, mut n_found, mut n_marked) = (0, 0, 0);
            for text in files(&group.join(format!("{name}_not")))? {
                let number = text.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let image = |kind: &str| load(group.join(&name).join(format!("{number}_{kind}.jpg")));
                let found = Comparison::default().differences(&image("temp")?, &image("test")?)?;
                let mut marked: Vec<[usize; 4]> = Vec::new();
                for line in fs::read_to_string(&text)?.lines() {
                    let numbers: Vec<usize> =
                        line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
                    marked.push(*numbers.first_chunk().ok_or("a marked box has four numbers")?);
                }
                n_found += found.len();
                n_marked += marked.len();
                for found in found.iter().map(|d| [d.left, d.top, d.right, d.bottom]) {
                    let best = (0..marked.len())
                        .max_by(|a, b| overlap(&found, &marked[*a]).total_cmp(&overlap(&found, &marked[*b])));
                    if let Some(best) = best.filter(|best| overlap(&found, &marked[*best]) > least) {
                        marked.swap_remove(best);
                        right += 1;
                    }
                }
            }
            println!("overlap {least}, {name}: {right} right of {n_found} found and {n_marked} marked");
            all_right += right;
            all_found += n_found;
            all_marked += n_marked;
        }
        let share = |of: usize| 100.0 * all_right as f64 / of as f64;
        let (recall, precision) = (share(all_marked), share(all_found));
        println!(
            "overlap {least}: recall {recall:.2} % of {all_marked}, precision {precision:.2} % of {all_found}"
        );
    }
    Ok(())
}

/// Examples of a table.
fn table(
    path: &str,
    target: &str,
    ignored: &[&str],
    series: Option<&str>,
    window: usize,
) -> Outcome<(Samples, Vec<f64>)> {
    let records = Records::new(BufReader::new(File::open(path)?))?;
    let (told, of) = (records.column(target)?, series.map(|name| records.column(name)).transpose()?);
    let ignored: Vec<usize> = ignored.iter().map(|name| records.column(name)).collect::<Result<_, _>>()?;
    let columns: Vec<usize> = (0..records.names().len())
        .filter(|column| *column != told && Some(*column) != of && !ignored.contains(column))
        .collect();
    let mut rows = Window::new(window, columns.len());
    let mut samples = Samples::new(Window::n_features(window, columns.len()));
    let (mut targets, mut current) = (Vec::new(), None);
    for record in records {
        let record = record?;
        let name = of.map(|column| record.cells[column].clone());
        if current != name {
            rows.clear();
            current = name;
        }
        let row: Vec<f64> = columns.iter().map(|column| record.number(*column)).collect::<Result<_, _>>()?;
        let features = rows.push(&row);
        if !record.cells[told].is_empty() {
            samples.push(&features);
            targets.push(record.number(told)?);
        }
    }
    Ok((samples, targets))
}
