//! Units of what sensors measure, and how one becomes another: by a factor, of temperatures also by an offset.

use std::fmt;

/// `(name, what it measures, factor and offset to that quantity's first unit)`. Names as the UCUM has them, more or less.
const UNITS: [(&str, &str, f64, f64); 58] = [
    ("K", "temperature", 1.0, 0.0),
    ("degC", "temperature", 1.0, 273.15),
    ("degF", "temperature", 5.0 / 9.0, 459.67 * 5.0 / 9.0),
    ("m", "length", 1.0, 0.0),
    ("mm", "length", 1e-3, 0.0),
    ("cm", "length", 1e-2, 0.0),
    ("km", "length", 1e3, 0.0),
    ("in", "length", 0.0254, 0.0),
    ("ft", "length", 0.3048, 0.0),
    ("Pa", "pressure", 1.0, 0.0),
    ("hPa", "pressure", 1e2, 0.0),
    ("kPa", "pressure", 1e3, 0.0),
    ("mbar", "pressure", 1e2, 0.0),
    ("bar", "pressure", 1e5, 0.0),
    ("atm", "pressure", 101_325.0, 0.0),
    ("mmHg", "pressure", 133.322_387_415, 0.0),
    ("psi", "pressure", 6_894.757_293_168, 0.0),
    ("m/s2", "acceleration", 1.0, 0.0),
    ("g", "acceleration", 9.806_65, 0.0),
    ("mg", "acceleration", 9.806_65e-3, 0.0),
    ("m/s", "speed", 1.0, 0.0),
    ("mm/s", "speed", 1e-3, 0.0),
    ("km/h", "speed", 1.0 / 3.6, 0.0),
    ("mph", "speed", 0.447_04, 0.0),
    ("kn", "speed", 1852.0 / 3600.0, 0.0),
    ("rad", "angle", 1.0, 0.0),
    ("deg", "angle", std::f64::consts::PI / 180.0, 0.0),
    ("rad/s", "angular velocity", 1.0, 0.0),
    ("deg/s", "angular velocity", std::f64::consts::PI / 180.0, 0.0),
    ("rpm", "angular velocity", std::f64::consts::PI / 30.0, 0.0),
    ("Hz", "frequency", 1.0, 0.0),
    ("kHz", "frequency", 1e3, 0.0),
    ("V", "voltage", 1.0, 0.0),
    ("mV", "voltage", 1e-3, 0.0),
    ("uV", "voltage", 1e-6, 0.0),
    ("A", "current", 1.0, 0.0),
    ("mA", "current", 1e-3, 0.0),
    ("uA", "current", 1e-6, 0.0),
    ("W", "power", 1.0, 0.0),
    ("mW", "power", 1e-3, 0.0),
    ("kW", "power", 1e3, 0.0),
    ("J", "energy", 1.0, 0.0),
    ("kJ", "energy", 1e3, 0.0),
    ("Wh", "energy", 3.6e3, 0.0),
    ("kWh", "energy", 3.6e6, 0.0),
    ("s", "time", 1.0, 0.0),
    ("us", "time", 1e-6, 0.0),
    ("ms", "time", 1e-3, 0.0),
    ("min", "time", 60.0, 0.0),
    ("h", "time", 3600.0, 0.0),
    ("m3/s", "flow", 1.0, 0.0),
    ("m3/h", "flow", 1.0 / 3600.0, 0.0),
    ("l/min", "flow", 1e-3 / 60.0, 0.0),
    ("lx", "illuminance", 1.0, 0.0),
    ("klx", "illuminance", 1e3, 0.0),
    ("1", "ratio", 1.0, 0.0),
    ("%", "ratio", 1e-2, 0.0),
    ("ppm", "ratio", 1e-6, 0.0),
];

/// From one unit to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conversion {
    factor: f64,
    offset: f64,
}

/// Why one does not become the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// No such unit is known.
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// They measure different things.
    Different {
        /// What the first measures, and the second.
        quantities: [&'static str; 2],
    },
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnitError::Unknown { name } => {
                let known: Vec<&str> = UNITS.iter().map(|(name, ..)| *name).collect();
                write!(f, "there is no unit {name}: take two of {}", known.join(", "))
            }
            UnitError::Different { quantities: [from, to] } => {
                write!(f, "{from} does not become {to}: take two units of one quantity")
            }
        }
    }
}

impl std::error::Error for UnitError {}

impl Conversion {
    /// Between units of one quantity, by their names.
    ///
    /// # Errors
    /// If one is not known, or they measure different things.
    pub fn between(from: &str, to: &str) -> Result<Conversion, UnitError> {
        let unit = |name: &str| {
            let known = UNITS.iter().find(|(known, ..)| *known == name);
            known.ok_or_else(|| UnitError::Unknown { name: name.to_owned() })
        };
        let ((_, quantity, factor, offset), (_, other, to_factor, to_offset)) = (unit(from)?, unit(to)?);
        if quantity != other {
            return Err(UnitError::Different { quantities: [quantity, other] });
        }
        Ok(Conversion { factor: factor / to_factor, offset: (offset - to_offset) / to_factor })
    }

    /// A value in the other unit.
    pub fn apply(&self, value: f64) -> f64 {
        value * self.factor + self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        for (value, from, to, expected) in [
            (212.0, "degF", "degC", 100.0),
            (-40.0, "degC", "degF", -40.0),
            (0.0, "degC", "K", 273.15),
            (1.0, "atm", "hPa", 1013.25),
            (14.695_948_775, "psi", "atm", 1.0),
            (500.0, "mg", "m/s2", 4.903_325),
            (36.0, "km/h", "m/s", 10.0),
            (60.0, "rpm", "deg/s", 360.0),
            (1.0, "kWh", "kJ", 3600.0),
            (400.0, "ppm", "%", 0.04),
            (6.0, "l/min", "m3/h", 0.36),
        ] {
            let got = Conversion::between(from, to).unwrap().apply(value);
            assert!((got - expected).abs() < 1e-9 * expected.abs().max(1.0), "{value} {from}: {got} {to}");
        }
        for (from, quantity, ..) in UNITS {
            for (to, other, ..) in UNITS {
                assert_eq!(Conversion::between(from, to).is_ok(), quantity == other);
                if quantity == other {
                    let there = Conversion::between(from, to).unwrap().apply(3.0);
                    let back = Conversion::between(to, from).unwrap().apply(there);
                    assert!((back - 3.0).abs() < 1e-9, "{from}, {to}: {back}");
                }
            }
        }
        assert!(Conversion::between("degC", "bar").unwrap_err().to_string().contains("temperature"));
        assert!(Conversion::between("furlong", "m").unwrap_err().to_string().contains("degC"));
    }
}
