//! `edgeward see`: what a network sees in images.

use std::fs;
use std::path::{Path, PathBuf};

use edgeward_perceive::Network;
use edgeward_perceive::learner::{Answer, Fitted, Input};
use edgeward_perceive::vision::boxes::{Detection, Detector};
use edgeward_perceive::vision::compare::{Comparison, Difference};
use edgeward_perceive::vision::draw::{Canvas, colour};
use edgeward_perceive::vision::{Filter, Image, features, resize, top};
use serde::Serialize;

use super::fit;
use super::net::{FileError, NetworkArgs, open};
use super::pictures::{PictureArgs, load, paths};
use crate::Outcome;
use crate::output::print_line;
use crate::store::{Progress, Verbosity};

/// Images with a shorter longer side than this are drawn larger, or there would be no room for words.
const DRAWN_PIXELS: usize = 320;

/// Look at images: the likeliest classes of each, or boxes around what a detector finds
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward see person.jpg --model presence.tflite --labels nobody,person
  edgeward see leaves/ --model leaves.tflite --labels leaves.txt --json
  edgeward see leaf.jpg --model leaves.tflite -o seen.png
  edgeward see board.jpg --reference faultless.jpg -o defects.png
  curl -s https://example.org/a.jpg | edgeward see - --model leaves.tflite

Images are PNG, JPEG or BMP, and are turned as their EXIF data says. How they must be cut, resized and scaled depends
on how the network was trained: where the defaults do not fit, say so with --fit, --resize and --range.
Boxes come from MediaPipe's face detector (short range), which is known by its shapes.")]
pub struct Args {
    /// Images, folders of images, `-` for an image on standard input
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// A TFLite or ONNX file, or what `edgeward fit` has learnt
    #[arg(long, short, required_unless_present = "reference")]
    model: Option<PathBuf>,
    /// An image of a faultless piece, from the same place: what differs from it is seen, without any model
    #[arg(long, conflicts_with_all = ["model", "labels"])]
    reference: Option<PathBuf>,
    /// A file with a name for each class, one to a line, or the names, separated by commas [default: their numbers]
    #[arg(long, short)]
    labels: Option<String>,
    /// Classes to show of each image
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    top: u16,
    /// How sure a detector must be of a box
    #[arg(long, default_value_t = 0.5, value_parser = super::hear::probability)]
    threshold: f32,
    #[command(flatten)]
    pictures: PictureArgs,
    /// Write the image with what was seen in it to a PNG file; a folder where there are several images
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Print a line of JSON for each image
    #[arg(long)]
    json: bool,
    /// Threads
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    #[command(flatten)]
    network: NetworkArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    file: &'a str,
    width: usize,
    height: usize,
    classes: Vec<Class<'a>>,
    /// Of a detector, which has no classes of the whole image.
    #[serde(skip_serializing_if = "Option::is_none")]
    boxes: Option<Vec<BoxReport<'a>>>,
}

/// In pixels of the image.
#[derive(Serialize)]
struct BoxReport<'a> {
    label: &'a str,
    score: f32,
    left: f32,
    top: f32,
    right: f32,
    bottom: f32,
}

/// What was seen.
enum Seen {
    /// The likeliest classes and their scores.
    Classes(Vec<(usize, f32)>),
    Boxes(Vec<Detection>),
}

#[derive(Serialize)]
struct Class<'a> {
    class: usize,
    label: &'a str,
    score: f32,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let mut eye = Eye::open(args)?;
    let labels = eye.labels(args)?;
    let paths = paths(&args.images)?;
    let into_folder = paths.len() > 1 || args.images.iter().any(|path| path.is_dir());
    if let (Some(folder), true) = (&args.output, into_folder) {
        fs::create_dir_all(folder).map_err(|error| FileError::new(folder, error))?;
    }
    let progress = Progress::new(verbosity);
    for (i, path) in paths.iter().enumerate() {
        if paths.len() > 1 && i % 100 == 0 {
            progress.note(&format!("Looking at image {} of {}", i + 1, paths.len()));
        }
        let image = load(path)?;
        let seen = eye.see(args, &image).map_err(|error| FileError::new(path, error))?;
        report(args, path, &image, &labels, &seen)?;
        if let Some(output) = &args.output {
            let target = if into_folder { output.join(drawn_name(path, i)) } else { output.clone() };
            fs::write(&target, draw(&image, &labels, &seen))
                .map_err(|error| FileError::new(&target, error))?;
        }
    }
    Ok(())
}

