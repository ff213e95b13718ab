//! Learners and comparisons on a part of the real data that `docs/benchmarks` has figures of (`testdata/learner`).

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use edgeward_perceive::learner::{Kind, Learner, Samples, Target, TreesOptions};
use edgeward_perceive::table::Records;
use edgeward_perceive::vision::compare::Comparison;
use edgeward_perceive::vision::{Limits, decode};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/learner").join(name)
}

/// Every twentieth row of a file of the occupancy data: temperature, humidity, light, CO2, ratio of humidity.
fn occupancy(name: &str) -> (Samples, Vec<usize>) {
    let file = BufReader::new(File::open(path(&format!("occupancy_{name}.csv"))).unwrap());
    let (mut samples, mut of) = (Samples::new(5), Vec::new());
    for record in Records::new(file).unwrap() {
        let record = record.unwrap();
        let numbers: Vec<f64> = (1..=5).map(|column| record.number(column).unwrap()).collect();
        samples.push(&numbers);
        of.push(record.number(6).unwrap() as usize);
    }
    (samples, of)
}

#[test]
fn somebody_is_in_the_room() {
    let (samples, of) = occupancy("training");
    assert_eq!(samples.len(), 408);
    let target = Target::Classes { of, n_classes: 2 };
    for kind in [Kind::Linear, Kind::Trees(TreesOptions::default())] {
        let learner = Learner::fit(kind, &samples, &target).unwrap();
        for name in ["test", "test2"] {
            let (samples, of) = occupancy(name);
            let right = samples.rows().zip(&of).filter(|(row, class)| learner.class(row) == **class).count();
            let accuracy = right as f64 / of.len() as f64;
            // Trees do not do as well where there are days as no day of the training was.
            let least = if kind == Kind::Linear { 0.97 } else { 0.9 };
            assert!(accuracy >= least, "{kind:?}, {name}: {accuracy}");
        }
    }
}

#[test]
fn defects_are_where_people_have_marked_them() {
    let image = |name: &str| decode(&std::fs::read(path(name)).unwrap(), &Limits::default()).unwrap();
    let (reference, board) = (image("20085291_temp.jpg"), image("20085291_test.jpg"));
    let found = Comparison::default().differences(&reference, &board).unwrap();
    let text = std::fs::read_to_string(path("20085291.txt")).unwrap();
    let marked: Vec<[usize; 4]> = text
        .lines()
        .map(|line| {
            let numbers: Vec<usize> = line.split_whitespace().map(|cell| cell.parse().unwrap()).collect();
            [numbers[0], numbers[1], numbers[2], numbers[3]]
        })
        .collect();
    assert!(!marked.is_empty());
    for [left, top, right, bottom] in &marked {
        let overlap = |found: &edgeward_perceive::vision::compare::Difference| {
            let width = found.right.min(*right).saturating_sub(found.left.max(*left));
            let height = found.bottom.min(*bottom).saturating_sub(found.top.max(*top));
            let area =
                (found.right - found.left) * (found.bottom - found.top) + (right - left) * (bottom - top);
            (width * height) as f64 / (area - width * height) as f64
        };
        assert!(found.iter().any(|found| overlap(found) > 0.33), "{left}, {top}: {found:?}");
    }
    assert!(found.len() <= marked.len() + 2, "{found:?}");
}
