//! The bounds of a realm, and the rate limits of what costs it something (ACC-5 … ACC-7).
//!
//! Limits are checked before the work begins. A caller over a limit is told how long to wait. All
//! counters are in memory of fixed size, and none outlives a restart.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rand::CryptoRng;

use super::{Caller, failure::Failure, peer::Peer, time::Moment};
use crate::{
    faults::{Fault, is_planted},
    rate_limit::{Guesses, RateLimit, RateLimiter, SubnetRateLimiter},
    wire::{RealmId, Refusal, Sender, Username},
};

/// The number of bytes of a queue, or of a replica, that are read at once.
pub const READ_BYTES: usize = 64 << 10;
/// The number of counters for accounts.
pub const ACCOUNTS_COUNTED: usize = 16_384;
/// The number of counters for subnets, for each kind of work.
pub const SUBNETS_COUNTED: usize = 4096;

/// The number of counters for peers, for each kind of work.
pub const REALMS_COUNTED: usize = 1024;

/// The memory in which one password is hashed, in KiB.
pub const PASSWORD_KIB: u32 = 19 * 1024;
/// The most passwords that may wait for a thread.
pub const PASSWORDS_WAITING: usize = 64;
/// The most requests to peers that may wait to be taken.
pub const PEER_CALLS_MAX: usize = 1024;
/// The most peers of a realm. When there are as many, a realm that introduces itself to an open one
/// is refused.
pub const PEERS_MAX: usize = 256;
/// The most uninvited peers among them. An unused one is evicted for the next.
pub const UNASKED_MAX: usize = 64;
/// The most groups that one user may be in, including those of other realms.
pub const MEMBERSHIPS_MAX: usize = 1000;
/// The number of bytes after which no further entry is read at once.
pub const WATCH_READ_BYTES: usize = 8 << 10;

/// How many epochs of its queue a peer may begin: it begins one with each restore of its store, and
/// never otherwise.
const EPOCHS: RateLimit = RateLimit::per_hour(20);

/// How many realms may become peers uninvited, for one subnet and for all. Each eviction looks
/// through all groups and accounts.
const UNASKED: RateLimit = RateLimit::per_hour(5);
const UNASKED_OF_ALL: RateLimit = RateLimit::per_hour(30);
/// How often a claimed address is tried: for one peer, and for all added or all uninvited peers.
const CLAIMS: RateLimit = RateLimit::per_hour(1);
const CLAIMS_OF_ALL: RateLimit = RateLimit::per_hour(60);
/// How many peerings one peer may begin anew: each looks through all groups.
const PEERINGS: RateLimit = RateLimit::per_hour(5);

/// How many look-ups cost as much as one command.
const LOOKED_UP_PER_COMMAND: usize = 16;

/// The bounds of a realm.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest message, in bytes.
    pub max_message: usize,
    /// How long a session lasts without use.
    pub session_ttl: Duration,
    /// The most sessions of a user. The one unused for longest makes room for another.
    pub sessions_max: usize,
    /// The number of passwords that are hashed at once.
    pub password_threads: usize,
    /// True if a join of a group that does not exist is answered with `wrong-password`.
    pub hide_groups: bool,
    /// The memory of all watches, in bytes: the mailboxes that they watch, and the entries that
    /// they have read ahead. Watches of one account get an eighth of it at most.
    pub watch_memory: usize,
    /// The rate limits of what costs it something.
    pub rates: Rates,
}

/// Returns half the number of processors. The other half is for users that are logged in, however
/// many logins arrive.
fn password_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).max(1)
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message: 16 << 10,
            session_ttl: Duration::from_hours(30 * 24),
            sessions_max: 16,
            password_threads: password_threads(),
            hide_groups: false,
            watch_memory: 256 << 20,
            rates: Rates::default(),
        }
    }
}

/// The rate limits of a realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Commands of one account.
    pub commands: RateLimit,
    /// Accounts made from one subnet.
    pub registrations: RateLimit,
    /// Users' passwords hashed for one subnet.
    pub logins: RateLimit,
    /// Groups' passwords hashed for one subnet, or for one realm.
    pub joins: RateLimit,
    /// Bytes that one account stores.
    pub stored_account: RateLimit,
    /// Bytes that the accounts of one subnet store.
    pub stored_subnet: RateLimit,
    /// Bytes that one peer stores.
    pub stored_peer: RateLimit,
}

