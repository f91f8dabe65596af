//! Which worker has a link with which peer (PEER-24): whatever listener and worker a link has come to, the peer is asked on it. Only links
//! of peers are noted, and those that have ended are not.

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

/// A peer that has opened a link is dialled back no more often than this.
const BACK_AGAIN: Duration = Duration::from_mins(1);
/// One that was dialled back late calls back at once, if it does: what it says within this time is no reason to dial it again.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// A peer that has opened no link is introduced to again after so long, and then each time after twice as long: it may not have been able to, or
/// what it opened was lost.
const ASK_AGAIN: Duration = Duration::from_mins(10);
/// The longest time between two of these.
const ASK_AGAIN_MAX: Duration = Duration::from_hours(24);

/// One worker of one listener, by their numbers from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub listener: usize,
    pub worker: usize,
}

/// Which side has opened a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opener {
    Peer,
    This,
}

/// The links with one peer, under one of its keys.
#[derive(Debug, Default)]
struct Known {
    /// Proven links that it has opened, the latest last.
    theirs: Vec<(Seat, LinkId)>,
    /// Open links that this realm has opened to it, the latest last.
    ours: Vec<(Seat, LinkId)>,
    /// It has opened a link since this realm has started: it can do so again.
    has_opened: bool,
    /// When this realm last opened a link to it.
    reached: Option<Instant>,
    /// Listeners from which it could not be dialled.
    unreached: Vec<usize>,
    /// How often the last link that this realm had opened to it has ended, or had to be opened anew, while it could open none itself.
    lost: u64,
    /// Since when a link to it has been kept open, or since it was introduced to again for that.
    kept_since: Option<Instant>,
    /// How long that is before it is introduced to again.
    ask_again: Duration,
    /// How often it was to be dialled back, and when that was last.
    back: u64,
    back_at: Option<Instant>,
    /// When it is to be dialled back next, if it is, and whether that was put off.
    back_due: Option<(Instant, bool)>,
    /// It has opened a link since this realm last did, and may have started again.
    is_fresh: bool,
    /// It was dialled back late, for which a link may have to be opened;
    is_back_late: bool,
    /// and until then it may call back for that, which is no reason to do so again.
    answers_until: Option<Instant>,
}

impl Known {
    /// It is to be dialled back: at once, or some time after it was dialled last. That it could be called before says nothing to one that has
    /// started again since, so this is put off and not left out.
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

