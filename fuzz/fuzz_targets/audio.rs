//! Any bytes as a sound of any kind, at the rate of networks: samples or an error, never a panic, and an end.
#![no_main]

use std::io::Cursor;

use edgeward_perceive::sound::SoundReader;

/// Samples that are enough to have read: a few bytes of FLAC are a second of silence.
const MAX_SAMPLES: usize = 1 << 20;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(mut reader) = SoundReader::new(Cursor::new(bytes.to_vec())) else { return };
    // Rates whose filter is long are tested elsewhere.
    if (4000..200_000).contains(&reader.sample_rate()) {
        reader = reader.at(16_000);
    }
    let (mut samples, mut n_samples) = (Vec::new(), 0);
    while n_samples < MAX_SAMPLES && reader.read(&mut samples, 1000).is_ok() && !samples.is_empty() {
        assert!(samples.iter().all(|sample| sample.is_finite()));
        n_samples += samples.len();
    }
});
