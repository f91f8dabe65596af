//! One of a listener's threads: its socket, its endpoint, and the commands in work on its links.
//!
//! What arrives goes to the endpoint; the requests it gives out go to the realm, each as a task of its
//! own, and what the realm asks of others leaves by the same socket. The answers come back through a queue and leave as the endpoint says. No locks on the way.

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
    completion::{Answered, Completion, Then},
    handoff::{HandedOff, Handoff},
    limits::LONGEST_ANSWER,
    outbound::{OutboundRequest, OutboundRequests},
    subscriptions::Subscriptions,
    watchers::ToWrite,
};
use crate::{
    crypto::PublicKey,
    endpoint::{AccountId, Endpoint, Event, LinkId, Path},
    host::{Listening, Received, SendBatch},
    link::{Time, earliest},
    realm::{Account, Caller, Greeting, LifeNews, Realm, TooLong},
    store::Store,
    subnet::Subnet,
    wire::{
        Answer, CloseReason, Command, OperationNumber, PeerRequest, Refusal, Request, RequestId,
    },
};

/// Batches of datagrams taken in before answers and timers get their turn.
const RECEIVE_BURST: usize = 2;
/// Batches of datagrams sent before what arrives gets its turn.
const TRANSMIT_BURST: usize = 8;
/// The longest datagram that a worker takes in, in bytes: no party may send longer ones (LINK-10).
pub const DATAGRAM_BYTES_MAX: usize = 9000;
/// What a client is asked to wait whose watch could not begin, in milliseconds.
const WATCH_BUSY_MS: u64 = 1000;
/// How long a server that stops waits for what is in work.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// One worker of a listener.
pub struct Worker<S> {
    pub(super) endpoint: Endpoint,
    pub(super) realm: Arc<Realm<S>>,
    admission: Arc<Admission>,
    beside: Handoff,
    pub(super) clock: Clock,
    /// The port that the listener goes by and its kind of address, in one number, and what stands for its start; none where nobody on its links is known.
    pub(super) listener: Option<(u32, u64)>,
    started: Instant,
    in_work: usize,
    pub(super) done: mpsc::UnboundedSender<Completion<S>>,
    finished: mpsc::UnboundedReceiver<Completion<S>>,
    calls: OutboundRequests,
    pub(super) watches: Subscriptions,
    pub(super) watchers: Option<ToWrite>,
    /// Two accounts have one id so seldom, and by a key that nobody knows, that nobody finds them.
    account_ids: RandomState,
}

impl<S: Store> Worker<S> {
    pub fn new(
        mut endpoint: Endpoint,
        realm: Arc<Realm<S>>,
        admission: Arc<Admission>,
        beside: Handoff,
        (clock, listener): (Clock, Option<(u32, u64)>),
    ) -> Self {
        endpoint.know_lives(realm.lives_to_come_back_to());
        // As many answers can wait in it as commands may be in work.
        let (done, finished) = mpsc::unbounded_channel();
        Self {
            endpoint,
            realm,
            admission,
            beside,
            clock,
            listener,
            started: Instant::now(),
            in_work: 0,
            done,
            finished,
            calls: OutboundRequests::default(),
            watches: Subscriptions::default(),
            watchers: None,
            account_ids: RandomState::new(),
        }
    }