/// Classes that the network tells apart.
fn classes(network: &Network) -> Result<usize, String> {
    match (network.inputs(), network.outputs()) {
        ([_], [output]) if output.shape.iter().filter(|dim| **dim != 1).count() <= 1 => {
            Ok(output.n_elements())
        }
        ([_], outputs) => {
            let shapes: Vec<&[usize]> = outputs.iter().map(|output| output.shape.as_slice()).collect();
            Err(format!("its outputs {shapes:?} are not one score for each class: use `edgeward net run`"))
        }
        (inputs, _) => {
            Err(format!("it has {} inputs, and an image is one: use `edgeward net run`", inputs.len()))
        }
    }
}

/// What looks.
enum Eye {
    Network { network: Network, detector: Option<Detector> },
    Fitted(Fitted),
    Reference(Image),
}

impl Eye {
    fn open(args: &Args) -> Result<Eye, Box<dyn std::error::Error>> {
        match (&args.reference, &args.model) {
            (Some(reference), _) => Ok(Eye::Reference(load(reference)?)),
            (None, Some(model)) if fit::is_fitted(model) => {
                let fitted = fit::open(model)?;
                if fitted.input != Input::Image || !matches!(fitted.answer, Answer::Class(_)) {
                    return Err(FileError::new(model, "it was not learnt from classes of images").into());
                }
                Ok(Eye::Fitted(fitted))
            }
            (None, Some(model)) => {
                let network = open(model, &args.network, args.threads.into())?;
                let detector = Detector::of(&network);
                if detector.is_none() {
                    classes(&network).map_err(|what| FileError::new(model, what))?;
                }
                Ok(Eye::Network { network, detector })
            }
            (None, None) => Err("give a model, or a reference".into()),
        }
    }

    fn labels(&self, args: &Args) -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let given = args.labels.as_deref();
        match self {
            Eye::Network { detector: Some(detector), .. } if given.is_none() => {
                Ok(detector.labels().iter().map(|label| (*label).to_owned()).collect())
            }
            Eye::Network { detector: Some(detector), .. } => labels(given, detector.labels().len()),
            Eye::Network { network, detector: None } => labels(given, network.outputs()[0].n_elements()),
            Eye::Fitted(Fitted { answer: Answer::Class(names), .. }) => Ok(names.clone()),
            Eye::Fitted(_) => Err("it tells a number".into()),
            Eye::Reference(_) => Ok(vec!["difference".to_owned()]),
        }
    }

    fn see(&mut self, args: &Args, image: &Image) -> Result<Seen, Box<dyn std::error::Error>> {
        let (network, detector) = match self {
            Eye::Network { network, detector } => (network, *detector),
            Eye::Fitted(fitted) => {
                let found = fit::classes(fitted, &features(image), args.top.into()).unwrap_or_default();
                return Ok(Seen::Classes(found.into_iter().map(|(class, _, p)| (class, p as f32)).collect()));
            }
            Eye::Reference(reference) => {
                let found = Comparison::default().differences(reference, image)?;
                let detection = |found: &Difference| {
                    let [left, top, right, bottom] =
                        [found.left, found.top, found.right, found.bottom].map(|at| at as f32);
                    // A difference is there or not.
                    Detection { left, top, right, bottom, class: 0, score: 1.0 }
                };
                return Ok(Seen::Boxes(found.iter().map(detection).collect()));
            }
        };
        let (values, placement) = args.pictures.preparation(detector).prepare(image, &network.inputs()[0])?;
        network.set_input(0, &values)?;
        network.run();
        if let Some(detector) = detector {
            return Ok(Seen::Boxes(detector.detections(network, &placement, args.threshold)));
        }
        let mut scores = vec![0.0; network.outputs()[0].n_elements()];
        network.output(0, &mut scores)?;
        Ok(Seen::Classes(top(&scores, args.top.into())))
    }
}

