//! Turns a connection string into a link for requests.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::Rng as _;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    CallError, Notice, ProfileError, Shared,
    ask::{Ask, AskError, Job, KnownPath, Status, Target, TicketNews, ToRemember, Told},
    driver::Driver,
    life::LifeTold,
    lock,
    paths::Paths,
    route::Route,
    state, tickets,
    who::ask_who,
};
use crate::{
    crypto::{ConnectionString, PublicKey},
    endpoint::{self, EarlyData, Endpoint},
    link::{LinkStats, PathMemory},
    wire::{Life, Request},
};

/// The realm's key, the path memory, and the change to the ticket.
type News = (Option<PublicKey>, Option<KnownPath>, Option<TicketNews>);

/// The longest answer that is reassembled from fragments, in bytes (LINK-13).
const LONGEST_ANSWER: usize = 65 << 10;
/// The maximum number of requests that wait for the driver.
const ASKS_MAX: usize = 64;

/// A running driver and the channels to it. The driver ends when this is dropped.
#[derive(Debug)]
pub struct Connection {
    jobs: mpsc::Sender<Job>,
    status: watch::Receiver<Status>,
    /// The host of the connection string.
    host: String,
    pinned: Option<PublicKey>,
    news: Arc<Mutex<ToRemember>>,
}

/// What a call needs of the running driver.
struct Reach {
    jobs: mpsc::Sender<Job>,
    status: watch::Receiver<Status>,
    host: String,
    pinned: Option<PublicKey>,
}

impl Shared {
    /// Sends a request to the realm. Returns the bytes of the answer, and whether the request
    /// changes something. `life` is the life of the realm's store to which positions in the request
    /// belong.
    pub(super) async fn ask(
        &self,
        bytes: Vec<u8>,
        early: EarlyData,
        deadline: Instant,
        life: Option<Life>,
    ) -> Result<(Vec<u8>, bool), CallError> {
        let (answer, answered) = oneshot::channel();
        // A request without positions may use whatever link exists now.
        let life = life.or(self.state()?.life.map(Life));
        let reach = self.connected(deadline).await?;
        let waited = self.options.deadline;
        let lost = || CallError::OutcomeUnknown { waited };
        let request = Request::parse(&bytes);
        let secret = request
            .as_ref()
            .is_ok_and(|request| request.command.carries_password());
        let changes = request.is_ok_and(|request| request.command.operation().is_some());
        let ask = Ask {
            bytes,
            begun: Instant::now(),
            deadline,
            early: early == EarlyData::Allowed && self.options.early_data,
            secret,
            changes,
            answer,
            life,
            left: false,
        };
        reach.jobs.send(Job::Ask(ask)).await.map_err(|_| lost())?;
        let outcome = answered.await.map_err(|_| lost())?;
        self.follow(reach.pinned).await?;
        let address = reach.status.borrow().address;
        let answer = outcome.map_err(|error| match error {
            AskError::Expired { left: true, .. } if changes => lost(),
            AskError::Expired {
                left: true,
                heard: true,
                ..
            } => CallError::NoAnswer { waited },
            // Other requests were before it on the link.
            AskError::Expired {
                left: false,
                heard: true,
                ..
            } => CallError::NotDone { waited },
            error => self.failed(error, reach.host, address, reach.pinned),
        })?;
        Ok((answer, changes))
    }

    /// Returns the error for a request that has certainly not taken effect.
    fn failed(
        &self,
        error: AskError,
        host: String,
        address: Option<SocketAddr>,
        pinned: Option<PublicKey>,
    ) -> CallError {
        let no_route = |cause| CallError::Resolve {
            host,
            source: io::Error::other(cause),
        };
        let waited = self.options.deadline;
        match (error, address, pinned) {
            (AskError::Expired { refused, .. }, Some(address), _) => CallError::Unreachable {
                address,
                waited,
                refused,
            },
            (AskError::KeyChanged(found), Some(address), Some(pinned)) => CallError::KeyChanged {
                address,
                pinned,
                found,
            },
            (AskError::KeyChanged(_), ..) => CallError::NoKey,
            (AskError::OtherVersion(versions), ..) => CallError::OtherVersion(versions),
            (AskError::NoRoute(cause), ..) => no_route(cause),
            (AskError::Expired { .. }, None, _) => no_route("it has no address".into()),
        }
    }

    /// Sends pushed messages to `tell` from now on.
    pub(super) async fn tell_pushed(&self, tell: mpsc::Sender<Told>) -> Result<(), CallError> {
        let jobs = self.connected(self.deadline()).await?.jobs;
        let waited = self.options.deadline;
        let lost = |_| CallError::OutcomeUnknown { waited };
        jobs.send(Job::Tell(tell)).await.map_err(lost)
    }

    /// Returns the running driver and its realm. Starts a driver if none is running.
    async fn connected(&self, deadline: Instant) -> Result<Reach, CallError> {
        let mut connection = self.connection.lock().await;
        if connection
            .as_ref()
            .is_none_or(|connection| connection.jobs.is_closed())
        {
            *connection = Some(self.connect(deadline).await?);
        }
        match connection.as_ref() {
            Some(open) => Ok(Reach {
                jobs: open.jobs.clone(),
                status: open.status.clone(),
                host: open.host.clone(),
                pinned: open.pinned,
            }),
            None => Err(CallError::NoServer),
        }
    }

