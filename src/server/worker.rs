//! A worker: one thread of a listener, with its socket, its endpoint and the commands in progress
//! on its links.
//!
//! Received datagrams go to the endpoint. The endpoint's requests go to the realm, each in a task
//! of its own. Requests of this realm to others leave by the same socket. Answers come back through
//! a queue and go to the endpoint. The path takes no locks.

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    admission::Admission,
    clock::Clock,
    completion::{Completion, Tasks},
    handoff::{HandedOff, Handoff},
    limits::LONGEST_ANSWER,
    outbound::{OutboundRequest, OutboundRequests},
    subscriptions::Subscriptions,
    tickets::{Tickets, for_endpoint},
    watchers::{ListenerStart, Watchers},
};
use crate::{
    crypto::PublicKey,
    endpoint::{
        AccountId, ClaimedLife, Endpoint, Event, IncomingRequest, LinkId, LinkStatus, Path,
    },
    host::{Listening, Received, SendBatch},
    link::{Time, earliest},
    realm::{
        Account, AnswerLimits, Caller, Effect, Greeting, LifeNews, Origin, Realm, Secrecy, TooLong,
    },
    store::Store,
    subnet::Subnet,
    wire::{Answer, CloseReason, Command, OperationNumber, Refusal, Request, RequestId},
};

/// The number of batches received before answers and timers have their turn.
const RECEIVE_BURST: usize = 2;
/// The number of batches sent before receiving has its turn.
const TRANSMIT_BURST: usize = 8;
/// The longest datagram that a worker receives, in bytes. No party may send a longer one (LINK-10).
pub const DATAGRAM_BYTES_MAX: usize = 9000;
/// How long a stopping server waits for commands in progress.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// One worker of a listener.
pub struct Worker<S> {
    endpoint: Endpoint,
    realm: Arc<Realm<S>>,
    admission: Arc<Admission>,
    handoff: Handoff,
    clock: Clock,
    started: Instant,
    tasks: Tasks<S>,
    /// The requests to other realms that are yet to be sent, and those in progress.
    to_send: mpsc::Receiver<OutboundRequest>,
    outbound: OutboundRequests,
    subscriptions: Subscriptions,
    watchers: Watchers<S>,
    tickets: Tickets<S>,
    /// Hashes accounts to ids with a secret key: collisions are rare, and nobody can search for
    /// one.
    account_ids: RandomState,
}

impl<S: Store> Worker<S> {
    /// Creates a worker. On a plain listener, where peers are not authenticated, `start` is None.
    pub fn new(
        mut endpoint: Endpoint,
        realm: Arc<Realm<S>>,
        admission: Arc<Admission>,
        handoff: Handoff,
        to_send: mpsc::Receiver<OutboundRequest>,
        clock: Clock,
        start: Option<ListenerStart>,
    ) -> Self {
        endpoint.set_known_lives(realm.lives.lives_to_come_back_to());
        let tasks = Tasks::new();
        Self {
            endpoint,
            admission,
            handoff,
            started: Instant::now(),
            to_send,
            outbound: OutboundRequests::default(),
            subscriptions: Subscriptions::default(),
            watchers: Watchers::new(&realm, start),
            tickets: Tickets::new(&realm, &clock, tasks.sender()),
            tasks,
            realm,
            clock,
            account_ids: RandomState::new(),
        }
    }

