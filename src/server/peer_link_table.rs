//! The table of links with peers: which worker has a link with which peer (PEER-24). A request to a
//! peer uses its open link, whatever listener and worker that belongs to. The table holds only open
//! links of peers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{
    crypto::PublicKey,
    endpoint::{Endpoint, LinkId},
    faults::{Fault, is_planted},
    link::{Silence, Time},
};

/// The shortest time between two dial-backs to a peer that has opened a link.
const BACK_AGAIN: Duration = Duration::from_mins(1);
/// After a late dial-back the peer may dial back at once. An introduction from it within this time
/// causes no further dial-back.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// The first wait before this realm introduces itself again to a peer that has opened no link. The
/// wait doubles each time. The peer may have been unable to open one, or its link was lost.
const ASK_AGAIN: Duration = Duration::from_mins(10);
/// The longest wait between two such introductions.
const ASK_AGAIN_MAX: Duration = Duration::from_hours(24);

/// A worker of a listener. Both are numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub listener: usize,
    pub worker: usize,
}

/// The side that opened a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opener {
    Peer,
    This,
}

/// The links with one peer, under one of its keys.
#[derive(Debug, Default)]
struct Known {
    /// Proven links that the peer has opened, the latest last.
    theirs: Vec<(Seat, LinkId)>,
    /// Open links that this realm has opened to the peer, the latest last.
    ours: Vec<(Seat, LinkId)>,
    /// The peer has opened a link since this realm started, so it can do so again.
    has_opened: bool,
    /// When this realm last opened a link to the peer.
    reached: Option<Instant>,
    /// Listeners from which the peer could not be dialled.
    unreached: Vec<usize>,
    /// Counts how often this realm's last link to the peer has ended or had to be opened anew while
    /// the peer could open none itself.
    lost: u64,
    /// Since when a link to the peer is kept open, or when the last introduction for that was made.
    kept_since: Option<Instant>,
    /// The wait after [`Known::kept_since`] before the next introduction.
    ask_again: Duration,
    /// The number of dial-backs, and the time of the last one.
    back: u64,
    back_at: Option<Instant>,
    /// When the next dial-back is due, and true if it was postponed.
    back_due: Option<(Instant, bool)>,
    /// The peer has opened a link since this realm last opened one. It may have restarted.
    is_fresh: bool,
    /// The last dial-back was late, and a link may have to be opened for it.
    is_back_late: bool,
    /// Until when the peer may dial back for that. Such a dial-back causes no further one.
    answers_until: Option<Instant>,
}

impl Known {
    /// Requests a dial-back: at once, or [`BACK_AGAIN`] after the last one. It is postponed, not
    /// skipped: a peer that has restarted since does not know that it could be dialled before.
    fn call_back(&mut self) {
        let now = Instant::now();
        let lately = self.reached.max(self.back_at);
        let due = lately.map_or(now, |lately| now.max(lately + BACK_AGAIN));
        if due > now && is_planted(Fault::LeaveOutCallBack) {
            return;
        }
        self.back_due.get_or_insert((due, due > now));
        self.look_at_time(now);
    }

    /// Handles an introduction from the peer.
    fn introduced(&mut self) {
        let is_fresh = core::mem::take(&mut self.is_fresh);
        let answers = self.answers_until.take_if(|_| is_fresh);
        if is_fresh && answers.is_none_or(|until| until <= Instant::now()) {
            self.call_back();
        }
        // The peer may introduce itself because it keeps a link to this realm open although it can
        // be dialled: this realm's link to it was lost.
        let lately = self.reached.max(self.back_at);
        if !is_fresh && lately.is_none_or(|lately| lately.elapsed() >= BACK_AGAIN) {
            self.call_back();
        }
    }

    fn look_at_time(&mut self, now: Instant) {
        if let Some((_, is_late)) = self.back_due.take_if(|(due, _)| *due <= now) {
            self.back += 1;
            self.back_at = Some(now);
            self.is_back_late = is_late;
        }
    }

    /// Handles a link that the peer has opened. `is_again` is true if the link is in the table
    /// already.
    fn has_called(&mut self, is_again: bool) {
        self.has_opened = true;
        self.is_fresh |= !is_again;
        if self.reached.is_none() {
            self.call_back();
        }
    }

    /// Handles a link to the peer that is open. `is_again` is true if it had to be opened anew.
    fn was_called(&mut self, listener: usize, is_again: bool) {
        // The peer has forgotten the link, and with it this realm's address.
        self.lost += u64::from(is_again && !self.has_opened);
        let now = Instant::now();
        self.reached = Some(now);
        self.unreached.retain(|unreached| *unreached != listener);
        self.back_due = None;
        self.is_fresh = false;
        self.answers_until =
            core::mem::take(&mut self.is_back_late).then_some(now + ANSWERS_WITHIN);
    }
}