    /// Remembers the life of the realm's store. Remembers the realm's new key if the previous key
    /// has vouched for it.
    async fn follow(&self, pinned: Option<PublicKey>) -> Result<(), CallError> {
        let status = self.link_status().await;
        if let Some(told) = status.life {
            self.learn_life(told)?;
        }
        if let (Some(from), Some(to)) = (pinned, status.successor)
            && self.followed(from, to)?
        {
            self.note(Notice::KeyFollowed { from, to });
        }
        Ok(())
    }

    /// Records the life that the realm reported. If the realm did not know the claimed life, it was
    /// restored from a backup: the known positions of shown messages belong to a lost store
    /// (READ-9).
    fn learn_life(&self, told: LifeTold) -> Result<(), CallError> {
        self.link_record.note_life(told.life);
        let (realm, _) = self.target()?;
        let profile = &self.profile;
        let known = profile.read(|records| state::load(records, realm))?.life;
        if known.map(Life) == told.life {
            return Ok(());
        }
        Ok(profile.write(|records| state::learn_life(records, realm, told))?)
    }

    fn followed(&self, from: PublicKey, to: PublicKey) -> Result<bool, CallError> {
        let (realm, _) = self.target()?;
        Ok(self
            .profile
            .write(|records| state::update(records, realm, |state| state.follow(from, to)))?)
    }

    /// Records that the realm has answered: its identity is confirmed. Remembers it from now on if
    /// the options say so.
    pub(super) async fn note_heard(&self) -> Result<(), CallError> {
        let status = self.link_status().await;
        if !self.link_record.note_heard(status.opened) {
            // The answer is valid whether or not this can be written.
            let _ = self.note_path(false).await;
            let _ = self.learn_standing(status);
            return Ok(());
        }
        let (realm, server) = self.target()?;
        let (rtt, highest) = (status.rtt, status.highest.0);
        let remember = self.options.remember && self.options.server.is_some();
        let (key, path, ticket) = self.take_news().await;
        let now = self.host.time_of_day();
        let written = self.profile.write(|records| {
            state::update(records, realm, |state| {
                if let Some(known) = &state.server {
                    state.server = Some(ConnectionString {
                        key: known.key.or(server.key),
                        ..server.clone()
                    });
                }
                state.is_heard = true;
                if status.is_highest_told {
                    state.learn_highest(highest);
                }
                state.rtt_us = rtt
                    .and_then(|rtt| u64::try_from(rtt.as_micros()).ok())
                    .or(state.rtt_us);
            })?;
            if let Some((network, memory)) = &path {
                Paths::save(records, realm, *network, now, memory)?;
            }
            match (key, &ticket) {
                (Some(key), Some(TicketNews::Fresh(ticket, since))) => {
                    tickets::save(records, realm, key, *since, ticket)?;
                }
                (_, Some(TicketNews::Gone)) => tickets::delete(records, realm)?,
                (None, Some(TicketNews::Fresh(..))) | (_, None) => {}
            }
            if remember || state::remembered(records)?.is_none() {
                state::remember(records, realm)?;
            }
            Ok(())
        });
        if written.is_ok() && status.is_highest_told {
            self.link_record.note_told(status.opened);
        }
        Ok(written?)
    }

    /// Learns the numbers that the realm has seen, and so whether this profile is an old copy. On a
    /// resumed link the realm reports them a little later (EXACT-8).
    fn learn_standing(&self, status: Status) -> Result<(), CallError> {
        if !status.is_highest_told || self.link_record.is_told(status.opened) {
            return Ok(());
        }
        let (realm, _) = self.target()?;
        let highest = status.highest.0;
        self.profile.write(|records| {
            if state::load(records, realm)?.highest >= highest {
                return Ok(());
            }
            state::update(records, realm, |state| state.learn_highest(highest))
        })?;
        self.link_record.note_told(status.opened);
        Ok(())
    }

    /// Writes the path memory if that is worth a commit. `ends` is true for the last time, when the
    /// process ends.
    async fn note_path(&self, ends: bool) -> Result<(), ProfileError> {
        let connection = self.connection.lock().await;
        let changed = connection.as_ref();
        let changed = changed.and_then(|open| lock(&open.news).take_changed_path(ends));
        drop(connection);
        let Some(((network, memory), (realm, _))) = changed.zip(self.target().ok()) else {
            return Ok(());
        };
        let now = self.host.time_of_day();
        self.profile
            .write(|records| Paths::save(records, realm, network, now, &memory))
    }

    /// Returns the state of the link to the realm.
    pub async fn link_status(&self) -> Status {
        let connection = self.connection.lock().await;
        let status = connection.as_ref().map(|open| *open.status.borrow());
        status.unwrap_or_default()
    }

