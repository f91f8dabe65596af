//! `[limits]`: what bounds the realm's memory and work.

use serde::{Deserialize, Deserializer, de};

use super::between;
use crate::{allowance::Frequency, endpoint::Handshakes, realm, server::unit::Size};

/// The longest message that may be configured, in bytes.
const MESSAGE_MAX: u64 = 16 << 20;

/// What bounds the realm's memory and work.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// The longest message.
    #[serde(deserialize_with = "message")]
    pub max_message: Size,
    /// Sessions a user may have; the one unused for longest makes room for another.
    #[serde(deserialize_with = "positive")]
    pub sessions: usize,
    /// Links of one listener at once.
    #[serde(deserialize_with = "positive")]
    pub links: usize,
    /// Handshakes that one listener lets begin without a cookie, in all.
    #[serde(deserialize_with = "frequency")]
    pub handshakes: Frequency,
    /// The same from one network: an IPv4 /24, or an IPv6 /64.
    #[serde(deserialize_with = "frequency")]
    pub handshakes_per_network: Frequency,
    /// Commands of one listener in work at once; further ones are answered `busy`.
    #[serde(deserialize_with = "positive")]
    pub commands: usize,
    /// Passwords hashed at once, each in 19 MiB; 0 stands for the number of processors.
    pub password_threads: usize,
}

impl LimitsConfig {
    /// How many handshakes begin without a cookie.
    pub const fn handshakes(&self) -> Handshakes {
        Handshakes {
            all: self.handshakes,
            per_network: self.handshakes_per_network,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let realm = realm::Limits::default();
        Self {
            max_message: Size(realm.max_message as u64),
            sessions: realm.sessions_max,
            links: 100_000,
            handshakes: Handshakes::default().all,
            handshakes_per_network: Handshakes::default().per_network,
            commands: 4096,
            password_threads: 0,
        }
    }
}

fn frequency<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Frequency, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}

fn message<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
    between(Size::deserialize(deserializer)?, 1, MESSAGE_MAX)
}

fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        0 => Err(de::Error::custom("write a number of at least 1")),
        n => Ok(n),
    }
}
