//! What is to be done for no one peer: what is left of groups that have ended and of realms that were removed (PEER-19, PEER-22), and
//! messages whose time is over before their turn (PEER-17).

use std::{collections::BTreeSet, time::Duration};

use super::{AGAIN, AGAIN_MAX, Moment, Step};
use crate::wire::RealmId;

/// The wait before what could not be done is tried again because there is more, at the earliest.
const MORE_AGAIN_MIN: Duration = Duration::from_secs(2);

/// How it stands with what is left to do.
#[derive(Debug)]
enum Chores {
    /// There is nothing.
    None,
    /// It is done now; whether there is more since.
    Doing(bool),
    /// Not all of it could be done: when it is tried again, and when at the earliest, in time since the start.
    Waiting { at: Duration, not_before: Duration },
}

/// What is to be done for no one peer, and when.
#[derive(Debug)]
pub struct Upkeep {
    chores: Chores,
    wait: Duration,
    /// When the next message's time is over, in time since the start.
    expires: Option<Duration>,
    is_giving_back: bool,
    /// Peers whose queues have been looked through for such messages since the start,
    searched: BTreeSet<RealmId>,
    /// and those whose queues are to be.
    unsearched: BTreeSet<RealmId>,
    is_searching: bool,
    /// When those are looked through again that could not be read.
    search_again: Option<Duration>,
    search_wait: Duration,
}

impl Upkeep {
    /// At a start: what was left to do before it is done first, by the step that this hands out.
    pub const fn new() -> (Self, Step) {
        let upkeep = Self {
            chores: Chores::Doing(false),
            wait: AGAIN,
            expires: None,
            is_giving_back: false,
            searched: BTreeSet::new(),
            unsearched: BTreeSet::new(),
            is_searching: false,
            search_again: None,
            search_wait: AGAIN,
        };
        (upkeep, Step::DoChores)
    }

    /// When [`Upkeep::handle_timeout`] wants to be called next, in time since the start.
    pub fn timeout(&self) -> Option<Duration> {
        let chores = match self.chores {
            Chores::Waiting { at, .. } => Some(at),
            Chores::None | Chores::Doing(_) => None,
        };
        let expires = self.expires.filter(|_| !self.is_giving_back);
        let times = [chores, expires, self.search_again];
        times.into_iter().flatten().min()
    }

    /// What is due.
    pub fn handle_timeout(&mut self, now: Moment) -> [Option<Step>; 3] {
        let is_due = |at: Duration| at <= now.since_start();
        let mut steps = [None, None, None];
        if let Chores::Waiting { at, .. } = self.chores
            && is_due(at)
        {
            self.chores = Chores::Doing(false);
            steps[0] = Some(Step::DoChores);
        }
        if self.expires.is_some_and(is_due) && !self.is_giving_back {
            self.expires = None;
            self.is_giving_back = true;
            steps[1] = Some(Step::GiveBack);
        }
        if self.search_again.take_if(|at| is_due(*at)).is_some() {
            steps[2] = self.search();
        }
        steps
    }

    /// There is more to do.
    pub fn added(&mut self) -> Option<Step> {
        match &mut self.chores {
            Chores::None => {
                self.chores = Chores::Doing(false);
                return Some(Step::DoChores);
            }
            Chores::Doing(is_more) => *is_more = true,
            // It need not wait for what cannot be read, but does not have that read again each time.
            Chores::Waiting { at, not_before } => *at = (*at).min(*not_before),
        }
        None
    }

    /// What there was to do has been looked at; whether all of it is done.
    pub fn done(&mut self, now: Moment, is_all: bool) -> Option<Step> {
        let is_more = matches!(self.chores, Chores::Doing(true));
        if is_all {
            self.wait = AGAIN;
            self.chores = Chores::None;
            return is_more.then(|| self.added())?;
        }
        let (now, wait) = (now.since_start(), self.wait);
        self.wait = (wait * 2).min(AGAIN_MAX);
        let not_before = now + MORE_AGAIN_MIN;
        let at = if is_more { not_before } else { now + wait };
        self.chores = Chores::Waiting { at, not_before };
        None
    }

    /// The next message's time is over then, in seconds of the realm's running time.
    pub fn expires(&mut self, now: Moment, at: Option<u32>) {
        self.expires = at.map(|at| {
            let left = Duration::from_secs(at.saturating_sub(now.running).into());
            now.since_start() + left
        });
    }

    /// These are peers: their queues are looked through once.
    pub fn listed(
        &mut self,
        peers: impl IntoIterator<Item = RealmId>,
        are_all: bool,
    ) -> Option<Step> {
        let peers: BTreeSet<RealmId> = peers.into_iter().collect();
        if are_all {
            self.searched.retain(|peer| peers.contains(peer));
            self.unsearched.retain(|peer| peers.contains(peer));
        }
        let new = peers.difference(&self.searched);
        self.unsearched.extend(new);
        self.search()
    }

