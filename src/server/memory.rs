//! Bounds on a realm's memory: what it can be made to hold, by which kind of party, and the setting
//! that limits it. `merpati limits` prints this table. Each row is a bound that the code enforces;
//! their sum is the most that the realm can hold. What a store holds is among them for the embedded
//! store only: the author of another one bounds it.

use std::time::Duration;

use super::{
    Config,
    limits::{HANDED_MAX, LINKS_COUNTED, LONGEST_ANSWER, SOCKET_BUFFER_BYTES, SUBNETS_COUNTED},
    units::whole,
    worker::DATAGRAM_BYTES_MAX,
};
#[cfg(feature = "embedded")]
use crate::store::{
    BEHIND_BYTES, CACHE_BYTES, MEMTABLE_BYTES, MEMTABLES, VALUES_BYTES, WRITES_WAITING,
};
use crate::{
    endpoint::limits::{
        ACCEPTS_MAX, HALF_OPEN_MAX, HANDSHAKE_SUBNETS, RESET_SUBNETS, RETURNED_MAX, WORTH_ENDING,
    },
    endpoint::{HANDSHAKE_BYTES, LINK_BYTES},
    host::{RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS, SEND_BATCH},
    rate_limit::{Guesses, RateLimit, RateLimiter, SubnetRateLimiter},
    realm::limits::{
        ACCOUNTS_COUNTED, PASSWORD_KIB, PASSWORDS_WAITING, PEER_CALLS_MAX, PEERS_MAX,
        REALMS_COUNTED, SUBNETS_COUNTED as REALM_SUBNETS,
    },
    realm::{OWNER_BYTES, OWNERS_MAX, QUEUE_MAX, Retention, SHARE_BYTES, WATCH_BYTES},
    wire::PASSWORD_MAX,
};

/// The approximate overhead around a message in a request and around a request in progress, in
/// bytes.
const AROUND: usize = 4 << 10;
/// The overhead around something small, in bytes.
const AROUND_SMALL: usize = 256;

/// The party that makes a realm hold something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// None: it is always held.
    Nobody,
    /// Anyone that can send a datagram, from any address.
    Strangers,
    /// Anyone with a proven address. A device's key is enough.
    Devices,
    /// Users with an account.
    Users,
    /// The realms that are peers.
    Peers,
}

impl Holder {
    /// All parties, in the order of how easy it is to be one.
    pub const ALL: [Self; 5] = [
        Self::Nobody,
        Self::Strangers,
        Self::Devices,
        Self::Users,
        Self::Peers,
    ];

    /// Returns a short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "always",
            Self::Strangers => "strangers",
            Self::Devices => "devices",
            Self::Users => "users",
            Self::Peers => "peers",
        }
    }
}

/// A resource that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holding {
    /// Its description.
    pub what: &'static str,
    /// The party that can make the realm hold it.
    pub by: Holder,
    /// The largest number on all listeners.
    pub count: usize,
    /// The largest size of each, in bytes.
    pub each: usize,
    /// The setting that changes the bound.
    pub setting: Option<&'static str>,
}

impl Holding {
    /// Returns the largest total size, in bytes.
    pub const fn total(&self) -> usize {
        self.count.saturating_mul(self.each)
    }
}

/// A bound on what a realm stores on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Keeping {
    /// The bounded resource.
    pub what: &'static str,
    /// The largest amount or the longest time.
    pub limit: String,
    /// The setting that changes it, with its table.
    pub setting: &'static str,
}

