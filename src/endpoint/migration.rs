//! Migration (LINK-18): the newest authentic packet sets a link's remote address. Until that
//! address has answered a challenge, few bytes are sent there, and the former address is kept.

use std::time::Duration;

use rand::Rng as _;

use super::{
    Endpoint, LinkId, Path, SERVES,
    link_entry::{LinkEntry, Role},
};
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
    pub(super) fn hand_in_from_elsewhere(
        &mut self,
        now: Time,
        id: LinkId,
        path: Path,
        packet: &LinkPacket<'_>,
        datagram: &[u8],
    ) -> Result<(), Ignored> {
        let slot = self.slots.get(&id).ok_or(Ignored::NotOpen)?;
        // Initiators stay at their own address of the realm.
        if !SERVES || slot.role != Role::Responder {
            return Err(Ignored::NotOpen);
        }
        let newest = slot.link.largest_received();
        let is_newest = newest.is_none_or(|newest| packet.number(Some(newest)) > newest);
        let is_known = |slot: &LinkEntry| {
            slot.left
                .as_deref()
                .is_some_and(|(left, _)| left.remote == path.remote)
        };
        let goes_back = is_known(slot);
        let (was_proven, had_moved) = (slot.link.is_proven(), slot.link.has_moved());
        let taken = self.take_in(now, id, packet, datagram);
        match taken {
            // The content is retransmitted, and is awaited where the other side is now.
            Ok(()) | Err(Ignored::NoRoom) => {}
            Err(Ignored::Violation) => {
                self.touch(now, id);
                return taken;
            }
            Err(Ignored::NotAuthentic | Ignored::Replayed | Ignored::NotOpen) => return taken,
        }
        let has_answered = had_moved
            && self
                .slots
                .get(&id)
                .is_some_and(|slot| !slot.link.has_moved());
        if has_answered {
            // The holder of the link's address has received the challenge, and may return its data
            // from another address (RFC 9000 §8.2.3).
            self.settle_path(now, id);
            self.proven(now, id);
        }
        let mut data = [0; 8];
        self.rng.fill_bytes(&mut data);
        let slot = self.slots.get_mut(&id).ok_or(Ignored::NotOpen)?;
        if is_newest {
            let was_proven = was_proven || has_answered;
            let before = core::mem::replace(&mut slot.path, path);
            trace(TraceId::new(id.0), || Trace::Moved {
                remote: &path.remote,
            });
            if goes_back {
                slot.left = None;
                slot.link.path_proven();
            } else {
                let patience = (slot.link.timeout() * PROOF_TIMEOUTS).max(PROOF_PATIENCE);
                // Keeps the last proven address, however often the link moves before it proves
                // another. An Init proves none: an observer can send a copy from anywhere.
                let left = slot.left.as_deref().map(|(left, _)| *left);
                let proven = left.or(was_proven.then_some(before));
                slot.left = proven.map(|left| Box::new((left, now + patience)));
                slot.link.path_moved(datagram.len(), data);
            }
            let name = slot.remote.filter(|_| slot.token.is_some());
            if let Some(remote) = name {
                self.forget_name(before.remote, remote, id);
                self.by_name.insert((path.remote, remote), id);
            }
        }
        // An older packet says nothing about the current address.
        self.touch(now, id);
        taken
    }

    /// Settles a migration if the new address is validated, or if its time is over.
    pub(super) fn settle_path(&mut self, now: Time, id: LinkId) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let Some((old, until)) = slot.left.as_deref().copied() else {
            return;
        };
        if !slot.link.has_moved() {
            slot.left = None;
        } else if until <= now {
            let before = core::mem::replace(&mut slot.path, old).remote;
            slot.left = None;
            slot.link.path_proven();
            if let Some(remote) = slot.remote.filter(|_| slot.token.is_some()) {
                self.forget_name(before, remote, id);
                self.by_name.insert((old.remote, remote), id);
            }
        }
    }
}
