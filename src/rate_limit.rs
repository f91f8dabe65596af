//! Rate limits: how often each caller may do something, in memory that does not grow with the
//! number of callers.
//!
//! Every layer that strangers can load calls this module, and it knows none of them. The caller
//! passes the time, in microseconds.

use std::{
    fmt,
    hash::{Hash, Hasher as _},
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rand_core::CryptoRng;
use siphasher::sip::SipHasher13;

use crate::{
    faults::{Fault, is_planted},
    subnet::{Network, Subnet},
};

/// The burst size, in periods.
const BURST: u64 = 4;
const SECOND_NANOS: u64 = 1_000_000_000;
/// A wait that is practically for ever.
const NEVER: Duration = Duration::from_hours(24 * 365);

/// A rate limit: an average frequency. A burst of four periods' worth is allowed, and after that
/// only the average. Written as `"500/s"`, `"5/m"`, `"20/h"`, `"3/d"` or `"unlimited"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    count: u32,
    /// The period in seconds; 0 for no limit.
    period: u32,
}

/// A text that is not a rate limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a frequency; write a whole number and /s, /m, /h or /d, as in \"5/m\", or \"unlimited\""
)]
pub struct InvalidRateLimit(String);

impl RateLimit {
    /// No limit.
    pub const UNLIMITED: Self = Self {
        count: 0,
        period: 0,
    };

    /// Returns a limit of `count` per second.
    pub const fn per_second(count: u32) -> Self {
        Self { count, period: 1 }
    }

    /// Returns a limit of `count` per minute.
    pub const fn per_minute(count: u32) -> Self {
        Self { count, period: 60 }
    }

    /// Returns a limit of `count` per hour.
    pub const fn per_hour(count: u32) -> Self {
        Self {
            count,
            period: 3600,
        }
    }

    /// Returns a limit of `count` per day.
    pub const fn per_day(count: u32) -> Self {
        Self {
            count,
            period: 86_400,
        }
    }

    /// True if nothing is ever allowed.
    pub const fn is_never(self) -> bool {
        self.count == 0 && self.period != 0
    }

    /// Returns a limit multiplied by a factor.
    #[must_use]
    pub const fn times(self, factor: u32) -> Self {
        Self {
            count: self.count.saturating_mul(factor),
            period: self.period,
        }
    }

    /// Returns how long it takes, in nanoseconds, until one more is allowed, and until an empty
    /// bucket is full again. None if nothing is ever allowed.
    fn times_to_fill(self) -> Option<(u64, u64)> {
        let period = u64::from(self.period) * SECOND_NANOS;
        let one = period.checked_div(u64::from(self.count))?;
        Some((one, period * BURST))
    }
}

impl FromStr for RateLimit {
    type Err = InvalidRateLimit;

    fn from_str(text: &str) -> Result<Self, InvalidRateLimit> {
        if text == "unlimited" {
            return Ok(Self::UNLIMITED);
        }
        let parsed = text.split_once('/').and_then(|(count, period)| {
            let count = count.parse().ok()?;
            match period {
                "s" => Some(Self::per_second(count)),
                "m" => Some(Self::per_minute(count)),
                "h" => Some(Self::per_hour(count)),
                "d" => Some(Self::per_day(count)),
                _ => None,
            }
        });
        parsed.ok_or_else(|| InvalidRateLimit(text.into()))
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, period } = self;
        match period {
            0 => f.write_str("unlimited"),
            1 => write!(f, "{count}/s"),
            60 => write!(f, "{count}/m"),
            3600 => write!(f, "{count}/h"),
            _ => write!(f, "{count}/d"),
        }
    }
}

/// A token bucket that refills with time, stored as one number (the generic cell rate algorithm).
/// Zeroed memory is a full bucket. Threads may share it without a lock; each may then take one
/// token too many.
#[derive(Debug, Default)]
pub struct TokenBucket {
    /// When the bucket is full again, in nanoseconds.
    full_at: AtomicU64,
}