    /// Serves until told to stop, then until all commands in progress are answered.
    pub async fn run(
        &mut self,
        mut socket: Listening,
        mut told_to_stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let mut received = Received::new(DATAGRAM_BYTES_MAX);
        let mut leaving = SendBatch::default();
        let mut handed = Vec::new();
        let mut stop_by = None;
        if self.endpoint.is_primary_worker() {
            self.watchers.recall(self.tasks.sender());
        }
        loop {
            self.pass_on();
            let now = self.now();
            self.outbound.tidy(now, &mut self.endpoint);
            let idle = self.transmit(&mut socket, &mut leaving).await;
            if self.endpoint.has_events() {
                continue;
            }
            // A blocked socket may never become idle.
            if let Some(stop_by) = stop_by
                && ((idle && self.tasks.in_progress() == 0) || Instant::now() >= stop_by)
            {
                self.endpoint.close_all(self.now());
                self.transmit(&mut socket, &mut leaving).await;
                return Ok(());
            }
            let next = self.next_timeout(stop_by);
            // The branches are in order of increasing volume, so that a flood on the socket delays
            // nothing else.
            tokio::select! {
                biased;
                _ = told_to_stop.changed(), if stop_by.is_none() => {
                    self.endpoint.stop_admitting();
                    stop_by = Some(Instant::now() + STOP_PATIENCE);
                }
                () = sleep_until(next) => {
                    // An acknowledgement that has arrived by now prevents a retransmission
                    // (LINK-8).
                    self.receive(&socket, &mut received);
                    let now = self.now();
                    self.endpoint.handle_timeout(now);
                    let links = &self.handoff.links;
                    self.outbound.handle_timeout(now, &mut self.endpoint, links);
                    // Timers that are always due must not delay completions either.
                    if let Some(done) = self.tasks.try_next() {
                        self.finish(done);
                    }
                }
                Some(done) = self.tasks.next() => self.finish(done),
                _ = self.handoff.received.recv_many(&mut handed, RECEIVE_BURST) => {
                    handed.drain(..).for_each(|one| self.take_over(&one));
                    // Handed-off datagrams must not starve this worker's own socket.
                    self.receive(&socket, &mut received);
                }
                Ok(()) = self.handoff.realms.changed() => {
                    let realms = self.handoff.realms.borrow_and_update().clone();
                    let now = self.now();
                    self.handoff.links.peers_listed(now, &mut self.endpoint, &realms);
                    self.endpoint.set_realms(realms);
                }
                Ok(()) = self.handoff.links.changed.changed() => {
                    let now = self.now();
                    let links = &self.handoff.links;
                    links.keep_open(now, &mut self.endpoint);
                    self.outbound.look_elsewhere(now, &mut self.endpoint, links);
                }
                Some(request) = self.to_send.recv() => {
                    let now = self.now();
                    self.outbound.begin(now, &mut self.endpoint, request);
                }
                ready = socket.readable(), if idle => {
                    if let Err(error) = ready {
                        // A sent datagram was lost; it is retransmitted.
                        tracing::debug!(%error, "network reported an error");
                    }
                    self.receive(&socket, &mut received);
                }
                // More is left to send: receive once in between.
                () = std::future::ready(()), if !idle => self.receive(&socket, &mut received),
            }
        }
    }

    fn account_id(&self, account: &Account) -> AccountId {
        AccountId::new(self.account_ids.hash_one(account))
    }

    fn next_timeout(&self, stop_by: Option<Instant>) -> Option<Instant> {
        let timeout = earliest(
            self.endpoint.poll_timeout(),
            self.outbound.timeout(&self.endpoint),
        );
        let timeout = timeout.map(|at| self.started + Duration::from_micros(at.0));
        match (timeout, stop_by) {
            (Some(timeout), Some(stop_by)) => Some(timeout.min(stop_by)),
            (timeout, stop_by) => timeout.or(stop_by),
        }
    }

