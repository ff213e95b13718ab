//! WAV files: RIFF chunks, of which `fmt ` and `data` matter (Microsoft, "Multiple Channel Audio Data and WAVE Files").
//!
//! Read from front to back, so that a pipe will do, which may say 0 or 0xffffffff bytes and then goes on to its end. No
//! more than one buffer of samples is held, whatever the header says.

use std::io::{self, Read};

use super::Error;

/// Channels of a file: as many as any recorder has.
pub(super) const MAX_CHANNELS: u16 = 64;
/// Samples per second.
pub(super) const MAX_SAMPLE_RATE: u32 = 768_000;
/// Chunks before the sound: titles, cues.
const MAX_CHUNKS: usize = 1000;
/// Bytes of a `fmt ` chunk that are looked at: those of the extensible format.
const FORMAT_LEN: usize = 40;

/// How a sample is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    U8,
    I16,
    I24,
    I32,
    F32,
}

impl Encoding {
    fn size_bytes(self) -> usize {
        match self {
            Encoding::U8 => 1,
            Encoding::I16 => 2,
            Encoding::I24 => 3,
            Encoding::I32 | Encoding::F32 => 4,
        }
    }

    /// -1 to 1, of as many bytes.
    fn sample(self, bytes: &[u8]) -> f32 {
        match (self, bytes) {
            (Encoding::U8, [a]) => (f32::from(*a) - 128.0) / 128.0,
            (Encoding::I16, [a, b]) => f32::from(i16::from_le_bytes([*a, *b])) / 32768.0,
            (Encoding::I24, [a, b, c]) => i32::from_le_bytes([0, *a, *b, *c]) as f32 / 2_147_483_648.0,
            (Encoding::I32, [a, b, c, d]) => i32::from_le_bytes([*a, *b, *c, *d]) as f32 / 2_147_483_648.0,
            (Encoding::F32, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]),
            _ => unreachable!("as many bytes as the encoding has"),
        }
    }
}

/// Samples of a WAV file, its channels averaged.
#[derive(Debug)]
pub struct WavReader<R> {
    source: R,
    sample_rate: u32,
    n_channels: usize,
    encoding: Encoding,
    /// Bytes of sound that are still to come; `None` is until the source ends.
    left_bytes: Option<u64>,
    bytes: Vec<u8>,
}

impl<R: Read> WavReader<R> {
    /// Reads up to the first sample.
    ///
    /// # Errors
    /// If the source is no WAV file, or its encoding is none of 8, 16, 24 or 32-bit PCM and 32-bit floats.
    pub fn new(mut source: R) -> Result<WavReader<R>, Error> {
        let mut header = [0; 12];
        read_all(&mut source, &mut header, "its header")?;
        if &header[..4] != b"RIFF" || &header[8..] != b"WAVE" {
            return Err(malformed("it does not begin as one of them"));
        }
        let mut format = None;
        for _ in 0..MAX_CHUNKS {
            let mut chunk = [0; 8];
            read_all(&mut source, &mut chunk, "a chunk before its sound")?;
            let [.., a, b, c, d] = chunk;
            let len = u32::from_le_bytes([a, b, c, d]);
            match &chunk[..4] {
                b"data" => {
                    let (encoding, n_channels, sample_rate) =
                        format.ok_or_else(|| malformed("its sound comes before its format"))?;
                    let left_bytes = (len != 0 && len != u32::MAX).then_some(u64::from(len));
                    let bytes = Vec::new();
                    return Ok(WavReader { source, sample_rate, n_channels, encoding, left_bytes, bytes });
                }
                b"fmt " => {
                    let mut bytes = [0; FORMAT_LEN];
                    let n = FORMAT_LEN.min(len as usize);
                    read_all(&mut source, &mut bytes[..n], "its format")?;
                    format = Some(read_format(&bytes[..n])?);
                    skip(&mut source, u64::from(len) - n as u64 + u64::from(len % 2))?;
                }
                // Chunks are padded to an even length.
                _ => skip(&mut source, u64::from(len) + u64::from(len % 2))?,
            }
        }
        Err(malformed(format!("no sound within {MAX_CHUNKS} chunks")))
    }

