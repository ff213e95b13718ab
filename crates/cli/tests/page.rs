//! The page, in a real Chromium: `tests/clients/page.py` drives it. `cargo xtask test` installs the browser and says
//! where it is; without one there is nothing to test with, and xtask has said so.

#![cfg(unix)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use support::Sandbox;
use support::serving::Serving;

#[test]
fn the_page_does_what_visitors_expect() {
    let (Some(chromium), Ok(model)) =
        (std::env::var_os("EDGEWARD_TEST_CHROMIUM"), std::env::var("EDGEWARD_TEST_SMOLLM2_135M"))
    else {
        return;
    };
    let sandbox = Sandbox::new();
    let server = Serving::start(&sandbox, &[&model]);
    let output = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/page.py"))
        .arg(&server.url)
        .arg(chromium)
        .env("PYTHONPATH", support::python_packages("page-requirements.txt"))
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.ends_with("all is well\n"), "{text}");
}