impl TokenBucket {
    /// Returns the wait from `now`, in microseconds, until a token is available; zero if one is.
    pub fn wait(&self, now: u64, often: RateLimit) -> Duration {
        if often == RateLimit::UNLIMITED {
            return Duration::ZERO;
        }
        let Some((one, all)) = often.times_to_fill() else {
            return NEVER;
        };
        let now = now.saturating_mul(1000);
        let full_at = self.full_at.load(Ordering::Relaxed).max(now);
        let wanted = full_at.saturating_add(one);
        Duration::from_nanos(wanted.saturating_sub(now.saturating_add(all)))
    }

    fn use_one(&self, now: u64, often: RateLimit) {
        self.charge(now, often, 1);
    }

    /// Takes `count` tokens at `now`, in microseconds, even if the bucket has fewer: a debt
    /// lengthens the wait.
    pub fn charge(&self, now: u64, often: RateLimit, count: u64) {
        if let Some((one, all)) = often.times_to_fill() {
            let now = now.saturating_mul(1000);
            let owed = one.saturating_mul(count);
            // The debt is limited to one full bucket, so it ends at some time.
            let most = now.saturating_add(all.saturating_mul(2));
            let later = |full_at: u64| Some(full_at.max(now).saturating_add(owed).min(most));
            let _ = self
                .full_at
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
        }
    }

    /// Takes a token at `now`, in microseconds, if there is one.
    ///
    /// # Errors
    /// The wait until there is one.
    pub fn take(&self, now: u64, often: RateLimit) -> Result<(), Duration> {
        match self.wait(now, often) {
            Duration::ZERO => {
                self.use_one(now, often);
                Ok(())
            }
            wait => Err(wait),
        }
    }
}

/// A table of counters for callers. Each caller has two places, chosen by a keyed hash that no
/// outsider can predict. The emptier place decides. So nobody gets more than their limit, and a
/// caller that shares one place with a heavy user still has the other.
#[derive(Debug)]
struct Buckets<T> {
    places: Box<[T]>,
    key: [u64; 2],
}

impl<T: Default> Buckets<T> {
    fn new(places: usize, rng: &mut impl CryptoRng) -> Self {
        Self {
            places: (0..places.max(1)).map(|_| T::default()).collect(),
            key: [rng.next_u64(), rng.next_u64()],
        }
    }

    /// Returns the two places of `who`.
    fn of(&self, who: &impl Hash) -> [usize; 2] {
        let [a, b] = self.key;
        let mut hasher = SipHasher13::new_with_keys(a, b);
        who.hash(&mut hasher);
        let hash = hasher.finish();
        let count = self.places.len() as u64;
        // The two halves of a good hash are independent.
        [hash >> 32, hash & u64::from(u32::MAX)]
            .map(|half| usize::try_from(half % count).unwrap_or_default())
    }
}

/// One token bucket per key, for one kind of work.
#[derive(Debug)]
pub struct RateLimiter(Buckets<TokenBucket>);

impl RateLimiter {
    /// The memory of one place, in bytes.
    pub const PLACE_BYTES: usize = size_of::<TokenBucket>();

    /// Returns a limiter with this number of places.
    pub fn new(places: usize, rng: &mut impl CryptoRng) -> Self {
        Self(Buckets::new(places, rng))
    }

    /// Takes a token of `who` at `now`, in microseconds, if there is one.
    ///
    /// # Errors
    /// The wait until there is one.
    pub fn take(&self, now: u64, who: &impl Hash, often: RateLimit) -> Result<(), Duration> {
        if often == RateLimit::UNLIMITED {
            return Ok(());
        }
        match self.wait(now, who, often) {
            Duration::ZERO => {
                self.charge(now, who, often, 1);
                Ok(())
            }
            wait => Err(wait),
        }
    }

    /// Returns the wait from `now`, in microseconds, until `who` has a token.
    pub fn wait(&self, now: u64, who: &impl Hash, often: RateLimit) -> Duration {
        let both = self.0.of(who).map(|at| self.0.places.get(at));
        let waits = both
            .into_iter()
            .flatten()
            .map(|place| place.wait(now, often));
        waits.min().unwrap_or_default()
    }

