//! Migration (LINK-18): the newest authentic packet sets a link's remote address. Until that
//! address has answered a challenge, few bytes are sent there, and the former address is kept.

use std::time::Duration;

use rand::Rng as _;

use super::{ACCEPTS_LINKS, Endpoint, LinkId, Path, link_table::Role};
use crate::{
    link::{
        Ignored, Time,
        trace::{Trace, TraceId, trace},
    },
    wire::LinkPacket,
};

/// The number of timeouts after which an address without an answer to its challenge is given up.
const PROOF_TIMEOUTS: u32 = 4;
/// The shortest time for the answer.
const PROOF_PATIENCE: Duration = Duration::from_secs(3);

impl Endpoint {
    /// Handles a packet for a link from an address other than the link's.
    pub(super) fn receive_from_new_address(
        &mut self,
        now: Time,
        id: LinkId,
        path: Path,
        packet: &LinkPacket<'_>,
        datagram: &[u8],
    ) -> Result<(), Ignored> {
        let entry = self.links.get(id).ok_or(Ignored::NotOpen)?;
        // Initiators stay at their own address of the realm.
        if !ACCEPTS_LINKS || entry.role() != Role::Responder {
            return Err(Ignored::NotOpen);
        }
        let newest = entry.link.largest_received();
        let is_newest = newest.is_none_or(|newest| packet.number(Some(newest)) > newest);
        let previous = entry.previous_path();
        let goes_back = previous.is_some_and(|previous| previous.remote == path.remote);
        let (was_proven, had_moved) = (entry.link.is_proven(), entry.link.has_moved());
        let outcome = self.open_packet(now, id, packet, datagram);
        match outcome {
            // The content is retransmitted, and is awaited where the other side is now.
            Ok(()) | Err(Ignored::NoRoom) => {}
            Err(Ignored::Violation) => {
                self.touch(now, id);
                return outcome;
            }
            Err(Ignored::NotAuthentic | Ignored::Replayed | Ignored::NotOpen) => return outcome,
        }
        let has_answered = had_moved
            && self
                .links
                .get(id)
                .is_some_and(|entry| !entry.link.has_moved());
        if has_answered {
            // The holder of the link's address has received the challenge, and may return its data
            // from another address (RFC 9000 §8.2.3).
            self.finish_migration(now, id);
            self.handle_proven(now, id);
        }
        let mut data = [0; 8];
        self.rng.fill_bytes(&mut data);
        if !self.links.contains(id) {
            return Err(Ignored::NotOpen);
        }
        if is_newest {
            let before = self.links.migrate(id, path).ok_or(Ignored::NotOpen)?;
            let entry = self.links.get_mut(id).ok_or(Ignored::NotOpen)?;
            trace(TraceId::new(id.0), || Trace::Moved {
                remote: &path.remote,
            });
            if goes_back {
                entry.on_moved_back();
            } else {
                let patience = (entry.link.timeout() * PROOF_TIMEOUTS).max(PROOF_PATIENCE);
                // An Init proves no address: an observer can send a copy from anywhere.
                let was_proven = was_proven || has_answered;
                let proven = was_proven.then_some(before);
                entry.on_moved(now + patience, proven, datagram.len(), data);
            }
        }
        // An older packet says nothing about the current address.
        self.touch(now, id);
        outcome
    }

    /// Finishes a migration if the new address is validated, or if its time is over.
    pub(super) fn finish_migration(&mut self, now: Time, id: LinkId) {
        if let Some(entry) = self.links.get_mut(id)
            && let Some(former) = entry.end_migration(now)
        {
            self.links.migrate(id, former);
        }
    }
}