/// Counters of events on the links with a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// The peer cannot reach this realm until this realm introduces itself again.
    pub lost: u64,
    /// The peer has opened a link and should check whether it can be dialled back.
    pub back: u64,
}

/// Which worker has a link with which peer.
#[derive(Debug)]
pub struct Links {
    known: Mutex<BTreeMap<PublicKey, Known>>,
    changed: watch::Sender<()>,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl Links {
    fn known(&self) -> MutexGuard<'_, BTreeMap<PublicKey, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Limits the table to these keys, which are those of all peers.
    pub fn keep_only(&self, keys: &[PublicKey]) {
        let mut known = self.known();
        known.retain(|key, _| keys.contains(key));
        for key in keys {
            known.entry(*key).or_default();
        }
    }

    /// Returns the worker with an open link to the peer: at `listener`, or at any listener if
    /// `elsewhere` is true or the peer could not be dialled from `listener`.
    pub fn seat(&self, peer: &PublicKey, listener: usize, elsewhere: bool) -> Option<Seat> {
        let known = self.known();
        let known = known.get(peer)?;
        let seats = || known.theirs.iter().rev().chain(known.ours.iter().rev());
        let mut here = seats().filter(|(seat, _)| seat.listener == listener);
        let elsewhere = elsewhere || known.unreached.contains(&listener);
        let found = here.next().or_else(|| seats().next().filter(|_| elsewhere));
        found.map(|(seat, _)| *seat)
    }

    /// Records that the peer could not be dialled from that listener. Links of other listeners are
    /// used from now on.
    pub fn not_reached(&self, peer: &PublicKey, listener: usize) {
        if let Some(known) = self.known().get_mut(peer)
            && !known.unreached.contains(&listener)
        {
            known.unreached.push(listener);
        }
    }

    /// Returns the worker of the latest link that the peer has opened.
    pub fn latest(&self, peer: &PublicKey) -> Option<Seat> {
        let known = self.known();
        known.get(peer)?.theirs.last().map(|(seat, _)| *seat)
    }

    /// True if the peer has opened `link`, and later a link to another worker of that listener. It
    /// may have forgotten `link`.
    fn is_superseded(&self, peer: &PublicKey, link: (Seat, LinkId)) -> bool {
        let known = self.known();
        let Some(known) = known.get(peer) else {
            return false;
        };
        let mut after = known.theirs.iter().skip_while(|other| **other != link);
        let is_other = |(seat, _): &(Seat, LinkId)| {
            seat.listener == link.0.listener && seat.worker != link.0.worker
        };
        after.any(is_other)
    }

    /// True if the peer has opened a link since this realm started.
    fn has_opened(&self, peer: &PublicKey) -> bool {
        self.known().get(peer).is_some_and(|known| known.has_opened)
    }

    /// Handles an introduction from the peer. It may have restarted, and then does not know that it
    /// can be dialled.
    pub fn introduced(&self, peer: &PublicKey) {
        if let Some(known) = self.known().get_mut(peer) {
            known.introduced();
            known.look_at_time(Instant::now());
        }
        self.changed.send_replace(());
    }

    /// Requests a new introduction to peers that have opened no link for long while this realm
    /// keeps one to them open. They may be able to open one by now, and then the link need not be
    /// kept open any more.
    pub fn ask_again(&self) {
        let mut is_any = false;
        for known in self.known().values_mut() {
            if known.has_opened || known.ours.is_empty() {
                (known.kept_since, known.ask_again) = (None, ASK_AGAIN);
                continue;
            }
            // The time counts on when the link is renewed.
            let since = *known.kept_since.get_or_insert_with(Instant::now);
            let wait = known.ask_again.max(ASK_AGAIN);
            if since.elapsed() >= wait {
                known.ask_again = (wait * 2).min(ASK_AGAIN_MAX);
                known.kept_since = Some(Instant::now());
                known.lost += 1;
                is_any = true;
            }
        }
        if is_any {
            self.changed.send_replace(());
        }
    }

    /// Returns the counters of a peer.
    pub fn happened(&self, peer: &PublicKey) -> Happened {
        let known = self.known();
        known.get(peer).map_or_else(Happened::default, |known| {
            let (lost, back) = (known.lost, known.back);
            Happened { lost, back }
        })
    }

    /// Returns when the next dial-back is due.
    pub fn due(&self) -> Option<Instant> {
        let known = self.known();
        let due = known.values().filter_map(|known| known.back_due);
        due.map(|(due, _)| due).min()
    }

    /// Starts the dial-backs that are due.
    pub fn look_at_time(&self) {
        let now = Instant::now();
        for known in self.known().values_mut() {
            known.look_at_time(now);
        }
    }

    /// Returns a receiver that is notified when a counter may have changed.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Adds a link. Returns false if its other side is no peer.
    fn opened(&self, peer: &PublicKey, link: (Seat, LinkId), opener: Opener) -> bool {
        {
            let mut all = self.known();
            let Some(known) = all.get_mut(peer) else {
                return false;
            };
            let links = match opener {
                Opener::Peer => &mut known.theirs,
                Opener::This => &mut known.ours,
            };
            let is_again = links.contains(&link);
            links.retain(|other| *other != link);
            links.push(link);
            match opener {
                Opener::Peer => known.has_called(is_again),
                Opener::This => known.was_called(link.0.listener, is_again),
            }
        }
        self.changed.send_replace(());
        true
    }

    fn closed(&self, peer: &PublicKey, link: (Seat, LinkId)) {
        if let Some(known) = self.known().get_mut(peer) {
            let was_ours = known.ours.contains(&link);
            known.theirs.retain(|other| *other != link);
            known.ours.retain(|other| *other != link);
            known.lost += u64::from(was_ours && known.ours.is_empty() && !known.has_opened);
        }
        self.changed.send_replace(());
    }
}

/// One worker's view of the table.
#[derive(Debug)]
pub struct Seated {
    links: Arc<Links>,
    seat: Seat,
    /// The keep-alive setting for a link to a peer that cannot open one itself.
    silence: Silence,
    noted: BTreeMap<LinkId, (PublicKey, Opener)>,
    /// Notified when the table has changed.
    pub changed: watch::Receiver<()>,
}

impl Seated {
    pub fn new(links: &Arc<Links>, seat: Seat, silence: Silence) -> Self {
        Self {
            links: Arc::clone(links),
            seat,
            silence,
            noted: BTreeMap::new(),
            changed: links.changed.subscribe(),
        }
    }