    /// True if `who` has used less than a sixteenth of a period's worth lately.
    pub fn is_hardly_used(&self, now: u64, who: &impl Hash, often: RateLimit) -> bool {
        let Some((_, all)) = often.times_to_fill() else {
            return true;
        };
        let both = self.0.of(who).map(|at| self.0.places.get(at));
        let owed = both.into_iter().flatten().map(|place| {
            let full_at = place.full_at.load(Ordering::Relaxed);
            full_at.saturating_sub(now.saturating_mul(1000))
        });
        owed.min().unwrap_or_default() <= all / (BURST * 16)
    }

    /// Takes `count` tokens of `who` at `now`, in microseconds, even if there are fewer.
    pub fn charge(&self, now: u64, who: &impl Hash, often: RateLimit, count: u64) {
        let [first, second] = self.0.of(who);
        // Whose two places are the same one must not pay twice.
        let second = (second != first).then_some(second);
        for at in [Some(first), second].into_iter().flatten() {
            if let Some(place) = self.0.places.get(at) {
                place.charge(now, often, count);
            }
        }
    }
}

/// The limit of a network, as a multiple of a subnet's limit. A network that has used it up has
/// used it up in all its subnets.
const WIDE_FACTOR: u32 = 16;

/// Token buckets of subnets. The holder of an IPv6 network of many subnets (a /48) has no more than
/// sixteen subnets' limits in all: with more, it could fill everybody's places.
#[derive(Debug)]
pub struct SubnetRateLimiter {
    subnets: RateLimiter,
    networks: RateLimiter,
}

/// Returns the wider network that contains a subnet, if there is one: its holder has all its
/// subnets.
fn wide_network(subnet: Subnet) -> Option<Network> {
    let network = Network::from(subnet);
    (network.is_wider() && !is_planted(Fault::ForgetNetworks)).then_some(network)
}

impl SubnetRateLimiter {
    /// Returns a limiter with this number of places for subnets, and a sixteenth of it for
    /// networks.
    pub fn new(places: usize, rng: &mut impl CryptoRng) -> Self {
        Self {
            subnets: RateLimiter::new(places, rng),
            networks: RateLimiter::new(Self::networks(places), rng),
        }
    }

    /// Returns the number of buckets for networks beside `places` for subnets.
    pub const fn networks(places: usize) -> usize {
        places / WIDE_FACTOR as usize
    }

    /// As [`RateLimiter::take`].
    ///
    /// # Errors
    /// The wait until there is a token.
    pub fn take(&self, now: u64, subnet: &Subnet, often: RateLimit) -> Result<(), Duration> {
        let (network, wide) = (wide_network(*subnet), often.times(WIDE_FACTOR));
        if let Some(network) = &network {
            // A subnet uses no token if its network has used up its own.
            match self.networks.wait(now, network, wide) {
                Duration::ZERO => {}
                wait => return Err(wait),
            }
        }
        self.subnets.take(now, subnet, often)?;
        if let Some(network) = &network {
            self.networks.charge(now, network, wide, 1);
        }
        Ok(())
    }

    /// As [`RateLimiter::wait`].
    pub fn wait(&self, now: u64, subnet: &Subnet, often: RateLimit) -> Duration {
        let wide = often.times(WIDE_FACTOR);
        let network = wide_network(*subnet);
        let network = network.map(|network| self.networks.wait(now, &network, wide));
        self.subnets
            .wait(now, subnet, often)
            .max(network.unwrap_or_default())
    }

    /// As [`RateLimiter::charge`].
    pub fn charge(&self, now: u64, subnet: &Subnet, often: RateLimit, count: u64) {
        self.subnets.charge(now, subnet, often, count);
        if let Some(network) = wide_network(*subnet) {
            self.networks
                .charge(now, &network, often.times(WIDE_FACTOR), count);
        }
    }
}

/// The number of wrong tries in a row that need no wait before them.
const STRIKES_FREE: u64 = 3;
/// The wait after the last of these; each further one doubles it.
const STRIKE_WAIT: Duration = Duration::from_mins(1);
/// The longest wait, and the time until one try is forgotten.
const STRIKE_WAIT_MAX: Duration = Duration::from_mins(15);

/// The unit of [`Strikes`]: one try in millionths.
const ONE: u64 = 1_000_000;

/// The number of a caller's recent wrong tries.
#[derive(Clone, Copy, Debug, Default)]
struct Strikes {
    /// The number, in millionths.
    count: u64,
    at: u64,
    /// The time of the last wrong try.
    last: u64,
}

