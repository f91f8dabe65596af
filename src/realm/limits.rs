//! The bounds within which a realm works, and how often it does for others what costs it something (ACC-5 … ACC-7).
//!
//! Called before the work begins. Whoever is over a limit is told how long to wait; all of it is counted in memory
//! whose size is fixed, and nothing of it outlives a restart.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rand::CryptoRng;

use super::{Caller, Failure, Moment, Peer};
pub use super::{
    dedup_windows::{OWNER_BYTES, OWNERS_MAX},
    queue_shares::{QUEUE_MAX, SHARE_BYTES},
    watch_memory::WATCH_BYTES,
};
use crate::{
    faults::{Fault, is_planted},
    rate_limit::{Guesses, RateLimit, RateLimiter, SubnetAllowances},
    wire::{RealmId, Refusal, Sender, Username},
};

/// Places in which accounts are counted.
pub const ACCOUNTS_COUNTED: usize = 16_384;
/// Places in which subnets are counted, for each kind of work.
pub const SUBNETS_COUNTED: usize = 4096;

/// Places in which peers are counted, for each kind of work.
pub const REALMS_COUNTED: usize = 1024;

/// Memory in which one password is hashed at a time, in KiB.
pub const PASSWORD_KIB: u32 = 19 * 1024;
/// Passwords that may wait for a thread.
pub const PASSWORDS_WAITING: usize = 64;
/// Requests to peers that may wait to be taken.
pub const ERRANDS_MAX: usize = 1024;
/// Peers that a realm has at most: whoever introduces himself to an open one then is refused.
pub const PEERS_MAX: usize = 256;
/// Of these, such as nobody here has asked for: one that is of no use to anybody gives way to the next.
pub const UNASKED_MAX: usize = 64;
/// Groups that one user may be in, those of other realms included.
pub const MEMBERSHIPS_MAX: usize = 1000;
/// No further entry is read at once after so many bytes.
pub const WATCH_READ_BYTES: usize = 8 << 10;

/// Epochs of its queue that a peer may begin: it does with each restore of its store, and never otherwise.
const EPOCHS: RateLimit = RateLimit::per_hour(20);

/// Realms that become peers unasked, of one subnet and of all. For each that gives way all groups and accounts are looked through.
const UNASKED: RateLimit = RateLimit::per_hour(5);
const UNASKED_OF_ALL: RateLimit = RateLimit::per_hour(30);
/// How often an address is tried that a peer says of itself: of one peer, and of all that were added or of all that were not.
const CLAIMS: RateLimit = RateLimit::per_hour(1);
const CLAIMS_OF_ALL: RateLimit = RateLimit::per_hour(60);
/// Peerings that one peer may begin anew: all groups are looked through for each.
const PEERINGS: RateLimit = RateLimit::per_hour(5);

/// What a command looks up at the price of one.
const LOOKED_UP_PER_COMMAND: usize = 16;

/// The bounds within which a realm works.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest message, in bytes.
    pub max_message: usize,
    /// A session unused for so long ends.
    pub session_ttl: Duration,
    /// Sessions a user may have; the one unused for longest makes room for another.
    pub sessions_max: usize,
    /// Passwords hashed at once.
    pub password_threads: usize,
    /// Answer `wrong-password` to who would join a group that does not exist.
    pub hide_groups: bool,
    /// What all watches hold together, in bytes: the mailboxes that they watch, and what they have read ahead. Those of one account have an
    /// eighth of it at most.
    pub watch_memory: usize,
    /// How often it does what costs it something.
    pub rates: Rates,
}

/// Half the processors: the other half is for those who are logged in, whatever a flood of logins wants.
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

/// How often a realm does what costs it something.
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
    /// Bytes that one account has the realm keep.
    pub stored_account: RateLimit,
    /// Bytes that the accounts of one subnet have it keep.
    pub stored_subnet: RateLimit,
    /// Bytes that one peer has it keep.
    pub stored_peer: RateLimit,
}

impl Rates {
    /// As often as anybody likes.
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

/// What a password is for, and who tries it: what wrong ones are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guess {
    /// A user's password; by whoever.
    Login(Username),
    /// The same, from a device or a network from which the user has logged in before.
    LoginFrom(Username, [u8; 16]),
    /// A group's; by this user.
    Join(Sender),
}

/// Counts what is done for whom.
#[derive(Debug)]
pub(super) struct Limiter {
    rates: Rates,
    commands: RateLimiter,
    registrations: SubnetAllowances,
    logins: SubnetAllowances,
    joins: SubnetAllowances,
    realm_joins: RateLimiter,
    guesses: Mutex<Guesses>,
    stored_accounts: RateLimiter,
    stored_subnets: SubnetAllowances,
    stored_peers: RateLimiter,
    epochs: RateLimiter,
    peerings: RateLimiter,
    unasked: SubnetAllowances,
    claims: RateLimiter,
    /// What is counted for all together.
    of_all: RateLimiter,
}