    /// Samples per second.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// Replaces `samples` by the next at most `n`, -1 to 1; none are left if it is empty.
    ///
    /// # Errors
    /// If the source ends early, or a sample is no number.
    pub fn read(&mut self, samples: &mut Vec<f32>, n: usize) -> Result<(), Error> {
        samples.clear();
        let frame_bytes = self.n_channels * self.encoding.size_bytes();
        let wanted = (n as u64).saturating_mul(frame_bytes as u64);
        let wanted = self.left_bytes.map_or(wanted, |left| left.min(wanted));
        self.bytes.clear();
        let n_read = (&mut self.source).take(wanted).read_to_end(&mut self.bytes)? as u64;
        if let Some(left) = &mut self.left_bytes {
            if n_read < wanted {
                return Err(malformed(format!("it ends {} bytes early", *left - n_read)));
            }
            *left -= n_read;
        }
        if !self.bytes.len().is_multiple_of(frame_bytes) {
            return Err(malformed("it ends within a sample"));
        }
        for frame in self.bytes.chunks_exact(frame_bytes) {
            let channels = frame.chunks_exact(self.encoding.size_bytes());
            let sum: f32 = channels.map(|bytes| self.encoding.sample(bytes)).sum();
            if !sum.is_finite() {
                return Err(malformed("a sample is no number"));
            }
            samples.push(sum / self.n_channels as f32);
        }
        Ok(())
    }
}

fn read_format(bytes: &[u8]) -> Result<(Encoding, usize, u32), Error> {
    if bytes.len() < 16 {
        return Err(malformed("its format is too short"));
    }
    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let (mut tag, n_channels, bits) = (u16_at(0), u16_at(2), u16_at(14));
    let sample_rate = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    // The extensible format has the tag as the beginning of a GUID.
    if tag == 0xfffe && bytes.len() >= FORMAT_LEN {
        tag = u16_at(24);
    }
    if !(1..=MAX_CHANNELS).contains(&n_channels) || !(1..=MAX_SAMPLE_RATE).contains(&sample_rate) {
        return Err(malformed(format!("{n_channels} channels of {sample_rate} samples per second")));
    }
    let encoding = match (tag, bits) {
        (1, 8) => Encoding::U8,
        (1, 16) => Encoding::I16,
        (1, 24) => Encoding::I24,
        (1, 32) => Encoding::I32,
        (3, 32) => Encoding::F32,
        _ => {
            let what = format!("this one has {bits} bits of format {tag}");
            return Err(Error::Unsupported { what });
        }
    };
    Ok((encoding, usize::from(n_channels), sample_rate))
}

fn malformed(what: impl Into<String>) -> Error {
    Error::Malformed { what: what.into() }
}

fn read_all(source: &mut impl Read, bytes: &mut [u8], what: &str) -> Result<(), Error> {
    source.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => malformed(format!("it ends within {what}")),
        _ => Error::Io(error),
    })
}