impl Strikes {
    fn forget(&mut self, now: u64) {
        let since = u128::from(now.saturating_sub(self.at)) * u128::from(ONE);
        let forgotten = since / STRIKE_WAIT_MAX.as_micros();
        let forgotten = u64::try_from(forgotten).unwrap_or(u64::MAX);
        self.count = self.count.saturating_sub(forgotten);
        self.at = self.at.max(now);
    }

    fn wait(&self, now: u64) -> Duration {
        // A try that is half forgotten still counts as one.
        let Some(beyond) = self.count.div_ceil(ONE).checked_sub(STRIKES_FREE) else {
            return Duration::ZERO;
        };
        let doublings = u32::try_from(beyond).unwrap_or(u32::MAX).min(16);
        let wait = (STRIKE_WAIT * (1 << doublings)).min(STRIKE_WAIT_MAX);
        let since = Duration::from_micros(now.saturating_sub(self.last));
        wait.saturating_sub(since)
    }
}

/// Slows down guesses: after three wrong ones a guesser waits a minute, and twice as long after
/// each further one, up to 15 minutes. So there are at most ten in an hour, and nobody is ever
/// locked out. One wrong guess is forgotten in 15 minutes.
#[derive(Debug)]
pub struct Guesses(Buckets<Strikes>);

impl Guesses {
    /// The memory of one place, in bytes.
    pub const PLACE_BYTES: usize = size_of::<Strikes>();

    /// Returns a limiter with this number of places.
    pub fn new(places: usize, rng: &mut impl CryptoRng) -> Self {
        Self(Buckets::new(places, rng))
    }

    fn each(&mut self, who: &impl Hash, mut change: impl FnMut(&mut Strikes)) {
        let [first, second] = self.0.of(who);
        let second = (second != first).then_some(second);
        for at in [Some(first), second].into_iter().flatten() {
            if let Some(strikes) = self.0.places.get_mut(at) {
                change(strikes);
            }
        }
    }

    /// Begins a guess at `now`, in microseconds. It counts as wrong until [`Guesses::was_right`] is
    /// called, so that many guesses at once bring no advantage.
    ///
    /// # Errors
    /// How long `who` has to wait for the next guess.
    pub fn begin(&mut self, now: u64, who: &impl Hash) -> Result<(), Duration> {
        let mut shortest = Duration::MAX;
        self.each(who, |strikes| {
            strikes.forget(now);
            shortest = shortest.min(strikes.wait(now));
        });
        if !shortest.is_zero() {
            return Err(shortest);
        }
        self.each(who, |strikes| {
            strikes.count = strikes.count.saturating_add(ONE);
            strikes.last = now;
        });
        Ok(())
    }

