//! Work that belongs to no single peer: cleanup after ended groups and removed realms (PEER-19,
//! PEER-22), and messages that expire before their turn (PEER-17).

use std::{collections::BTreeSet, time::Duration};

use super::{AGAIN, AGAIN_MAX, Moment, Step};
use crate::wire::RealmId;

/// The shortest wait before failed cleanup is retried because more was added.
const MORE_AGAIN_MIN: Duration = Duration::from_secs(2);

/// The state of the cleanup.
#[derive(Debug)]
enum Cleanup {
    /// No cleanup is left.
    None,
    /// Cleanup is under way.
    Running {
        /// More was added since it began.
        is_more: bool,
    },
    /// Some cleanup failed. Holds when it is retried and the earliest possible time for that, in
    /// time since the start.
    Waiting { at: Duration, not_before: Duration },
}

/// Schedules the work that belongs to no single peer.
#[derive(Debug)]
pub struct Maintenance {
    cleanup: Cleanup,
    wait: Duration,
    /// When the next message expires, in time since the start.
    expires: Option<Duration>,
    is_returning: bool,
    /// Peers whose queues were searched for expiring messages since the start.
    searched: BTreeSet<RealmId>,
    /// Peers whose queues are still to be searched.
    unsearched: BTreeSet<RealmId>,
    is_searching: bool,
    /// When the queues that could not be read are searched again.
    search_again: Option<Duration>,
    search_wait: Duration,
}

impl Maintenance {
    /// Creates the schedule at a start. The returned step finishes cleanup left from before.
    pub const fn new() -> (Self, Step) {
        let maintenance = Self {
            cleanup: Cleanup::Running { is_more: false },
            wait: AGAIN,
            expires: None,
            is_returning: false,
            searched: BTreeSet::new(),
            unsearched: BTreeSet::new(),
            is_searching: false,
            search_again: None,
            search_wait: AGAIN,
        };
        (maintenance, Step::CleanUp)
    }

    /// Returns when [`Maintenance::handle_timeout`] must be called next, in time since the start.
    pub fn timeout(&self) -> Option<Duration> {
        let cleanup = match self.cleanup {
            Cleanup::Waiting { at, .. } => Some(at),
            Cleanup::None | Cleanup::Running { .. } => None,
        };
        let expires = self.expires.filter(|_| !self.is_returning);
        let times = [cleanup, expires, self.search_again];
        times.into_iter().flatten().min()
    }

    /// Returns the steps that are due.
    pub fn handle_timeout(&mut self, now: Moment) -> [Option<Step>; 3] {
        let is_due = |at: Duration| at <= now.since_start();
        let mut steps = [None, None, None];
        if let Cleanup::Waiting { at, .. } = self.cleanup
            && is_due(at)
        {
            self.cleanup = Cleanup::Running { is_more: false };
            steps[0] = Some(Step::CleanUp);
        }
        if self.expires.is_some_and(is_due) && !self.is_returning {
            self.expires = None;
            self.is_returning = true;
            steps[1] = Some(Step::ReturnExpired);
        }
        if self.search_again.take_if(|at| is_due(*at)).is_some() {
            steps[2] = self.search();
        }
        steps
    }

    /// Handles that cleanup was added.
    pub fn added(&mut self) -> Option<Step> {
        match &mut self.cleanup {
            Cleanup::None => {
                self.cleanup = Cleanup::Running { is_more: false };
                return Some(Step::CleanUp);
            }
            Cleanup::Running { is_more } => *is_more = true,
            // New cleanup need not wait for the failed part, but may not cause a retry each time.
            Cleanup::Waiting { at, not_before } => *at = (*at).min(*not_before),
        }
        None
    }

    /// Handles the result of the cleanup. `is_all` is true if nothing is left.
    pub fn done(&mut self, now: Moment, is_all: bool) -> Option<Step> {
        let is_more = matches!(self.cleanup, Cleanup::Running { is_more: true });
        if is_all {
            self.wait = AGAIN;
            self.cleanup = Cleanup::None;
            return is_more.then(|| self.added())?;
        }
        let (now, wait) = (now.since_start(), self.wait);
        self.wait = (wait * 2).min(AGAIN_MAX);
        let not_before = now + MORE_AGAIN_MIN;
        let at = if is_more { not_before } else { now + wait };
        self.cleanup = Cleanup::Waiting { at, not_before };
        None
    }

