//! PNG, JPEG and BMP files, decoded by the crate `image` and turned upright.
//!
//! A file says how large its image is before it has proved that: sizes are compared with [`Limits`] before anything is
//! decoded, and the decoder allocates no more than they allow.

use std::io::Cursor;

use image::error::ImageError;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use super::{Error, Image};

/// How large an image may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pixels, rows by columns.
    pub n_pixels: u64,
}

impl Default for Limits {
    /// 64 million pixels: what cameras give, and 256 MB while decoding.
    fn default() -> Limits {
        Limits { n_pixels: 64 << 20 }
    }
}

/// Bytes that a decoder may take for a pixel: four channels of sixteen bits, twice.
const DECODER_BYTES_PER_PIXEL: u64 = 16;
/// What a decoder may take beside that.
const DECODER_BYTES: u64 = 16 << 20;

/// Decodes a file and turns the image as its EXIF orientation says. Transparency is dropped, as Pillow's
/// `convert("RGB")` does; sixteen bits become eight.
///
/// # Errors
/// If it is no such file, is damaged, or its image is larger than `limits`.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Image, Error> {
    let malformed = |error: ImageError| Error::Malformed { what: error.to_string() };
    let too_large = |what: String| Error::TooLarge { what };
    let mut reader = ImageReader::new(Cursor::new(bytes));
    // By its first bytes, whatever its name.
    let format = image::guess_format(bytes)
        .map_err(|_| Error::Malformed { what: "its first bytes are of none of these".into() })?;
    if !matches!(format, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Bmp) {
        return Err(Error::Malformed { what: format!("it is {format:?}") });
    }
    reader.set_format(format);
    let mut decoding = image::Limits::default();
    decoding.max_alloc = Some(limits.n_pixels.saturating_mul(DECODER_BYTES_PER_PIXEL) + DECODER_BYTES);
    reader.limits(decoding.clone());
    let mut decoder = match reader.into_decoder() {
        Err(ImageError::Limits(error)) => return Err(too_large(error.to_string())),
        decoder => decoder.map_err(malformed)?,
    };
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(Error::Malformed { what: "it has no pixels".into() });
    }
    if u64::from(width) * u64::from(height) > limits.n_pixels {
        return Err(too_large(format!("{width} x {height} pixels; {} in all are the most", limits.n_pixels)));
    }
    // Damaged EXIF data is no reason to refuse an image: it is upright then.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut image = match DynamicImage::from_decoder(decoder) {
        Err(ImageError::Limits(error)) => return Err(too_large(error.to_string())),
        image => image.map_err(malformed)?,
    };
    image.apply_orientation(orientation);
    let is_grey = !image.color().has_color();
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (n_channels, data) =
        if is_grey { (1, image.into_luma8().into_raw()) } else { (3, image.into_rgb8().into_raw()) };
    Ok(Image::new(width, height, n_channels, data))
}
