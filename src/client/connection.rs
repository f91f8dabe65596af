//! Getting from a connection string to a link that can be asked.

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use rand::Rng as _;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    CallError, Notice, Shared,
    driver::{Ask, AskError, Driver, Job, Status, Target, Told, ask_who},
    state,
};
use crate::{
    crypto::{ConnectionString, PublicKey},
    endpoint::{self, Endpoint},
    host::{Host, Socket},
    wire::{Life, OperationNumber},
};

/// The longest answer that is put together from parts, in bytes (LINK-13).
const LONGEST_ANSWER: usize = 65 << 10;
/// Questions that may wait to be taken by the driver.
const ASKS_MAX: usize = 64;

/// A driver at work, and how to reach it. It ends when this is dropped.
#[derive(Debug)]
pub struct Connection {
    jobs: mpsc::Sender<Job>,
    status: watch::Receiver<Status>,
    address: SocketAddr,
    pinned: Option<PublicKey>,
}

impl Shared {
    /// Asks the realm; the answer's bytes.
    pub(super) async fn ask(
        &self,
        bytes: Vec<u8>,
        early: bool,
        deadline: Instant,
    ) -> Result<Vec<u8>, CallError> {
        let (answer, answered) = oneshot::channel();
        let (jobs, address, pinned) = self.connected(deadline).await?;
        let waited = self.options.deadline;
        let lost = || CallError::OutcomeUnknown { waited };
        let ask = Ask {
            bytes,
            deadline,
            early,
            answer,
        };
        jobs.send(Job::Ask(ask)).await.map_err(|_| lost())?;
        let outcome = answered.await.map_err(|_| lost())?;
        self.follow(pinned).await?;
        outcome.map_err(|error| match error {
            AskError::Expired { heard: true, .. } => lost(),
            AskError::Expired { refused, .. } => CallError::Unreachable {
                address,
                waited,
                refused,
            },
            AskError::KeyChanged(found) => match pinned {
                Some(pinned) => CallError::KeyChanged {
                    address,
                    pinned,
                    found,
                },
                None => CallError::NoKey,
            },
        })
    }

    /// From now on `tell` is told what the realm pushes.
    pub(super) async fn tell_pushed(&self, tell: mpsc::Sender<Told>) -> Result<(), CallError> {
        let (jobs, ..) = self.connected(self.deadline()).await?;
        let waited = self.options.deadline;
        let lost = |_| CallError::OutcomeUnknown { waited };
        jobs.send(Job::Tell(tell)).await.map_err(lost)
    }

    /// The driver at work, and whom it talks to; one is begun if there is none.
    async fn connected(
        &self,
        deadline: Instant,
    ) -> Result<(mpsc::Sender<Job>, SocketAddr, Option<PublicKey>), CallError> {
        let mut connection = self.connection.lock().await;
        if connection
            .as_ref()
            .is_none_or(|connection| connection.jobs.is_closed())
        {
            *connection = Some(self.connect(deadline).await?);
        }
        match connection.as_ref() {
            Some(open) => Ok((open.jobs.clone(), open.address, open.pinned)),
            None => Err(CallError::NoServer),
        }
    }

    /// Remembers the life of the realm's store, and the realm's new key, if the one it was known by has vouched for it.
    async fn follow(&self, pinned: Option<PublicKey>) -> Result<(), CallError> {
        let status = {
            let connection = self.connection.lock().await;
            connection.as_ref().map(|open| *open.status.borrow())
        }
        .unwrap_or_default();
        self.learn_life().await?;
        if let (Some(from), Some(to)) = (pinned, status.successor)
            && self.followed(from, to)?
        {
            self.note(Notice::KeyFollowed { from, to });
        }
        Ok(())
    }

    /// Remembers the life of the realm's store. If the realm did not know the one that was claimed, it was restored from a
    /// backup, and what has been shown is known by positions of a store that is lost (READ-9).
    pub(super) async fn learn_life(&self) -> Result<(), CallError> {
        let status = {
            let connection = self.connection.lock().await;
            connection.as_ref().map(|open| *open.status.borrow())
        };
        let Some(Status {
            life,
            is_life_unknown,
            ..
        }) = status
        else {
            return Ok(());
        };
        let (realm, _) = self.target()?;
        let life = life.map(|life| life.0);
        if (life.is_none() && !is_life_unknown) || self.state()?.life == life {
            // Another process of this profile was told before.
            return Ok(());
        }
        Ok(self.profile.write(|records| {
            state::update(records, realm, |state| state.life = life)?;
            if is_life_unknown {
                state::forget_cursors(records, realm)?;
            }
            Ok(())
        })?)
    }

