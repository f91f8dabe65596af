//! What makes a world of several realms another than one in which all of them are honest, stay where they are and have one worker each.
//! Each is so in a share of the worlds, whatever else their seeds stand for.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// Names a kind of which all worlds are to be that can.
const VARIABLE: &str = "MERPATI_KIND";

/// The part of the worlds in which a realm has several workers.
const WORKERS: f64 = 0.2;
/// The part of the worlds with several realms in which they move,
const MOVES: f64 = 0.1;
/// and in which one is behind an address translator.
const NAT: f64 = 0.1;
/// The part of those in which it is a firewall.
const FIREWALL: f64 = 0.5;
/// The part of the worlds in which a realm lies.
const LIAR: f64 = 0.1;
/// The part of the worlds with several realms in which somebody on the path sends again what they have recorded.
const REPLAYS: f64 = 0.1;
/// and in which one is restored from a copy of its disk.
const RESTORED: f64 = 0.1;
/// and in which another realm gets the name of one, of which nothing else is so.
const TAKEN: f64 = 0.05;
/// The part of all worlds in which everybody is away for longer than a ticket is good, and then comes back.
const AWAY: f64 = 0.05;
/// For so long.
pub const AWAY_FOR: Duration = Duration::from_hours(25);

/// A realm behind an address translator.
#[derive(Clone, Copy, Debug)]
pub struct Nat {
    /// Which realm.
    pub realm: usize,
    /// The translator forgets after so long a silence.
    pub forgets: Duration,
    /// The realm tells its own address, or else none.
    pub tells: bool,
    /// It is a firewall: the realm's own address leads there, for whom the realm has sent to lately.
    pub is_firewall: bool,
}

/// Of which kinds a world is.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    /// How many workers each realm has.
    pub workers: Vec<usize>,
    /// Realms move to other addresses.
    pub moves: bool,
    pub nat: Option<Nat>,
    /// One more realm is listed, which lies: what its key is made of.
    pub liar: Option<u64>,
    /// What realms send each other is recorded, and sent again.
    pub replays: bool,
    /// This realm is restored from a copy.
    pub restored: Option<usize>,
    /// The name of one is given to another.
    pub taken: bool,
    /// Everybody is away for a day before the end (HS-20).
    pub are_away: bool,
}

impl Kinds {
    /// Those of the world of a seed with so many realms.
    pub fn draw(seed: u64, realms: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed.rotate_left(32) ^ 0x6b69_6e64);
        let wanted = std::env::var(VARIABLE).unwrap_or_default();
        // Each is drawn, so that one says nothing of the next.
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
        // What came later is drawn last, so that a seed stands for what it stood for.
        let mut is = |name: &str, share: f64| rng.random_bool(share) || wanted == name;
        let replays = is("replays", REPLAYS);
        let restored = is("restored", RESTORED);
        let moves = moves && are_several;
        // One that moves and has forgotten where the others are may find nobody, and nobody it.
        let restored = restored && are_several && !moves && !lies;
        let restored = restored.then(|| rng.random_range(0..realms));
        let replays = replays && are_several;
        let mut is = |name: &str, share: f64| rng.random_bool(share) || wanted == name;
        let taken = is("taken", TAKEN) && are_several;
        let are_away = is("away", AWAY);
        let firewall = is("firewall", FIREWALL);
        let nat = nat.map(|nat| Nat {
            // A firewall leaves the realm its own address.
            tells: nat.tells || is_firewall,
            is_firewall: firewall && (nat.tells || is_firewall),
            ..nat
        });
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
        }
    }
}

/// What the link to a realm that cannot be called, and one that cannot be opened to it, may take in the end: it is kept open (PEER-24).
const KEPT_OPEN: u64 = 4;
/// The same for a realm behind a firewall. Those that were opened to it while the firewall let them in are closed in vain later, and stay until
/// they have been idle for long.
const LET_IN: u64 = 16;
/// Inits of such links that are remembered: the links are renewed, as often as every minute.
const RENEWED: u64 = 16;
/// Whoever cannot be called is called now and then all the same, to see whether it can be by now, and is asked beside that on its own link.
const CALLED: u64 = 2;
/// What is held for those links, in bytes.
const KEPT_BYTES: u64 = 16_000;
/// What a realm that lies, and is gone, may have others hold: its links, the links to it, and what waits to be asked on those.
const LIED_TO: u64 = 16;

/// Bytes a second of a path on which three datagrams may all be lost to its queue.
const NARROW: u64 = 100;

impl Kinds {
    /// True when a realm may hold so much in the end, though nobody is there any more, on paths of that rate.
    pub fn may_be_left(&self, left: &str, rate: Option<u64>) -> bool {
        let links = match (self.nat, self.liar) {
            (_, Some(_)) => LIED_TO,
            (Some(nat), None) if nat.is_firewall => LET_IN,
            (Some(_), None) => KEPT_OPEN,
            // On so narrow a path the one try that is made at the address it claims (PEER-23) may have come to nothing: it is asked on its own link then
            // (seed 13015051).
            (None, None) if self.moves && rate.is_some_and(|rate| rate <= NARROW) => KEPT_OPEN,
            (None, None) => return false,
        };
        let Some((Ok(count), what)) = left
            .split_once(' ')
            .map(|(count, what)| (count.parse::<u64>(), what))
        else {
            return false;
        };
        let most = match what {
            "commands in work are left" | "watches are left" | "datagrams to send are left" => 0,
            "calls are left" if self.liar.is_none() => CALLED,
            "bytes held for others are left" => KEPT_BYTES * links,
            "accepts are left" => RENEWED,
            "timers are left" => links * 2,
            _ => links,
        };
        count <= most
    }
}
