//! `edgeward fit`, and what it has learnt in `see`, `hear` and `watch`: the real binary on made examples.

#![cfg(unix)]

mod support;

use std::fmt::Write as _;
use std::fs;

use serde_json::Value;
use support::Sandbox;

/// Numbers that look like chance, 0 to 1.
fn chance(seed: u32) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24)
    }
}

/// A WAV file of 16-bit samples, 8,000 a second: a tone that rises or falls, in some noise.
fn sweep(rises: bool, seed: u32) -> Vec<u8> {
    let mut next = chance(seed);
    let (from, to) = if rises { (300.0, 1500.0) } else { (1500.0, 300.0) };
    let (from, to) = (from * (0.9 + 0.2 * next()), to * (0.9 + 0.2 * next()));
    let n = 3000 + (2000.0 * next()) as usize;
    let mut phase = 0.0;
    let samples = (0..n).flat_map(|i| {
        let hertz: f64 = from + (to - from) * i as f64 / n as f64;
        phase += hertz / 8000.0 * std::f64::consts::TAU;
        ((f64::sin(phase) * 8000.0 + next() * 400.0) as i16).to_le_bytes()
    });
    let samples: Vec<u8> = samples.collect();
    let mut file = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    file.extend(8000u32.to_le_bytes());
    file.extend(16000u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend((samples.len() as u32).to_le_bytes());
    file.extend(samples);
    file
}

#[test]
fn recordings_are_told_apart() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("recordings");
    fs::create_dir(&folder).unwrap();
    for i in 0..24 {
        let name = if i % 2 == 0 { "up" } else { "down" };
        fs::write(folder.join(format!("{name}_{}_{i}.wav", i / 6)), sweep(i % 2 == 0, i)).unwrap();
    }
    let (folder, model) = (folder.to_str().unwrap(), sandbox.path("sweeps.json"));
    let model = model.to_str().unwrap();
    let said = sandbox.run(&["fit", folder, "--folds", "4", "-o", model]).success();
    assert!(said.contains("24 of 24 right (100.00 %)"), "{said}");
    let said = sandbox.run(&["fit", folder, "--group", "2", "--json"]).success();
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["n_right"], 24, "{said}");
    // With changed copies it is learnt as well; a seed gives the same file again.
    let again = |seed: &str| {
        let copied = sandbox.path("copied.json");
        let args = ["fit", folder, "--folds", "4", "--augment=shift,noise,mask,mix", "--copies", "2"];
        let args = [&args[..], &["--seed", seed, "-o", copied.to_str().unwrap()]].concat();
        let said = sandbox.run(&args).success();
        assert!(said.contains("24 of 24 right"), "{said}");
        fs::read(copied).unwrap()
    };
    assert!(again("1") == again("1") && again("1") != again("2"));
    let error = sandbox.run(&["fit", folder, "--augment=flip"]).failure();
    assert!(error.contains("flip is not for recordings: take shift, noise, mask, mix"), "{error}");
    let new = sandbox.path("new.wav");
    fs::write(&new, sweep(true, 99)).unwrap();
    let new = new.to_str().unwrap();
    let line = sandbox.run(&["hear", new, "--model", model]).success();
    assert!(line.contains("new.wav: up ("), "{line}");
    assert!(sandbox.run(&["see", new, "--model", model]).failure().contains("images"));
    assert!(sandbox.run(&["fit", folder, "--group", "9"]).failure().contains("part 9"));
}

#[test]
fn rows_are_told_apart_and_numbers_told() {
    let sandbox = Sandbox::new();
    let mut next = chance(7);
    let mut table = "time,light,heat,room,left\n".to_owned();
    for run in 0..30 {
        for i in 0..40 {
            let full = next() > 0.5;
            let light = if full { 400.0 } else { 100.0 } + 90.0 * next();
            let heat = 20.0 + f64::from(i) / 10.0 + 0.1 * next();
            writeln!(table, "{run},{light},{heat},{},{}", if full { "full" } else { "empty" }, 40 - i)
                .unwrap();
        }
    }
    let (file, model) = (sandbox.path("room.csv"), sandbox.path("room.json"));
    fs::write(&file, &table).unwrap();
    let (file, model) = (file.to_str().unwrap(), model.to_str().unwrap());
    let args = ["fit", file, "--target", "room", "--ignore", "time,left", "--test", file, "-o", model];
    let said = sandbox.run(&args).success();
    assert!(said.contains("1200 of 1200 right"), "{said}");
    let told = sandbox.run(&["watch", file, "--model", model]).success();
    assert!(told.lines().count() > 300 && told.contains(": full (") && told.contains(": empty ("), "{told}");

    let left = ["--target", "left", "--ignore", "room", "--series", "time", "--window", "5", "--test", file];
    for learner in ["linear", "trees"] {
        let args = [&["fit", file, "-o", model, "--json", "--learner", learner][..], &left].concat();
        let report: Value = serde_json::from_str(&sandbox.run(&args).success()).unwrap();
        assert!(report["rmse"].as_f64().unwrap() < 1.0, "{report}");
        let told = sandbox.run(&["watch", file, "--model", model, "--json"]).success();
        let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
        assert!((last["number"].as_f64().unwrap() - 1.0).abs() < 2.0, "{last}");
    }
    let args =
        [&["fit", file, "-o", model, "--json", "--augment=jitter,warp,mix", "--copies", "1"][..], &left];
    let report: Value = serde_json::from_str(&sandbox.run(&args.concat()).success()).unwrap();
    assert!(report["rmse"].as_f64().unwrap() < 1.5, "{report}");
    assert!(sandbox.run(&["fit", file]).failure().contains("--target"));
    assert!(sandbox.run(&["fit", file, "--target", "none"]).failure().contains("no column none"));
    fs::write(file, table + "1,2\n").unwrap();
    let broken = sandbox.run(&["watch", file, "--model", model, "--json"]);
    assert_eq!(broken.code, Some(1));
    assert!(broken.stderr.contains("line 1202"), "{}", broken.stderr);
    fs::write(model, "{}").unwrap();
    assert!(sandbox.run(&["watch", file, "--model", model]).failure().contains("edgeward fit"));
}

