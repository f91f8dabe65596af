//! `[limits]`: what bounds the realm's memory and work.

use serde::{Deserialize, Deserializer, de};

use super::between;
use crate::{
    endpoint::Handshakes,
    rate_limit::RateLimit,
    realm::{self, Rates},
    server::{
        WorkLimits,
        limits::WORKERS_MAX,
        units::{Size, parse_size},
    },
};

/// The least that links may hold all together, in bytes: some answers of the longest.
const LINK_MEMORY_MIN: u64 = 1 << 20;
/// The longest message that may be configured, in bytes: what clients put together (LINK-13).
const MESSAGE_MAX: u64 = 64 << 10;

/// What bounds the realm's memory and work.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
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
    /// What the links of one listener hold for their other sides, all together.
    #[serde(deserialize_with = "memory")]
    pub link_memory: Size,
    /// What all watches hold together. Those of one account have an eighth of it at most.
    #[serde(deserialize_with = "memory")]
    pub watch_memory: Size,
    /// Handshakes that one listener lets begin without a cookie, in all.
    #[serde(deserialize_with = "frequency")]
    pub handshakes: RateLimit,
    /// The same from one subnet: an IPv4 /24, or an IPv6 /64.
    #[serde(deserialize_with = "frequency")]
    pub handshakes_per_subnet: RateLimit,
    /// Commands of one listener in work at once; further ones are answered `busy`.
    #[serde(deserialize_with = "positive")]
    pub commands: usize,
    /// Commands of one link.
    #[serde(deserialize_with = "frequency")]
    pub commands_per_link: RateLimit,
    /// Commands of one account, on all links.
    #[serde(deserialize_with = "frequency")]
    pub commands_per_account: RateLimit,
    /// Commands from one subnet that one listener takes up.
    #[serde(deserialize_with = "frequency")]
    pub commands_per_subnet: RateLimit,
    /// Accounts made from one subnet.
    #[serde(deserialize_with = "frequency")]
    pub registrations_per_subnet: RateLimit,
    /// Users' passwords tried from one subnet.
    #[serde(deserialize_with = "frequency")]
    pub logins_per_subnet: RateLimit,
    /// Groups' passwords tried or set from one subnet, or tried by one realm.
    #[serde(deserialize_with = "frequency")]
    pub joins_per_subnet: RateLimit,
    /// Bytes that one account has the realm keep.
    #[serde(deserialize_with = "volume")]
    pub stored_per_account: RateLimit,
    /// Bytes that the accounts of one subnet have it keep.
    #[serde(deserialize_with = "volume")]
    pub stored_per_subnet: RateLimit,
    /// Bytes that one peer has it keep.
    #[serde(deserialize_with = "volume")]
    pub stored_per_peer: RateLimit,
    /// Threads that carry packets for each listener; 0 stands for as many as there are processors.
    #[serde(deserialize_with = "workers")]
    pub workers: usize,
    /// Passwords hashed at once, each in 19 MiB; 0 stands for half the processors.
    pub password_threads: usize,
}

impl LimitsConfig {
    /// Workers of each listener.
    pub fn workers(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(WORKERS_MAX),
            workers => workers,
        }
    }

    /// How many handshakes begin without a cookie.
    pub const fn handshakes(&self) -> Handshakes {
        Handshakes {
            all: self.handshakes,
            per_subnet: self.handshakes_per_subnet,
        }
    }
}

impl LimitsConfig {
    /// What one listener takes up.
    pub(crate) fn work(&self) -> WorkLimits {
        WorkLimits {
            commands_max: self.commands.div_ceil(self.workers()),
            max_message: usize::try_from(self.max_message.0).unwrap_or(usize::MAX),
            per_link: self.commands_per_link,
            per_subnet: self.commands_per_subnet,
        }
    }

    /// How often the realm does what costs it something.
    pub const fn rates(&self) -> Rates {
        Rates {
            commands: self.commands_per_account,
            registrations: self.registrations_per_subnet,
            logins: self.logins_per_subnet,
            joins: self.joins_per_subnet,
            stored_account: self.stored_per_account,
            stored_subnet: self.stored_per_subnet,
            stored_peer: self.stored_per_peer,
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
            link_memory: Size(64 << 20),
            watch_memory: Size(realm.watch_memory as u64),
            handshakes: Handshakes::default().all,
            handshakes_per_subnet: Handshakes::default().per_subnet,
            commands: 4096,
            commands_per_link: RateLimit::per_second(500),
            commands_per_account: realm.rates.commands,
            commands_per_subnet: RateLimit::per_second(2000),
            registrations_per_subnet: realm.rates.registrations,
            logins_per_subnet: realm.rates.logins,
            joins_per_subnet: realm.rates.joins,
            stored_per_account: realm.rates.stored_account,
            stored_per_subnet: realm.rates.stored_subnet,
            stored_per_peer: realm.rates.stored_peer,
            workers: 0,
            password_threads: 0,
        }
    }
}

fn frequency<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RateLimit, D::Error> {
    let text = String::deserialize(deserializer)?;
    let frequency: RateLimit = text.parse().map_err(de::Error::custom)?;
    if frequency.is_never() {
        return Err(de::Error::custom(
            "nothing would ever be done: write at least 1, as in \"1/m\", or \"unlimited\"",
        ));
    }
    Ok(frequency)
}

/// The least that somebody may have kept in a while, in bytes: some of the longest messages there
/// are by default.
const VOLUME_MIN: u64 = 1 << 20;

fn volume<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RateLimit, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "unlimited" {
        return Ok(RateLimit::UNLIMITED);
    }
    let parsed = text.split_once('/').and_then(|(size, period)| {
        let bytes = parse_size(size).ok().filter(|bytes| *bytes >= VOLUME_MIN)?;
        let bytes = u32::try_from(bytes).ok()?;
        format!("{bytes}/{period}").parse().ok()
    });
    parsed.ok_or_else(|| {
        de::Error::custom(format!(
            "{text:?} is no amount of storage: write a size from \"1MiB\" to \"4095MiB\" and /s, /m, /h or /d, as in \"64MiB/d\", or \"unlimited\""
        ))
    })
}

fn workers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        workers if workers <= WORKERS_MAX => Ok(workers),
        _ => Err(de::Error::custom(format!(
            "write a number from 0 to {WORKERS_MAX}"
        ))),
    }
}

fn message<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
    between(Size::deserialize(deserializer)?, 1, MESSAGE_MAX)
}

fn memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
    between(Size::deserialize(deserializer)?, LINK_MEMORY_MIN, u64::MAX)
}

fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        0 => Err(de::Error::custom("write a number of at least 1")),
        n => Ok(n),
    }
}
