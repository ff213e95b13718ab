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
fn sensors_are_made_ready() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("machine.jsonl");
    // A value each 10 ms, give or take; it swings, from the 6th second on more strongly, and two single values are wild.
    let mut text = String::new();
    for i in 0..1200u32 {
        let ms = i * 10 + i * 7919 % 5;
        let strength = if i >= 600 { 3.0 } else { 1.0 };
        let swing = strength * f64::sin(f64::from(ms) / 1000.0 * 40.0) + f64::from(i * 31 % 11) / 50.0;
        let value = if i == 300 || i == 450 { 900.0 } else { 70.0 + swing };
        let (s, ms) = (ms / 1000, ms % 1000);
        text.push_str(&format!("{{\"time\":\"2026-11-28T10:00:{s:02}.{ms:03}Z\",\"value\":{value}}}\n"));
    }
    std::fs::write(&file, &text).unwrap();
    let file = file.to_str().unwrap();
    // As they are, the wild ones are what is unusual.
    let lines = sandbox.run(&["watch", file, "--detector", "robust-z", "--hold", "50"]).success();
    assert!(lines.contains("line 301") && lines.contains("line 451"), "{lines}");
    // Without them, and looking at how strong the swing is, in other units, it is the change.
    let args = ["--unit", "degF:degC", "--every", "10ms", "--hampel", "3", "--feature", "deviation"];
    let watch = [&["watch", file, "--detector", "robust-z", "--hold", "50", "--json"][..], &args].concat();
    let lines = sandbox.run(&watch).success();
    let alarm: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!((601..680).contains(&alarm["line"].as_u64().unwrap()), "{lines}");
    assert!(alarm["time"].as_str().unwrap().starts_with("2026-11-28T10:00:06"), "{lines}");
    assert!((0.3..1.3).contains(&alarm["value"].as_f64().unwrap()), "{lines}");

    // Five seconds are missing: filled, or refused with the line.
    let gap: String = text
        .lines()
        .enumerate()
        .filter(|(i, _)| !(700..1150).contains(i))
        .map(|(_, l)| format!("{l}\n"))
        .collect();
    std::fs::write(file, gap).unwrap();
    sandbox.run(&["watch", file, "--every", "10ms"]).success();
    let error =
        sandbox.run(&["watch", file, "--every", "10ms", "--max-gap", "1s", "--threshold", "1e9"]).failure();
    assert!(error.contains("line 701") && error.contains("nothing was measured for 4.5"), "{error}");
    std::fs::write(file, "noon,1\n1pm,2\n").unwrap();
    let error = sandbox.run(&["watch", file, "--every", "1h"]).failure();
    assert!(error.contains("line 1") && error.contains("\"noon\" is no time"), "{error}");
    let error = sandbox.run(&["watch", file, "--unit", "degC:bar"]).stderr;
    assert!(error.contains("temperature does not become pressure"), "{error}");
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