    fn receive(&mut self, socket: &Listening, received: &mut Received) {
        self.look_at_clock();
        for _ in 0..RECEIVE_BURST {
            match socket.try_recv(received) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An error about an earlier datagram is no reason to stop receiving.
                Err(error) => {
                    tracing::debug!(%error, "receive failed");
                    continue;
                }
            }
            let now = self.now();
            for datagram in received.iter() {
                let path = Path {
                    remote: datagram.from,
                    local: datagram.to,
                };
                if let Some(other) = self.endpoint.handle_datagram(now, path, datagram.bytes) {
                    self.handoff.hand_over(other, path, datagram.bytes);
                }
            }
        }
    }

    /// Forgets tickets if the machine was suspended. Must run before every use of tickets.
    fn look_at_clock(&mut self) {
        if self.clock.has_jumped() {
            self.endpoint.forget_tickets(self.now());
        }
    }

    /// Handles a datagram that arrived at another worker and belongs to a link of this one.
    fn take_over(&mut self, handed: &HandedOff) {
        self.look_at_clock();
        let now = self.now();
        // A datagram that belongs to no link here is dropped.
        let _ = self
            .endpoint
            .handle_datagram(now, handed.path, &handed.bytes);
    }

    /// Sends what the endpoint has to send, up to a limit. Returns true if nothing is left.
    async fn transmit(&mut self, socket: &mut Listening, leaving: &mut SendBatch) -> bool {
        for _ in 0..TRANSMIT_BURST {
            let now = self.now();
            let mut next = |datagram: &mut Vec<u8>| {
                let Path { remote, local } = self.endpoint.poll_transmit(now, datagram)?;
                Some((remote, local))
            };
            while !leaving.is_full() && leaving.add(&mut next) {}
            let is_all = !leaving.is_full();
            let refused = |error| tracing::debug!(%error, "send failed");
            socket.send(leaving, refused).await;
            if is_all {
                return true;
            }
        }
        false
    }

    /// Passes the endpoint's events to the realm.
    fn pass_on(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Incoming {
                    link,
                    peer,
                    address,
                    claim,
                } => {
                    tracing::debug!(link = link.0, %address, "link opened");
                    // Before the greeting, which waits for the store: early requests do not wait
                    // for the greeting.
                    let LifeNews { life, is_unknown } =
                        self.realm.lives.judge_claim(claim.as_ref());
                    let claimed = ClaimedLife::unknown_if(is_unknown);
                    self.endpoint.tell_life(link, life, claimed);
                    self.greet(link, peer);
                }
                Event::Request {
                    link,
                    number,
                    bytes,
                    early,
                } => {
                    let (now, mut request) = (self.now(), Some((number, bytes)));
                    if early {
                        let early = request.take();
                        request = early.and_then(|early| self.take_early(now, link, early));
                    }
                    if let Some((number, bytes)) = request {
                        self.execute(link, number, bytes, early);
                    }
                }
                Event::Moved {
                    link,
                    number,
                    to,
                    as_number,
                } => {
                    let now = self.now();
                    let (from, to) = ((link, number), (to, as_number));
                    self.outbound.moved(now, &mut self.endpoint, from, to);
                }
                Event::Closed { link, .. } => {
                    tracing::debug!(link = link.0, "link ended");
                    self.handoff.links.closed(link);
                    self.outbound.closed(link);
                    self.end_watch(link);
                }
                Event::Reply {
                    link,
                    number,
                    bytes,
                } => self.outbound.answered(link, number, bytes),
                Event::Expired { link, number, .. } => {
                    let now = self.now();
                    self.outbound.expired(now, &mut self.endpoint, link, number);
                }
                Event::Oversized {
                    link,
                    number,
                    limit,
                } => {
                    let limit = self.admission.max_message().min(limit) as u64;
                    let refused = Answer::Refused(Refusal::too_large(limit)).to_bytes();
                    let now = self.now();
                    self.endpoint.reply(now, link, number, refused);
                }
                Event::Hello { address, reply } => self.outbound.introduced(address, &reply),
                Event::Delivered { link, number } => {
                    let now = self.now();
                    self.subscriptions
                        .delivered(now, &mut self.endpoint, link, number);
                }
                Event::PathProven { link } => self.note_watcher(link),
                Event::Proven { link, peer } => self.handoff.links.proven(link, peer),
                Event::UnknownTicket {
                    ticket,
                    path,
                    datagram,
                } => self.tickets.look_up(ticket, path, datagram),
                Event::TicketDue {
                    ticket,
                    opened,
                    issued,
                } => self.tickets.store(ticket, self.now() - opened, issued),
                Event::TicketAddress { ticket, address } => {
                    self.tickets.store_address(ticket, address);
                }
                Event::Opened { link, .. } => {
                    self.outbound.opened(link);
                    let now = self.now();
                    let links = &mut self.handoff.links;
                    links.dialled(now, &mut self.endpoint, link);
                }
                // Nobody pushes to a realm, and a realm resumes no links as initiator.
                Event::Pushed { .. }
                | Event::HighestOperation { .. }
                | Event::TicketRefused { .. } => {}
            }
        }
    }

    /// Returns the early request if it may be carried out at once. A `watch` is held back: a replay
    /// of a recorded one would reveal that events arrive (HS-7).
    fn take_early(
        &mut self,
        now: Time,
        link: LinkId,
        (number, bytes): (RequestId, Vec<u8>),
    ) -> Option<(RequestId, Vec<u8>)> {
        let command = Request::parse(&bytes).map(|request| request.command);
        let is_watch = matches!(command, Ok(Command::Watch(_)));
        let request = IncomingRequest { number, bytes };
        if is_watch {
            self.endpoint.hold(now, link, request);
            return None;
        }
        let request = self.endpoint.keep_for_proof(now, link, request)?;
        Some((request.number, request.bytes))
    }

    fn greet(&mut self, link: LinkId, peer: Option<PublicKey>) {
        let Some(peer) = peer else {
            // A plain link has no authenticated peer.
            let now = self.now();
            self.endpoint.welcome(now, link, None, OperationNumber(0));
            return;
        };
        let (realm, now) = (Arc::clone(&self.realm), self.clock.now());
        let completions = self.tasks.begin();
        tokio::spawn(async move {
            let greeting = realm.greet(&peer, now).await;
            let _ = completions.send(Completion::Greeting(link, greeting));
        });
    }

    fn execute(&mut self, link: LinkId, number: RequestId, bytes: Vec<u8>, early: bool) {
        let now = self.now();
        let Some(status) = self.endpoint.link(link) else {
            // The link has ended in the meantime.
            return;
        };
        let subnet = Subnet::from(status.proven_address().ip());
        if let Err(refusal) = self
            .admission
            .take(now, self.tasks.in_progress(), link, subnet)
        {
            let refused = Answer::Refused(refusal).to_bytes();
            self.endpoint.reply(now, link, number, refused);
            return;
        }
        let inline = status.message_max();
        let is_trusted = status.is_trusted();
        let total = if is_trusted { LONGEST_ANSWER } else { inline };
        let mut caller = Caller {
            subnet,
            origin: Origin::of_link(status.peer(), status.own()),
            // A resumed link has no more forward secrecy than early data.
            secrecy: if early || status.is_resumed() {
                Secrecy::Early
            } else {
                Secrecy::Forward
            },
            answer_limits: AnswerLimits { inline, total },
            trusts_cursors: !status.is_life_unknown(),
            asks_account: status.account().is_none(),
            now: self.clock.now(),
        };
        let realm = Arc::clone(&self.realm);
        let links = Arc::clone(self.handoff.links.table());
        let is_unproven = status.is_unproven();
        let completions = self.tasks.begin();
        let executing = async move {
            let mut outcome = realm.handle(&caller, &bytes).await;
            if outcome.is_err() && is_unproven {
                let _ = completions.send(Completion::Unproven(link, number, bytes));
                return;
            }
            if outcome.is_err()
                && caller.answer_limits.total < LONGEST_ANSWER
                && realm.account_of(&caller, &bytes).await.is_some()
            {
                // This is the first command of a link whose user is logged in: answers of any
                // length are allowed.
                caller.answer_limits.total = LONGEST_ANSWER;
                outcome = realm.handle(&caller, &bytes).await;
            }
            let handled = outcome.unwrap_or_else(TooLong::into_handled);
            match (&handled.effect, &caller.device()) {
                (Effect::Introduced, Some(peer)) => links.introduced(peer),
                (Effect::PeerAnswered, Some(peer)) => links.heard(peer),
                // A plain link has no authenticated peer.
                (Effect::Introduced | Effect::PeerAnswered, None)
                | (Effect::None | Effect::Watch(_) | Effect::Unwatch, _) => {}
            }
            let _ = completions.send(Completion::Answer {
                link,
                number,
                is_early: early,
                handled,
            });
        };
        // Boxed, so that the large future is not copied as a part of the task.
        tokio::spawn(Box::pin(executing));
    }

    /// Handles completions of tasks: `first` and all others that are queued.
    fn finish(&mut self, first: Completion<S>) {
        self.look_at_clock();
        let now = self.now();
        let mut next = Some(first);
        while let Some(done) = next {
            match done {
                Completion::Greeting(link, Greeting { account, highest }) => {
                    self.tasks.end();
                    let account = account.as_ref().map(|account| self.account_id(account));
                    self.endpoint.welcome(now, link, account, highest);
                }
                Completion::Ticket(path, datagram, found) => {
                    let found = for_endpoint(found, |account| self.account_id(account));
                    self.endpoint.ticket_found(now, path, &datagram, found);
                }
                Completion::Unwatched(link) => {
                    // The client opens another link, asks again, and learns the reason from the
                    // refusal.
                    self.end_watch(link);
                    self.endpoint.close(now, link, CloseReason::Done);
                }
                Completion::Watchers(watchers) => {
                    // These clients learn that their links are unknown.
                    for (link, watched) in watchers {
                        let (remote, local) = (watched.remote, watched.local);
                        self.endpoint.tell_forgotten(link, Path { remote, local });
                    }
                }
                Completion::Push(link, push) => {
                    self.subscriptions.push(now, &mut self.endpoint, link, push);
                }
                Completion::Unproven(link, number, bytes) => {
                    self.tasks.end();
                    let request = IncomingRequest { number, bytes };
                    self.endpoint.hold(now, link, request);
                }
                Completion::Answer {
                    link,
                    number,
                    is_early,
                    handled,
                } => {
                    self.tasks.end();
                    if let Some(account) = &handled.account {
                        let account = self.account_id(account);
                        self.endpoint.trust(link, account);
                        self.endpoint.ticket_is_due_again(link);
                    }
                    if is_early
                        && let Some(operation) = handled.operation
                        && !Answer::is_refusal(&handled.answer)
                        && self
                            .endpoint
                            .link(link)
                            .is_some_and(|link| link.is_fresh(operation))
                    {
                        self.endpoint.ticket_is_genuine(link);
                    }
                    self.endpoint.reply(now, link, number, handled.answer);
                    match handled.effect {
                        Effect::None | Effect::Introduced | Effect::PeerAnswered => {}
                        // The link may have ended in the meantime.
                        Effect::Watch(_) if self.endpoint.link(link).is_none() => {}
                        Effect::Watch(watch) => {
                            let (clock, completions) = (self.clock.clone(), self.tasks.sender());
                            self.subscriptions.begin(link, *watch, clock, completions);
                            self.note_watcher(link);
                        }
                        Effect::Unwatch => self.end_watch(link),
                    }
                }
            }
            next = self.tasks.try_next();
        }
    }

    /// Stores the path of the watch over `link` if it has changed.
    fn note_watcher(&mut self, link: LinkId) {
        if self.watchers.are_stored()
            && let Some(path) = self.endpoint.link(link).and_then(LinkStatus::path)
            && self.subscriptions.has_moved(link, path)
        {
            self.watchers.store(link, path);
        }
    }

    /// Ends the watch over `link`, if there is one.
    fn end_watch(&mut self, link: LinkId) {
        if self.subscriptions.end(link) {
            self.watchers.remove(link);
        }
    }

    /// Returns a description of resources still held after all links have ended. Empty if nothing
    /// leaks.
    #[cfg(test)]
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = self.endpoint.leftovers();
        let counts = [
            ("commands in progress", self.tasks.in_progress()),
            ("requests to peers", self.outbound.len()),
            ("watches", self.subscriptions.len()),
        ];
        left.extend(
            counts
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(what, count)| format!("{count} {what} are left")),
        );
        left
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
