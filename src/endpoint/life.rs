//! The lives of a realm's store on the wire (HS-14): the life that an Init claims, and the life in
//! WELCOME. The caller decides whether a store had a life.

use super::{
    Endpoint, LinkId,
    link_entry::{Answering, LinkEntry, Stage},
};
use crate::{
    crypto::LifeClaim,
    faults::{Fault, is_planted},
    link::Time,
    wire::{Life, LinkName, OperationNumber, RequestId, Welcome, varint_len},
};

/// From this length of an operation number on, in bytes, a WELCOME with a successor has no room for
/// a life: the Accept would be longer than the shortest Init (WIRE-11).
const HIGHEST_BYTES_MAX: usize = 8;

impl Endpoint {
    /// Sets the life that the handshakes of `link` claim, until the realm tells another. Without
    /// it, and with `None`, they claim to know no life. Call it before anything of the link is
    /// transmitted.
    pub fn claim_life(&mut self, link: LinkId, life: Option<Life>) {
        if let Some(slot) = self.slots.get_mut(&link) {
            slot.life = life.unwrap_or(Life::NONE);
        }
    }

    /// Sets the life that the WELCOME of `link` tells, and whether the life that its other side
    /// claimed is unknown. Call it before [`Endpoint::welcome`].
    pub fn tell_life(&mut self, link: LinkId, life: Option<Life>, is_unknown: bool) {
        if let Some(slot) = self.slots.get_mut(&link) {
            slot.life = life.unwrap_or(Life::NONE);
            slot.is_life_unknown = is_unknown;
        }
    }

    /// True if the other side of `link` claimed a life that is unknown here, as set with
    /// [`Endpoint::tell_life`].
    pub fn is_life_unknown(&self, link: LinkId) -> bool {
        self.slots
            .get(&link)
            .is_some_and(|slot| slot.is_life_unknown)
    }

    /// Holds an early request until `link` is proven, if its other side claimed a life that is
    /// unknown here. The store may have forgotten that the request was executed, and it may be a
    /// replayed recording (HS-7). Otherwise returns the request.
    pub fn keep_for_proof(
        &mut self,
        now: Time,
        link: LinkId,
        (number, bytes): (RequestId, Vec<u8>),
    ) -> Option<(RequestId, Vec<u8>)> {
        match self.slots.get_mut(&link) {
            _ if is_planted(Fault::TakeAllEarlyOnceRestored) => Some((number, bytes)),
            Some(slot) if slot.is_life_unknown && slot.waits_for_proof(false) => {
                self.hold(now, link, (number, bytes));
                None
            }
            _ => Some((number, bytes)),
        }
    }

    /// Holds a request until `link` is proven, because its answer could not travel before. It comes
    /// again as [`super::Event::Request`].
    pub fn hold(&mut self, now: Time, link: LinkId, (number, bytes): (RequestId, Vec<u8>)) {
        let Some(slot) = self.slots.get_mut(&link) else {
            return;
        };
        if slot.waits_for_proof(false) {
            slot.held.push((number, bytes));
            self.touch(now, link);
        } else {
            // The link was proven meanwhile.
            self.events.push_back(super::Event::Request {
                link,
                number,
                bytes,
                early: false,
            });
        }
    }
}

impl LinkEntry {
    /// Returns the life claim of a link that another side opens. Realms, which name their links,
    /// and plain links make none.
    pub(super) fn life_claim(&self, name: Option<&LinkName>) -> Option<LifeClaim> {
        match &self.stage {
            Stage::Accepting(accepting) if name.is_none() => match &accepting.answering {
                Answering::Accept(responder, handshake) => {
                    Some(LifeClaim::new(responder.life_key.clone(), *handshake))
                }
                // The key that decrypts a Resume shows its life.
                Answering::Resumed(..) => None,
            },
            _ => None,
        }
    }

    /// Returns the life to tell in a WELCOME with `successor` and `highest`.
    pub(super) fn life_beside(
        &self,
        successor: Option<&[u8; 32]>,
        highest: OperationNumber,
    ) -> Option<Life> {
        let has_room = successor.is_none() || varint_len(highest.0) < HIGHEST_BYTES_MAX;
        Some(self.life).filter(|life| has_room && *life != Life::NONE)
    }

    /// Records the life that the realm has told: later handshakes of the link claim it.
    pub(super) fn learn_life(&mut self, welcome: &Welcome) {
        if let (Some(life), false) = (welcome.life, welcome.is_life_unknown) {
            self.life = life;
        }
    }
}
