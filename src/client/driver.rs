//! The task that drives one route and one link for a [`super::Client`]. It opens the link when
//! there is a request, reopens it when it has ended, and gives every request an answer or an error.

mod key_change;
mod lives;
mod memory;
mod notify_watcher;
mod pause;
mod probing;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use lives::Claim;
use pause::Pause;
use probing::Probing;

use super::{
    ask::{Ask, AskError, Job, Status, Target, Told},
    route::{DATAGRAM_BYTES_MAX, REALM, Ready, Route, sleep_until},
    watchdog::{Due, Watchdog},
};
use crate::{
    crypto::PublicKey,
    endpoint::{EarlyData, Endpoint, Event, LinkId, LinkStatus},
    link::{
        Silence, Time,
        trace::{Trace, TraceId, trace},
    },
    wire::{CloseReason, HelloReply, RequestId, Welcome},
};

/// After this long without hearing the realm, the client asks for its key, which may have changed.
const DOUBT: Duration = Duration::from_secs(10);
/// The maximum number of datagrams read before anything else is handled.
pub const RECEIVED_AT_ONCE: usize = 256;

/// Traces the address of the realm of a link, which the endpoint does not know.
fn trace_path(link: Option<LinkId>, address: Option<SocketAddr>) {
    if let Some((link, address)) = link.zip(address) {
        trace(TraceId::new(link.0), || Trace::Moved { remote: &address });
    }
}

pub struct Driver {
    target: Target,
    route: Route,
    endpoint: Endpoint,
    watchdog: Watchdog,
    started: Instant,
    link: Option<LinkId>,
    /// While it lasts, no link is opened.
    pause: Pause,
    waiting: VecDeque<Ask>,
    asked: BTreeMap<RequestId, Ask>,
    status: watch::Sender<Status>,
    heard: bool,
    /// When the realm was last heard.
    heard_at: Option<Instant>,
    /// When to ask for the key at the address, while nothing is heard.
    doubt: Option<Instant>,
    /// The realm has reported another key. It may still answer to the known key until this time.
    changed: Option<(AskError, Instant)>,
    watcher: Option<mpsc::Sender<Told>>,
    /// The link is open. `is_expected`: the watcher came before it opened, so its opening is no
    /// news.
    is_open: bool,
    is_expected: bool,
    claim: Claim,
    /// The events that the watcher has not taken yet.
    pushed: VecDeque<Told>,
    keepalive: Option<Silence>,
    probing: Probing,
}

impl Driver {
    pub fn new(
        target: Target,
        route: Route,
        endpoint: Endpoint,
        status: watch::Sender<Status>,
        keepalive: Option<Silence>,
    ) -> Self {
        let claim = Claim::of(target.life);
        Self {
            target,
            route,
            endpoint,
            watchdog: Watchdog::default(),
            started: Instant::now(),
            link: None,
            pause: Pause::default(),
            waiting: VecDeque::new(),
            asked: BTreeMap::new(),
            status,
            heard: false,
            heard_at: None,
            doubt: None,
            changed: None,
            watcher: None,
            is_open: false,
            is_expected: false,
            claim,
            pushed: VecDeque::new(),
            keepalive,
            probing: Probing::default(),
        }
    }

    fn time(&self, at: Instant) -> Time {
        Time(0) + at.saturating_duration_since(self.started)
    }

    fn now(&self) -> Time {
        self.time(Instant::now())
    }