    /// Returns the state of the link if it is available without waiting.
    pub(super) fn link_status_now(&self) -> Option<Status> {
        let connection = self.connection.try_lock().ok()?;
        connection.as_ref().map(|open| *open.status.borrow())
    }

    async fn connect(&self, deadline: Instant) -> Result<Connection, CallError> {
        self.link_record.reset();
        let state = self.state()?;
        let (realm, server) = self.target()?;
        // The key may have been replaced by a successor, or accepted on first use, since then.
        let key = state
            .connection_string()
            .and_then(|known| known.key)
            .or(server.key);
        let server = ConnectionString {
            key,
            ..server.clone()
        };
        let remembered = state.rtt_us.map(Duration::from_micros);
        let rtt = remembered.or(self.options.link.rtt);
        let host = server.host.clone();
        let meter = self.options.meter.clone();
        let mut route = Route::new(self.host.clone(), meter, host.clone(), server.port, rtt);
        let mut rng = self.host.rng()?;
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let config = endpoint::Config {
            accept: None,
            hello: None,
            early_data: self.options.early_data,
            // A resumed link has no forward secrecy either.
            resumes: self.options.early_data,
            worker: endpoint::WorkerId::ALONE,
            max_datagram: self.options.link.max_datagram,
            max_message: LONGEST_ANSWER,
            rate: self.options.link.rate,
            redundancy: self.options.link.redundancy,
            lifetime: self.options.lifetime,
            links_max: 1,
            memory_max: usize::MAX,
            handshakes: endpoint::Handshakes::default(),
            idle: Duration::MAX,
            shared_idle: Duration::MAX,
        };
        let mut endpoint = Endpoint::new(config, &self.profile.key().clone().into(), seed);
        let pinned = match server.key {
            _ if state.plain => None,
            Some(key) => Some(key),
            None if self.options.trust => {
                let found = ask_who(&mut route, &mut endpoint, deadline)
                    .await
                    .map_err(|error| self.failed(error, host.clone(), route.address(), None))?;
                let server = ConnectionString {
                    key: Some(found),
                    ..server
                };
                self.profile.write(|records| {
                    state::update(records, realm, |state| state.server = Some(server))
                })?;
                self.note(Notice::Trusted(found));
                Some(found)
            }
            None => return Err(CallError::NoKey),
        };
        let now = self.host.time_of_day();
        let resumable = pinned.filter(|_| self.options.early_data);
        let (ticket, paths) = self.profile.read(|records| {
            let found = resumable.map(|key| tickets::load(records, realm, key, now));
            Ok((found.transpose()?, Paths::load(records, realm)?))
        })?;
        let ticket = match ticket {
            Some(tickets::Found::Good(ticket, since)) => Some((ticket, since)),
            Some(tickets::Found::Nothing) | None => None,
            Some(tickets::Found::Over) => {
                self.profile
                    .write(|records| tickets::delete(records, realm))?;
                None
            }
        };
        let news = Arc::<Mutex<ToRemember>>::default();
        let target = Target {
            key: pinned,
            rtt,
            life: state.life.map(Life),
            paths: (paths, now),
            ticket,
            news: Arc::clone(&news),
        };
        let (jobs, taken) = mpsc::channel(ASKS_MAX);
        let (tell, status) = watch::channel(Status::default());
        let silence = self.options.link.keepalive;
        let keepalive = Some(silence).filter(|silence| !silence.first.is_zero());
        let driver = Driver::new(target, route, endpoint, tell, keepalive);
        tokio::spawn(driver.run(taken));
        Ok(Connection {
            jobs,
            status,
            host,
            pinned,
            news,
        })
    }

    /// Before the process ends: writes the path memory, and sends the remaining frames, such as the
    /// end of a watch.
    pub async fn leave(&self) {
        // Without this, the next process starts from the same knowledge as this one did.
        let _ = self.note_path(true).await;
        let connection = self.connection.lock().await;
        let Some(jobs) = connection.as_ref().map(|open| open.jobs.clone()) else {
            return;
        };
        drop(connection);
        let (tell, left) = oneshot::channel();
        if jobs.send(Job::Leave(tell)).await.is_ok() {
            // The driver answers when it handles the job, or it has ended.
            let _ = left.await;
        }
    }

    /// Returns the statistics of the link. `None` if there is no link.
    pub async fn link_stats(&self) -> Option<LinkStats> {
        let jobs = self.connection.lock().await.as_ref()?.jobs.clone();
        let (tell, told) = oneshot::channel();
        jobs.send(Job::Stats(tell)).await.ok()?;
        told.await.ok()?
    }

    /// Returns the path memory of the link.
    pub async fn path_memory(&self) -> Option<PathMemory> {
        let connection = self.connection.lock().await;
        let news = lock(&connection.as_ref()?.news);
        news.path().map(|(_, memory)| memory)
    }

    /// Takes the path memory and the ticket of the latest handshake if they are not written yet,
    /// with the key of the realm.
    async fn take_news(&self) -> News {
        let connection = self.connection.lock().await;
        let Some(open) = connection.as_ref() else {
            return (None, None, None);
        };
        let mut news = lock(&open.news);
        (open.pinned, news.take_path(), news.ticket.take())
    }
}