    /// Serves until told to stop, and then until what is in work is answered.
    pub async fn run(
        &mut self,
        mut socket: Listening,
        to_call: &mut mpsc::Receiver<OutboundRequest>,
        mut told_to_stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let mut received = Received::new(DATAGRAM_BYTES_MAX);
        let mut leaving = SendBatch::default();
        let mut handed = Vec::new();
        let mut stop_by = None;
        self.recall_watchers();
        loop {
            self.pass_on();
            let now = self.now();
            self.calls.tidy(now, &mut self.endpoint);
            let idle = self.transmit(&mut socket, &mut leaving).await;
            if self.endpoint.has_events() {
                continue;
            }
            // A socket that is blocked may never have sent all.
            if let Some(stop_by) = stop_by
                && ((idle && self.in_work == 0) || Instant::now() >= stop_by)
            {
                self.endpoint.close_all(self.now());
                self.transmit(&mut socket, &mut leaving).await;
                return Ok(());
            }
            let next = self.next_timeout(stop_by);
            // In this order: what is the least first, so that a flood on the socket holds nothing else up.
            tokio::select! {
                biased;
                _ = told_to_stop.changed(), if stop_by.is_none() => {
                    self.endpoint.stop_admitting();
                    stop_by = Some(Instant::now() + STOP_PATIENCE);
                }
                () = sleep_until(next) => {
                    // What has come by now needs no repeat (LINK-8).
                    self.receive(&socket, &mut received);
                    let now = self.now();
                    self.endpoint.handle_timeout(now);
                    let seated = &self.beside.seated;
                    self.calls.handle_timeout(now, &mut self.endpoint, seated);
                    // Nor may timers that are due all the time hold up what is done.
                    if let Ok(done) = self.finished.try_recv() {
                        self.finish(done);
                    }
                }
                Some(done) = self.finished.recv() => self.finish(done),
                _ = self.beside.handed.recv_many(&mut handed, RECEIVE_BURST) => {
                    handed.drain(..).for_each(|one| self.take_over(&one));
                    // What others hand over must not keep this one's own socket from its turn.
                    self.receive(&socket, &mut received);
                }
                Ok(()) = self.beside.realms.changed() => {
                    let realms = self.beside.realms.borrow_and_update().clone();
                    let now = self.now();
                    self.beside.seated.look(now, &mut self.endpoint, &realms);
                    self.endpoint.leave_to_first(realms);
                }
                Ok(()) = self.beside.seated.changed.changed() => {
                    let now = self.now();
                    let seated = &self.beside.seated;
                    seated.keep_open(now, &mut self.endpoint);
                    self.calls.look_elsewhere(now, &mut self.endpoint, seated);
                }
                Some(call) = to_call.recv() => {
                    let now = self.now();
                    self.calls.begin(now, &mut self.endpoint, call);
                }
                ready = socket.readable(), if idle => {
                    if let Err(error) = ready {
                        // Something that was sent did not get through; it is sent again.
                        tracing::debug!(%error, "the network says");
                    }
                    self.receive(&socket, &mut received);
                }
                // There is more to send: only let what has arrived have its turn.
                () = std::future::ready(()), if !idle => self.receive(&socket, &mut received),
            }
        }
    }

    pub(super) fn account_id(&self, account: &Account) -> AccountId {
        AccountId::new(self.account_ids.hash_one(account))
    }

