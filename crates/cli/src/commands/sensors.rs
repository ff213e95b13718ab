//! How measurements are made ready, on the command line: the same for whoever watches them and whoever learns from them.

use clap::ValueEnum;
use edgeward_perceive::sensor::{
    Conversion, FEATURE_LENS, Feature, MAX_HAMPEL, Preparation, UnitChange, parse_duration,
};

/// Steps from what was measured to what is judged.
#[derive(clap::Args)]
pub struct SensorArgs {
    /// The unit of the values and the one to judge in, as in degF:degC; of one column alone, as in outside=degF:degC
    #[arg(long, value_name = "[COLUMN=]FROM:TO", value_parser = unit)]
    unit: Vec<UnitChange>,
    /// Bring the values to even steps of time, as in 500ms, 5min; times are in the first column (in JSON lines
    /// `timestamp`, `time` or `ts`), as seconds or as 2026-11-28 10:15:30
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    every: Option<f64>,
    /// Refuse longer gaps in time [default: a line leads over all]
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "every")]
    max_gap: Option<f64>,
    /// Replace single wild values by the median of as many values on either side; answers come as many values later
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_HAMPEL)))]
    hampel: Option<u16>,
    /// Look at a feature of the last values instead of the values
    #[arg(long, value_enum)]
    feature: Option<FeatureArg>,
    /// Values that a feature is of
    #[arg(long, default_value_t = 64, requires = "feature", value_parser = clap::value_parser!(u32).range(i64::from(*FEATURE_LENS.start())..=i64::from(*FEATURE_LENS.end())))]
    over: u32,
}

impl SensorArgs {
    /// What was asked for.
    pub fn preparation(&self) -> Preparation {
        Preparation {
            units: self.unit.clone(),
            every_s: self.every,
            max_gap_s: self.max_gap,
            hampel: self.hampel,
            feature: self.feature.map(|feature| (feature.into(), self.over)),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FeatureArg {
    Mean,
    /// Standard deviation
    Deviation,
    /// Effective value
    Rms,
    /// Largest less smallest
    Range,
    /// Change from value to value
    Slope,
    /// Largest distance from the mean, in standard deviations
    Crest,
    /// 3 for a normal distribution, more where there are knocks
    Kurtosis,
    /// How often it goes through its mean, 0 to 1
    Crossings,
    /// Strongest frequency: in hertz with --every, else in cycles from value to value
    Frequency,
}

impl From<FeatureArg> for Feature {
    fn from(feature: FeatureArg) -> Feature {
        match feature {
            FeatureArg::Mean => Feature::Mean,
            FeatureArg::Deviation => Feature::Deviation,
            FeatureArg::Rms => Feature::Rms,
            FeatureArg::Range => Feature::Range,
            FeatureArg::Slope => Feature::Slope,
            FeatureArg::Crest => Feature::Crest,
            FeatureArg::Kurtosis => Feature::Kurtosis,
            FeatureArg::Crossings => Feature::Crossings,
            FeatureArg::Frequency => Feature::Frequency,
        }
    }
}

fn unit(text: &str) -> Result<UnitChange, String> {
    // No unit has an equals sign in its name, and a column may.
    let (column, units) = match text.rsplit_once('=') {
        Some((column, units)) => (Some(column.to_owned()), units),
        None => (None, text),
    };
    let (from, to) = units.split_once(':').ok_or("give two units, as in degF:degC")?;
    Conversion::between(from, to).map_err(|error| error.to_string())?;
    Ok(UnitChange { column, from: from.to_owned(), to: to.to_owned() })
}

fn duration(text: &str) -> Result<f64, String> {
    parse_duration(text).ok_or_else(|| "give a number and us, ms, s, min, h or d".to_owned())
}
