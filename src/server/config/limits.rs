//! `[limits]`: the bounds of the realm's memory and work.

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

/// The smallest memory limit of all links or watches together, in bytes. It holds some answers of
/// the greatest length.
const LINK_MEMORY_MIN: u64 = 1 << 20;
/// The largest message that may be configured, in bytes. Clients reassemble no longer ones
/// (LINK-13).
const MESSAGE_MAX: u64 = 64 << 10;

/// `[limits]`: the bounds of the realm's memory and work.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct LimitsConfig {
    /// The largest message.
    #[serde(deserialize_with = "message")]
    pub max_message: Size,
    /// The largest number of sessions of one user. A further login ends the session that has been
    /// unused longest.
    #[serde(deserialize_with = "positive")]
    pub sessions: usize,
    /// The largest number of links of one listener at once.
    #[serde(deserialize_with = "positive")]
    pub links: usize,
    /// The memory that all links of one listener together hold for their other sides.
    #[serde(deserialize_with = "memory")]
    pub link_memory: Size,
    /// The memory that all watches together hold. Those of one account hold at most an eighth of
    /// it.
    #[serde(deserialize_with = "memory")]
    pub watch_memory: Size,
    /// Handshakes that one listener begins without a cookie, in all.
    #[serde(deserialize_with = "rate_limit")]
    pub handshakes: RateLimit,
    /// The same from one subnet: an IPv4 /24, or an IPv6 /64.
    #[serde(deserialize_with = "rate_limit")]
    pub handshakes_per_subnet: RateLimit,
    /// The largest number of commands that one listener executes at once. Further commands are
    /// answered `busy`.
    #[serde(deserialize_with = "positive")]
    pub commands: usize,
    /// Commands that the realm accepts from one link.
    #[serde(deserialize_with = "rate_limit")]
    pub commands_per_link: RateLimit,
    /// Commands that the realm accepts from one account on all its links.
    #[serde(deserialize_with = "rate_limit")]
    pub commands_per_account: RateLimit,
    /// Commands that one listener accepts from one subnet.
    #[serde(deserialize_with = "rate_limit")]
    pub commands_per_subnet: RateLimit,
    /// Accounts created from one subnet.
    #[serde(deserialize_with = "rate_limit")]
    pub registrations_per_subnet: RateLimit,
    /// Users' passwords tried from one subnet.
    #[serde(deserialize_with = "rate_limit")]
    pub logins_per_subnet: RateLimit,
    /// Groups' passwords tried or set from one subnet, or tried by one peer.
    #[serde(deserialize_with = "rate_limit")]
    pub joins_per_subnet: RateLimit,
    /// The storage quota of one account, in bytes.
    #[serde(deserialize_with = "quota")]
    pub stored_per_account: RateLimit,
    /// The storage quota of all accounts of one subnet, in bytes.
    #[serde(deserialize_with = "quota")]
    pub stored_per_subnet: RateLimit,
    /// The storage quota of one peer, in bytes.
    #[serde(deserialize_with = "quota")]
    pub stored_per_peer: RateLimit,
    /// The number of threads (workers) that carry packets for each listener. 0 means one for each
    /// processor.
    #[serde(deserialize_with = "workers")]
    pub workers: usize,
    /// The number of passwords that are hashed at once. Each takes 19 MiB. 0 means half the
    /// processors.
    pub password_threads: usize,
}

impl LimitsConfig {
    /// Returns the number of workers of each listener.
    pub fn workers(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(WORKERS_MAX),
            workers => workers,
        }
    }

    /// Returns the rate limits of handshakes without a cookie.
    pub const fn handshakes(&self) -> Handshakes {
        Handshakes {
            all: self.handshakes,
            per_subnet: self.handshakes_per_subnet,
        }
    }
}

impl LimitsConfig {
    /// Returns the work limits of one listener. Its commands are divided among its workers.
    pub(crate) fn work(&self) -> WorkLimits {
        WorkLimits {
            commands_max: self.commands.div_ceil(self.workers()),
            max_message: usize::try_from(self.max_message.0).unwrap_or(usize::MAX),
            per_link: self.commands_per_link,
            per_subnet: self.commands_per_subnet,
        }
    }

    /// Returns the rate limits and storage quotas of the realm.
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

fn rate_limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RateLimit, D::Error> {
    let text = String::deserialize(deserializer)?;
    let limit: RateLimit = text.parse().map_err(de::Error::custom)?;
    if limit.is_never() {
        return Err(de::Error::custom(
            "nothing would ever be done: write at least 1, as in \"1/m\", or \"unlimited\"",
        ));
    }
    Ok(limit)
}

/// The smallest storage quota, in bytes. It admits some messages of the longest default length.
const QUOTA_MIN: u64 = 1 << 20;

fn quota<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RateLimit, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "unlimited" {
        return Ok(RateLimit::UNLIMITED);
    }
    let parsed = text.split_once('/').and_then(|(size, period)| {
        let bytes = parse_size(size).ok().filter(|bytes| *bytes >= QUOTA_MIN)?;
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