/// The occupancy data as a careless logger would have it: without rows now and then, with temperatures in degrees
/// Fahrenheit, single wild values, and cells that are empty.
fn raw(name: &str) -> String {
    let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/learner").join(name);
    let text = fs::read_to_string(path).unwrap();
    let mut table = "date,Temperature,Humidity,Light,CO2,HumidityRatio,Occupancy\n".to_owned();
    for (i, line) in text.lines().skip(1).enumerate().filter(|(i, _)| i % 11 != 5 && i % 37 > 2) {
        let mut cells: Vec<String> = line.split(',').skip(1).map(|cell| cell.replace('"', "")).collect();
        let celsius: f64 = cells[1].parse().unwrap();
        cells[1] = format!("{}", celsius * 1.8 + 32.0);
        match i % 13 {
            4 => cells[3] = "65535".to_owned(),
            8 => cells[1] = "-459".to_owned(),
            11 => cells[4] = String::new(),
            _ => {}
        }
        writeln!(table, "{}", cells.join(",")).unwrap();
    }
    table
}

#[test]
fn raw_measurements_are_made_ready_as_for_learning() {
    let sandbox = Sandbox::new();
    let file = |name: &str, text: String| {
        let path = sandbox.path(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (training, test) = (raw("occupancy_training.csv"), raw("occupancy_test2.csv"));
    let n_rows = test.lines().count() - 1;
    let (training, test) = (file("training.csv", training), file("test.csv", test));
    let model = sandbox.path("room.json");
    let model = model.to_str().unwrap();
    let fit = ["fit", &training, "--target", "Occupancy", "--test", &test, "--json", "-o", model];
    let error = sandbox.run(&fit).failure();
    assert!(error.contains("\"\" is not a finite number"), "{error}");
    let steps = ["--every", "20min", "--hampel", "2", "--unit", "Temperature=degF:degC"];
    let report: Value = serde_json::from_str(&sandbox.run(&[&fit[..], &steps].concat()).success()).unwrap();
    assert!(report["accuracy"].as_f64().unwrap() > 0.95, "{report}");
    // Each step of time is told by the row nearest to it, and none in a gap.
    let n = report["n"].as_u64().unwrap() as usize;
    assert!((n_rows * 8 / 10..=n_rows).contains(&n), "{report} of {n_rows} rows");

    // Nobody has to say it again, and it cannot be said otherwise.
    let written: Value = serde_json::from_slice(&fs::read(model).unwrap()).unwrap();
    let preparation = &written["input"]["table"]["preparation"];
    assert_eq!(
        (&preparation["every_s"], &preparation["hampel"]),
        (&1200.0.into(), &2.into()),
        "{preparation}"
    );
    let told = sandbox.run(&["watch", &test, "--model", model, "--json"]).success();
    let changes: Vec<(String, bool)> = told
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|told| (told["time"].as_str().unwrap().to_owned(), told["label"] == "1"))
        .collect();
    // What was told last before each row, against what the row says.
    let text = fs::read_to_string(&test).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split(',').collect()).collect();
    let told_at =
        |time: &str| changes.iter().rfind(|(at, _)| at.as_str() <= time).is_some_and(|(_, label)| *label);
    let n_right = rows.iter().filter(|row| told_at(row[0]) == (row[6] == "1")).count();
    assert!(n_right * 100 >= rows.len() * 94, "{n_right} of {}", rows.len());
    assert!(sandbox.run(&["watch", &test, "--model", model, "--every", "5min"]).stderr.contains("--every"));

    let error = sandbox.run(&[&fit[..], &["--every", "20min", "--max-gap", "30min"]].concat()).failure();
    assert!(error.contains("nothing was measured for"), "{error}");
    let error =
        sandbox.run(&[&fit[..], &["--unit", "Heat=degF:degC", "--every", "20min"]].concat()).failure();
    assert!(error.contains("no column Heat"), "{error}");
    let folder = sandbox.path("");
    let error = sandbox.run(&["fit", folder.to_str().unwrap(), "--hampel", "2"]).failure();
    assert!(error.contains("are for tables"), "{error}");
}

#[test]
fn what_differs_is_seen() {
    let sandbox = Sandbox::new();
    let folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/learner");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (reference, board) = (path("20085291_temp.jpg"), path("20085291_test.jpg"));
    assert!(sandbox.run(&["see", &reference, "--reference", &reference]).success().contains(": nothing"));
    let drawn = sandbox.path("defects.png");
    let line =
        sandbox.run(&["see", &board, "--reference", &reference, "--json", "-o", drawn.to_str().unwrap()]);
    let report: Value = serde_json::from_str(&line.success()).unwrap();
    assert!(report["boxes"].as_array().unwrap().len() >= 3, "{report}");
    assert!(fs::metadata(drawn).unwrap().len() > 1000);
}