    fn followed(&self, from: PublicKey, to: PublicKey) -> Result<bool, CallError> {
        let (realm, _) = self.target()?;
        Ok(self
            .profile
            .write(|records| state::update(records, realm, |state| state.follow(from, to)))?)
    }

    /// The realm has been heard from: it is who it should be, and remembered from now on, as was wished.
    pub(super) async fn note_heard(&self) -> Result<(), CallError> {
        if self.is_heard.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let (realm, server) = self.target()?;
        let rtt = self.rtt().await;
        let highest = self.highest().await.0;
        let remember = self.options.remember && self.options.server.is_some();
        Ok(self.profile.write(|records| {
            state::update(records, realm, |state| {
                if let Some(known) = state.connection_string() {
                    let at = ConnectionString {
                        key: known.key.or(server.key),
                        ..server.clone()
                    };
                    state.server = at.to_string();
                }
                state.is_heard = true;
                state.highest = state.highest.max(highest);
                state.rtt_us = rtt
                    .and_then(|rtt| u64::try_from(rtt.as_micros()).ok())
                    .or(state.rtt_us);
            })?;
            if remember || state::remembered(records)?.is_none() {
                state::remember(records, realm)?;
            }
            Ok(())
        })?)
    }

    /// The highest operation number that the realm is known to have seen from this device.
    pub(super) async fn highest(&self) -> OperationNumber {
        let connection = self.connection.lock().await;
        connection
            .as_ref()
            .map_or(OperationNumber(0), |open| open.status.borrow().highest)
    }

    /// The round-trip time, once it is known.
    pub(super) async fn rtt(&self) -> Option<Duration> {
        let connection = self.connection.lock().await;
        let status = connection.as_ref().map(|open| *open.status.borrow());
        status.and_then(|status| status.rtt)
    }

    async fn connect(&self, deadline: Instant) -> Result<Connection, CallError> {
        let state = self.state()?;
        let (realm, server) = self.target()?;
        // The key may have been followed, or accepted, since.
        let key = state
            .connection_string()
            .and_then(|known| known.key)
            .or(server.key);
        let server = ConnectionString {
            key,
            ..server.clone()
        };
        let (socket, address) = dial(&self.host, &server).await?;
        let mut rng = self.host.rng()?;
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let config = endpoint::Config {
            accept: None,
            hello: None,
            early_data: self.options.early_data,
            place: endpoint::Place::ALONE,
            max_datagram: self.options.traits.max_datagram,
            max_message: LONGEST_ANSWER,
            rate: self.options.traits.rate,
            redundancy: self.options.traits.redundancy,
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
                let meter = &self.options.meter;
                let found = ask_who((&socket, meter), &mut endpoint, address, deadline)
                    .await
                    .map_err(|error| CallError::Unreachable {
                        address,
                        waited: self.options.deadline,
                        refused: matches!(error, AskError::Expired { refused: true, .. }),
                    })?;
                let server = ConnectionString {
                    key: Some(found),
                    ..server
                };
                self.profile.write(|records| {
                    state::update(records, realm, |state| state.server = server.to_string())
                })?;
                self.note(Notice::Trusted(found));
                Some(found)
            }
            None => return Err(CallError::NoKey),
        };
        let target = Target {
            address,
            key: pinned,
            rtt: state
                .rtt_us
                .map(Duration::from_micros)
                .or(self.options.traits.rtt),
            life: state.life.map(Life),
        };
        let (jobs, taken) = mpsc::channel(ASKS_MAX);
        let (tell, status) = watch::channel(Status::default());
        let silence = self.options.traits.keepalive;
        let keepalive = Some(silence).filter(|silence| !silence.first.is_zero());
        tokio::spawn(
            Driver::new(
                target,
                (self.host.clone(), socket),
                endpoint,
                self.options.meter.clone(),
                tell,
                keepalive,
            )
            .run(taken),
        );
        Ok(Connection {
            jobs,
            status,
            address,
            pinned,
        })
    }
}

/// Finds the realm's address, and a socket that has a way there.
async fn dial(host: &Host, server: &ConnectionString) -> Result<(Socket, SocketAddr), CallError> {
    let failed = |source| CallError::Resolve {
        host: server.host.clone(),
        source,
    };
    let mut addresses: Vec<SocketAddr> =
        tokio::net::lookup_host((server.host.as_str(), server.port))
            .await
            .map_err(failed)?
            .collect();
    // Realms listen on IPv4 unless told otherwise. Where there is no way by IPv4, the next is taken.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match host.connect(address).await {
            Ok(socket) => return Ok((socket, address)),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}
