//! Images against Pillow and TensorFlow (`testdata/vision/make.py`), damaged ones, and a network that looks at real ones.

use std::path::PathBuf;

use edgeward_perceive::vision::boxes::Detector;
use edgeward_perceive::vision::{
    self, Error, Filter, Fit, Image, Limits, Preparation, Resizing, decode, resize,
};
use edgeward_perceive::{Network, Options, tflite};

fn testdata(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(testdata("vision").join(name)).unwrap()
}

fn image(name: &str) -> Image {
    decode(&bytes(name), &Limits::default()).unwrap()
}

fn method(name: &str) -> Resizing {
    match name {
        "nearest" => Resizing::Pillow(Filter::Nearest),
        "box" => Resizing::Pillow(Filter::Box),
        "bilinear" => Resizing::Pillow(Filter::Bilinear),
        "hamming" => Resizing::Pillow(Filter::Hamming),
        "bicubic" => Resizing::Pillow(Filter::Bicubic),
        "lanczos" => Resizing::Pillow(Filter::Lanczos),
        "tf-nearest" => Resizing::TensorFlowNearest,
        "tf-bilinear" => Resizing::TensorFlowBilinear,
        "tf-antialias" => Resizing::TensorFlowAntialias,
        other => panic!("{other}"),
    }
}

#[test]
fn sizes_change_as_pillow_and_tensorflow_change_them() {
    let noise = image("noise.png");
    assert_eq!((noise.width(), noise.height(), noise.n_channels()), (61, 47, 3));
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&bytes("resize.json")).unwrap();
    assert_eq!(cases.len(), 5 * 9);
    let (u8s, f32s) = (bytes("resize.u8"), bytes("resize.f32"));
    for case in cases {
        let name = case["method"].as_str().unwrap();
        let number = |key: &str| case[key].as_u64().unwrap() as usize;
        let (width, height, at) = (number("width"), number("height"), number("at"));
        let resized = resize::resize(&noise, width, height, method(name));
        assert_eq!(resized.len(), width * height * 3);
        let largest = |expected: &mut dyn Iterator<Item = f32>| {
            resized.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        if name.starts_with("tf-") {
            let floats = f32s.as_chunks().0[at..].iter().map(|bytes| f32::from_le_bytes(*bytes));
            let largest = largest(&mut floats.take(resized.len()));
            // Of 255: far less than one unit.
            assert!(largest < 1e-3, "{name} to {width} x {height}: {largest}");
        } else {
            let largest = largest(&mut u8s[at..][..resized.len()].iter().map(|byte| f32::from(*byte)));
            assert_eq!(largest, 0.0, "{name} to {width} x {height}");
        }
    }
}

#[test]
fn photographs_are_turned_upright() {
    let expected = bytes("upright.u8");
    for (orientation, expected) in (1..=8).zip(expected.chunks_exact(40 * 28 * 3)) {
        let image = image(&format!("upright_{orientation}.jpg"));
        assert_eq!((image.width(), image.height()), (40, 28), "orientation {orientation}");
        let differences = image.data().iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
        // Decoders of JPEG may round differently.
        assert!(differences.max().unwrap() <= 2, "orientation {orientation}");
    }
}

#[test]
fn hostile_images_are_refused() {
    let refused = |bytes: &[u8], expected: &str| {
        let error = decode(bytes, &Limits::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    refused(b"", "none of these");
    refused(b"GIF89a\x01\0\x01\0\0\0\0", "Gif");
    for name in ["noise.png", "upright_6.jpg"] {
        let whole = bytes(name);
        // Whatever is cut off or overwritten: an image or an error.
        for n in (0..whole.len()).step_by(11) {
            let _ = decode(&whole[..n], &Limits::default());
            let mut damaged = whole.clone();
            damaged[n] ^= 0x55;
            let _ = decode(&damaged, &Limits::default());
        }
        assert!(matches!(decode(&whole[..60], &Limits::default()), Err(Error::Malformed { .. })), "{name}");
    }
    // PNG and BMP headers that promise huge images, in a few bytes.
    let mut huge = bytes("noise.png");
    huge[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    // The checksum of the header, as a careful attacker would have it right.
    let crc = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&crc.to_be_bytes());
    assert!(matches!(decode(&huge, &Limits::default()), Err(Error::TooLarge { .. })));
    let mut huge = std::fs::read(testdata("vision/no_person.bmp")).unwrap();
    huge[18..26].copy_from_slice(&[0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0]);
    assert!(matches!(decode(&huge, &Limits::default()), Err(Error::TooLarge { .. })));
    // What is allowed depends on the caller.
    let limits = Limits { n_pixels: 61 * 47 - 1 };
    assert!(matches!(decode(&bytes("noise.png"), &limits), Err(Error::TooLarge { .. })));
    assert!(decode(&bytes("noise.png"), &Limits { n_pixels: 61 * 47 }).is_ok());
}

/// As PNG has it (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8)
            .fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (0u32.wrapping_sub(crc & 1))))
    };
    !bytes.iter().fold(!0, step)
}

#[test]
fn a_face_is_found() {
    let bytes = std::fs::read(testdata("networks/models/face_detection_short_range.tflite")).unwrap();
    let mut network = Network::new(&tflite::read(bytes.into()).unwrap(), &Options::default()).unwrap();
    let detector = Detector::of(&network).unwrap();
    for (name, n_faces) in [("person.png", 1), ("no_person.bmp", 0)] {
        for fit in [Fit::Stretch, Fit::Pad] {
            let preparation = Preparation { fit, range: Some(detector.range()), ..Preparation::default() };
            let (values, placement) = preparation.prepare(&image(name), &network.inputs()[0]).unwrap();
            network.set_input(0, &values).unwrap();
            network.run();
            let found = detector.detections(&network, &placement, 0.5);
            assert_eq!(found.len(), n_faces, "{name}: {found:?}");
            for face in found {
                // The middle of the face, by eye.
                let (x, y) = ((face.left + face.right) / 2.0, (face.top + face.bottom) / 2.0);
                assert!((x - 52.0).abs() < 6.0 && (y - 31.0).abs() < 6.0, "{face:?}");
                assert!((10.0..40.0).contains(&(face.right - face.left)), "{face:?}");
            }
        }
    }
}

#[test]
fn a_person_is_seen() {
    let bytes = std::fs::read(testdata("networks/models/person_detect.tflite")).unwrap();
    let mut network = Network::new(&tflite::read(bytes.into()).unwrap(), &Options::default()).unwrap();
    for (name, is_person) in [("person.png", true), ("no_person.bmp", false)] {
        for fit in [Fit::Stretch, Fit::Crop, Fit::Pad] {
            let preparation = Preparation { fit, ..Preparation::default() };
            let (values, _) = preparation.prepare(&image(name), &network.inputs()[0]).unwrap();
            network.set_input(0, &values).unwrap();
            network.run();
            let mut scores = [0.0; 2];
            network.output(0, &mut scores).unwrap();
            // The second class is "person".
            let expected = usize::from(is_person);
            assert_eq!(vision::top(&scores, 1)[0].0, expected, "{name}: {scores:?}");
        }
    }
}
