//! Durations, sizes and bitrates with units in the configuration: `"30s"`, `"16KiB"`, `"9600bps"`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// The error for a text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration; write a whole number and its unit: ms, s, m, h or d, as in \"30s\""
)]
pub struct InvalidSpan(String);

/// The error for a text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size; write a whole number and its unit: B, KiB or MiB, as in \"16KiB\"")]
pub struct InvalidSize(String);

/// Parses a duration such as `"1500ms"`, `"30s"`, `"2m"`, `"12h"`, `"30d"`.
pub fn parse_span(text: &str) -> Result<Duration, InvalidSpan> {
    let units = [
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    scaled(text, &units)
        .map(Duration::from_millis)
        .ok_or_else(|| InvalidSpan(text.into()))
}

/// Parses a size such as `"1200B"`, `"16KiB"`, `"64MiB"`. Returns bytes.
pub fn parse_size(text: &str) -> Result<u64, InvalidSize> {
    scaled(text, &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20)])
        .ok_or_else(|| InvalidSize(text.into()))
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..)?;
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    digits.trim_end().parse::<u64>().ok()?.checked_mul(*scale)
}

/// Formats a duration in the largest unit that gives a whole number, as [`parse_span`] reads it.
/// Less than a millisecond is left out.
pub fn whole(span: Duration) -> String {
    let millis = span.as_millis();
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
    ];
    let found = units
        .into_iter()
        .find(|(_, unit)| millis.is_multiple_of(*unit) && millis > 0);
    match found {
        Some((name, unit)) => format!("{}{name}", millis / unit),
        None if millis == 0 => "0s".into(),
        None => format!("{millis}ms"),
    }
}

/// The error for a text that is not a bitrate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a bitrate; write a whole number of at least 80 bit/s and its unit: bps, kbps or Mbps, as in \"9600bps\""
)]
pub struct InvalidRate(String);

/// Parses a bitrate such as `"9600bps"`, `"64kbps"`, `"1Mbps"`. Returns bytes per second, at least
/// 10.
pub fn parse_rate(text: &str) -> Result<u64, InvalidRate> {
    scaled(text, &[("bps", 1), ("kbps", 1_000), ("Mbps", 1_000_000)])
        .map(|bits| bits / 8)
        .filter(|bytes| *bytes >= 10)
        .ok_or_else(|| InvalidRate(text.into()))
}

/// A bitrate in a configuration file, in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u64);

/// A duration in a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A size in a configuration file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

struct TextVisitor<T, E>(fn(&str) -> Result<T, E>, &'static str);

impl<T, E: fmt::Display> de::Visitor<'_> for TextVisitor<T, E> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }

    fn visit_str<D: de::Error>(self, text: &str) -> Result<T, D> {
        (self.0)(text).map_err(D::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "a duration with its unit in quotes, as in \"30s\"";
        deserializer
            .deserialize_str(TextVisitor(parse_span, expecting))
            .map(Self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "a size with its unit in quotes, as in \"16KiB\"";
        deserializer
            .deserialize_str(TextVisitor(parse_size, expecting))
            .map(Self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "a bitrate with its unit in quotes, as in \"9600bps\"";
        deserializer
            .deserialize_str(TextVisitor(parse_rate, expecting))
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_duration_is_printed_as_it_is_written() {
        for text in ["1500ms", "1ms", "0s", "1s", "90s", "2m", "36h", "30d"] {
            assert_eq!(parse_span(text).map(whole), Ok(text.into()));
        }
        assert_eq!(whole(Duration::from_hours(48)), "2d");
    }

    #[test]
    fn config_durations_rates_and_sizes_need_units() {
        for (text, wanted) in [
            ("1500ms", 1_500),
            ("30s", 30_000),
            ("2m", 120_000),
            ("30d", 2_592_000_000),
        ] {
            assert_eq!(parse_span(text), Ok(Duration::from_millis(wanted)));
        }
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "30 weeks",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert!(parse_span(text).is_err(), "{text}");
        }
        assert_eq!(parse_rate("9600bps"), Ok(1200));
        assert_eq!(parse_rate("1Mbps"), Ok(125_000));
        for text in ["", "9600", "0bps", "79bps", "1Gbps"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        assert_eq!(parse_size("16KiB"), Ok(16_384));
        assert_eq!(parse_size("160 B"), Ok(160));
        for text in ["", "16", "16kb", "KiB", "1é"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