impl Rates {
    /// No limits.
    pub const UNLIMITED: Self = Self {
        commands: RateLimit::UNLIMITED,
        registrations: RateLimit::UNLIMITED,
        logins: RateLimit::UNLIMITED,
        joins: RateLimit::UNLIMITED,
        stored_account: RateLimit::UNLIMITED,
        stored_subnet: RateLimit::UNLIMITED,
        stored_peer: RateLimit::UNLIMITED,
    };
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            commands: RateLimit::per_second(500),
            registrations: RateLimit::per_hour(20),
            logins: RateLimit::per_minute(5),
            joins: RateLimit::per_minute(20),
            stored_account: RateLimit::per_day(64 << 20),
            stored_subnet: RateLimit::per_day(256 << 20),
            stored_peer: RateLimit::per_day(1 << 30),
        }
    }
}

/// The password that is tried, and the user or device that tries it: wrong passwords are counted by
/// this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guess {
    /// A user's password, from anywhere.
    Login(Username),
    /// A user's password, from a device or a network from which the user has logged in before.
    LoginFrom(Username, [u8; 16]),
    /// A group's password, tried by this user.
    Join(Sender),
}

/// Counts what is done for each account, subnet and peer.
#[derive(Debug)]
pub(super) struct Limiter {
    rates: Rates,
    commands: RateLimiter,
    registrations: SubnetRateLimiter,
    logins: SubnetRateLimiter,
    joins: SubnetRateLimiter,
    realm_joins: RateLimiter,
    guesses: Mutex<Guesses>,
    stored_accounts: RateLimiter,
    stored_subnets: SubnetRateLimiter,
    stored_peers: RateLimiter,
    epochs: RateLimiter,
    peerings: RateLimiter,
    unasked: SubnetRateLimiter,
    claims: RateLimiter,
    /// Counts what is done for all together.
    of_all: RateLimiter,
}

impl Limiter {
    pub fn new(rates: Rates, rng: &mut impl CryptoRng) -> Self {
        Self {
            rates,
            commands: RateLimiter::new(ACCOUNTS_COUNTED, rng),
            registrations: SubnetRateLimiter::new(SUBNETS_COUNTED, rng),
            logins: SubnetRateLimiter::new(SUBNETS_COUNTED, rng),
            joins: SubnetRateLimiter::new(SUBNETS_COUNTED, rng),
            realm_joins: RateLimiter::new(REALMS_COUNTED, rng),
            guesses: Mutex::new(Guesses::new(ACCOUNTS_COUNTED, rng)),
            stored_accounts: RateLimiter::new(ACCOUNTS_COUNTED, rng),
            stored_subnets: SubnetRateLimiter::new(SUBNETS_COUNTED, rng),
            stored_peers: RateLimiter::new(REALMS_COUNTED, rng),
            epochs: RateLimiter::new(REALMS_COUNTED, rng),
            peerings: RateLimiter::new(REALMS_COUNTED, rng),
            unasked: SubnetRateLimiter::new(SUBNETS_COUNTED, rng),
            claims: RateLimiter::new(REALMS_COUNTED, rng),
            of_all: RateLimiter::new(REALMS_COUNTED, rng),
        }
    }

    /// Counts a command of `user`.
    pub fn command(&self, now: Moment, user: &Username) -> Result<(), Failure> {
        told(self.commands.take(now.micros, user, self.rates.commands))
    }

    /// Counts the look-ups of a command of `user`: one with as much work as several counts as
    /// several.
    pub fn charge(&self, now: Moment, user: &Username, looked_up: usize) {
        if is_planted(Fault::ListsUncharged) {
            return;
        }
        let commands = u64::try_from(looked_up / LOOKED_UP_PER_COMMAND).unwrap_or(u64::MAX);
        self.commands
            .charge(now.micros, user, self.rates.commands, commands);
    }

    /// Counts an account that is made.
    pub fn registration(&self, caller: &Caller) -> Result<(), Failure> {
        let often = self.rates.registrations;
        told(
            self.registrations
                .take(caller.now.micros, &caller.subnet, often),
        )
    }

    /// Counts a user's password that is hashed.
    pub fn login(&self, caller: &Caller) -> Result<(), Failure> {
        let often = self.rates.logins;
        told(self.logins.take(caller.now.micros, &caller.subnet, often))
    }

