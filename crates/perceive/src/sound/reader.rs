//! Sound of any kind that is read here, from front to back: WAV by ourselves, FLAC and MP3 by `symphonia`.
//!
//! A file that ends early, or whose sound is not what its own checksum says, is an error, and so is a packet that cannot be
//! decoded. Only an MP3 stream may begin with packets that refer to what was before it.

use std::io::{self, Chain, Cursor, Read};

use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::common::Limit;
use symphonia::core::errors::Error as CodecError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::{MediaSourceStream, ReadOnlySource};
use symphonia::core::meta::MetadataOptions;

use super::wav::{MAX_CHANNELS, MAX_SAMPLE_RATE};
use super::{Error, Resampler, WavReader};

/// Bytes that tell a file's kind.
const HEAD_LEN: usize = 12;
/// Packets at the beginning of an MP3 stream that may be lost.
const MAX_LOST: usize = 4;
/// Bytes of a title, or of a picture within a file: nobody hears them.
const MAX_TAG_BYTES: usize = 1 << 20;

type Source = Chain<Cursor<Vec<u8>>, Box<dyn Read + Send + Sync>>;

/// Samples of a WAV, FLAC or MP3 file, its channels averaged, and at another rate if wanted.
pub struct SoundReader {
    kind: Kind,
    resampling: Option<(u32, Resampler)>,
    /// Samples of the file that are to be resampled.
    raw: Vec<f32>,
    is_over: bool,
}

enum Kind {
    Wav(WavReader<Source>),
    Coded(Box<Coded>),
}

impl SoundReader {
    /// Reads up to the first sample.
    ///
    /// # Errors
    /// If the source is none of the three, or damaged, or of an encoding that is not read.
    pub fn new(source: impl Read + Send + Sync + 'static) -> Result<SoundReader, Error> {
        let mut source: Box<dyn Read + Send + Sync> = Box::new(source);
        let mut head = Vec::new();
        (&mut source).take(HEAD_LEN as u64).read_to_end(&mut head)?;
        let extension = match head.as_slice() {
            [b'f', b'L', b'a', b'C', ..] => Some("flac"),
            // A title, or eleven bits of synchronisation.
            [b'I', b'D', b'3', ..] => Some("mp3"),
            [0xff, second, ..] if second & 0xe0 == 0xe0 => Some("mp3"),
            _ => None,
        };
        let source = Cursor::new(head).chain(source);
        let kind = match extension {
            Some(extension) => Kind::Coded(Box::new(Coded::new(source, extension)?)),
            None => Kind::Wav(WavReader::new(source)?),
        };
        Ok(SoundReader { kind, resampling: None, raw: Vec::new(), is_over: false })
    }

    /// Samples per second that [`SoundReader::read`] gives.
    pub fn sample_rate(&self) -> u32 {
        match (&self.resampling, &self.kind) {
            (Some((rate, _)), _) => *rate,
            (None, Kind::Wav(wav)) => wav.sample_rate(),
            (None, Kind::Coded(coded)) => coded.sample_rate,
        }
    }

    /// The same sound with `rate` samples per second.
    ///
    /// # Panics
    /// If `rate` is 0, or something has been read or resampled already.
    pub fn at(mut self, rate: u32) -> SoundReader {
        assert!(self.resampling.is_none() && !self.is_over);
        let given = self.sample_rate();
        self.resampling = (given != rate).then(|| (rate, Resampler::new(given, rate)));
        self
    }

    /// Replaces `samples` by the next, -1 to 1, some `n` or fewer at the file's own rate; none are left if it is empty.
    ///
    /// # Errors
    /// If the source ends early or is damaged, or a sample is no number.
    pub fn read(&mut self, samples: &mut Vec<f32>, n: usize) -> Result<(), Error> {
        samples.clear();
        let SoundReader { kind, resampling, raw, is_over } = self;
        while samples.is_empty() && !*is_over {
            let into = if resampling.is_some() { &mut *raw } else { &mut *samples };
            match kind {
                Kind::Wav(wav) => wav.read(into, n)?,
                Kind::Coded(coded) => coded.read(into, n)?,
            }
            *is_over = into.is_empty();
            match resampling {
                Some((_, resampler)) if *is_over => resampler.finish(samples),
                Some((_, resampler)) => resampler.push(raw, samples),
                None => {}
            }
        }
        Ok(())
    }
}

/// A file that `symphonia` decodes.
struct Coded {
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track_id: u32,
    sample_rate: u32,
    /// As the file says it, if it does.
    n_frames: Option<u64>,
    n_read: u64,
    n_lost: usize,
    /// Decoded, channels averaged, from `n_given` on not yet given.
    samples: Vec<f32>,
    n_given: usize,
    interleaved: Vec<f32>,
}

