//! The links with peers, as a state machine: which worker has a link with which peer, who can open
//! one to whom, and when that is tried (PEER-24). Events and time drive it. It holds no links
//! itself: `I` identifies a link at its worker.
//!
//! A peer that can open a link to this realm gets none kept open. Whether it can, is one state:
//!
//! ```text
//!           opens a link soon after this realm sent to it
//!  Unknown ───────────────────────────────────────────────▶ LetIn ─┐ 24 to 45 min without
//!     │                                                     │  ▲   │ traffic: this realm
//!     │ opens a link after 5 min without traffic            │  └───┘ introduces itself again
//!     └────────────────────▶ Proven ◀───────────────────────┘
//! ```

mod dial_backs;
mod reintroductions;
mod silence_check;

use std::{collections::BTreeMap, time::Duration};

use dial_backs::DialBacks;
use reintroductions::Reintroductions;
use silence_check::{LargerKey, SilenceCheck};

use crate::{
    crypto::PublicKey,
    faults::{Fault, is_planted},
};

/// After so long a silence, firewalls and address translators no longer let a peer in because this
/// realm sent to it. RFC 4787 REQ-5 recommends that they remember for five minutes.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(5);
/// A peer that introduces itself after a shorter silence than this, and a longer one than
/// [`FORGOTTEN_AFTER`], makes such a check itself. It is neither dialled back for that nor checked.
const CHECKED_WITHIN: Duration = Duration::from_mins(12);
/// For so long after the last traffic a link that the peer has opened counts as open. After that
/// the peer may have forgotten it.
const THEIRS_OPEN: Duration = Duration::from_mins(40);
/// How long this realm first waits, without traffic, for a peer to open a link after a silence. The
/// wait doubles each time.
const LET_IN_AGAIN: Duration = Duration::from_mins(24);
/// The longest such wait. The link that was opened for it may be idle for some minutes before that.
const LET_IN_AGAIN_MAX: Duration = Duration::from_mins(45);

/// A worker of a listener. Both are numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The number of the listener.
    pub listener: usize,
    /// The number of the worker among those of its listener.
    pub worker: usize,
}

/// Among which listeners a worker with a link is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeatSearch {
    /// At one listener, or at all if the peer could not be dialled from that one.
    Listener,
    /// At all listeners, first at one.
    All,
}

/// The side that opened a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// The peer.
    Peer,
    /// This realm.
    This,
}

/// Counters of events on the links with a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerLinkCounters {
    /// How often the peer turned out to be unable to reach this realm until this realm introduces
    /// itself again.
    pub reintroductions: u64,
    /// How often this realm has to open a link to the peer, to find out or to show that it can.
    pub dial_backs: u64,
}

/// Whether the peer can open a link to this realm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reach {
    /// Not known. This realm keeps its own link open: nothing else may lead to it.
    #[default]
    Unknown,
    /// The peer has opened a link soon after this realm sent to it. A firewall or an address
    /// translator may let it in only then. This realm keeps no link open, but introduces itself
    /// again now and then, so that what waits for it can come.
    LetIn,
    /// The peer has opened a link after a silence.
    Proven,
}

/// The links with one peer, under one of its keys. Times count from the start of the table.
#[derive(Debug)]
struct LinksWithPeer<I> {
    /// Proven links that the peer has opened, the latest last.
    theirs: Vec<(Seat, I)>,
    /// Open links that this realm has opened to the peer, the latest last.
    ours: Vec<(Seat, I)>,
    reach: Reach,
    /// The wait for a peer that is let in.
    let_in_again: Duration,
    /// When this realm and the peer last sent to each other, as far as the table knows.
    spoke: Duration,
    /// The same without the end of a link of the peer's: that may have ended because nothing came.
    talked: Duration,
    /// The number of requests to the peer in progress.
    requests: usize,
    /// Listeners from which the peer could not be dialled.
    unreached: Vec<usize>,
    dial_backs: DialBacks,
    check: SilenceCheck,
    reintroductions: Reintroductions,
    /// The peer has opened a link since this realm last opened one. It may have restarted.
    is_fresh: bool,
    /// The peer has opened that link to show that it can be opened after a silence.
    is_check: bool,
}

