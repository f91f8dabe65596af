//! The kinds of a world. By default all realms are honest, keep their addresses and have one worker
//! each. Each kind applies to a share of the worlds, independent of the rest of the seed.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// The environment variable that gives this kind to all worlds that can have it.
const VARIABLE: &str = "MERPATI_KIND";

/// The share of the worlds in which realms have several workers.
const WORKERS: f64 = 0.2;
/// The share of the worlds with several realms in which realms move.
const MOVES: f64 = 0.1;
/// The share of the worlds with several realms in which one realm is behind an address translator.
const NAT: f64 = 0.1;
/// The share of the worlds with a translator in which it is a firewall.
const FIREWALL: f64 = 0.5;
/// The share of the worlds with a malicious realm.
const LIAR: f64 = 0.1;
/// The share of the worlds with several realms in which an attacker on the path replays recorded
/// datagrams.
const REPLAYS: f64 = 0.1;
/// The share of the worlds with several realms in which one realm is restored from a copy of its
/// disk.
const RESTORED: f64 = 0.1;
/// The share of the worlds with several realms in which another realm takes over the name of one.
/// Such a world may also have several workers and replays, and no other kind.
const TAKEN: f64 = 0.05;
/// The share of all worlds in which all users are away for longer than a ticket lives, and then
/// return.
const AWAY: f64 = 0.05;
/// The share of the worlds in which a user blocks another one, for good.
const BLOCKS: f64 = 0.1;
/// The time for which they are away.
pub const AWAY_FOR: Duration = Duration::from_hours(25);

/// A realm behind an address translator.
#[derive(Clone, Copy, Debug)]
pub struct Nat {
    /// The number of the realm.
    pub realm: usize,
    /// The translator forgets a mapping after this time without traffic.
    pub forgets: Duration,
    /// The realm tells its own address. Otherwise it tells none.
    pub tells: bool,
    /// The translator is a firewall: the realm's own address leads to the realm, for parties that
    /// the realm has sent to lately.
    pub is_firewall: bool,
}

/// The kinds of a world.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    /// The number of workers of each realm.
    pub workers: Vec<usize>,
    /// Realms move to other addresses.
    pub moves: bool,
    pub nat: Option<Nat>,
    /// A malicious realm is listed, too. Its key is made from this seed.
    pub liar: Option<u64>,
    /// Traffic between realms is recorded and replayed.
    pub replays: bool,
    /// This realm is restored from a copy.
    pub restored: Option<usize>,
    /// The name of one realm is given to another.
    pub taken: bool,
    /// All users are away for a day before the end (HS-20).
    pub are_away: bool,
    /// The first user blocks another one (BLK-1).
    pub blocks: bool,
}

impl Kinds {
    /// Draws the kinds of the world of a seed with this many realms.
    pub fn draw(seed: u64, realms: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed.rotate_left(32) ^ 0x6b69_6e64);
        let wanted = std::env::var(VARIABLE).unwrap_or_default();
        // All kinds are drawn, so that one does not change the next.
        let mut is = |name: &str, share: f64| rng.random_bool(share) || wanted == name;
        let (many, moves, nat) = (is("workers", WORKERS), is("moves", MOVES), is("nat", NAT));
        let lies = is("liar", LIAR);
        let is_firewall = wanted == "firewall";
        let nat = nat || is_firewall;
        let are_several = realms > 1;
        let workers = (0..realms).map(|_| if many { rng.random_range(1..=8) } else { 1 });
        let workers = workers.collect();
        let nat = (nat && are_several).then(|| Nat {
            realm: rng.random_range(0..realms),
            forgets: Duration::from_secs(rng.random_range(30..=120)),
            tells: rng.random_bool(0.5),
            is_firewall: false,
        });
        // Kinds that were added later are drawn last, so that earlier seeds keep their meaning.
        let mut is = |name: &str, share: f64| rng.random_bool(share) || wanted == name;
        let replays = is("replays", REPLAYS);
        let restored = is("restored", RESTORED);
        let moves = moves && are_several;
        // A realm that moves and has forgotten the addresses of the others may find none of them,
        // and none may find it.
        let restored = restored && are_several && !moves && !lies;
        let restored = restored.then(|| rng.random_range(0..realms));
        let replays = replays && are_several;
        let mut is = |name: &str, share: f64| rng.random_bool(share) || wanted == name;
        let taken = is("taken", TAKEN) && are_several;
        let are_away = is("away", AWAY);
        let firewall = is("firewall", FIREWALL);
        let nat = nat.map(|nat| Nat {
            // A realm behind a firewall keeps its own address.
            tells: nat.tells || is_firewall,
            // Whoever has to join again needs a realm that can be reached.
            is_firewall: firewall && (nat.tells || is_firewall) && restored.is_none(),
            ..nat
        });
        let mut is = |name: &str, share: f64| rng.random_bool(share) || wanted == name;
        // A realm restored from a copy has forgotten the block.
        let blocks = is("blocks", BLOCKS) && !lies && restored.is_none();
        if taken {
            return Self {
                workers,
                replays,
                taken,
                ..Self::default()
            };
        }
        Self {
            workers,
            moves,
            nat,
            liar: lies.then_some(seed),
            replays,
            restored,
            taken,
            are_away,
            blocks,
        }
    }
}

/// The most leftovers of one kind for a realm that cannot be called. A link to it is kept open
/// (PEER-24), and another one to it does not open.
const KEPT_OPEN: u64 = 4;
/// The same for a realm behind a firewall. Links that were opened to it while the firewall let them
/// in are closed in vain later, and stay until they have been idle for long.
const LET_IN: u64 = 16;
/// The most Inits of such links in the accept cache: the links are rekeyed as often as every
/// minute.
const RENEWED: u64 = 16;
/// The most outbound requests to a realm that cannot be called. One request tries now and then
/// whether it can be called by now. Another one uses the realm's own link.
const CALLED: u64 = 2;
/// The most bytes that are held for each of those links.
const KEPT_BYTES: u64 = 16_000;
/// The most leftovers of one kind from a malicious realm that is gone: its links, the links to it,
/// and the requests that wait on them.
const LIED_TO: u64 = 16;

/// At this rate in bytes per second, the queue of a path may drop all of three datagrams.
const NARROW: u64 = 100;

impl Kinds {
    /// True if a realm may have `left` over in the end, although no other party is there any more,
    /// on paths of this rate.
    pub fn may_be_left(&self, left: &str, rate: Option<u64>) -> bool {
        let links = match (self.nat, self.liar) {
            (_, Some(_)) => LIED_TO,
            (Some(nat), None) if nat.is_firewall => LET_IN,
            (Some(_), None) => KEPT_OPEN,
            // On such a narrow path, the only try of a claimed address (PEER-23) may have been
            // lost. The realm is then asked on its own link (seed 13015051). Introductions are lost
            // too, and each later one may be followed by one more check whether a peer can be
            // called (PEER-24; seed 15700358).
            (None, None) if rate.is_some_and(|rate| rate <= NARROW) => KEPT_OPEN,
            (None, None) => return false,
        };
        let Some((Ok(count), what)) = left
            .split_once(' ')
            .map(|(count, what)| (count.parse::<u64>(), what))
        else {
            return false;
        };
        let most = match what {
            "commands in progress are left" | "watches are left" | "datagrams to send are left" => {
                0
            }
            "requests to peers are left" if self.liar.is_none() => CALLED,
            "bytes held for others are left" => KEPT_BYTES * links,
            "accepts are left" => RENEWED,
            "timers are left" => links * 2,
            _ => links,
        };
        count <= most
    }
}