    /// Counts a group's password that is hashed for a subnet.
    pub fn join(&self, caller: &Caller) -> Result<(), Failure> {
        let often = self.rates.joins;
        told(self.joins.take(caller.now.micros, &caller.subnet, often))
    }

    /// Counts a group's password that is hashed for another realm.
    pub fn join_from(&self, now: Moment, realm: RealmId) -> Result<(), Failure> {
        told(self.realm_joins.take(now.micros, &realm, self.rates.joins))
    }

    /// Returns an error if `user` has recently used up their storage quota.
    pub fn may_store(&self, caller: &Caller, user: &Username) -> Result<(), Failure> {
        let (now, rates) = (caller.now.micros, &self.rates);
        let account = self.stored_accounts.wait(now, user, rates.stored_account);
        // If a subnet has used up its quota, an account in it that has stored almost nothing need
        // not wait.
        let accounts = &self.stored_accounts;
        let is_hardly_used = accounts.is_hardly_used(now, user, rates.stored_account);
        if is_hardly_used || is_planted(Fault::StoreWithoutShare) {
            return Ok(());
        }
        let subnet = self
            .stored_subnets
            .wait(now, &caller.subnet, rates.stored_subnet);
        told(match account.max(subnet) {
            Duration::ZERO => Ok(()),
            wait => Err(wait),
        })
    }

    /// Counts bytes that are stored for `user`.
    pub fn stored(&self, caller: &Caller, user: &Username, bytes: usize) {
        let (now, rates) = (caller.now.micros, &self.rates);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.stored_accounts
            .charge(now, user, rates.stored_account, bytes);
        self.stored_subnets
            .charge(now, &caller.subnet, rates.stored_subnet, bytes);
    }

    /// Returns an error if a peer has recently used up its storage quota.
    pub fn may_store_from(&self, now: Moment, realm: RealmId) -> Result<(), Failure> {
        let often = self.rates.stored_peer;
        told(match self.stored_peers.wait(now.micros, &realm, often) {
            Duration::ZERO => Ok(()),
            wait => Err(wait),
        })
    }

    /// Counts bytes that are stored for a peer.
    pub fn stored_from(&self, now: Moment, realm: RealmId, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let often = self.rates.stored_peer;
        self.stored_peers.charge(now.micros, &realm, often, bytes);
    }

    /// Counts another epoch of a peer's queue. The store keeps a record of each epoch.
    pub fn epoch(&self, now: Moment, realm: RealmId) -> Result<(), Failure> {
        if is_planted(Fault::EpochsWithoutEnd) {
            return Ok(());
        }
        told(self.epochs.take(now.micros, &realm, EPOCHS))
    }

    /// Counts a peering that a peer begins anew.
    pub fn begin_peering(&self, now: Moment, realm: RealmId) -> Result<(), Failure> {
        told(self.peerings.take(now.micros, &realm, PEERINGS))
    }

    /// Counts a realm that becomes a peer uninvited.
    pub fn unasked(&self, caller: &Caller) -> Result<(), Failure> {
        let now = caller.now.micros;
        told(self.unasked.take(now, &caller.subnet, UNASKED))?;
        told(self.of_all.take(now, &"unasked", UNASKED_OF_ALL))
    }

    /// Counts an attempt at a claimed address. Uninvited peers take nothing from added ones, and no
    /// peer gets more attempts by changing its key.
    pub fn claim(&self, now: Moment, peer: &Peer) -> Result<(), Failure> {
        let now = now.micros;
        told(self.claims.take(now, &peer.identity().0.0, CLAIMS))?;
        let all = if peer.is_added() {
            "claims of added"
        } else {
            "claims of unasked"
        };
        told(self.of_all.take(now, &all, CLAIMS_OF_ALL))
    }

    /// Counts a password that is compared. It counts as wrong until [`Limiter::was_right`] is
    /// called.
    pub fn guess(&self, now: Moment, guess: &Guess) -> Result<(), Failure> {
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        told(guesses.begin(now.micros, guess))
    }

    /// Notes that a password was right, or was never compared.
    pub fn was_right(&self, guess: &Guess) {
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        guesses.was_right(guess);
    }
}

fn told(taken: Result<(), Duration>) -> Result<(), Failure> {
    taken.map_err(|wait| Refusal::rate_limited(wait).into())
}