/// Returns the bounds on a realm's disk use. Without a configured retention, a store from before
/// retention existed keeps everything.
pub fn keepings(config: &Config) -> Vec<Keeping> {
    let retention = config.retention.configured().unwrap_or(Retention::DEFAULT);
    let span = |span: Option<Duration>| span.map_or_else(|| "for ever".into(), whole);
    let keeping = |what, limit: String, setting| Keeping {
        what,
        limit,
        setting,
    };
    let entries = retention.entries.map(|entries| entries.to_string());
    let size = retention.bytes.map(mib);
    let unbounded = || "no bound".to_string();
    let limits = &config.limits;
    vec![
        keeping(
            "messages that were read",
            span(retention.age),
            "age in [retention]",
        ),
        keeping(
            "messages that were not",
            span(retention.unread_age),
            "unread_age in [retention]",
        ),
        keeping(
            "messages of a mailbox",
            entries.unwrap_or_else(unbounded),
            "entries in [retention]",
        ),
        keeping(
            "bytes of a mailbox",
            size.unwrap_or_else(unbounded),
            "bytes in [retention]",
        ),
        keeping(
            "what an account adds",
            volume(limits.stored_per_account),
            "stored_per_account in [limits]",
        ),
        keeping(
            "what a subnet adds",
            volume(limits.stored_per_subnet),
            "stored_per_subnet in [limits]",
        ),
        keeping(
            "what a peer adds",
            volume(limits.stored_per_peer),
            "stored_per_peer in [limits]",
        ),
        keeping(
            "room that is left alone",
            mib(config.store.reserve.0),
            "reserve in [store]",
        ),
    ]
}

fn mib(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) {
        format!("{} MiB", bytes >> 20)
    } else {
        format!("{bytes} B")
    }
}

fn volume(often: RateLimit) -> String {
    let text = often.to_string();
    let parsed = text.split_once('/');
    let bytes = parsed.and_then(|(count, period)| Some((count.parse().ok()?, period)));
    bytes.map_or(text.clone(), |(bytes, period)| {
        format!("{}/{period}, {} at once", mib(bytes), mib(bytes * 4))
    })
}

fn holding(
    by: Holder,
    what: &'static str,
    (count, each): (usize, usize),
    setting: Option<&'static str>,
) -> Holding {
    Holding {
        what,
        by,
        count,
        each,
        setting,
    }
}