impl<I: Copy + Eq> LinksWithPeer<I> {
    fn new(now: Duration, larger_key: LargerKey) -> Self {
        Self {
            theirs: Vec::new(),
            ours: Vec::new(),
            reach: Reach::Unknown,
            let_in_again: LET_IN_AGAIN,
            spoke: now,
            talked: now,
            requests: 0,
            unreached: Vec::new(),
            dial_backs: DialBacks::default(),
            check: SilenceCheck::new(larger_key),
            reintroductions: Reintroductions::default(),
            is_fresh: false,
            is_check: false,
        }
    }

    /// True if the two have sent nothing to each other for that time, and no link is open between
    /// them: keepalives are not counted.
    fn is_silent(&self, now: Duration, time: Duration) -> bool {
        self.ours.is_empty() && self.theirs.is_empty() && now >= self.spoke + time
    }

    /// Records that the two have sent something to each other.
    const fn talk(&mut self, now: Duration) {
        (self.spoke, self.talked) = (now, now);
    }

    fn dial_back(&mut self, now: Duration) {
        self.dial_backs.request(now);
        self.handle_timeout(now);
    }

    fn introduced(&mut self, now: Duration) {
        self.talk(now);
        let is_fresh = core::mem::take(&mut self.is_fresh);
        if core::mem::take(&mut self.is_check) {
            // The peer knows that it can be dialled.
            return;
        }
        if is_fresh && !self.dial_backs.is_answered(now) {
            self.dial_back(now);
        }
        // The peer may introduce itself because it keeps a link to this realm open although it can
        // be dialled: this realm's link to it was lost.
        if !is_fresh && !self.dial_backs.is_recent(now) {
            self.dial_back(now);
        }
        // Or because it does not know whether it can be dialled after a silence.
        self.check.request(now);
    }

    fn handle_timeout(&mut self, now: Duration) {
        self.dial_backs.handle_timeout(now);
        if self.check_due().is_some_and(|due| due <= now) {
            self.check.done(now);
            self.dial_backs.add(now);
        }
        self.reintroductions.handle_timeout(now);
        if self.let_in_due().is_some_and(|due| due <= now) {
            self.talk(now);
            self.let_in_again = (self.let_in_again * 2).min(LET_IN_AGAIN_MAX);
            self.reintroductions.add();
        }
    }

    /// When the two have sent nothing to each other for that time. A link of the peer's counts as
    /// used for as long as links are open while they are idle, and then as forgotten by the peer.
    fn silent_since(&self, time: Duration) -> Duration {
        let is_open = !self.theirs.is_empty();
        self.spoke + if is_open { time.max(THEIRS_OPEN) } else { time }
    }

    /// When the peer is dialled to show it that this works after a silence.
    fn check_due(&self) -> Option<Duration> {
        let may = self.dial_backs.is_reached() && self.ours.is_empty();
        let after = self.check.after().filter(|_| may)?;
        Some(self.silent_since(after))
    }

    /// When the peer has not opened a link though the silence was long enough.
    fn let_in_due(&self) -> Option<Duration> {
        let is_silent = self.ours.is_empty() && self.requests == 0;
        (self.reach == Reach::LetIn && is_silent).then_some(self.talked + self.let_in_again)
    }

    fn timeout(&self) -> Option<Duration> {
        let times = [
            self.dial_backs.timeout(),
            self.reintroductions.timeout(),
            self.check_due(),
            self.let_in_due(),
        ];
        times.into_iter().flatten().min()
    }

    /// Handles a link that the peer has opened. `is_again` is true if the link is in the table
    /// already.
    fn opened_by_peer(&mut self, now: Duration, is_again: bool) {
        let is_silent = self.requests == 0 && self.is_silent(now, FORGOTTEN_AFTER);
        self.is_check = is_silent && now < self.spoke + CHECKED_WITHIN;
        if is_silent || is_planted(Fault::BelieveAnyCall) {
            self.reach = Reach::Proven;
            self.let_in_again = LET_IN_AGAIN;
        } else if self.reach == Reach::Unknown {
            self.reach = Reach::LetIn;
        }
        self.talk(now);
        self.is_fresh |= !is_again;
        if !self.dial_backs.is_reached() {
            self.dial_back(now);
        }
    }