    fn next_timeout(&self, stop_by: Option<Instant>) -> Option<Instant> {
        let timeout = earliest(
            self.endpoint.poll_timeout(),
            self.calls.timeout(&self.endpoint),
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
                // What a network says of an earlier datagram is no reason to stop listening.
                Err(error) => {
                    tracing::debug!(%error, "receiving");
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
                    self.beside.hand_over(other, path, datagram.bytes);
                }
            }
        }
    }

    /// Looks whether the machine was asleep: to be done before anything that tickets are judged by.
    fn look_at_clock(&mut self) {
        if self.clock.has_jumped() {
            self.endpoint.forget_tickets(self.now());
        }
    }

    /// Takes in what came to another worker and belongs to this one.
    fn take_over(&mut self, handed: &HandedOff) {
        self.look_at_clock();
        let now = self.now();
        // Should it not belong here either, it is noise.
        let _ = self
            .endpoint
            .handle_datagram(now, handed.path, &handed.bytes);
    }

    /// Sends what the endpoint has to send, but not for ever. True when nothing is left.
    async fn transmit(&mut self, socket: &mut Listening, leaving: &mut SendBatch) -> bool {
        for _ in 0..TRANSMIT_BURST {
            let now = self.now();
            let mut next = |datagram: &mut Vec<u8>| {
                let Path { remote, local } = self.endpoint.poll_transmit(now, datagram)?;
                Some((remote, local))
            };
            while !leaving.is_full() && leaving.add(&mut next) {}
            let is_all = !leaving.is_full();
            let refused = |error| tracing::debug!(%error, "sending");
            socket.send(leaving, refused).await;
            if is_all {
                return true;
            }
        }
        false
    }

    /// Gives the endpoint's events to the realm.
    fn pass_on(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Incoming {
                    link,
                    peer,
                    address,
                    claim,
                } => {
                    tracing::debug!(link = link.0, %address, "a link opens");
                    // Before the greeting, which waits for the store: early requests do not wait for that.
                    let LifeNews { life, is_unknown } = self.realm.judge_claim(claim.as_ref());
                    self.endpoint.tell_life(link, life, is_unknown);
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
                        self.carry_out(link, number, bytes, early);
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
                    self.calls.moved(now, &mut self.endpoint, from, to);
                }
                Event::Closed { link, .. } => {
                    tracing::debug!(link = link.0, "a link has ended");
                    self.beside.seated.closed(link);
                    self.calls.closed(link);
                    self.end_watch(link);
                }
                Event::Reply {
                    link,
                    number,
                    bytes,
                } => self.calls.answered(link, number, bytes),
                Event::Expired { link, number, .. } => {
                    let now = self.now();
                    self.calls.expired(now, &mut self.endpoint, link, number);
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
                Event::Hello { address, reply } => self.calls.introduced(address, &reply),
                Event::Delivered { link, number } => {
                    let now = self.now();
                    self.watches
                        .delivered(now, &mut self.endpoint, link, number);
                }
                Event::PathProven { link } => self.note_watcher(link),
                Event::Proven { link, peer } => self.beside.seated.proven(link, peer),
                Event::UnknownTicket {
                    ticket,
                    path,
                    datagram,
                } => self.look_ticket_up(ticket, path, datagram),
                Event::TicketDue {
                    ticket,
                    opened,
                    known,
                } => self.keep_ticket(ticket, opened, known),
                Event::TicketPlace { ticket, place } => self.note_place(ticket, place),
                Event::Opened { link, .. } => {
                    self.calls.opened(link);
                    let now = self.now();
                    let seated = &mut self.beside.seated;
                    seated.dialled(now, &mut self.endpoint, link);
                }
                // Nobody pushes anything to a realm, and it resumes no link of its own.
                Event::Pushed { .. } | Event::Standing { .. } | Event::TicketRefused { .. } => {}
            }
        }
    }

    /// What may be carried out at once of what came early. Somebody may have recorded a `watch`, and would see that events come (HS-7).
    fn take_early(
        &mut self,
        now: Time,
        link: LinkId,
        (number, bytes): (RequestId, Vec<u8>),
    ) -> Option<(RequestId, Vec<u8>)> {
        let command = Request::parse(&bytes).map(|request| request.command);
        if let Ok(Command::Watch { .. }) = command {
            self.endpoint.hold(now, link, (number, bytes));
            return None;
        }
        self.endpoint.keep_for_proof(now, link, (number, bytes))
    }

    fn greet(&mut self, link: LinkId, peer: Option<PublicKey>) {
        let Some(peer) = peer else {
            // Nothing is known of whoever comes over a plain link.
            let now = self.now();
            self.endpoint.welcome(now, link, None, OperationNumber(0));
            return;
        };
        let (realm, done, now) = (Arc::clone(&self.realm), self.done.clone(), self.clock.now());
        self.in_work += 1;
        tokio::spawn(async move {
            let greeting = realm.greet(&peer, now).await;
            // The worker is gone only when the server has stopped.
            let _ = done.send(Completion::Greeting(link, greeting));
        });
    }

    fn carry_out(&mut self, link: LinkId, number: RequestId, bytes: Vec<u8>, early: bool) {
        let now = self.now();
        let Some(address) = self.endpoint.proven_address(link) else {
            // Its link has ended meanwhile.
            return;
        };
        let subnet = Subnet::from(address.ip());
        if let Err(refusal) = self.admission.take(now, self.in_work, (link, subnet)) {
            let refused = Answer::Refused(refusal).to_bytes();
            self.endpoint.reply(now, link, number, refused);
            return;
        }
        let caller = Caller {
            subnet,
            device: self.endpoint.peer(link),
            own: self.endpoint.own(link),
            // What is said on a link that was resumed has no more forward secrecy than what came early.
            early: early || self.endpoint.is_resumed(link),
            operation: OperationNumber(0),
            room: self.endpoint.message_max(link),
            longest: if self.endpoint.is_trusted(link) {
                LONGEST_ANSWER
            } else {
                self.endpoint.message_max(link)
            },
            trusts_cursors: !self.endpoint.is_life_unknown(link),
            now: self.clock.now(),
        };
        let (realm, done) = (Arc::clone(&self.realm), self.done.clone());
        let links = Arc::clone(self.beside.seated.links());
        let is_unproven = self.endpoint.is_unproven(link);
        let is_account_known = self.endpoint.account(link).is_some();
        self.in_work += 1;
        let carrying_out = async move {
            let mut outcome = realm.carry_out(&caller, &bytes).await;
            if outcome.is_err() && is_unproven {
                let _ = done.send(Completion::Unproven(link, number, bytes));
                return;
            }
            if outcome.is_err()
                && caller.longest < LONGEST_ANSWER
                && realm.account_of(&caller, &bytes, &[]).await.is_some()
            {
                // It is the first command of a link, of somebody who is logged in, and answers of any length are theirs.
                let caller = Caller {
                    longest: LONGEST_ANSWER,
                    ..caller
                };
                outcome = realm.carry_out(&caller, &bytes).await;
            }
            let mut answer = outcome.unwrap_or_else(TooLong::to_bytes);
            let (mut then, mut account) = (Then::Nothing, None);
            if !Answer::is_refusal(&answer) {
                if let Some(peer) = caller.device
                    && let Ok(PeerRequest::Introduce { .. }) = PeerRequest::parse(&bytes)
                {
                    links.introduced(&peer);
                }
                if !is_account_known {
                    account = realm.account_of(&caller, &bytes, &answer).await;
                }
                then = follow_up(&realm, &caller, &bytes).await;
            }
            // What it has begun must not seem to have begun when it has not.
            if matches!(then, Then::Failed) {
                answer = Answer::Refused(Refusal::busy(WATCH_BUSY_MS)).to_bytes();
                then = Then::Nothing;
            }
            let operation = Request::parse(&bytes).ok().filter(|_| early);
            let operation = operation.and_then(|request| request.command.operation());
            let answered = Answered {
                answer,
                then,
                account,
                operation: operation.map(|operation| operation.number),
            };
            let _ = done.send(Completion::Answer(link, number, answered));
        };
        // In a place of its own: as a part of the task it would be moved about.
        tokio::spawn(Box::pin(carrying_out));
    }

    /// Takes in what tasks have found out: the first, and whatever else waits.
    fn finish(&mut self, first: Completion<S>) {
        self.look_at_clock();
        let now = self.now();
        let mut next = Some(first);
        while let Some(done) = next {
            match done {
                Completion::Greeting(link, Greeting { account, highest }) => {
                    self.in_work -= 1;
                    let account = account.as_ref().map(|account| self.account_id(account));
                    self.endpoint.welcome(now, link, account, highest);
                }
                Completion::Ticket(path, datagram, found) => {
                    let found = self.known_by(found);
                    self.endpoint.ticket_found(now, path, &datagram, found);
                }
                Completion::Unwatched(link) => {
                    // Its other side opens another, asks again, and is told why not.
                    self.end_watch(link);
                    self.endpoint.close(now, link, CloseReason::Done);
                }
                Completion::Watchers(watchers) => self.tell_watchers(watchers),
                Completion::Push(link, push) => {
                    self.watches.push(now, &mut self.endpoint, link, push);
                }
                Completion::Unproven(link, number, bytes) => {
                    self.in_work -= 1;
                    self.endpoint.hold(now, link, (number, bytes));
                }
                Completion::Answer(link, number, answered) => {
                    self.in_work -= 1;
                    if let Some(account) = &answered.account {
                        let account = self.account_id(account);
                        self.endpoint.trust(link, account);
                        self.endpoint.ticket_is_due_again(link);
                    }
                    if let Some(operation) = answered.operation
                        && !Answer::is_refusal(&answered.answer)
                        && self.endpoint.is_fresh(link, operation)
                    {
                        self.endpoint.ticket_is_genuine(link);
                    }
                    self.endpoint.reply(now, link, number, answered.answer);
                    match answered.then {
                        Then::Nothing | Then::Failed => {}
                        // Its link may have ended meanwhile: then nobody is there to watch.
                        Then::Watch(_) if !self.endpoint.has(link) => {}
                        Then::Watch(watch) => {
                            let done = self.done.clone();
                            self.watches.begin(link, *watch, self.clock.clone(), done);
                            self.note_watcher(link);
                        }
                        Then::Unwatch => self.end_watch(link),
                    }
                }
            }
            next = self.finished.try_recv().ok();
        }
    }

    /// What is still held of what others asked for, once all of them are gone; nothing, if all is well.
    #[cfg(test)]
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = self.endpoint.leftovers();
        let counts = [
            ("commands in work", self.in_work),
            ("calls", self.calls.len()),
            ("watches", self.watches.len()),
        ];
        left.extend(
            counts
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(what, count)| format!("{count} {what} are left")),
        );
        left
    }

    pub(super) fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// What a command that was answered brings with it.
async fn follow_up<S: Store>(realm: &Arc<Realm<S>>, caller: &Caller, command: &[u8]) -> Then<S> {
    match Request::parse(command).map(|request| request.command) {
        Ok(Command::Watch { .. }) => match realm.watch(caller, command).await {
            Some(watch) => Then::Watch(Box::new(watch)),
            None => Then::Failed,
        },
        Ok(Command::Unwatch { .. } | Command::Logout { .. }) => Then::Unwatch,
        _ => Then::Nothing,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