fn bytes(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Returns everything that a realm with this configuration can be made to hold.
pub fn holdings(config: &Config) -> Vec<Holding> {
    let listeners = config.listeners().len();
    let workers = listeners.saturating_mul(config.limits.workers());
    let message = bytes(config.limits.max_message.0).saturating_add(AROUND);
    [
        #[cfg(feature = "embedded")]
        store_caches(),
        always(listeners),
        by_strangers(workers, config.link.parameters().max_datagram),
        by_devices(config, listeners, message),
        by_users(config, listeners, message),
        #[cfg(feature = "embedded")]
        vec![holding(
            Holder::Users,
            "changes that wait for the disk",
            (WRITES_WAITING, message),
            None,
        )],
        vec![
            holding(
                Holder::Peers,
                "what is asked of other realms",
                (PEER_CALLS_MAX, message),
                None,
            ),
            holding(
                Holder::Peers,
                "whose the messages are that wait for other realms",
                (PEERS_MAX * QUEUE_MAX, SHARE_BYTES),
                None,
            ),
        ],
    ]
    .concat()
}

/// Returns what the embedded store always holds.
#[cfg(feature = "embedded")]
fn store_caches() -> Vec<Holding> {
    let of = |what, amount| holding(Holder::Nobody, what, amount, None);
    vec![
        of("what the store has read lately", (1, bytes(CACHE_BYTES))),
        of("what is asked of the store all the time", (1, VALUES_BYTES)),
        of("what is not in its place yet", (1, BEHIND_BYTES)),
        of(
            "what the store has written lately",
            (MEMTABLES, bytes(MEMTABLE_BYTES)),
        ),
    ]
}

fn always(listeners: usize) -> Vec<Holding> {
    let subnets = |places| places + SubnetRateLimiter::networks(places);
    let counted = listeners
        * (3 * subnets(HANDSHAKE_SUBNETS)
            + 2 * subnets(RESET_SUBNETS)
            + LINKS_COUNTED
            + subnets(SUBNETS_COUNTED));
    let counted = counted + 2 * ACCOUNTS_COUNTED + 5 * subnets(REALM_SUBNETS) + 7 * REALMS_COUNTED;
    let of = |what, amount| holding(Holder::Nobody, what, amount, None);
    vec![
        of(
            "counts of who does what how often",
            (counted, RateLimiter::PLACE_BYTES),
        ),
        of(
            "counts of wrong passwords",
            (ACCOUNTS_COUNTED, Guesses::PLACE_BYTES),
        ),
    ]
}

fn by_strangers(workers: usize, datagram: usize) -> Vec<Holding> {
    let received = RECEIVE_BUFFERS * RECEIVE_BUFFER_BYTES;
    let sockets = 2 * SOCKET_BUFFER_BYTES + received + SEND_BATCH * DATAGRAM_BYTES_MAX;
    let of = |what, each, bytes| holding(Holder::Strangers, what, (workers * each, bytes), None);
    vec![
        of("datagrams that wait in sockets", 1, sockets),
        of(
            "datagrams that came to another worker",
            HANDED_MAX,
            datagram + AROUND_SMALL,
        ),
        of(
            "links that have begun",
            HALF_OPEN_MAX,
            LINK_BYTES + WORTH_ENDING + HANDSHAKE_BYTES,
        ),
        of(
            "links that were resumed and are not proven",
            RETURNED_MAX,
            LINK_BYTES + WORTH_ENDING + HANDSHAKE_BYTES,
        ),
        of(
            "answers to handshakes",
            ACCEPTS_MAX,
            datagram + AROUND_SMALL,
        ),
    ]
}

fn by_devices(config: &Config, listeners: usize, message: usize) -> Vec<Holding> {
    let limits = config.limits;
    let of = |what, amount, setting| holding(Holder::Devices, what, amount, setting);
    let threads = config.realm_limits().password_threads;
    let hash = bytes(u64::from(PASSWORD_KIB) << 10);
    let waiting = PASSWORD_MAX + AROUND_SMALL;
    let links = limits.links.saturating_mul(listeners);
    let commands = limits.commands.saturating_mul(listeners);
    let command = message.saturating_add(LONGEST_ANSWER);
    vec![
        of(
            "passwords that are hashed",
            (threads, hash),
            Some("password_threads"),
        ),
        of("passwords that wait", (PASSWORDS_WAITING, waiting), None),
        of("links", (links, LINK_BYTES + WORTH_ENDING), Some("links")),
        of(
            "which of their commands are done",
            (OWNERS_MAX, OWNER_BYTES),
            None,
        ),
        of("commands in work", (commands, command), Some("commands")),
    ]
}

fn by_users(config: &Config, listeners: usize, message: usize) -> Vec<Holding> {
    let limits = config.limits;
    let of = |what, amount, setting| holding(Holder::Users, what, amount, setting);
    let watches = bytes(limits.watch_memory.0) / WATCH_BYTES;
    vec![
        of(
            "what links hold for them",
            (listeners, bytes(limits.link_memory.0)),
            Some("link_memory"),
        ),
        of(
            "what watches hold",
            (1, bytes(limits.watch_memory.0)),
            Some("watch_memory"),
        ),
        of(
            "what watches give out next",
            (watches, message),
            Some("watch_memory"),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each setting changes the rows that the table names, and the defaults give strangers little.
    #[test]
    fn limits_settings_bound_memory_held() {
        let mut config = Config::default();
        // Fixed, so that the result does not depend on the machine.
        config.limits.workers = 1;
        let of = |config: &Config, by| -> usize {
            let theirs = holdings(config).into_iter().filter(|one| one.by == by);
            theirs.map(|one| one.total()).sum()
        };
        assert!(of(&config, Holder::Strangers) < 16 << 20);
        for (by, setting) in [(Holder::Devices, "links"), (Holder::Users, "watch_memory")] {
            let all = holdings(&config);
            let mut named = all.iter().filter(|one| one.by == by);
            assert!(named.any(|one| one.setting == Some(setting)), "{by:?}");
        }
        let before = of(&config, Holder::Users);
        config.limits.watch_memory.0 /= 8;
        assert!(of(&config, Holder::Users) < before / 4);
    }
}