    fn search(&mut self) -> Option<Step> {
        if self.unsearched.is_empty() || self.is_searching || self.search_again.is_some() {
            return None;
        }
        self.is_searching = true;
        Some(Step::FindExpiries(
            self.unsearched.iter().copied().collect(),
        ))
    }

    /// The queues of these peers have been looked through; only those of others are looked through again.
    pub fn found(&mut self, now: Moment, searched: Vec<RealmId>) {
        self.is_searching = false;
        self.unsearched.retain(|peer| !searched.contains(peer));
        self.searched.extend(searched);
        if self.unsearched.is_empty() {
            self.search_wait = AGAIN;
        } else {
            self.search_again = Some(now.since_start() + self.search_wait);
            self.search_wait = (self.search_wait * 2).min(AGAIN_MAX);
        }
    }

    /// What was over has been given back.
    pub const fn given_back(&mut self) {
        self.is_giving_back = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment {
            wall: 1_800_000_000,
            running: 1000 + u32::try_from(seconds).unwrap(),
            micros: seconds * 1_000_000,
        }
    }

    fn beta() -> RealmId {
        "beta".parse().unwrap()
    }

    /// Lets time pass up to the next timer, of which only one is due; the second then, and what is to be done.
    fn wait(upkeep: &mut Upkeep) -> (u64, Step) {
        let next = upkeep.timeout().expect("it waits for something").as_secs();
        let mut steps = upkeep.handle_timeout(at(next)).into_iter().flatten();
        let step = steps.next().expect("something is due");
        assert!(steps.next().is_none());
        (next, step)
    }

    /// PEER-19, PEER-22: what cannot be done is tried again, longer apart each time; what comes in addition has it tried soon, and not at once.
    #[test]
    fn chores_are_done_again_until_all_are() {
        let (mut upkeep, first) = Upkeep::new();
        assert!(matches!(first, Step::DoChores));
        assert!(upkeep.added().is_none(), "one at a time");
        assert!(matches!(upkeep.done(at(0), true), Some(Step::DoChores)));
        assert!(upkeep.done(at(1), true).is_none());
        assert_eq!(upkeep.timeout(), None);
        assert!(matches!(upkeep.added(), Some(Step::DoChores)));
        let (mut now, mut waits) = (2, Vec::new());
        for _ in 0..8 {
            assert!(upkeep.done(at(now), false).is_none());
            let (next, step) = wait(&mut upkeep);
            assert!(matches!(step, Step::DoChores));
            waits.push(next - now);
            now = next;
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300]);
        upkeep.done(at(now), false);
        assert!(upkeep.added().is_none());
        let (next, _) = wait(&mut upkeep);
        assert_eq!(next - now, 2);
        assert!(upkeep.done(at(next), true).is_none());
        assert_eq!(upkeep.timeout(), None);
    }

    /// PEER-17: messages are given back when the first of them is over, be that earlier than was known or while others are given back.
    #[test]
    fn what_is_over_is_given_back_in_time() {
        let (mut upkeep, _) = Upkeep::new();
        upkeep.expires(at(0), Some(1500));
        upkeep.expires(at(10), Some(1060));
        let (next, step) = wait(&mut upkeep);
        assert!(matches!(step, Step::GiveBack));
        assert_eq!(next, 60);
        upkeep.expires(at(61), Some(1061));
        assert_eq!(upkeep.timeout(), None, "one at a time");
        upkeep.given_back();
        // What is over already is so now.
        upkeep.expires(at(70), Some(1061));
        assert_eq!(wait(&mut upkeep).0, 70);
        upkeep.given_back();
        upkeep.expires(at(70), None);
        assert_eq!(upkeep.timeout(), None);
    }

    /// PEER-17: each queue is looked through once after a start, and again if it could not be read.
    #[test]
    fn queues_are_looked_through_until_they_can_be_read() {
        let (mut upkeep, _) = Upkeep::new();
        let gamma: RealmId = "gamma".parse().unwrap();
        let step = upkeep.listed([beta(), gamma], true);
        assert!(matches!(step, Some(Step::FindExpiries(peers)) if peers == [beta(), gamma]));
        assert!(upkeep.listed([beta(), gamma], true).is_none());
        upkeep.found(at(0), vec![gamma]);
        assert!(upkeep.listed([beta(), gamma], true).is_none());
        let (next, step) = wait(&mut upkeep);
        assert!(matches!(step, Step::FindExpiries(peers) if peers == [beta()]));
        assert_eq!(next, 10);
        upkeep.found(at(10), vec![beta()]);
        assert_eq!(upkeep.timeout(), None);
        // Whoever is a peer again has a queue that is looked through again.
        assert!(upkeep.listed([gamma], true).is_none());
        let step = upkeep.listed([beta(), gamma], true);
        assert!(matches!(step, Some(Step::FindExpiries(peers)) if peers == [beta()]));
    }
}
