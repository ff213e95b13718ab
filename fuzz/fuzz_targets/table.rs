//! Any bytes as CSV or JSON lines: rows with numbers or an error, never a panic, and an end.
#![no_main]

use edgeward_perceive::table::Rows;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for column in [None, Some("value"), Some("2")] {
        let n_lines = bytes.split(|byte| *byte == b'\n').count();
        let mut n_rows = 0;
        for row in Rows::new(bytes, column) {
            let Ok(row) = row else { break };
            assert!(row.value.is_finite());
            n_rows += 1;
            assert!(n_rows <= n_lines, "no more rows than lines");
        }
    }
});
