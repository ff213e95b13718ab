//! The operators' cases that come with ONNX, for the tests of its reader: Debian's `libonnx-testdata`, installed.

use std::path::PathBuf;

use crate::browser::apt;

const FOLDER: &str = "/usr/share/libonnx-testdata";

/// Where they are. Where they cannot be had, that is said, and `None`.
pub fn cases() -> Option<PathBuf> {
    let folder = PathBuf::from(FOLDER);
    if !folder.is_dir() {
        eprintln!("test: ONNX's cases are not here; installing Debian's libonnx-testdata");
        let install = ["install", "--yes", "--no-install-recommends", "libonnx-testdata"];
        if let Err(why) = apt(&["update"]).and_then(|()| apt(&install)) {
            eprintln!("test: ONNX's own cases are NOT tested ({why}); `apt-get install libonnx-testdata`");
            return None;
        }
    }
    folder.is_dir().then_some(folder)
}