    /// Runs until the last sender of jobs is gone.
    pub async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            if self.is_wanted() && self.route.advance().await {
                self.note_left();
            }
            self.drop_withdrawn();
            self.take_events();
            // These events may be what a request waits for.
            self.ask_waiting();
            self.look_around().await;
            self.look_at_ticket();
            self.transmit().await;
            if self.endpoint.has_events() {
                continue;
            }
            self.observe();
            let timeout = self.next_timeout();
            tokio::select! {
                biased;
                () = sleep_until(timeout) => {
                    // The task may have been scheduled late: a datagram that has arrived by now
                    // needs no retransmission (LINK-8). The runtime learns of it once it has been
                    // polled.
                    tokio::task::yield_now().await;
                    for which in 0..self.route.candidates() {
                        self.receive(which, &mut buffer);
                    }
                    self.handle_timeout();
                }
                job = jobs.recv() => match job {
                    Some(Job::Ask(ask)) => self.waiting.push_back(ask),
                    Some(Job::Tell(watcher)) => self.begin_telling(watcher),
                    Some(Job::Leave(left)) => self.leave(left).await,
                    Some(Job::Stats(tell)) => {
                        let stats = self.link.and_then(|link| self.endpoint.link(link)).map(LinkStatus::stats);
                        // The caller may have gone.
                        let _ = tell.send(stats);
                    }
                    None => return,
                },
                ready = self.route.wait() => match ready {
                    Ready::Readable(which) => self.receive(which, &mut buffer),
                    Ready::Resolved(found) => self.resolved(found).await,
                },
                () = room_for(self.watcher.as_ref()), if !self.pushed.is_empty() => self.tell(),
                () = watched_no_more(self.watcher.as_ref()) => self.end_telling(),
            }
        }
    }

    /// Early data is sent with each retransmission of the Init. A request that was cancelled in the
    /// meantime must not be: the others are sent with another Init.
    fn drop_withdrawn(&mut self) {
        let opening = self
            .link
            .filter(|link| !self.endpoint.link(*link).is_some_and(LinkStatus::is_open));
        let is_withdrawn = |ask: &Ask| ask.early && ask.changes && ask.answer.is_closed();
        if let Some(link) = opening
            && self.asked.values().any(is_withdrawn)
        {
            self.asked.retain(|_, ask| !is_withdrawn(ask));
            self.route.forget_last();
            let now = self.now();
            self.endpoint.close(now, link, CloseReason::Done);
        }
    }

    /// True if a watcher or a request needs the realm.
    fn is_wanted(&self) -> bool {
        self.watcher.is_some() || !self.asked.is_empty() || !self.waiting.is_empty()
    }

    /// Handles the result of a name look-up.
    async fn resolved(&mut self, found: std::io::Result<Vec<SocketAddr>>) {
        if self.route.resolved(found).await {
            self.note_left();
        }
        let address = self.route.address();
        self.status.send_modify(|status| status.address = address);
        if self.watcher.is_some() {
            let now = self.now();
            self.link_or_open(now);
        }
    }

    /// Returns the link, or opens one. `None` without an address: data to send waits for one, so
    /// that it leaves as soon as possible. Also `None` during a pause.
    fn link_or_open(&mut self, now: Time) -> Option<LinkId> {
        if self.link.is_none() && self.route.is_ready() && self.pause.until().is_none() {
            self.open(now);
        }
        self.link
    }

    /// Puts the waiting requests on the link, as far as it accepts them.
    fn ask_waiting(&mut self) {
        while let Some(ask) = self.waiting.pop_front() {
            if ask.answer.is_closed() {
                // A watch that nobody wants any more must not begin on a later link. A request that
                // changes something is sent again by the next call.
                continue;
            }
            let now = self.now();
            let must_wait = self.waits_for_claim(&ask) || self.waits_for_secrecy(&ask);
            let Some(link) = self.link_or_open(now).filter(|_| !must_wait) else {
                self.waiting.push_front(ask);
                return;
            };
            let deadline = self.time(ask.deadline);
            let bytes = ask.bytes.clone();
            let early = EarlyData::allowed_if(ask.early);
            match self.endpoint.request(now, link, bytes, deadline, early) {
                Some(number) => {
                    self.asked.insert(number, ask);
                }
                None => {
                    self.waiting.push_front(ask);
                    return;
                }
            }
        }
    }

    /// True if a request has to wait for a link with forward secrecy (HS-7). It waits for the
    /// answers to earlier requests on this link. Then another link is opened with a handshake.
    fn waits_for_secrecy(&mut self, ask: &Ask) -> bool {
        if !ask.secret {
            return false;
        }
        let Some(link) = self.link else {
            self.target.ticket = None;
            return false;
        };
        if !self.endpoint.link(link).is_some_and(LinkStatus::is_resumed) {
            return false;
        }
        if self.asked.is_empty() {
            self.target.ticket = None;
            let now = self.now();
            self.endpoint.close(now, link, CloseReason::Done);
        }
        true
    }

    fn open(&mut self, now: Time) {
        let Target { key, rtt, .. } = self.target;
        let rtt = self.status.borrow().rtt.or(rtt);
        let link = match key {
            Some(key) => self.endpoint.connect(now, REALM, key, rtt),
            None => self.endpoint.connect_plain(now, REALM, rtt),
        };
        trace_path(Some(link), self.route.address());
        self.endpoint.claim_life(link, self.claim.life);
        self.begin_from_memory(link);
        if let Some(ticket) = self.ticket().filter(|_| key.is_some()) {
            self.endpoint.come_back(link, ticket);
        }
        if !self.heard && key.is_some() {
            self.doubt = Some(Instant::now() + DOUBT);
        }
        if self.watcher.is_some() {
            self.endpoint.keep_alive(now, link, self.keepalive);
        }
        self.link = Some(link);
    }

    fn take_events(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Opened {
                    link,
                    welcome,
                    is_resumed,
                } => {
                    self.status
                        .send_modify(|status| status.is_resumed = is_resumed);
                    self.opened(link, &welcome);
                    self.learn_ticket(link, is_resumed);
                }
                Event::HighestOperation { highest, .. } => self.status.send_modify(|status| {
                    status.highest = status.highest.max(highest);
                    status.is_highest_told = true;
                }),
                Event::Pushed { link, bytes } => {
                    self.heard();
                    self.pause.reset();
                    // Pushes on a replaced link are repeated on the new one (LINK-21).
                    if self.watcher.is_some() && self.link == Some(link) {
                        let life = self.life();
                        self.pushed.push_back(Told::Pushed(bytes, life));
                        self.tell();
                    }
                }
                Event::Reply { number, bytes, .. } => {
                    self.heard();
                    self.pause.reset();
                    self.settle(number, Ok(bytes));
                }
                Event::Expired { number, heard, .. } => {
                    self.heard |= heard;
                    self.expired(number);
                }
                // A replaced link, or one that was to replace another.
                Event::Closed { link, .. } if self.link != Some(link) => {}
                Event::Closed { reason, .. } => {
                    if reason == Some(CloseReason::Violation) {
                        let rtt = self.status.borrow().rtt.or(self.target.rtt);
                        self.pause.begin(Instant::now(), rtt);
                    }
                    // Unanswered requests are sent again on a new link.
                    self.link = None;
                    self.is_open = false;
                    self.waiting
                        .extend(std::mem::take(&mut self.asked).into_values());
                    self.ask_waiting();
                    if self.watcher.is_some() {
                        let now = self.now();
                        self.link_or_open(now);
                    }
                }
                Event::Hello { reply, .. } => self.doubts_answered(reply),
                Event::TicketRefused { .. } => self.forget_ticket(),
                // As many requests moved before as the new link has numbers below this one, so the
                // number is free.
                Event::Moved {
                    number, as_number, ..
                } => {
                    if let Some(ask) = self.asked.remove(&number) {
                        self.asked.insert(as_number, ask);
                    }
                }
                // A client gets no requests.
                Event::Incoming { .. }
                | Event::Proven { .. }
                | Event::Request { .. }
                | Event::Oversized { .. }
                | Event::PathProven { .. }
                | Event::UnknownTicket { .. }
                | Event::TicketDue { .. }
                | Event::TicketAddress { .. }
                | Event::Delivered { .. } => {}
            }
        }
    }

    fn opened(&mut self, link: LinkId, welcome: &Welcome) {
        if self.watcher.is_some() && self.link != Some(link) {
            let now = self.now();
            self.endpoint.keep_alive(now, link, self.keepalive);
        }
        // Perhaps a link that replaces the last one.
        self.link = Some(link);
        self.heard();
        self.is_open = true;
        self.learn_life(welcome);
        if self.watcher.is_some() && !std::mem::take(&mut self.is_expected) {
            self.tell_state(Told::Opened);
        }
        self.status.send_modify(|status| {
            status.opened += 1;
            status.highest = status.highest.max(welcome.highest);
            status.is_highest_told = !status.is_resumed;
            status.successor = welcome.successor.map(PublicKey);
        });
    }

    fn heard(&mut self) {
        self.heard = true;
        self.doubt = None;
        self.changed = None;
        self.endpoint.stop_asking(REALM);
        let rtt = self
            .link
            .and_then(|link| self.endpoint.link(link))
            .and_then(LinkStatus::rtt);
        self.learn_path();
        self.status
            .send_modify(|status| status.rtt = rtt.or(status.rtt));
    }

    fn settle(&mut self, number: RequestId, outcome: Result<Vec<u8>, AskError>) {
        if let Some(ask) = self.asked.remove(&number) {
            // The caller may have stopped waiting.
            let _ = ask.answer.send(outcome);
        }
    }

    /// Handles a request whose deadline has passed.
    fn expired(&mut self, number: RequestId) {
        let Some(ask) = self.asked.remove(&number) else {
            return;
        };
        if !ask.left {
            // The caller is told that the request was not sent. So it must not be sent later:
            // neither in a copy of the last datagram nor as early data of a retransmitted Init.
            self.route.forget_last();
            let opening = self
                .link
                .filter(|link| !self.endpoint.link(*link).is_some_and(LinkStatus::is_open));
            if let Some(link) = opening.filter(|_| ask.early) {
                let now = self.now();
                self.endpoint.close(now, link, CloseReason::Done);
            }
        }
        let why = self.why_silent(&ask);
        let _ = ask.answer.send(Err(why));
    }

    /// Records that a datagram was sent: it may have carried any request that may be sent now.
    fn note_left(&mut self) {
        let link = self.link;
        let is_open = link
            .and_then(|link| self.endpoint.link(link))
            .is_some_and(LinkStatus::is_open);
        let is_plain = self.target.key.is_none();
        for ask in self.asked.values_mut() {
            ask.left |= ask.early || is_open || is_plain;
        }
    }

    async fn transmit(&mut self) {
        let mut datagram = Vec::new();
        loop {
            let now = self.now();
            if self.endpoint.poll_transmit(now, &mut datagram).is_none() {
                return;
            }
            if self.route.send(&datagram).await {
                self.note_left();
            }
        }
    }

    fn receive(&mut self, which: usize, buffer: &mut [u8]) {
        let mut which = which;
        // A fast sender must not keep the timers from running.
        for _ in 0..RECEIVED_AT_ONCE {
            let Some(datagram) = self.route.try_recv(which, buffer) else {
                return;
            };
            let now = self.now();
            let link = self.link;
            let before = link
                .and_then(|link| self.endpoint.link(link))
                .and_then(LinkStatus::heard);
            self.endpoint.handle_datagram(now, REALM, datagram);
            let heard = link
                .and_then(|link| self.endpoint.link(link))
                .and_then(LinkStatus::heard);
            if heard > before {
                self.route.heard(which);
                self.heard_at = Some(Instant::now());
                self.watchdog.heard();
                which = 0;
            }
        }
    }

    /// Detects the beginning and the end of silence.
    fn observe(&mut self) {
        let now = Instant::now();
        let link = self.link;
        let is_open = link
            .and_then(|link| self.endpoint.link(link))
            .is_some_and(LinkStatus::is_open);
        let awaits_sign = link
            .and_then(|link| self.endpoint.link(link))
            .is_some_and(LinkStatus::awaits_sign);
        let due = match (self.watcher.is_some(), self.asked.is_empty()) {
            (true, _) if !is_open => Due::Opening,
            (true, _) if awaits_sign => Due::Keepalive,
            (_, false) => Due::Answer,
            (_, true) => Due::Nothing,
        };
        if self.watchdog.observe(now, due) {
            self.tell_state(Told::Heard);
        }
        let address = self.route.address();
        self.status.send_if_modified(|status| {
            let is_changed = (status.open, status.address) != (is_open, address);
            if status.address != address {
                trace_path(link, address);
            }
            (status.open, status.address) = (is_open, address);
            is_changed
        });
    }

    /// Tells the watcher the state of the link. A slow watcher gets only the latest event of each
    /// kind.
    fn tell_state(&mut self, told: Told) {
        if self.watcher.is_none() {
            return;
        }
        let is_opening = matches!(told, Told::Opened);
        self.pushed.retain(|waiting| match waiting {
            Told::Pushed(..) => true,
            Told::Opened => !is_opening,
            Told::Silent | Told::Heard => is_opening,
        });
        self.pushed.push_back(told);
        self.tell();
    }

    fn next_timeout(&self) -> Option<Instant> {
        let protocol = self
            .endpoint
            .poll_timeout()
            .map(|at| self.started + Duration::from_micros(at.0));
        let waiting = self.waiting.iter().map(|ask| ask.deadline);
        let changed = self.changed.as_ref().map(|(_, until)| *until);
        let doubts = self.doubt.into_iter().chain(changed);
        let doubts = doubts.chain(self.pause.until());
        let route = self.route.timeout().filter(|_| self.is_wanted());
        let all = protocol.into_iter().chain(doubts).chain(waiting);
        let looks = self
            .watchdog
            .timeout()
            .into_iter()
            .chain(self.probing.timeout());
        all.chain(route).chain(looks).min()
    }

    fn handle_timeout(&mut self) {
        let now = Instant::now();
        self.endpoint.handle_timeout(self.time(now));
        if self.doubt.is_some_and(|doubt| doubt <= now) {
            self.doubt = None;
            self.endpoint.ask_hello(self.time(now), REALM);
        }
        if matches!(self.changed, Some((_, until)) if until <= now) {
            self.give_up();
            self.changed = None;
        }
        if self.pause.expire(now) && self.watcher.is_some() {
            self.link_or_open(self.time(now));
        }
        if self.watchdog.take_look_up(now) {
            self.route.look_up(now);
        }
        if self.watchdog.take_silence(now) {
            self.tell_state(Told::Silent);
        }
        let (late, waiting): (VecDeque<_>, _) =
            self.waiting.drain(..).partition(|ask| ask.deadline <= now);
        self.waiting = waiting;
        for ask in late {
            let why = self.why_silent(&ask);
            let _ = ask.answer.send(Err(why));
        }
    }
}

/// Waits until the watcher has room for an event.
async fn room_for(watcher: Option<&mpsc::Sender<Told>>) {
    match watcher {
        // The end of the watcher is noticed elsewhere.
        Some(watcher) => drop(watcher.reserve().await),
        None => std::future::pending().await,
    }
}

/// Waits until the watcher is gone.
async fn watched_no_more(watcher: Option<&mpsc::Sender<Told>>) {
    match watcher {
        Some(watcher) => watcher.closed().await,
        None => std::future::pending().await,
    }
}