    /// It has introduced itself.
    fn introduced(&mut self) {
        let is_fresh = core::mem::take(&mut self.is_fresh);
        let answers = self.answers_until.take_if(|_| is_fresh);
        if is_fresh && answers.is_none_or(|until| until <= Instant::now()) {
            self.call_back();
        }
        // It may introduce itself because it keeps a link open that leads here, though it could be called: what was opened to it was lost.
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

    /// It has opened a link, which may be noted already.
    fn has_called(&mut self, is_again: bool) {
        self.has_opened = true;
        self.is_fresh |= !is_again;
        if self.reached.is_none() {
            self.call_back();
        }
    }

    /// A link to it is open, maybe again.
    fn was_called(&mut self, listener: usize, is_again: bool) {
        // The other side has forgotten it, and with it where this realm is.
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

/// How often something has happened to the links with a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// It does not hear of this realm any more unless this realm introduces itself again.
    pub lost: u64,
    /// It has opened a link, and should see whether it can be dialled back.
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

    /// The keys of all peers: of others nothing is noted.
    pub fn keep_only(&self, keys: &[PublicKey]) {
        let mut known = self.known();
        known.retain(|key, _| keys.contains(key));
        for key in keys {
            known.entry(*key).or_default();
        }
    }

    /// Where a peer is asked over a link that is there: at the listener named, or else at any if `elsewhere` will do, too.
    pub fn seat(&self, peer: &PublicKey, listener: usize, elsewhere: bool) -> Option<Seat> {
        let known = self.known();
        let known = known.get(peer)?;
        let seats = || known.theirs.iter().rev().chain(known.ours.iter().rev());
        let mut here = seats().filter(|(seat, _)| seat.listener == listener);
        let elsewhere = elsewhere || known.unreached.contains(&listener);
        let found = here.next().or_else(|| seats().next().filter(|_| elsewhere));
        found.map(|(seat, _)| *seat)
    }

    /// The peer could not be dialled from that listener: links at others will do from now on.
    pub fn not_reached(&self, peer: &PublicKey, listener: usize) {
        if let Some(known) = self.known().get_mut(peer)
            && !known.unreached.contains(&listener)
        {
            known.unreached.push(listener);
        }
    }

    /// Where the latest link is that the peer has opened.
    pub fn latest(&self, peer: &PublicKey) -> Option<Seat> {
        let known = self.known();
        known.get(peer)?.theirs.last().map(|(seat, _)| *seat)
    }

    /// True when the peer has opened `link`, and later another to another worker of that listener: it may have forgotten the first.
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

    /// True when the peer has opened a link since this realm has started.
    fn has_opened(&self, peer: &PublicKey) -> bool {
        self.known().get(peer).is_some_and(|known| known.has_opened)
    }

    /// The peer has introduced itself: it may have started again, and then does not know that it can be dialled.
    pub fn introduced(&self, peer: &PublicKey) {
        if let Some(known) = self.known().get_mut(peer) {
            known.introduced();
            known.look_at_time(Instant::now());
        }
        self.changed.send_replace(());
    }

    /// Has peers introduced to again that have opened no link for long, though one to them is kept open: from time to time they may be able to,
    /// and then that need not be kept open any more.
    pub fn ask_again(&self) {
        let mut is_any = false;
        for known in self.known().values_mut() {
            if known.has_opened || known.ours.is_empty() {
                (known.kept_since, known.ask_again) = (None, ASK_AGAIN);
                continue;
            }
            // However often the link is renewed meanwhile.
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

    /// What has happened to the links with a peer.
    pub fn happened(&self, peer: &PublicKey) -> Happened {
        let known = self.known();
        known.get(peer).map_or_else(Happened::default, |known| {
            let (lost, back) = (known.lost, known.back);
            Happened { lost, back }
        })
    }

    /// When something happens by itself, if nothing else does before.
    pub fn due(&self) -> Option<Instant> {
        let known = self.known();
        let due = known.values().filter_map(|known| known.back_due);
        due.map(|(due, _)| due).min()
    }

    /// What is due by now happens.
    pub fn look_at_time(&self) {
        let now = Instant::now();
        for known in self.known().values_mut() {
            known.look_at_time(now);
        }
    }

    /// Told when something may have happened.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Notes a link. False when its other side is no peer.
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

/// What one worker notes of its links with peers.
#[derive(Debug)]
pub struct Seated {
    links: Arc<Links>,
    seat: Seat,
    /// How a link to a peer is kept open that cannot open one itself.
    silence: Silence,
    noted: BTreeMap<LinkId, (PublicKey, Opener)>,
    /// Told when something has changed.
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

    /// True when the peer has opened `link`, and later another to another worker of this listener.
    pub fn is_superseded(&self, peer: &PublicKey, link: LinkId) -> bool {
        self.links.is_superseded(peer, (self.seat, link))
    }

    /// A peer has opened a link, and has shown that it is there.
    pub fn proven(&mut self, link: LinkId, peer: PublicKey) {
        self.note(link, peer, Opener::Peer);
    }

    /// A link to a peer is open, maybe again.
    pub fn dialled(&mut self, now: Time, endpoint: &mut Endpoint, link: LinkId) {
        if let Some(peer) = endpoint.peer(link) {
            self.note(link, peer, Opener::This);
            self.keep_open(now, endpoint);
        }
    }

    fn note(&mut self, link: LinkId, peer: PublicKey, opener: Opener) {
        // As it was when only the first worker asked.
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

    /// There are other peers than before: their links may have been here already.
    pub fn look(&mut self, now: Time, endpoint: &mut Endpoint, peers: &[PublicKey]) {
        self.noted.retain(|_, (peer, _)| peers.contains(peer));
        for peer in peers {
            let (theirs, ours) = endpoint.links_with(peer);
            let theirs = theirs.into_iter().map(|link| (link, Opener::Peer));
            let ours = ours.into_iter().map(|link| (link, Opener::This));
            // What this realm has opened comes first: who has been called need not be called back.
            for (link, opener) in ours.chain(theirs) {
                if !self.noted.contains_key(&link) {
                    self.note(link, *peer, opener);
                }
            }
        }
        self.keep_open(now, endpoint);
    }

    /// Keeps the links open that this worker has opened to peers which have opened none: nobody else could open another. The others may end.
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