    /// Notes that a guess was right, or was no guess.
    pub fn was_right(&mut self, who: &impl Hash) {
        self.each(who, |strikes| {
            strikes.count = strikes.count.saturating_sub(ONE);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    const SECOND: u64 = 1_000_000;
    const HOUR: u64 = 3600 * SECOND;

    #[test]
    fn rate_limit_burst_is_four_times_rate_then_refills_at_rate() {
        let allowance = TokenBucket::default();
        let often = RateLimit::per_minute(5);
        let taken = |now| {
            let all = 0..100;
            all.filter(|_| allowance.take(now, often).is_ok()).count()
        };
        assert_eq!(taken(HOUR), 20);
        assert_eq!(taken(HOUR + 11 * SECOND), 0);
        assert_eq!(taken(HOUR + 12 * SECOND), 1);
        assert_eq!(taken(HOUR + 72 * SECOND), 5);
        assert_eq!(taken(3 * HOUR), 20);
        assert_eq!(taken(2 * HOUR), 0, "a clock that goes back gives nothing");
        let wait = allowance.take(3 * HOUR, often).unwrap_err();
        assert_eq!(wait, Duration::from_secs(12));
        assert_eq!(allowance.take(0, RateLimit::UNLIMITED), Ok(()));
        let never = RateLimit::per_second(0);
        assert_eq!(allowance.take(9 * HOUR, never), Err(NEVER));
    }

    /// Before, whose two places happened to be the same one had half of the limit.
    #[test]
    fn rate_limit_of_caller_with_one_place_is_whole() {
        let often = RateLimit::per_minute(5);
        for seed in 0..200 {
            let mut rng = StdRng::seed_from_u64(seed);
            let limiter = RateLimiter::new(2, &mut rng);
            let taken = (0..100).filter(|_| limiter.take(0, &"ann", often).is_ok());
            assert_eq!(taken.count(), 20);
        }
    }

    #[test]
    fn rate_limit_heavy_users_leave_others_unaffected() {
        let mut rng = StdRng::seed_from_u64(1);
        let allowances = RateLimiter::new(4096, &mut rng);
        let often = RateLimit::per_second(10);
        for glutton in 0..100 {
            let all = 0..1000;
            let taken = all.filter(|_| allowances.take(HOUR, &glutton, often).is_ok());
            assert_eq!(taken.count(), 40, "glutton {glutton}");
        }
        let others = 1000..2000;
        let hungry = others.filter(|who| allowances.take(HOUR, who, often).is_err());
        // About one in four hundred shares both places with heavy users: these are two hundred in
        // four thousand places.
        assert!(hungry.count() < 12);
    }

    /// HS-8, HS-12, ACC-7: an IPv6 /48 with 65,536 subnets fills no more places than a few subnets
    /// would.
    #[test]
    fn rate_limit_network_of_many_subnets_leaves_others_unaffected() {
        let mut rng = StdRng::seed_from_u64(1);
        let allowances = SubnetRateLimiter::new(4096, &mut rng);
        let often = RateLimit::per_hour(20);
        let subnet = |network: u16, n: u16| {
            Subnet::from(IpAddr::from([0x2001, 0xdb8, network, n, 0, 0, 0, 1]))
        };
        let taken: usize = (0..=u16::MAX)
            .map(|n| {
                (0..8)
                    .filter(|_| allowances.take(HOUR, &subnet(7, n), often).is_ok())
                    .count()
            })
            .sum();
        assert_eq!(taken, 16 * 80);
        let others =
            (0..1000).map(|n| Subnet::from(IpAddr::from([10, n_of(n), n.to_be_bytes()[1], 1])));
        let hungry = others.filter(|subnet| allowances.take(HOUR, subnet, often).is_err());
        assert_eq!(hungry.count(), 0);
        assert!(allowances.take(HOUR, &subnet(8, 0), often).is_ok());
    }

    const fn n_of(n: u16) -> u8 {
        n.to_be_bytes()[0]
    }

    /// ACC-5: a guesser has at most ten tries in an hour; right guesses never wait.
    #[test]
    fn password_guesses_are_ten_per_hour_and_right_ones_never_wait() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut guesses = Guesses::new(64, &mut rng);
        let mut heard = Vec::new();
        for second in 0..24 * 3600 {
            let now = HOUR + second * SECOND;
            // Several guesses at once, each second.
            heard.extend((0..3).filter_map(|_| guesses.begin(now, &"ann").ok().map(|()| now)));
        }
        assert_eq!(heard[0..3], [HOUR; 3]);
        for from in &heard {
            let hour = *from..from + HOUR;
            let count = heard.iter().filter(|at| hour.contains(at)).count();
            assert!(count <= 10, "{count}");
        }
        let longest = heard.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(longest <= Some(15 * 60 * SECOND));
        assert_eq!(guesses.begin(HOUR, &"bob"), Ok(()));
        // Right guesses never wait.
        for second in 0..100 {
            let now = 100 * HOUR + second * SECOND;
            assert_eq!(guesses.begin(now, &"eve"), Ok(()));
            guesses.was_right(&"eve");
        }
    }

    #[test]
    fn rate_limit_text_is_parsed_as_displayed() {
        for text in ["500/s", "5/m", "20/h", "3/d", "0/s", "unlimited"] {
            let frequency: RateLimit = text.parse().unwrap();
            assert_eq!(frequency.to_string(), text);
        }
        for text in ["", "5", "5/y", "-1/s", "5 /s", "5/", "/s", "99999999999/s"] {
            let error = text.parse::<RateLimit>().unwrap_err();
            assert!(error.to_string().contains("\"5/m\""), "{text}");
        }
    }
}