impl Coded {
    fn new(source: Source, extension: &str) -> Result<Coded, Error> {
        let stream = MediaSourceStream::new(Box::new(ReadOnlySource::new(source)), Default::default());
        let mut hint = Hint::new();
        hint.with_extension(extension);
        let tags = MetadataOptions::default()
            .limit_tag_bytes(Limit::Maximum(MAX_TAG_BYTES))
            .limit_visual_bytes(Limit::Maximum(MAX_TAG_BYTES));
        let format = symphonia::default::get_probe()
            .probe(&hint, stream, FormatOptions::default(), tags)
            .map_err(|found| match found {
                // Its first bytes say what it should be.
                CodecError::Unsupported(_) => malformed("nothing like it follows its beginning"),
                other => error(other),
            })?;
        let track =
            format.default_track(TrackType::Audio).ok_or_else(|| malformed("there is no sound in it"))?;
        let params = track.codec_params.as_ref().and_then(|params| params.audio());
        let params = params.ok_or_else(|| malformed("it does not say how it is coded"))?;
        let sample_rate = params.sample_rate.unwrap_or(0);
        let n_channels = params.channels.as_ref().map_or(1, |channels| channels.count());
        if !(1..=MAX_SAMPLE_RATE).contains(&sample_rate) || n_channels > usize::from(MAX_CHANNELS) {
            return Err(malformed(format!("{n_channels} channels of {sample_rate} samples per second")));
        }
        let options = AudioDecoderOptions::default().verify(true);
        let decoder = symphonia::default::get_codecs().make_audio_decoder(params, &options).map_err(error)?;
        let (track_id, n_frames) = (track.id, track.num_frames);
        Ok(Coded {
            format,
            decoder,
            track_id,
            sample_rate,
            n_frames,
            n_read: 0,
            n_lost: 0,
            samples: Vec::new(),
            n_given: 0,
            interleaved: Vec::new(),
        })
    }

    fn read(&mut self, out: &mut Vec<f32>, n: usize) -> Result<(), Error> {
        out.clear();
        while self.n_given == self.samples.len() {
            self.samples.clear();
            self.n_given = 0;
            if !self.decode()? {
                return Ok(());
            }
        }
        let n = n.min(self.samples.len() - self.n_given);
        out.extend_from_slice(&self.samples[self.n_given..][..n]);
        self.n_given += n;
        Ok(())
    }

    /// The next packet; whether there was one.
    fn decode(&mut self) -> Result<bool, Error> {
        let packet = match self.format.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => return self.end(),
            Err(CodecError::IoError(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return self.end();
            }
            Err(other) => return Err(error(other)),
        };
        if packet.track_id != self.track_id {
            return Ok(true);
        }
        let decoded = match self.decoder.decode(&packet) {
            Ok(decoded) => decoded,
            Err(CodecError::DecodeError(_)) if self.n_read == 0 && self.n_lost < MAX_LOST => {
                self.n_lost += 1;
                return Ok(true);
            }
            Err(other) => return Err(error(other)),
        };
        let (rate, n_channels) = (decoded.spec().rate(), decoded.spec().channels().count());
        if rate != self.sample_rate {
            let what = format!("its rate changes from {} to {rate} samples a second", self.sample_rate);
            return Err(Error::Unsupported { what });
        }
        decoded.copy_to_vec_interleaved(&mut self.interleaved);
        for frame in self.interleaved.chunks_exact(n_channels.max(1)) {
            let mean = frame.iter().sum::<f32>() / n_channels as f32;
            if !mean.is_finite() {
                return Err(malformed("a sample is no number"));
            }
            self.samples.push(mean);
        }
        self.n_read += self.samples.len() as u64;
        Ok(true)
    }

    fn end(&mut self) -> Result<bool, Error> {
        if let Some(n_frames) = self.n_frames.filter(|n_frames| self.n_read < *n_frames) {
            return Err(malformed(format!("it ends after {} of {n_frames} samples", self.n_read)));
        }
        if self.n_read == 0 {
            return Err(malformed("no sound could be decoded"));
        }
        if self.decoder.finalize().verify_ok == Some(false) {
            return Err(malformed("its sound is not what its checksum says"));
        }
        Ok(false)
    }
}

fn malformed(what: impl Into<String>) -> Error {
    Error::Malformed { what: what.into() }
}

fn error(error: CodecError) -> Error {
    match error {
        CodecError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            malformed("it ends early")
        }
        CodecError::IoError(error) => Error::Io(error),
        CodecError::Unsupported(what) => Error::Unsupported { what: what.to_owned() },
        other => malformed(other.to_string()),
    }
}
