//! The detectors on nine series of the Numenta Anomaly Benchmark (`testdata/nab`), by its own scoring.

use std::collections::BTreeMap;
use std::path::PathBuf;

use edgeward_perceive::anomaly::nab::{self, Series};
use edgeward_perceive::anomaly::{Detector, Ewma, Peaks, WindowedGaussian};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/nab")
}

fn numbers(file: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(folder().join(file)).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn windows() -> BTreeMap<String, Vec<(usize, usize)>> {
    serde_json::from_slice(&std::fs::read(folder().join("windows.json")).unwrap()).unwrap()
}

/// A detector's scores of every series.
fn run<D: Detector>(mut make: impl FnMut() -> D) -> BTreeMap<String, Series> {
    let series = windows().into_iter().map(|(name, windows)| {
        let mut detector = make();
        let scores = numbers(&format!("{name}.txt")).into_iter().map(|value| detector.score(value)).collect();
        let windows = windows.into_iter().map(|(first, last)| first..=last).collect();
        (name, Series { scores, windows })
    });
    series.collect()
}

fn windowed_gaussian() -> BTreeMap<String, Series> {
    run(|| WindowedGaussian::new(6400, 100))
}

#[test]
fn windowed_gaussian_is_numentas() {
    let ours = windowed_gaussian();
    for name in ["ambient_temperature_system_failure", "nyc_taxi"] {
        let published = numbers(&format!("{name}.windowed_gaussian"));
        let scores = &ours[name].scores;
        assert_eq!(scores.len(), published.len());
        for (row, (ours, published)) in scores.iter().zip(&published).enumerate() {
            assert!((ours - published).abs() <= 1e-12, "{name}, row {row}: {ours} and not {published}");
        }
    }
    // What NAB publishes for each file (`windowedGaussian_standard_scores.csv`), at its threshold of 1.
    for (name, expected) in [
        ("ambient_temperature_system_failure", -2.0),
        ("art_daily_jumpsup", -1.0),
        ("art_daily_small_noise", 0.0),
        ("cpu_utilization_asg_misconfiguration", -1.11),
        ("ec2_request_latency_system_failure", 2.02150685678),
        ("machine_temperature_system_failure", -4.0),
        ("nyc_taxi", -5.0),
        ("rogue_agent_key_hold", -2.44),
        ("rogue_agent_key_updown", -1.3964908955),
    ] {
        // Published scores were rounded to 12 places before they met the threshold.
        let worth = ours[name].worth(1.0 - 5e-13);
        assert!((worth - expected).abs() < 1e-9, "{name}: {worth} and not {expected}");
    }
}

#[test]
fn jumps_tell_more_than_levels() {
    let theirs: Vec<Series> = windowed_gaussian().into_values().collect();
    let ours: Vec<Series> = run(|| Peaks::new(Ewma::new(1.0, 500), 200)).into_values().collect();
    let ((_, theirs), (threshold, ours)) = (nab::best(&theirs), nab::best(&ours));
    assert!((12.0..14.0).contains(&theirs), "{theirs}");
    assert!(ours >= theirs + 30.0, "{ours} at {threshold}, and {theirs}");
}
