//! The one binary: parse, call a library, print.
fn main() {}