    pub const fn links(&self) -> &Arc<Links> {
        &self.links
    }

    pub const fn seat(&self) -> Seat {
        self.seat
    }

    /// True if the peer has opened `link`, and later a link to another worker of this listener.
    pub fn is_superseded(&self, peer: &PublicKey, link: LinkId) -> bool {
        self.links.is_superseded(peer, (self.seat, link))
    }

    /// Adds a link that a peer has opened, after its path is proven.
    pub fn proven(&mut self, link: LinkId, peer: PublicKey) {
        self.note(link, peer, Opener::Peer);
    }

    /// Adds a link to a peer that is open, or was opened anew.
    pub fn dialled(&mut self, now: Time, endpoint: &mut Endpoint, link: LinkId) {
        if let Some(peer) = endpoint.peer(link) {
            self.note(link, peer, Opener::This);
            self.keep_open(now, endpoint);
        }
    }

    fn note(&mut self, link: LinkId, peer: PublicKey, opener: Opener) {
        // The planted fault: only the first worker sends requests.
        if is_planted(Fault::AskAtFirstOnly) && self.seat.worker > 0 {
            return;
        }
        if self.links.opened(&peer, (self.seat, link), opener) {
            self.noted.insert(link, (peer, opener));
        }
    }

    pub fn closed(&mut self, link: LinkId) {
        if let Some((peer, _)) = self.noted.remove(&link) {
            self.links.closed(&peer, (self.seat, link));
        }
    }

    /// Handles a new list of peers. The endpoint may already have links with them.
    pub fn look(&mut self, now: Time, endpoint: &mut Endpoint, peers: &[PublicKey]) {
        self.noted.retain(|_, (peer, _)| peers.contains(peer));
        for peer in peers {
            let (theirs, ours) = endpoint.links_with(peer);
            let theirs = theirs.into_iter().map(|link| (link, Opener::Peer));
            let ours = ours.into_iter().map(|link| (link, Opener::This));
            // This realm's links come first: a peer that was dialled needs no dial-back.
            for (link, opener) in ours.chain(theirs) {
                if !self.noted.contains_key(&link) {
                    self.note(link, *peer, opener);
                }
            }
        }
        self.keep_open(now, endpoint);
    }

    /// Keeps the links open that this worker has opened to peers that have opened none: only this
    /// realm can open another. The other links may end.
    pub fn keep_open(&self, now: Time, endpoint: &mut Endpoint) {
        let ours = self.noted.iter().filter(|(_, (_, by))| *by == Opener::This);
        for (link, (peer, _)) in ours {
            let is_needed = !self.links.has_opened(peer) && !is_planted(Fault::LetLinksIdleOut);
            if endpoint.is_kept_alive(*link) != is_needed {
                endpoint.keep_alive(now, *link, is_needed.then_some(self.silence));
            }
        }
    }
}
