//! Addresses that peers claim (PEER-23).

use std::net::IpAddr;

use crate::realm::{
    Caller,
    failure::Failure,
    peer::Peer,
    peers::Peers,
    records::{self, PeerRecord, Record as _},
    storage::{Outcome, Written},
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Store},
};

impl<S: Store> Peers<S> {
    /// Returns a known peer's record after it claims an address: a confirmed address stays until
    /// the claimed one has been tried.
    pub(in crate::realm) fn with_claim(
        record: &PeerRecord,
        (address, port): (&str, u16),
    ) -> PeerRecord {
        let mut record = record.clone();
        if is_planted(Fault::BelieveClaims) {
            (record.address, record.port) = (address.into(), port);
        }
        let is_other = (record.address.as_str(), record.port) != (address, port);
        let is_claim = is_other && !address.is_empty();
        record.claimed = is_claim.then(|| (address.into(), port));
        record
    }

    /// Handles a claim of an address that is not confirmed: it is tried there, unless that was too
    /// often.
    pub(in crate::realm) fn has_claimed(&self, caller: &Caller, peer: &Peer) {
        if self.limiter.claim(caller.now, peer).is_ok() {
            self.network.claim_to_try(peer.realm);
        }
    }

    /// Records that a peer has answered at its claimed address, which is now confirmed.
    pub async fn note_claim(&self, tried: &Peer, at: IpAddr) -> Written {
        let (host, port) = tried.address();
        match self.believe_claim(tried, at).await {
            Ok(true) => {
                tracing::info!(peer = %tried.realm, host, ip = %at, port, "claimed address of a peer was confirmed: it answered there");
                Written::Durable
            }
            Ok(false) => Written::Conflict,
            Err(failure) => {
                self.storage.log_failure("claim", &failure);
                Written::Failed
            }
        }
    }

    /// Confirms the IP address where the peer answered, and not the host name that leads there: the
    /// peer chooses the name, which may lead elsewhere later.
    async fn believe_claim(&self, tried: &Peer, at: IpAddr) -> Result<bool, Failure> {
        for _ in 0..crate::realm::ATTEMPTS_MAX {
            let mut batch = Batch::new();
            let current = self.find_peer(&mut batch, tried.realm).await?;
            let (host, port) = tried.address();
            let claimed = Some((host.to_string(), port));
            let current = current.filter(|current| {
                current.identity() == tried.identity()
                    && current.key() == tried.key()
                    && current.record.claimed == claimed
            });
            // It claims another address by now.
            let Some(current) = current else {
                return Ok(false);
            };
            let record = PeerRecord {
                address: at.to_canonical().to_string(),
                port,
                // A host name is kept as a claim: the peer may point it elsewhere when it does not
                // answer here.
                claimed: claimed.filter(|_| host.parse::<IpAddr>().is_err()),
                ..current.record
            };
            batch.put(records::peer(tried.realm), record.to_value()?);
            if let Outcome::Durable = self.storage.commit(batch).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
