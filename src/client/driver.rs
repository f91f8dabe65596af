//! The task that drives one route and one link for a [`super::Client`]. It opens the link when
//! there is a request, reopens it when it has ended, and gives every request an answer or an error.
//!
//! Its parts decide and hold their own state: which requests wait, what the watcher is told, which
//! life is claimed, what the silence of the realm means. None of them knows both the link and the
//! route, which are driven here.

mod claim;
mod memory;
mod pause;
mod probing;
mod reachability;
mod realm_link;
mod requests;
mod watcher;

use std::{net::SocketAddr, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use claim::Claim;
use memory::Memory;
use pause::Pause;
use probing::Probing;
use reachability::Reachability;
use realm_link::{Beginning, RealmLink};
use requests::Requests;
use watcher::Watcher;

use super::{
    ask::{Ask, AskError, Job, Status, Target, Told},
    route::{DATAGRAM_BYTES_MAX, Ready, Route, sleep_until},
    watchdog::{Due, Watchdog},
};
use crate::{
    crypto::PublicKey,
    endpoint::{Endpoint, Event, LinkId, Pushes},
    link::Silence,
    wire::{CloseReason, Life, RequestId, Welcome},
};

/// The maximum number of datagrams read before anything else is handled.
pub const RECEIVED_AT_ONCE: usize = 256;

pub struct Driver {
    /// The round-trip time until one was measured.
    rtt: Option<Duration>,
    route: Route,
    link: RealmLink,
    /// The realm has opened the link, and it has not ended since.
    is_open: bool,
    requests: Requests,
    watcher: Watcher,
    claim: Claim,
    memory: Memory,
    reachability: Reachability,
    /// While it lasts, no link is opened.
    pause: Pause,
    watchdog: Watchdog,
    probing: Probing,
    status: watch::Sender<Status>,
}

impl Driver {
    pub fn new(
        target: Target,
        route: Route,
        endpoint: Endpoint,
        status: watch::Sender<Status>,
        keepalive: Option<Silence>,
    ) -> Self {
        Self {
            rtt: target.rtt,
            route,
            link: RealmLink::new(endpoint, target.key, keepalive),
            is_open: false,
            requests: Requests::default(),
            watcher: Watcher::default(),
            claim: Claim::of(target.life),
            memory: Memory::new(target.paths, target.ticket, target.news),
            reachability: Reachability::default(),
            pause: Pause::default(),
            watchdog: Watchdog::default(),
            probing: Probing::default(),
            status,
        }
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
            if self.link.has_events() {
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
                    Some(Job::Ask(ask)) => self.requests.add(ask),
                    Some(Job::Tell(watcher)) => self.begin_telling(watcher),
                    Some(Job::Leave(left)) => self.leave(left).await,
                    Some(Job::Stats(tell)) => {
                        // The caller may have gone.
                        let _ = tell.send(self.link.stats());
                    }
                    None => return,
                },
                ready = self.route.wait() => match ready {
                    Ready::Readable(which) => self.receive(which, &mut buffer),
                    Ready::Resolved(found) => self.resolved(found).await,
                },
                () = self.watcher.room(), if self.watcher.has_untold() => self.tell(),
                () = self.watcher.gone() => self.end_telling(),
            }
        }
    }

    /// Early data is sent with each retransmission of the Init. A request that was cancelled in the
    /// meantime must not be: the others are sent with another Init.
    fn drop_withdrawn(&mut self) {
        if self.link.is_opening() && self.requests.drop_withdrawn() {
            self.route.forget_last();
            self.link.close();
        }
    }

    /// True if a watcher or a request needs the realm.
    fn is_wanted(&self) -> bool {
        self.watcher.is_there() || !self.requests.is_empty()
    }

    /// Handles the result of a name look-up.
    async fn resolved(&mut self, found: std::io::Result<Vec<SocketAddr>>) {
        if self.route.resolved(found).await {
            self.note_left();
        }
        let address = self.route.address();
        self.status.send_modify(|status| status.address = address);
        if self.watcher.is_there() {
            self.link_or_open();
        }
    }

    /// Opens a link if there is none. True if there is one then. False without an address: data to
    /// send waits for one, so that it leaves as soon as possible. Also false during a pause.
    fn link_or_open(&mut self) -> bool {
        if !self.link.is_there() && self.route.is_ready() && self.pause.until().is_none() {
            self.open();
        }
        self.link.is_there()
    }

    /// Puts the waiting requests on the link, as far as it accepts them.
    fn ask_waiting(&mut self) {
        while let Some(ask) = self.requests.take_next() {
            let must_wait = self.waits_for_claim(&ask) || self.waits_for_secrecy(&ask);
            if !self.link_or_open() || must_wait {
                self.requests.put_back(ask);
                return;
            }
            match self.link.request(&ask) {
                Some(number) => self.requests.note_asked(number, ask),
                None => {
                    self.requests.put_back(ask);
                    return;
                }
            }
        }
    }

    /// True if a request has to wait for the answers to earlier requests on the link. After these,
    /// another link is opened that claims its life.
    fn waits_for_claim(&mut self, ask: &Ask) -> bool {
        if self.claim.covers(ask.life) {
            return false;
        }
        if self.requests.has_asked() {
            return true;
        }
        self.claim = Claim::of(ask.life);
        self.link.close();
        self.link.is_there()
    }

    /// True if a request has to wait for a link with forward secrecy (HS-7). It waits for the
    /// answers to earlier requests on this link. Then another link is opened with a handshake.
    fn waits_for_secrecy(&mut self, ask: &Ask) -> bool {
        if !ask.secret {
            return false;
        }
        if !self.link.is_there() {
            self.memory.set_ticket_aside();
            return false;
        }
        if !self.link.is_resumed() {
            return false;
        }
        if !self.requests.has_asked() {
            self.memory.set_ticket_aside();
            self.link.close();
        }
        true
    }

    fn open(&mut self) {
        // The guard of the status must not be held over the locks that the rest takes.
        let rtt = self.status.borrow().rtt;
        let beginning = Beginning {
            rtt: rtt.or(self.rtt),
            life: self.claim.life(),
            path: self.memory.path(self.route.network()),
            ticket: self.memory.ticket(|| self.route.time_of_day()),
        };
        self.link.open(beginning, self.route.address());
        if self.link.key().is_some() {
            self.reachability.begin_waiting(Instant::now());
        }
        if self.watcher.is_there() {
            self.link.keep_alive();
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::Opened {
                    link,
                    welcome,
                    is_resumed,
                } => {
                    self.status
                        .send_modify(|status| status.is_resumed = is_resumed);
                    self.opened(link, &welcome);
                    let ticket = self.link.ticket(link);
                    self.memory
                        .learn_ticket(ticket, is_resumed, || self.route.time_of_day());
                }
                Event::HighestOperation { highest, .. } => self.status.send_modify(|status| {
                    status.highest = status.highest.max(highest);
                    status.is_highest_told = true;
                }),
                Event::Pushed { link, bytes } => {
                    self.heard();
                    self.pause.reset();
                    // Pushes on a replaced link are repeated on the new one (LINK-21).
                    if self.watcher.is_there() && self.link.is_current(link) {
                        let life = self.life();
                        self.watcher.push(Told::Pushed(bytes, life));
                        self.tell();
                    }
                }
                Event::Reply { number, bytes, .. } => {
                    self.heard();
                    self.pause.reset();
                    self.settle(number, Ok(bytes));
                }
                Event::Expired { number, heard, .. } => {
                    if heard {
                        self.reachability.note_acknowledged();
                    }
                    self.expired(number);
                }
                // A replaced link, or one that was to replace another.
                Event::Closed { link, .. } if !self.link.is_current(link) => {}
                Event::Closed { reason, .. } => self.closed(reason),
                Event::Hello { reply, .. } => {
                    let pinned = self.link.key();
                    self.reachability.note_key(Instant::now(), reply, pinned);
                }
                Event::TicketRefused { .. } => self.memory.forget_ticket(),
                Event::Moved {
                    number, as_number, ..
                } => self.requests.renumber(number, as_number),
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

    fn closed(&mut self, reason: Option<CloseReason>) {
        if reason == Some(CloseReason::Violation) {
            let rtt = self.status.borrow().rtt.or(self.rtt);
            self.pause.begin(Instant::now(), rtt);
        }
        // Unanswered requests are sent again on a new link.
        self.link.forget();
        self.is_open = false;
        self.requests.leave_link();
        self.ask_waiting();
        if self.watcher.is_there() {
            self.link_or_open();
        }
    }

    fn opened(&mut self, link: LinkId, welcome: &Welcome) {
        let replaces = !self.link.is_current(link);
        // Perhaps a link that replaces the last one.
        self.link.replace(link);
        if self.watcher.is_there() && replaces {
            self.link.keep_alive();
        }
        self.heard();
        self.is_open = true;
        let life = self.claim.learn(welcome);
        self.status.send_modify(|status| status.life = Some(life));
        if self.watcher.takes_opening() {
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
        self.reachability.note_heard();
        self.link.stop_asking_key();
        let rtt = self.link.rtt();
        let memory = self.link.path_memory();
        if let Some((network, memory)) = self.route.network().zip(memory) {
            self.memory.learn_path(network, memory);
        }
        self.status
            .send_modify(|status| status.rtt = rtt.or(status.rtt));
    }

    /// Returns the life to which the positions of the link's entries belong.
    fn life(&self) -> Option<Life> {
        self.status.borrow().life.and_then(|told| told.life)
    }

    fn settle(&mut self, number: RequestId, outcome: Result<Vec<u8>, AskError>) {
        if let Some(ask) = self.requests.take(number) {
            // The caller may have stopped waiting.
            let _ = ask.answer.send(outcome);
        }
    }

    /// Handles a request whose deadline has passed.
    fn expired(&mut self, number: RequestId) {
        let Some(ask) = self.requests.take(number) else {
            return;
        };
        if !ask.left {
            // The caller is told that the request was not sent. So it must not be sent later:
            // neither in a copy of the last datagram nor as early data of a retransmitted Init.
            self.route.forget_last();
            if ask.early && self.link.is_opening() {
                self.link.close();
            }
        }
        self.fail(ask);
    }

    /// Tells a caller why there is no answer.
    fn fail(&self, ask: Ask) {
        let why = self.reachability.why_silent(&ask, &self.route);
        // The caller may have stopped waiting.
        let _ = ask.answer.send(Err(why));
    }

    /// Gives up: the server there does not answer to the known key, or speaks no version of this
    /// side.
    fn give_up(&mut self) {
        for ask in self.requests.take_all() {
            self.fail(ask);
        }
        // Early data must not be sent any more, and the next request must get this error as soon.
        if self.link.is_opening() {
            self.route.forget_last();
            self.link.close();
        }
    }

    /// Records that a datagram was sent: it may have carried any request that may be sent now.
    fn note_left(&mut self) {
        let is_plain = self.link.key().is_none();
        self.requests.note_left(self.link.is_open() || is_plain);
    }

    async fn transmit(&mut self) {
        let mut datagram = Vec::new();
        while self.link.poll_transmit(&mut datagram) {
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
            if self.link.handle_datagram(datagram) {
                self.route.heard(which);
                self.reachability.note_datagram(Instant::now());
                self.watchdog.heard();
                which = 0;
            }
        }
    }

    /// Detects the beginning and the end of silence.
    fn observe(&mut self) {
        let now = Instant::now();
        let is_open = self.link.is_open();
        let awaits_sign = self.link.awaits_sign();
        let due = match (self.watcher.is_there(), self.requests.has_asked()) {
            (true, _) if !is_open => Due::Opening,
            (true, _) if awaits_sign => Due::Keepalive,
            (_, true) => Due::Answer,
            (_, false) => Due::Nothing,
        };
        if self.watchdog.observe(now, due) {
            self.tell_state(Told::Heard);
        }
        let address = self.route.address();
        self.status.send_if_modified(|status| {
            let is_changed = (status.open, status.address) != (is_open, address);
            if status.address != address {
                self.link.trace_address(address);
            }
            (status.open, status.address) = (is_open, address);
            is_changed
        });
    }

    /// Checks whether a watch may have stopped silently, if it is time.
    async fn look_around(&mut self) {
        if !self.link.is_open() || !self.watcher.is_there() {
            self.probing = Probing::default();
            return;
        }
        let now = Instant::now();
        if !self.probing.is_due(now) {
            return;
        }
        let is_first = self.probing.is_new();
        let has_jumped = self.probing.has_jumped(now, self.route.time_of_day());
        // Both are checked: a new socket sends from this machine's current address.
        let has_moved = !is_first && self.route.has_moved().await;
        if has_jumped || has_moved {
            self.link.probe();
        }
    }

    /// Keeps the link, which may be reopened at any time, from using a ticket that has become too
    /// old.
    fn look_at_ticket(&mut self) {
        if self.link.is_there()
            && let Some(left) = self.memory.ticket_left(|| self.route.time_of_day())
        {
            self.link.show_ticket_for(left);
        }
    }

    fn begin_telling(&mut self, watcher: mpsc::Sender<Told>) {
        if self.watcher.is_there() {
            self.end_telling();
            self.take_events();
        }
        self.watcher.begin(watcher, self.is_open);
        if self.link_or_open() {
            self.link.keep_alive();
        }
    }

    /// Tells the realm that a watch has ended. Otherwise the realm would continue to push.
    async fn leave(&mut self, left: oneshot::Sender<()>) {
        if self.watcher.has_left() {
            self.end_telling();
        }
        self.transmit().await;
        // The caller may have gone.
        let _ = left.send(());
    }

    /// Closes the link when the watch ends: later pushes on it could be taken for part of another
    /// watch (WATCH-3).
    fn end_telling(&mut self) {
        self.watcher.end();
        self.link.close();
    }

    /// Passes on pushes while the watcher has room. The rest counts as lost on the path.
    fn tell(&mut self) {
        self.watcher.tell();
        self.link.set_pushes(if self.watcher.has_untold() {
            Pushes::Refused
        } else {
            Pushes::Accepted
        });
    }

    /// Tells the watcher the state of the link.
    fn tell_state(&mut self, told: Told) {
        if self.watcher.is_there() {
            self.watcher.push_state(told);
            self.tell();
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let route = self.route.timeout().filter(|_| self.is_wanted());
        let all = [
            self.link.timeout(),
            route,
            self.requests.timeout(),
            self.reachability.timeout(),
            self.pause.until(),
            self.watchdog.timeout(),
            self.probing.timeout(),
        ];
        all.into_iter().flatten().min()
    }

    fn handle_timeout(&mut self) {
        let now = Instant::now();
        self.link.handle_timeout(now);
        if self.reachability.take_question(now) {
            self.link.ask_key();
        }
        if self.reachability.is_lost(now) {
            self.give_up();
            self.reachability.forget_change();
        }
        if self.pause.expire(now) && self.watcher.is_there() {
            self.link_or_open();
        }
        if self.watchdog.take_look_up(now) {
            self.route.look_up(now);
        }
        if self.watchdog.take_silence(now) {
            self.tell_state(Told::Silent);
        }
        for ask in self.requests.take_late(now) {
            self.fail(ask);
        }
    }
}