fn report(args: &Args, path: &Path, image: &Image, labels: &[String], seen: &Seen) -> Outcome {
    let file = path.display().to_string();
    let (width, height) = (image.width(), image.height());
    if args.json {
        let (classes, boxes) = match seen {
            Seen::Classes(seen) => {
                let class = |(class, score): &(usize, f32)| Class {
                    class: *class,
                    label: &labels[*class],
                    score: *score,
                };
                (seen.iter().map(class).collect(), None)
            }
            Seen::Boxes(found) => {
                let one = |found: &Detection| {
                    let Detection { left, top, right, bottom, class, score } = *found;
                    BoxReport { label: &labels[class], score, left, top, right, bottom }
                };
                (Vec::new(), Some(found.iter().map(one).collect()))
            }
        };
        print_line(&serde_json::to_string(&Report { file: &file, width, height, classes, boxes })?)?;
        return Ok(());
    }
    match seen {
        Seen::Classes(seen) => {
            let seen = seen.iter().map(|(class, score)| format!("{} ({score:.2})", labels[*class]));
            print_line(&format!("{file}: {}", seen.collect::<Vec<_>>().join(", ")))?;
        }
        Seen::Boxes(found) if found.is_empty() => print_line(&format!("{file}: nothing"))?,
        Seen::Boxes(found) => {
            for found in found {
                let Detection { left, top, right, bottom, class, score } = found;
                print_line(&format!(
                    "{file}: {} ({score:.2}) at {left:.0},{top:.0} to {right:.0},{bottom:.0}",
                    labels[*class]
                ))?;
            }
        }
    }
    Ok(())
}

/// Of a drawn image in a folder: numbered, as images of several folders may have one name.
fn drawn_name(path: &Path, idx: usize) -> String {
    let stem = path.file_stem().map_or_else(|| "-".into(), |stem| stem.to_string_lossy());
    format!("{idx:06}-{stem}.png")
}

/// The image with words on it, as a PNG file.
fn draw(image: &Image, labels: &[String], seen: &Seen) -> Vec<u8> {
    let times = (DRAWN_PIXELS / image.width().max(image.height())).max(1);
    let image = if times == 1 {
        image.clone()
    } else {
        resize::pillow(image, image.width() * times, image.height() * times, Filter::Nearest)
    };
    let mut canvas = Canvas::new(&image);
    match seen {
        Seen::Classes(seen) => {
            for (line, (class, score)) in seen.iter().enumerate() {
                let y = (line * canvas.line_height()) as f32;
                canvas.text(0.0, y, &format!("{} {score:.2}", labels[*class]));
            }
        }
        Seen::Boxes(found) => {
            let times = times as f32;
            for found in found {
                let (left, top) = (found.left * times, found.top * times);
                canvas.outline((left, top), (found.right * times, found.bottom * times), colour(found.class));
                let line = canvas.line_height() as f32;
                let text = format!("{} {:.2}", labels[found.class], found.score);
                canvas.text(left.max(0.0), (top - line).max(0.0), &text);
            }
        }
    }
    canvas.to_png()
}

/// A name for each class: from a file, or from the text itself.
pub(super) fn labels(
    given: Option<&str>,
    n_classes: usize,
) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let Some(given) = given else {
        return Ok((0..n_classes).map(|class| format!("class {class}")).collect());
    };
    let labels: Vec<String> = if Path::new(given).is_file() {
        let text = fs::read_to_string(given).map_err(|error| FileError::new(Path::new(given), error))?;
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    } else {
        given.split(',').map(|label| label.trim().to_owned()).collect()
    };
    if labels.len() != n_classes {
        let n_labels = labels.len();
        return Err(format!("{n_labels} labels in {given} for {n_classes} classes: name each once").into());
    }
    Ok(labels)
}