    /// Handles a link to the peer that is open. `is_again` is true if it had to be opened anew.
    fn opened_by_this(&mut self, now: Duration, listener: usize, is_again: bool) {
        // The peer has forgotten the link, and with it this realm's address.
        if is_again && self.reach == Reach::Unknown {
            self.reintroductions.add();
        }
        if !is_again && self.is_silent(now, FORGOTTEN_AFTER) {
            self.check.done(now);
        }
        self.dial_backs.reached(now);
        self.unreached.retain(|unreached| *unreached != listener);
        self.is_fresh = false;
    }

    fn closed(&mut self, now: Duration, link: (Seat, I)) {
        let was_ours = self.ours.contains(&link);
        let was_theirs = self.theirs.contains(&link);
        self.theirs.retain(|other| *other != link);
        self.ours.retain(|other| *other != link);
        if was_ours {
            self.talk(now);
        } else if was_theirs {
            self.spoke = now;
        }
        if was_ours && self.ours.is_empty() && self.reach == Reach::Unknown {
            self.reintroductions.link_lost(now);
            self.handle_timeout(now);
        }
    }

    /// Returns true if this realm introduces itself to the peer again, because it keeps a link to
    /// it open for long.
    fn reintroduce(&mut self, now: Duration) -> bool {
        if self.reach != Reach::Unknown || self.ours.is_empty() {
            self.reintroductions.nothing_kept();
            return false;
        }
        self.reintroductions.is_link_kept_long(now)
    }
}

/// Which worker has a link with which peer. Times count from the start of the table.
#[derive(Debug)]
pub struct PeerLinks<I> {
    own: PublicKey,
    peers: BTreeMap<PublicKey, LinksWithPeer<I>>,
}

impl<I: Copy + Eq> PeerLinks<I> {
    /// Creates the table of the realm with that key.
    pub const fn new(own: PublicKey) -> Self {
        Self {
            own,
            peers: BTreeMap::new(),
        }
    }

    /// Limits the table to these keys, which are those of all peers.
    pub fn keep_only(&mut self, now: Duration, keys: &[PublicKey]) {
        self.peers.retain(|key, _| keys.contains(key));
        for key in keys {
            let larger_key = if self.own > *key {
                LargerKey::This
            } else {
                LargerKey::Peer
            };
            let new = || LinksWithPeer::new(now, larger_key);
            self.peers.entry(*key).or_insert_with(new);
        }
    }

    /// Returns the worker with an open link to the peer: at `listener`, or elsewhere if the search
    /// says so.
    pub fn seat(&self, peer: &PublicKey, listener: usize, search: SeatSearch) -> Option<Seat> {
        let peer = self.peers.get(peer)?;
        let seats = || peer.theirs.iter().rev().chain(peer.ours.iter().rev());
        let mut here = seats().filter(|(seat, _)| seat.listener == listener);
        let elsewhere = search == SeatSearch::All || peer.unreached.contains(&listener);
        let found = here.next().or_else(|| seats().next().filter(|_| elsewhere));
        found.map(|(seat, _)| *seat)
    }

    /// Records that the peer could not be dialled from that listener. Links of other listeners are
    /// used from now on.
    pub fn not_reached(&mut self, peer: &PublicKey, listener: usize) {
        if let Some(peer) = self.peers.get_mut(peer)
            && !peer.unreached.contains(&listener)
        {
            peer.unreached.push(listener);
        }
    }

    /// Returns the worker of the latest link that the peer has opened.
    pub fn latest(&self, peer: &PublicKey) -> Option<Seat> {
        let peer = self.peers.get(peer)?;
        peer.theirs.last().map(|(seat, _)| *seat)
    }