fn skip(source: &mut impl Read, n: u64) -> Result<(), Error> {
    if io::copy(&mut source.take(n), &mut io::sink())? < n {
        return Err(malformed("it ends within a chunk before its sound"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(name: &[u8; 4], bytes: &[u8]) -> Vec<u8> {
        let mut chunk = [&name[..], &(bytes.len() as u32).to_le_bytes(), bytes].concat();
        chunk.resize(chunk.len().next_multiple_of(2), 0);
        chunk
    }

    fn format(tag: u16, n_channels: u16, bits: u16) -> Vec<u8> {
        let frame = n_channels.wrapping_mul(bits / 8);
        let mut bytes = [tag.to_le_bytes(), n_channels.to_le_bytes()].concat();
        bytes.extend(16000u32.to_le_bytes());
        bytes.extend((16000 * u32::from(frame)).to_le_bytes());
        bytes.extend([frame.to_le_bytes(), bits.to_le_bytes()].concat());
        bytes
    }

    fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
        let body = chunks.concat();
        [b"RIFF", &(body.len() as u32 + 4).to_le_bytes()[..], b"WAVE", &body].concat()
    }

    fn read(file: &[u8]) -> Result<Vec<f32>, Error> {
        let mut reader = WavReader::new(file)?;
        let (mut all, mut samples) = (Vec::new(), Vec::new());
        loop {
            reader.read(&mut samples, 3)?;
            if samples.is_empty() {
                return Ok(all);
            }
            all.extend(&samples);
        }
    }

    #[test]
    fn all_encodings() {
        let floats: Vec<u8> = [0.5f32, -1.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut extensible = format(0xfffe, 1, 16);
        extensible.extend([22, 0, 16, 0, 4, 0, 0, 0, 1, 0]);
        extensible.extend([0; 14]);
        let cases: [(Vec<u8>, &[u8]); 6] = [
            (format(1, 1, 8), &[192, 0]),
            (format(1, 1, 16), &[0, 64, 0, 128]),
            (format(1, 1, 24), &[0, 0, 64, 0, 0, 128]),
            (format(1, 1, 32), &[0, 0, 0, 64, 0, 0, 0, 128]),
            (format(3, 1, 32), &floats),
            (extensible, &[0, 64, 0, 128]),
        ];
        for (format, data) in cases {
            // An odd chunk before, which is padded.
            let file = file(&[chunk(b"LIST", b"abc"), chunk(b"fmt ", &format), chunk(b"data", data)]);
            assert_eq!(read(&file).unwrap(), [0.5, -1.0], "{format:?}");
        }
    }

    #[test]
    fn channels_are_averaged() {
        let data: Vec<u8> = [16384i16, 0, -32768, -32768].iter().flat_map(|x| x.to_le_bytes()).collect();
        let file = file(&[chunk(b"fmt ", &format(1, 2, 16)), chunk(b"data", &data)]);
        assert_eq!(read(&file).unwrap(), [0.25, -1.0]);
    }

    #[test]
    fn a_pipe_without_a_length() {
        for len in [0, u32::MAX] {
            let mut file = file(&[chunk(b"fmt ", &format(1, 1, 8)), chunk(b"data", &[])]);
            let at = file.len() - 4;
            file[at..].copy_from_slice(&len.to_le_bytes());
            file.extend([128; 10]);
            assert_eq!(read(&file).unwrap(), [0.0; 10]);
        }
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let whole = file(&[chunk(b"fmt ", &format(1, 1, 16)), chunk(b"data", &[1, 2, 3, 4])]);
        for n in 0..whole.len() {
            assert!(matches!(read(&whole[..n]), Err(Error::Malformed { .. })), "{n} bytes");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                // Read or refused; a length that is wrong is noticed.
                let _ = read(&damaged);
            }
        }
        let nan = f32::NAN.to_le_bytes();
        let cases = [
            (file(&[chunk(b"data", &[0; 4])]), "before its format"),
            (file(&[chunk(b"fmt ", &format(1, 0, 16)), chunk(b"data", &[0; 4])]), "0 channels"),
            (file(&[chunk(b"fmt ", &format(1, 1, 16)), chunk(b"data", &[0; 3])]), "within a sample"),
            (file(&[chunk(b"fmt ", &format(3, 1, 32)), chunk(b"data", &nan)]), "no number"),
            (file(&[chunk(b"fmt ", &format(2, 1, 4)), chunk(b"data", &[0; 4])]), "format 2"),
            (file(&[chunk(b"fmt ", &[1, 0])]), "too short"),
            (file(&vec![chunk(b"cue ", &[]); 1001]), "1000 chunks"),
            (b"RIFX\0\0\0\0WAVE".to_vec(), "begin as"),
        ];
        for (file, expected) in cases {
            let text = read(&file).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
    }
}
