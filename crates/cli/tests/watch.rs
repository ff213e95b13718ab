//! `edgeward watch`: the real binary on real and on made measurements.

#![cfg(unix)]

mod support;

use std::path::PathBuf;

use serde_json::Value;
use support::Sandbox;

fn series(name: &str) -> String {
    let nab = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/nab");
    nab.join(name).to_str().unwrap().to_owned()
}

#[test]
fn alarms_of_a_failing_machine() {
    let sandbox = Sandbox::new();
    let file = series("ec2_request_latency_system_failure.txt");
    let lines = sandbox.run(&["watch", &file, "--json"]).success();
    let alarms: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at: Vec<u64> = alarms.iter().map(|alarm| alarm["line"].as_u64().unwrap()).collect();
    // The labelled windows, as lines from 1.
    for window in [2015..=2149, 3329..=3463, 3957..=4032] {
        assert!(at.iter().any(|line| window.contains(line)), "{at:?}");
    }
    assert!(at.len() <= 6, "{at:?}");
    assert!(alarms.iter().all(|alarm| alarm["score"].as_f64().unwrap() >= 6.0));
}

#[test]
fn every_detector_finds_a_spike() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("measurements.csv");
    let mut text = "time,load,temperature\n".to_owned();
    for i in 0..1000 {
        let temperature = if i == 700 { 90.0 } else { 20.0 + f64::from(i * 7919 % 101) / 50.0 };
        text.push_str(&format!("12:{i},5,{temperature}\n"));
    }
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    for detector in ["jump", "ewma", "robust-z", "gaussian"] {
        let line = sandbox.run(&["watch", file, "--detector", detector]).success();
        assert!(line.contains("line 702, 12:700: 90 (score "), "{detector}: {line}");
        assert_eq!(line.lines().count(), 1, "{detector}: {line}");
    }
    // Another column, in which nothing happens.
    assert_eq!(sandbox.run(&["watch", file, "--column", "load"]).success(), "");
}

#[test]
fn what_is_no_measurement_is_refused() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("measurements.csv");
    std::fs::write(&file, "time,value\n1,2\n3\n").unwrap();
    let error = sandbox.run(&["watch", file.to_str().unwrap()]).failure();
    assert!(error.contains("line 3") && error.contains("columns"), "{error}");
    assert!(sandbox.run(&["watch", "missing.csv"]).failure().contains("missing.csv"));
}