impl Limiter {
    pub fn new(rates: Rates, rng: &mut impl CryptoRng) -> Self {
        Self {
            rates,
            commands: RateLimiter::new(ACCOUNTS_COUNTED, rng),
            registrations: SubnetAllowances::new(SUBNETS_COUNTED, rng),
            logins: SubnetAllowances::new(SUBNETS_COUNTED, rng),
            joins: SubnetAllowances::new(SUBNETS_COUNTED, rng),
            realm_joins: RateLimiter::new(REALMS_COUNTED, rng),
            guesses: Mutex::new(Guesses::new(ACCOUNTS_COUNTED, rng)),
            stored_accounts: RateLimiter::new(ACCOUNTS_COUNTED, rng),
            stored_subnets: SubnetAllowances::new(SUBNETS_COUNTED, rng),
            stored_peers: RateLimiter::new(REALMS_COUNTED, rng),
            epochs: RateLimiter::new(REALMS_COUNTED, rng),
            peerings: RateLimiter::new(REALMS_COUNTED, rng),
            unasked: SubnetAllowances::new(SUBNETS_COUNTED, rng),
            claims: RateLimiter::new(REALMS_COUNTED, rng),
            of_all: RateLimiter::new(REALMS_COUNTED, rng),
        }
    }

    /// A command of `user` is carried out.
    pub fn command(&self, now: Moment, user: &Username) -> Result<(), Failure> {
        told(self.commands.take(now.micros, user, self.rates.commands))
    }

    /// A command of `user` has looked so many things up: what is as much work as several counts as several.
    pub fn charge(&self, now: Moment, user: &Username, looked_up: usize) {
        if is_planted(Fault::ListsUncharged) {
            return;
        }
        let commands = u64::try_from(looked_up / LOOKED_UP_PER_COMMAND).unwrap_or(u64::MAX);
        self.commands
            .charge(now.micros, user, self.rates.commands, commands);
    }

    /// An account is made.
    pub fn registration(&self, caller: &Caller) -> Result<(), Failure> {
        let often = self.rates.registrations;
        told(
            self.registrations
                .take(caller.now.micros, &caller.subnet, often),
        )
    }

    /// A user's password is hashed.
    pub fn login(&self, caller: &Caller) -> Result<(), Failure> {
        let often = self.rates.logins;
        told(self.logins.take(caller.now.micros, &caller.subnet, often))
    }

    /// A group's password is hashed for a subnet.
    pub fn join(&self, caller: &Caller) -> Result<(), Failure> {
        let often = self.rates.joins;
        told(self.joins.take(caller.now.micros, &caller.subnet, often))
    }

    /// A group's password is hashed for another realm.
    pub fn join_from(&self, now: Moment, realm: RealmId) -> Result<(), Failure> {
        told(self.realm_joins.take(now.micros, &realm, self.rates.joins))
    }

    /// `user` may have something more kept: what has been lately has not used up what there is for them.
    pub fn may_store(&self, caller: &Caller, user: &Username) -> Result<(), Failure> {
        let (now, rates) = (caller.now.micros, &self.rates);
        let account = self.stored_accounts.wait(now, user, rates.stored_account);
        // Others of a subnet that has used up its own keep nobody waiting who has hardly had anything kept.
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

    /// So many bytes of a `user` are kept.
    pub fn stored(&self, caller: &Caller, user: &Username, bytes: usize) {
        let (now, rates) = (caller.now.micros, &self.rates);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.stored_accounts
            .charge(now, user, rates.stored_account, bytes);
        self.stored_subnets
            .charge(now, &caller.subnet, rates.stored_subnet, bytes);
    }

    /// The same of a peer.
    pub fn may_store_from(&self, now: Moment, realm: RealmId) -> Result<(), Failure> {
        let often = self.rates.stored_peer;
        told(match self.stored_peers.wait(now.micros, &realm, often) {
            Duration::ZERO => Ok(()),
            wait => Err(wait),
        })
    }

    /// So many bytes of a peer are kept.
    pub fn stored_from(&self, now: Moment, realm: RealmId, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let often = self.rates.stored_peer;
        self.stored_peers.charge(now.micros, &realm, often, bytes);
    }

    /// A peer begins another epoch of its queue, of which something will be remembered.
    pub fn epoch(&self, now: Moment, realm: RealmId) -> Result<(), Failure> {
        if is_planted(Fault::EpochsWithoutEnd) {
            return Ok(());
        }
        told(self.epochs.take(now.micros, &realm, EPOCHS))
    }

    /// A peer begins the peering anew.
    pub fn begin_peering(&self, now: Moment, realm: RealmId) -> Result<(), Failure> {
        told(self.peerings.take(now.micros, &realm, PEERINGS))
    }

    /// A realm that nobody here has asked for becomes a peer.
    pub fn unasked(&self, caller: &Caller) -> Result<(), Failure> {
        let now = caller.now.micros;
        told(self.unasked.take(now, &caller.subnet, UNASKED))?;
        told(self.of_all.take(now, &"unasked", UNASKED_OF_ALL))
    }

    /// An address is tried that a peer says of itself. Those that nobody has asked for take nothing from those that an operator has added,
    /// and none gets more by going by other keys.
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

    /// A password is compared; it counts as wrong until [`Limiter::was_right`] is called.
    pub fn guess(&self, now: Moment, guess: &Guess) -> Result<(), Failure> {
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        told(guesses.begin(now.micros, guess))
    }

    /// A password was right, or was never compared.
    pub fn was_right(&self, guess: &Guess) {
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        guesses.was_right(guess);
    }
}

fn told(taken: Result<(), Duration>) -> Result<(), Failure> {
    taken.map_err(|wait| Refusal::rate_limited(wait).into())
}
