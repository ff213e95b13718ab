//! Any bytes as a WAV file: samples or an error, never a panic, and an end.
#![no_main]

use edgeward_perceive::sound::WavReader;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(mut reader) = WavReader::new(bytes) else { return };
    let (mut samples, mut n_samples) = (Vec::new(), 0);
    while reader.read(&mut samples, 100).is_ok() && !samples.is_empty() {
        assert!(samples.iter().all(|sample| sample.is_finite()));
        n_samples += samples.len();
        assert!(n_samples <= bytes.len(), "no more samples than bytes");
    }
});
