//! Times and durations as tables and people write them.

/// How a table writes its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A number of seconds.
    Seconds,
    /// ISO 8601 with this separator, and whether it ends in Z.
    Iso {
        /// `T` or a space.
        separator: char,
        /// Whether the time is said to be UTC.
        is_utc: bool,
    },
}

/// Seconds since 1970 (without a time zone, of any zone), or just seconds, and how they were written: a number, or
/// `2026-11-28 10:15:30.5`, with `T`, `Z` or an offset such as `+01:00` if you like.
pub fn parse_time(text: &str) -> Option<(f64, Style)> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return seconds.is_finite().then_some((seconds, Style::Seconds));
    }
    if !text.is_ascii() || text.len() < 16 || text.len() > 40 {
        return None;
    }
    let separator = text[10..].chars().next().filter(|c| matches!(c, 'T' | 't' | ' '))?;
    let mut date = text[..10].split('-');
    let mut number = || -> Option<i64> {
        let part = date.next()?;
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let (year, month, day) = (number()?, number()?, number()?);
    let clock = &text[11..];
    let (clock, offset_s, is_utc) = match clock.find(['Z', 'z', '+', '-']) {
        None => (clock, 0.0, false),
        Some(at) if at + 1 == clock.len() && clock[at..].eq_ignore_ascii_case("z") => {
            (&clock[..at], 0.0, true)
        }
        Some(at) => {
            let (hours, minutes) = clock[at + 1..].split_once(':').unwrap_or((&clock[at + 1..], "0"));
            let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
            let seconds = f64::from(hours.min(99) * 3600 + minutes.min(99) * 60);
            (&clock[..at], if clock[at..].starts_with('-') { -seconds } else { seconds }, true)
        }
    };
    let mut parts = clock.split(':');
    let (hour, minute): (u32, u32) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let second: f64 = parts.next().map_or(Some(0.0), |text| text.parse().ok())?;
    let is_right = (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && (0.0..61.0).contains(&second)
        && parts.next().is_none();
    let days = days_since_1970(year, month, day) as f64;
    let seconds = days * 86_400.0 + f64::from(hour * 3600 + minute * 60) + second - offset_s;
    is_right.then_some((seconds, Style::Iso { separator, is_utc }))
}

/// A time, written in that way, to the millisecond.
pub fn format_time(time_s: f64, style: Style) -> String {
    let Style::Iso { separator, is_utc } = style else {
        return format!("{}", (time_s * 1e6).round() / 1e6);
    };
    let ms = (time_s * 1e3).round() as i64;
    let (days, ms_of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = date(days);
    let (seconds, ms) = (ms_of_day / 1000, ms_of_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = if ms == 0 { String::new() } else { format!(".{ms:03}") };
    let zone = if is_utc { "Z" } else { "" };
    format!("{year:04}-{month:02}-{day:02}{separator}{hour:02}:{minute:02}:{second:02}{fraction}{zone}")
}

/// Seconds of `5min`, `250 ms`, `1.5h`, `30`: a number and `us`, `ms`, `s`, `min`, `h` or `d`.
pub fn parse_duration(text: &str) -> Option<f64> {
    let text = text.trim();
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let seconds = match &text[at..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    let number: f64 = text[..at].trim().parse().ok()?;
    let duration_s = number * seconds;
    (duration_s > 0.0 && duration_s.is_finite()).then_some(duration_s)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Of the Gregorian calendar, whose year begins with March here: the leap day is its last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    days + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The other way round.
fn date(days: i64) -> (i64, i64, i64) {
    // A guess that is never too late, and off by a few years at most.
    let mut year = 1970 + days.div_euclid(366) - 1;
    while days_since_1970(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 12;
    while days_since_1970(year, month, 1) > days {
        month -= 1;
    }
    (year, month, days - days_since_1970(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for (text, seconds) in [
            ("0", 0.0),
            ("1.5", 1.5),
            ("1970-01-01 00:00", 0.0),
            ("2014-04-01 00:00:00", 1_396_310_400.0),
            ("2026-11-28T10:15:30.250Z", 1_795_860_930.25),
            ("2026-11-28T11:15:30+01:00", 1_795_860_930.0),
            ("2000-02-29T23:59:59-02:30", 951_877_799.0),
            ("1969-12-31 23:59:59", -1.0),
        ] {
            assert_eq!(parse_time(text).map(|(seconds, _)| seconds), Some(seconds), "{text}");
        }
        for text in ["1.5", "2014-04-01 00:00:00", "2026-11-28T10:15:30.250Z", "2000-02-29T23:59:59Z"] {
            let (seconds, style) = parse_time(text).unwrap();
            assert_eq!(format_time(seconds, style), text);
        }
        for days in (-200_000..200_000).step_by(37) {
            let (year, month, day) = date(days);
            assert_eq!(days_since_1970(year, month, day), days);
            assert!((1..=days_of(year, month)).contains(&day));
        }
        for text in [
            "",
            "noon",
            "inf",
            "2014-04-31 00:00",
            "2014-13-01 00:00",
            "2014-04-01x00:00",
            "2014-04-01 24:00",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, seconds) in
            [("30", 30.0), ("250ms", 0.25), ("5 min", 300.0), ("1.5h", 5400.0), ("2d", 172_800.0)]
        {
            assert_eq!(parse_duration(text), Some(seconds), "{text}");
        }
        for text in ["", "min", "0s", "-1s", "5 weeks", "1e999s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