    /// True if the peer has opened `link`, and later a link to another worker of that listener. It
    /// may have forgotten `link`.
    pub fn is_superseded(&self, peer: &PublicKey, link: (Seat, I)) -> bool {
        let Some(peer) = self.peers.get(peer) else {
            return false;
        };
        let mut after = peer.theirs.iter().skip_while(|other| **other != link);
        let is_other = |(seat, _): &(Seat, I)| {
            seat.listener == link.0.listener && seat.worker != link.0.worker
        };
        after.any(is_other)
    }

    /// True if this realm keeps its own link to the peer open.
    pub fn keeps_open(&self, peer: &PublicKey) -> bool {
        let peer = self.peers.get(peer);
        peer.is_none_or(|peer| peer.reach == Reach::Unknown)
    }

    /// Handles the begin of a request to the peer. [`PeerLinks::request_ended`] must follow.
    pub fn request_begun(&mut self, peer: &PublicKey) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.requests += 1;
        }
    }

    /// Handles the end of a request to the peer, however it ended. Returns true if a timer has been
    /// set.
    pub fn request_ended(&mut self, now: Duration, peer: &PublicKey) -> bool {
        let Some(peer) = self.peers.get_mut(peer) else {
            return false;
        };
        // A key that was removed in the meantime, and added again, has none in progress.
        peer.requests = peer.requests.saturating_sub(1);
        peer.talk(now);
        peer.let_in_due().is_some()
    }

    /// Handles a request of the peer, which this realm is about to answer or has answered.
    pub fn heard(&mut self, now: Duration, peer: &PublicKey) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.talk(now);
        }
    }

    /// Handles an introduction from the peer. It may have restarted, and then does not know that it
    /// can be dialled.
    pub fn introduced(&mut self, now: Duration, peer: &PublicKey) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.introduced(now);
            peer.handle_timeout(now);
        }
    }

    /// Requests a new introduction to peers that have opened no link for long while this realm
    /// keeps one to them open. They may be able to open one by now, and then the link need not be
    /// kept open any more. Returns true if there is such a peer.
    pub fn reintroduce(&mut self, now: Duration) -> bool {
        let due = self.peers.values_mut().map(|peer| peer.reintroduce(now));
        due.fold(false, |is_any, is_due| is_any | is_due)
    }

    /// Returns the counters of a peer. A key that is none of a peer has none.
    pub fn counters(&self, peer: &PublicKey) -> PeerLinkCounters {
        let peer = self.peers.get(peer);
        let counters = peer.map(|peer| PeerLinkCounters {
            reintroductions: peer.reintroductions.count(),
            dial_backs: peer.dial_backs.count(),
        });
        counters.unwrap_or_default()
    }

    /// Returns when [`PeerLinks::handle_timeout`] must be called next.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.peers.values().filter_map(LinksWithPeer::timeout).min()
    }

    /// Handles timers that are due.
    pub fn handle_timeout(&mut self, now: Duration) {
        for peer in self.peers.values_mut() {
            peer.handle_timeout(now);
        }
    }

    /// Handles a link that has opened, or has been opened anew. Returns false if its other side is
    /// no peer.
    pub fn opened(
        &mut self,
        now: Duration,
        peer: &PublicKey,
        link: (Seat, I),
        opener: Opener,
    ) -> bool {
        let Some(peer) = self.peers.get_mut(peer) else {
            return false;
        };
        let links = match opener {
            Opener::Peer => &mut peer.theirs,
            Opener::This => &mut peer.ours,
        };
        let is_again = links.contains(&link);
        links.retain(|other| *other != link);
        match opener {
            Opener::Peer => peer.opened_by_peer(now, is_again),
            Opener::This => peer.opened_by_this(now, link.0.listener, is_again),
        }
        let links = match opener {
            Opener::Peer => &mut peer.theirs,
            Opener::This => &mut peer.ours,
        };
        links.push(link);
        true
    }

    /// Handles a link that has ended.
    pub fn closed(&mut self, now: Duration, peer: &PublicKey, link: (Seat, I)) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.closed(now, link);
        }
    }
}
