//! How operators see other realms and decide about them (PEER-18, PEER-28). Each decision is
//! logged.

use crate::realm::{
    Caller, Realm,
    commands::work::{Act, Decision, Work},
    failure::Failure,
    identity::Peering,
    peer::{LinkState, Peer},
    peer_quota::Newcomer,
    peer_requests::introductions::HOST_MAX,
    peers::UndeliveredQueue,
    pending::Introduction,
};
use crate::{
    crypto::PublicKey,
    store::Store,
    wire::{
        ErrorCode, Options, Peer as PeerState, PeerDetail, PeerDetails, PeerList, PeerListing,
        PeerRemoval, Peered, PeeringState, Port, RealmId, Text, Username, command,
    },
};

/// Returns an address as text, or nothing if there is none.
pub(in crate::realm) fn shown((host, port): (&str, u16)) -> String {
    match host {
        "" => String::new(),
        _ if host.contains(':') => format!("[{host}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

impl<S: Store> Realm<S> {
    /// Logs a decision that is durable, and tells the task that keeps in touch with peers.
    pub(in crate::realm) fn decided(&self, work: &mut Work<'_>) {
        let Some(Decision {
            act,
            peer,
            key,
            address,
            who,
        }) = work.decision.take()
        else {
            return;
        };
        self.network.peers_changed();
        let fingerprint = key.fingerprint();
        match act {
            Act::Added => {
                tracing::info!(%peer, address, fingerprint, %who, "operator added a peer");
                self.network.pending(|pending| pending.forget(&key));
            }
            Act::Accepted => {
                tracing::info!(%peer, fingerprint, %who, "operator accepted a peer");
                self.network.pending(|pending| pending.forget(&key));
                self.network.claim_to_try(peer);
            }
            Act::Moved => {
                tracing::info!(%peer, address, fingerprint, %who, "operator moved a peer");
                self.network.moved(peer);
            }
            Act::Removed => {
                tracing::info!(%peer, fingerprint, %who, "operator removed a peer");
                self.network.pending(|pending| pending.refuse(&key));
            }
            Act::Dropped => {
                tracing::info!(%peer, fingerprint, %who, "operator removed a peer, and what waits for it");
                self.network.pending(|pending| pending.refuse(&key));
            }
            Act::Refused => {
                tracing::info!(%peer, fingerprint, %who, "operator refused a realm");
                self.network.pending(|pending| pending.refuse(&key));
            }
        }
    }

    /// Remembers for operators that a realm has introduced itself.
    pub(in crate::realm) fn keep_pending(
        &self,
        caller: &Caller,
        (realm, key): (RealmId, PublicKey),
        (address, port): (&str, u16),
    ) {
        if self.own.peering != Peering::Listed {
            return;
        }
        let new = Introduction {
            realm,
            key,
            own: caller.own().unwrap_or(self.own.key()),
            address: (address.into(), port),
            first: caller.now.wall,
            last: caller.now.wall,
            times: 1,
        };
        let may_be_new = || self.limiter.unasked(caller).is_ok();
        self.network
            .pending(|pending| pending.note(new, may_be_new));
    }

    /// Makes a peer of a realm that waits for a decision, as if it had been added before it
    /// introduced itself. Its address is unknown until it has shown it.
    pub(super) async fn accept_pending(
        &self,
        work: &mut Work<'_>,
        (realm, key): (RealmId, PublicKey),
        source: (String, u16),
        who: Username,
    ) -> Result<Peered, Failure> {
        let found = self.network.pending(|pending| pending.find(&key));
        let batch = &mut work.batch;
        let is_taken = self.peers.find_peer(batch, realm).await?.is_some();
        if is_taken || realm == self.own.id || self.peers.peer_of(batch, &key).await?.is_some() {
            return Err(ErrorCode::RealmExists.into());
        }
        let found = found.ok_or(ErrorCode::NoSuchRealm)?;
        work.ends |= self
            .quota
            .make_place(Newcomer::Invited, batch)
            .await?
            .is_some();
        self.peers
            .put_accepted(batch, realm, &found, source)
            .await?;
        work.decision = Some(Decision {
            act: Act::Accepted,
            peer: realm,
            key,
            address: String::new(),
            who,
        });
        Ok(Peered::Accepted)
    }

    /// Refuses a realm that waits for a decision.
    fn refuse_pending(
        &self,
        work: &mut Work<'_>,
        (realm, key): (RealmId, PublicKey),
        who: Username,
    ) -> Result<(), Failure> {
        let found = self.network.pending(|pending| pending.find(&key));
        let found = found.filter(|found| found.realm == realm);
        found.ok_or(ErrorCode::NoSuchRealm)?;
        work.decision = Some(Decision {
            act: Act::Refused,
            peer: realm,
            key,
            address: String::new(),
            who,
        });
        Ok(())
    }

    /// Sets a peer's new address.
    pub(super) async fn move_peer(
        &self,
        work: &mut Work<'_>,
        (realm, key): (RealmId, Option<PublicKey>),
        (address, port): (Text<'_>, Port),
        (source, who): (Option<(String, u16)>, Username),
    ) -> Result<Peered, Failure> {
        let peer = self.peers.peer(&mut work.batch, realm).await?;
        if key.is_some_and(|key| peer.key() != key) {
            return Err(ErrorCode::NoSuchRealm.into());
        }
        if address.0.is_empty() || address.0.len() > HOST_MAX || port.0 == 0 {
            return Err(ErrorCode::BadRequest.into());
        }
        let (host, number) = peer.source();
        let source = source.unwrap_or((host.into(), number));
        peer.put_moved((address.0, port.0), source, &mut work.batch)?;
        work.decision = Some(Decision {
            act: Act::Moved,
            peer: realm,
            key: peer.key(),
            address: shown((address.0, port.0)),
            who,
        });
        Ok(Peered::Accepted)
    }

    pub(super) async fn removerealm(
        &self,
        work: &mut Work<'_>,
        command: &command::RemoveRealm,
    ) -> Result<(), Failure> {
        let &command::RemoveRealm { session, realm, .. } = command;
        let who = self.operator(work, session).await?;
        let queue = match command.form(&work.request.options)? {
            PeerRemoval::Refuse { key } => {
                return self.refuse_pending(work, (realm, PublicKey(key)), who);
            }
            PeerRemoval::Return => UndeliveredQueue::Returned,
            PeerRemoval::Drop => UndeliveredQueue::Dropped,
        };
        let peer = self.peers.peer(&mut work.batch, realm).await?;
        self.peers.remove(&peer, queue, &mut work.batch).await?;
        work.decision = Some(Decision {
            act: match queue {
                UndeliveredQueue::Dropped => Act::Dropped,
                UndeliveredQueue::Returned => Act::Removed,
            },
            peer: realm,
            key: peer.key(),
            address: String::new(),
            who,
        });
        // The rest of its records are removed step by step.
        work.ends = true;
        Ok(())
    }

    pub(in crate::realm) async fn realms(
        &self,
        caller: &Caller,
        command: &command::Realms,
        options: &Options,
    ) -> Result<PeerList, Failure> {
        let current = self.sessions.session(caller, command.session).await?;
        let is_operator = current.record.operator;
        match command.form(options)? {
            PeerListing::Peers => {}
            PeerListing::Details | PeerListing::Pending if !is_operator => {
                return Err(ErrorCode::NotOperator.into());
            }
            PeerListing::Details => return self.details(caller).await.map(PeerList::Details),
            PeerListing::Pending => return Ok(PeerList::Details(self.pending_details())),
        }
        let mut states = Vec::new();
        for peer in self.peers.list_peers().await? {
            let (state, heard) = self.network.state_of(&peer);
            if !is_operator {
                states.extend(shown_to_users(&peer, state));
                continue;
            }
            let address = match peer.address() {
                ("", _) => "-".into(),
                (address, port) => format!("{address}:{port}"),
            };
            let (queued, age, _) = self.queues.waiting_for(caller, peer.realm).await?;
            states.push(PeerState {
                realm: peer.realm,
                address,
                state: state as u8,
                queued,
                age,
                heard,
            });
        }
        Ok(PeerList::Peers(states))
    }

    async fn details(&self, caller: &Caller) -> Result<PeerDetails, Failure> {
        let mut details = PeerDetails::default();
        for peer in self.peers.list_peers().await? {
            let seen = self.network.seen(&peer, caller.now.wall);
            let (queued, age, unread) = self.queues.waiting_for(caller, peer.realm).await?;
            let claimed = peer.record.claimed.as_ref();
            details.add(&PeerDetail {
                realm: peer.realm,
                key: peer.key().0,
                address: shown(peer.address()),
                claimed: claimed.map_or_else(String::new, |(host, port)| shown((host, *port))),
                state: seen.state,
                why: seen.why.or(unread),
                since: seen.since,
                next: seen.next,
                heard: seen.heard,
                queued,
                age,
                former: peer.record.former.len() as u64,
                times: 0,
            });
        }
        let (departing, unread) = self.peers.departing().await;
        if let Some(failure) = unread {
            return Err(failure);
        }
        for realm in departing {
            let (queued, age, why) = self.queues.waiting_for(caller, realm).await?;
            details.add(&PeerDetail {
                realm,
                key: [0; 32],
                address: String::new(),
                claimed: String::new(),
                state: PeeringState::Departing,
                why,
                since: 0,
                next: 0,
                heard: 0,
                queued,
                age,
                former: 0,
                times: 0,
            });
        }
        Ok(details)
    }

    fn pending_details(&self) -> PeerDetails {
        let mut details = PeerDetails::default();
        for one in self.network.pending(|pending| pending.all()) {
            let (host, port) = &one.address;
            details.add(&PeerDetail {
                realm: one.realm,
                key: one.key.0,
                address: String::new(),
                claimed: shown((host, *port)),
                state: PeeringState::Pending,
                why: None,
                since: one.first,
                next: 0,
                heard: one.last,
                queued: 0,
                age: 0,
                former: 0,
                times: one.times,
            });
        }
        details
    }
}

/// Returns what users see of a peer: that they can write to it, and whether it answers. Returns
/// `None` for a peer that has not accepted the peering.
fn shown_to_users(peer: &Peer, state: LinkState) -> Option<PeerState> {
    let state = match state {
        LinkState::Idle | LinkState::Open => LinkState::Open,
        LinkState::Trying => LinkState::Trying,
        LinkState::NotAccepted => return None,
    };
    Some(PeerState {
        realm: peer.realm,
        address: String::new(),
        state: state as u8,
        queued: 0,
        age: 0,
        heard: 0,
    })
}