    /// Sets when the next message expires, in seconds of the realm's running time.
    pub fn expires(&mut self, now: Moment, at: Option<u32>) {
        self.expires = at.map(|at| {
            let left = Duration::from_secs(at.saturating_sub(now.running).into());
            now.since_start() + left
        });
    }

    /// Handles a list of peers. Each peer's queue is searched once.
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

    /// Handles that these queues were searched. The others are searched again.
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

    /// Handles that expired messages were returned.
    pub const fn returned(&mut self) {
        self.is_returning = false;
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

    /// Advances to the next timer. Only one may be due. Returns its second and its step.
    fn wait(maintenance: &mut Maintenance) -> (u64, Step) {
        let next = maintenance
            .timeout()
            .expect("it waits for something")
            .as_secs();
        let mut steps = maintenance.handle_timeout(at(next)).into_iter().flatten();
        let step = steps.next().expect("something is due");
        assert!(steps.next().is_none());
        (next, step)
    }

    /// PEER-19, PEER-22: failed cleanup is retried with growing waits. Added cleanup causes a retry
    /// soon, but not at once.
    #[test]
    fn cleanup_that_fails_is_retried_with_growing_waits() {
        let (mut maintenance, first) = Maintenance::new();
        assert!(matches!(first, Step::CleanUp));
        assert!(maintenance.added().is_none(), "one at a time");
        assert!(matches!(maintenance.done(at(0), true), Some(Step::CleanUp)));
        assert!(maintenance.done(at(1), true).is_none());
        assert_eq!(maintenance.timeout(), None);
        assert!(matches!(maintenance.added(), Some(Step::CleanUp)));
        let (mut now, mut waits) = (2, Vec::new());
        for _ in 0..8 {
            assert!(maintenance.done(at(now), false).is_none());
            let (next, step) = wait(&mut maintenance);
            assert!(matches!(step, Step::CleanUp));
            waits.push(next - now);
            now = next;
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300]);
        maintenance.done(at(now), false);
        assert!(maintenance.added().is_none());
        let (next, _) = wait(&mut maintenance);
        assert_eq!(next - now, 2);
        assert!(maintenance.done(at(next), true).is_none());
        assert_eq!(maintenance.timeout(), None);
    }

    /// PEER-17: messages are returned when the first one expires, also if that is earlier than was
    /// known or while others are being returned.
    #[test]
    fn queue_expired_messages_are_returned_at_first_expiry() {
        let (mut maintenance, _) = Maintenance::new();
        maintenance.expires(at(0), Some(1500));
        maintenance.expires(at(10), Some(1060));
        let (next, step) = wait(&mut maintenance);
        assert!(matches!(step, Step::ReturnExpired));
        assert_eq!(next, 60);
        maintenance.expires(at(61), Some(1061));
        assert_eq!(maintenance.timeout(), None, "one at a time");
        maintenance.returned();
        // An expiry in the past is due now.
        maintenance.expires(at(70), Some(1061));
        assert_eq!(wait(&mut maintenance).0, 70);
        maintenance.returned();
        maintenance.expires(at(70), None);
        assert_eq!(maintenance.timeout(), None);
    }

    /// PEER-17: each queue is searched once after a start, and again if it could not be read.
    #[test]
    fn queue_unreadable_at_start_is_searched_for_expiries_again() {
        let (mut maintenance, _) = Maintenance::new();
        let gamma: RealmId = "gamma".parse().unwrap();
        let step = maintenance.listed([beta(), gamma], true);
        assert!(matches!(step, Some(Step::FindExpiries(peers)) if peers == [beta(), gamma]));
        assert!(maintenance.listed([beta(), gamma], true).is_none());
        maintenance.found(at(0), vec![gamma]);
        assert!(maintenance.listed([beta(), gamma], true).is_none());
        let (next, step) = wait(&mut maintenance);
        assert!(matches!(step, Step::FindExpiries(peers) if peers == [beta()]));
        assert_eq!(next, 10);
        maintenance.found(at(10), vec![beta()]);
        assert_eq!(maintenance.timeout(), None);
        // The queue of a peer that is added again is searched again.
        assert!(maintenance.listed([gamma], true).is_none());
        let step = maintenance.listed([beta(), gamma], true);
        assert!(matches!(step, Some(Step::FindExpiries(peers)) if peers == [beta()]));
    }
}
