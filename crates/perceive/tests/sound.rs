//! Features against double precision (`testdata/sound/make.py`), and networks that listen to recordings.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use edgeward_perceive::sound::{
    Features, Heard, Listener, Recipe, Resampler, Smoothing, SoundReader, WavReader,
};
use edgeward_perceive::{Arithmetic, Network, Options, tflite};

fn testdata(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

fn samples(name: &str) -> Vec<f32> {
    let file = File::open(testdata("sound").join(name)).unwrap();
    let mut reader = WavReader::new(BufReader::new(file)).unwrap();
    assert_eq!(reader.sample_rate(), 16000);
    let mut samples = Vec::new();
    reader.read(&mut samples, 1 << 20).unwrap();
    samples
}

fn listener(model: &str) -> Listener {
    let bytes = std::fs::read(testdata("networks/models").join(model)).unwrap();
    let network = Network::new(&tflite::read(bytes.into()).unwrap(), &Options::default()).unwrap();
    Listener::new(network, Smoothing::default()).unwrap()
}

fn hear(listener: &mut Listener, samples: &[f32], chunk_len: usize) -> Vec<Heard> {
    let mut heard = Vec::new();
    for chunk in samples.chunks(chunk_len) {
        listener.push(chunk, |event| heard.push(event)).unwrap();
    }
    heard
}

#[test]
fn features_are_those_of_double_precision() {
    let samples = &samples("short_wav_easy10s.wav")[8000..][..32000];
    for (recipe, name) in [(Recipe::WakeWord, "wake_word.f64"), (Recipe::Keywords, "keywords.f64")] {
        let expected = std::fs::read(testdata("sound").join(name)).unwrap();
        let expected = expected.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
        let mut features = Features::new(recipe);
        let mut out = vec![0.0; recipe.n_features()];
        let mut all: Vec<f32> = Vec::new();
        for at in (0..=samples.len() - recipe.frame_len()).step_by(recipe.stride()) {
            let before = if at == 0 { 0.0 } else { samples[at - 1] };
            features.frame(before, &samples[at..][..recipe.frame_len()], 1.0, &mut out);
            all.extend(&out);
        }
        assert_eq!(all.len(), expected.len(), "{recipe:?}");
        let differences = all.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
        let largest = differences.fold(0.0, f64::max);
        assert!(largest <= 1e-5, "{recipe:?}: {largest}");
    }
}

/// What `testdata/sound/micro_speech.py` gives to the reference, in the same order.
fn micro_speech_sounds() -> Vec<Vec<f32>> {
    let clips = ["yes", "no", "noise", "silence"].map(|clip| samples(&format!("{clip}_1000ms.wav")));
    let random = std::fs::read(testdata("sound/micro_speech_random.i16")).unwrap();
    let random = random.as_chunks().0.iter().map(|bytes| f32::from(i16::from_le_bytes(*bytes)) / 32768.0);
    clips.into_iter().chain([samples("short_wav_easy10s.wav"), random.collect()]).collect()
}

#[test]
fn micro_speech_has_every_bit_of_the_reference() {
    let recipe = Recipe::MicroSpeech;
    let expected = std::fs::read(testdata("sound/micro_speech.f32")).unwrap();
    let mut expected = expected.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let mut n_frames = 0;
    for (sound, samples) in micro_speech_sounds().iter().enumerate() {
        let mut features = Features::new(recipe);
        let mut out = vec![0.0; recipe.n_features()];
        for at in (0..=samples.len() - recipe.frame_len()).step_by(recipe.stride()) {
            features.frame(0.0, &samples[at..][..recipe.frame_len()], 1.0, &mut out);
            let expected: Vec<f32> = expected.by_ref().take(out.len()).collect();
            assert_eq!(out, expected, "sound {sound}, sample {at}");
            n_frames += 1;
        }
    }
    assert_eq!((n_frames, expected.next()), (794, None));
}

#[test]
fn yes_no_noise_and_silence() {
    let answers = std::fs::read(testdata("sound/micro_speech.json")).unwrap();
    let answers: std::collections::BTreeMap<String, [i8; 4]> = serde_json::from_slice(&answers).unwrap();
    let expected = std::fs::read(testdata("sound/micro_speech.i8")).unwrap();
    let graph = std::fs::read(testdata("networks/models/micro_speech_quantized.tflite")).unwrap();
    let graph = tflite::read(graph.into()).unwrap();
    for (i, (clip, heard)) in
        [("yes", Some(2)), ("no", Some(3)), ("noise", Some(0)), ("silence", None)].into_iter().enumerate()
    {
        // The bytes that the reference makes give the reference's answer.
        let options = Options { arithmetic: Arithmetic::Reference, ..Options::default() };
        let mut network = Network::new(&graph, &options).unwrap();
        let bytes: Vec<i8> = expected[i * 1960..][..1960].iter().map(|byte| *byte as i8).collect();
        network.set_input_bytes(0, &bytes).unwrap();
        network.run();
        let mut answer = [0; 4];
        network.output_bytes(0, &mut answer).unwrap();
        assert_eq!(answer, answers[clip], "{clip}");

        // And so do ours, from the sound: a second is one answer, and what it is likeliest to be is right. Silence is
        // not sure of itself, here or there, and so nothing is heard in it.
        let samples = samples(&format!("{clip}_1000ms.wav"));
        let smoothing = Smoothing { n_answers: 1, on: 0.001, off: 0.001 };
        let mut all = Listener::new(Network::new(&graph, &options).unwrap(), smoothing).unwrap();
        let all = hear(&mut all, &samples, 333);
        for (class, byte) in answer.iter().enumerate().filter(|(_, byte)| **byte > -128) {
            let probability = f32::from(*byte) / 256.0 + 0.5;
            assert!(all.iter().any(|h| h.class == class && h.probability == probability), "{clip}: {all:?}");
        }
        let mut listener = listener("micro_speech_quantized.tflite");
        let mut events = hear(&mut listener, &samples, 1000);
        listener.finish(|event| events.push(event)).unwrap();
        let classes: Vec<usize> = events.iter().map(|event| event.class).collect();
        assert_eq!(classes, Vec::from_iter(heard), "{clip}: {events:?}");
    }
}

/// Rate and samples of a file, or what is wrong.
fn read(name: &str, at: Option<u32>) -> (u32, Vec<f32>) {
    let bytes = std::fs::read(testdata("sound").join(name)).unwrap();
    let reader = SoundReader::new(std::io::Cursor::new(bytes)).unwrap();
    let reader = if let Some(rate) = at { reader.at(rate) } else { reader };
    (reader.sample_rate(), read_all(reader).unwrap())
}

fn read_all(mut reader: SoundReader) -> Result<Vec<f32>, String> {
    let (mut all, mut samples) = (Vec::new(), Vec::new());
    loop {
        reader.read(&mut samples, 777).map_err(|error| error.to_string())?;
        if samples.is_empty() {
            return Ok(all);
        }
        all.extend(&samples);
    }
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn flac_is_what_it_was_and_mp3_as_mpg123_decodes_it() {
    let wav = samples("yes_1000ms.wav");
    assert_eq!(read("yes_1000ms.wav", None), (16_000, wav.clone()));
    assert_eq!(read("yes_16000.flac", None), (16_000, wav.clone()));
    // 24 bits, two channels, and back from another rate.
    let (rate, flac) = read("yes_44100_stereo.flac", Some(16_000));
    assert_eq!((rate, flac.len()), (16_000, 16_000));
    let loud: Vec<f32> = wav.iter().map(|x| x * 0.75).collect();
    // What of the word is above 0.91 of the highest frequency was lost on the way there and back.
    let far = farthest(&flac[100..15_900], &loud[100..15_900]);
    assert!(far < 5e-3, "{far}");
    for (name, rate) in [("yes_22050", 22_050), ("yes_48000_stereo", 48_000)] {
        let expected = std::fs::read(testdata("sound").join(format!("{name}.f32"))).unwrap();
        let expected: Vec<f32> =
            expected.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let (given, samples) = read(&format!("{name}.mp3"), None);
        assert_eq!((given, samples.len()), (rate, expected.len()));
        assert!(farthest(&samples, &expected) < 1e-4, "{name}: {}", farthest(&samples, &expected));
    }
}

#[test]
fn other_rates_are_those_of_scipy_and_soxr() {
    #[derive(serde::Deserialize)]
    struct Golden {
        from: u32,
        to: u32,
        scipy: Vec<f32>,
        soxr: Vec<f32>,
    }
    let goldens = std::fs::read(testdata("sound/resampled.json")).unwrap();
    let goldens: Vec<Golden> = serde_json::from_slice(&goldens).unwrap();
    assert_eq!(goldens.len(), 6);
    for Golden { from, to, scipy, soxr } in goldens {
        let top = 0.8 * f64::from(from.min(to)) / 2.0;
        let sample = |i: u32| {
            let t = f64::from(i) / f64::from(from);
            (0.5 * (std::f64::consts::TAU * (100.0 * t + (top - 100.0) / 2.0 * t * t / 0.1)).sin()) as f32
        };
        let samples: Vec<f32> = (0..from / 10).map(sample).collect();
        let (mut resampler, mut out) = (Resampler::new(from, to), Vec::new());
        samples.chunks(100).for_each(|piece| resampler.push(piece, &mut out));
        resampler.finish(&mut out);
        assert!(farthest(&out, &scipy) < 3e-6, "{from} to {to}: {}", farthest(&out, &scipy));
        // Soxr's own distance from the sweep is up to 9e-5; at the ends, where silence begins, filters differ.
        let middle = 200..out.len() - 200;
        let far = farthest(&out[middle.clone()], &soxr[middle]);
        assert!(far < 2e-4, "{from} to {to}: {far}");
    }
}

#[test]
fn a_word_is_heard_in_any_coding() {
    for name in ["yes_16000.flac", "yes_44100_stereo.flac", "yes_22050.mp3", "yes_48000_stereo.mp3"] {
        let mut listener = listener("micro_speech_quantized.tflite");
        let mut heard = hear(&mut listener, &read(name, Some(16_000)).1, 1000);
        listener.finish(|event| heard.push(event)).unwrap();
        assert_eq!(heard.iter().map(|event| event.class).collect::<Vec<_>>(), [2], "{name}");
    }
}

#[test]
fn damaged_files_are_refused_with_a_reason() {
    let read = |bytes: Vec<u8>| match SoundReader::new(std::io::Cursor::new(bytes)) {
        Ok(reader) => read_all(reader),
        Err(error) => Err(error.to_string()),
    };
    for name in ["yes_16000.flac", "yes_22050.mp3"] {
        let whole = std::fs::read(testdata("sound").join(name)).unwrap();
        let n_samples = read(whole.clone()).unwrap().len();
        for len in [0, 3, 4, 11, 40, 200, 1000, whole.len() / 2, whole.len() - 100] {
            let error = read(whole[..len].to_vec()).unwrap_err();
            assert!(error.contains("get it anew"), "{name}, {len} bytes: {error}");
        }
        // One bit after the other: noticed, or not heard, but never a panic or more sound than there was.
        for at in (0..whole.len()).step_by(97) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            match read(damaged) {
                Ok(samples) => assert!(samples.len() <= 2 * n_samples && name.ends_with("mp3") || at < 200),
                Err(error) => assert!(!error.is_empty()),
            }
        }
    }
    let flac = std::fs::read(testdata("sound/yes_16000.flac")).unwrap();
    let mut wrong_sum = flac.clone();
    // The sum of all samples ends the first block of metadata.
    wrong_sum[41] ^= 1;
    assert!(read(wrong_sum).unwrap_err().contains("checksum"));
    for (bytes, expected) in [
        (b"OggS and something else".to_vec(), "begin as one of them"),
        (vec![0xff; 5000], "get it anew"),
        ([b"ID3\x04\0\0\x7f\x7f\x7f\x7f".to_vec(), vec![0; 100]].concat(), "get it anew"),
    ] {
        let error = read(bytes).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn every_wake_word_once_and_nothing_else() {
    let samples = samples("short_wav_easy10s.wav");
    let heard = hear(&mut listener("str_ww_ref_model.tflite"), &samples, 1000);
    // Class 0 is "Marvin"; the words begin at 1, 4 and 7 s and end within a second.
    let words: Vec<Heard> = heard.iter().copied().filter(|event| event.class == 0).collect();
    assert_eq!(words.len(), 3, "{heard:?}");
    for (word, begin) in words.iter().zip([1.0, 4.0, 7.0]) {
        assert!((begin..begin + 1.2).contains(&word.time_s) && word.probability >= 0.7, "{words:?}");
    }
    // However the sound comes in.
    for chunk_len in [1, 511, 160_000] {
        assert_eq!(hear(&mut listener("str_ww_ref_model.tflite"), &samples, chunk_len), heard);
    }
}

#[test]
fn nothing_is_heard_in_silence_and_noise() {
    let mut state = 1u64;
    let noise = (0..80_000).map(|_| {
        // Knuth's MMIX generator.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.1
    });
    let samples: Vec<f32> = std::iter::repeat_n(0.0, 80_000).chain(noise).collect();
    let heard = hear(&mut listener("str_ww_ref_model.tflite"), &samples, 1600);
    assert!(heard.iter().all(|event| event.class != 0), "{heard:?}");
}

#[test]
fn a_keyword_is_heard_once() {
    // Class 9 of the benchmark's twelve is "yes". A clip is hardly longer than a window: half of it follows again.
    let clip = samples("yes_1000ms.wav");
    let mut listening = listener("kws_ref_model.tflite");
    let mut heard = hear(&mut listening, &[&clip[..], &clip[..8000]].concat(), 700);
    listening.finish(|event| heard.push(event)).unwrap();
    let classes: Vec<usize> = heard.iter().map(|event| event.class).collect();
    assert_eq!(classes, [9], "{heard:?}");
    // The clip alone, and a little less of it, are judged at their end.
    for len in [16_000, 15_000] {
        let mut listening = listener("kws_ref_model.tflite");
        assert_eq!(hear(&mut listening, &clip[..len], 700), []);
        let mut heard = Vec::new();
        listening.finish(|event| heard.push(event.class)).unwrap();
        assert_eq!(heard, [9]);
    }
    listener("kws_ref_model.tflite").finish(|event| panic!("{event:?} in nothing")).unwrap();
}

#[test]
fn what_does_not_fit_is_refused() {
    let bytes = std::fs::read(testdata("networks/models/ad01_int8.tflite")).unwrap();
    let network = Network::new(&tflite::read(bytes.into()).unwrap(), &Options::default()).unwrap();
    let error = Listener::new(network, Smoothing::default()).unwrap_err().to_string();
    assert!(error.contains("[1, 640]") && error.contains("30 x 40 or 49 x 10 or 49 x 40"), "{error}");
    let error = listener("str_ww_ref_model.tflite").push(&[0.0, f32::NAN], |_| ()).unwrap_err().to_string();
    assert!(error.contains("sample 1"), "{error}");
}
