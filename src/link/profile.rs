//! Link profiles: kinds of path, and the initial parameters for each (LINK-20). Later a link
//! follows its own measurements. A profile holds what a link cannot measure, or only at a cost.

use alloc::string::String;
use core::{fmt, str::FromStr, time::Duration};

use super::{DATAGRAM_DEFAULT, DATAGRAM_MIN, Silence};

/// A kind of path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkProfile {
    /// Long-range radio: tiny datagrams, and little airtime.
    Lora,
    /// A distant satellite: high latency and high bandwidth.
    Satellite,
    /// Narrow-band mobile radio: metered, and asleep most of the time.
    NbIot,
    /// A local network.
    Lan,
}

/// Whether small packets are sent twice (LINK-19).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redundancy {
    /// While loss is high, unless there is a rate limit.
    #[default]
    Auto,
    /// Never: each byte costs money.
    Off,
    /// Always: each round trip counts.
    On,
}

/// A text that is not a redundancy setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no choice here: write auto, off or on")]
pub struct UnknownRedundancy(String);

impl FromStr for Redundancy {
    type Err = UnknownRedundancy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            "on" => Ok(Self::On),
            _ => Err(UnknownRedundancy(text.into())),
        }
    }
}

/// The initial parameters of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkParameters {
    /// The largest datagram, in bytes.
    pub max_datagram: usize,
    /// The hard limit on the sending rate, in bytes per second.
    pub rate: Option<u64>,
    /// The round-trip time before the first sample; it sets the first timeout.
    pub rtt: Option<Duration>,
    /// The silence of a watching client before a keepalive.
    pub keepalive: Silence,
    /// Whether small packets are sent twice.
    pub redundancy: Redundancy,
}

/// The silence of a watching client before a keepalive on most kinds of link.
const KEEPALIVE: Duration = Duration::from_secs(30);

impl Default for LinkParameters {
    fn default() -> Self {
        Self {
            max_datagram: DATAGRAM_DEFAULT,
            rate: None,
            rtt: None,
            keepalive: silence(KEEPALIVE),
            redundancy: Redundancy::Auto,
        }
    }
}

/// A text that is not the name of a link profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of link: write lora, satellite, nb-iot or lan")]
pub struct UnknownProfile(String);

/// Silences that begin with `first` and grow to two minutes; a longer `first` stays fixed.
fn silence(first: Duration) -> Silence {
    Silence {
        first,
        longest: first.max(Duration::from_mins(2)),
    }
}

impl LinkProfile {
    const ALL: [Self; 4] = [Self::Lora, Self::Satellite, Self::NbIot, Self::Lan];

    /// The name that users type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lora => "lora",
            Self::Satellite => "satellite",
            Self::NbIot => "nb-iot",
            Self::Lan => "lan",
        }
    }

    /// Returns the initial parameters.
    pub fn traits(self) -> LinkParameters {
        match self {
            // Spreading factor 7 carries 5,470 bit/s; a tenth of the airtime is left to others.
            Self::Lora => LinkParameters {
                max_datagram: DATAGRAM_MIN,
                rate: Some(600),
                rtt: Some(Duration::from_secs(2)),
                keepalive: silence(Duration::from_mins(10)),
                redundancy: Redundancy::Off,
            },
            Self::Satellite => LinkParameters {
                max_datagram: DATAGRAM_DEFAULT,
                rate: None,
                rtt: Some(Duration::from_millis(700)),
                keepalive: silence(Duration::from_mins(1)),
                redundancy: Redundancy::Auto,
            },
            Self::NbIot => LinkParameters {
                max_datagram: 548,
                rate: Some(2_500),
                rtt: Some(Duration::from_secs(3)),
                keepalive: silence(Duration::from_mins(2)),
                redundancy: Redundancy::Off,
            },
            Self::Lan => LinkParameters {
                max_datagram: DATAGRAM_DEFAULT,
                rate: None,
                rtt: Some(Duration::from_millis(20)),
                keepalive: silence(KEEPALIVE),
                redundancy: Redundancy::Auto,
            },
        }
    }
}

impl fmt::Display for LinkProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LinkProfile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.name() == text)
            .ok_or_else(|| UnknownProfile(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString as _;

    use super::*;

    /// LINK-20: every profile is found by its name, and its values are within bounds.
    #[test]
    fn profile_names_parse_and_values_are_within_bounds() {
        for kind in LinkProfile::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            let traits = kind.traits();
            assert!((DATAGRAM_MIN..=DATAGRAM_DEFAULT).contains(&traits.max_datagram));
            assert!(traits.keepalive.first >= Duration::from_secs(30));
            assert!(traits.keepalive.longest >= traits.keepalive.first);
        }
        assert_eq!("on".parse(), Ok(Redundancy::On));
        let error = "yes".parse::<Redundancy>().unwrap_err().to_string();
        assert!(error.contains("auto"), "{error}");
        let error = "wifi".parse::<LinkProfile>().unwrap_err().to_string();
        assert!(error.contains("nb-iot"), "{error}");
    }
}
