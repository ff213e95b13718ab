//! Any bytes as CSV or JSON lines: rows with numbers or an error, never a panic, and an end; and whatever rows there are, as
//! measurements of a sensor.
#![no_main]

use edgeward_perceive::sensor::{Conversion, Feature, Features, Gaps, Grid, Hampel, Pipeline};
use edgeward_perceive::table::{Records, Rows};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let n_lines = bytes.split(|byte| *byte == b'\n').count();
    for column in [None, Some("value"), Some("2")] {
        let mut pipeline = Pipeline::new(
            Conversion::between("degF", "degC").ok(),
            Some(Hampel::new(2, 3.0)),
            // A gap of a few cells, so that a short input cannot ask for a million of them.
            Some(Grid::new(60.0, Gaps::Refuse(3600.0))),
            Some((Feature::Kurtosis, Features::new(4, None))),
        );
        let mut n_rows = 0;
        for row in Rows::new(bytes, column) {
            let Ok(row) = row else { break };
            assert!(row.value.is_finite());
            let _ = pipeline.push(&row, |_| ());
            n_rows += 1;
            assert!(n_rows <= n_lines, "no more rows than lines");
        }
        pipeline.finish(|_| ());
    }
    let Ok(records) = Records::new(bytes) else { return };
    let n_columns = records.names().len();
    let mut n_records = 0;
    for record in records {
        let Ok(record) = record else { break };
        assert_eq!(record.cells.len(), n_columns);
        for column in 0..n_columns {
            assert!(record.number(column).map_or(true, f64::is_finite));
        }
        n_records += 1;
        assert!(n_records <= n_lines, "no more records than lines");
    }
});
