//! The lives of a realm's store as they travel (HS-14): which one an Init claims, and what WELCOME answers. Whether a
//! store had a life is for others to know.

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

/// A WELCOME with a successor and an operation number of so many bytes has no room for a life: the Accept would be
/// longer than the shortest Init (WIRE-11).
const HIGHEST_BYTES_MAX: usize = 8;

impl Endpoint {
    /// Has the handshakes of `link` claim `life`, until the realm tells another. To be called before anything of the
    /// link is transmitted; without it, and for `None`, they claim to know no life.
    pub fn claim_life(&mut self, link: LinkId, life: Option<Life>) {
        if let Some(slot) = self.slots.get_mut(&link) {
            slot.life = life.unwrap_or(Life::NONE);
        }
    }

    /// Has the WELCOME of `link` tell `life`, and whether the life that its other side claimed is unknown. To be called
    /// before [`Endpoint::welcome`].
    pub fn tell_life(&mut self, link: LinkId, life: Option<Life>, is_unknown: bool) {
        if let Some(slot) = self.slots.get_mut(&link) {
            slot.life = life.unwrap_or(Life::NONE);
            slot.is_life_unknown = is_unknown;
        }
    }

    /// True when the other side of `link` claimed a life that is unknown here, as [`Endpoint::tell_life`] was told.
    pub fn is_life_unknown(&self, link: LinkId) -> bool {
        self.slots
            .get(&link)
            .is_some_and(|slot| slot.is_life_unknown)
    }

    /// Keeps an early request until `link` is proven, if its other side claimed a life that is unknown here: the store may have forgotten that
    /// it has been done, and somebody may have recorded it (HS-7). Else it is given back.
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

    /// Keeps a request until `link` is proven: what answers it could not travel before. It comes again as [`super::Event::Request`].
    pub fn hold(&mut self, now: Time, link: LinkId, (number, bytes): (RequestId, Vec<u8>)) {
        let Some(slot) = self.slots.get_mut(&link) else {
            return;
        };
        if slot.waits_for_proof(false) {
            slot.held.push((number, bytes));
            self.touch(now, link);
        } else {
            // It was proven meanwhile.
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
    /// The claim of a link that others open. Realms, which name their links, and plain links make none.
    pub(super) fn life_claim(&self, name: Option<&LinkName>) -> Option<LifeClaim> {
        match &self.stage {
            Stage::Accepting(accepting) if name.is_none() => match &accepting.answering {
                Answering::Accept(responder, handshake) => {
                    Some(LifeClaim::new(responder.life_key.clone(), *handshake))
                }
                // By what opens its Resume.
                Answering::Resumed(..) => None,
            },
            _ => None,
        }
    }

    /// The life to be told beside a successor and an operation number.
    pub(super) fn life_beside(
        &self,
        successor: Option<&[u8; 32]>,
        highest: OperationNumber,
    ) -> Option<Life> {
        let has_room = successor.is_none() || varint_len(highest.0) < HIGHEST_BYTES_MAX;
        Some(self.life).filter(|life| has_room && *life != Life::NONE)
    }

    /// The realm has told its life: later handshakes of the link claim that.
    pub(super) fn learn_life(&mut self, welcome: &Welcome) {
        if let (Some(life), false) = (welcome.life, welcome.is_life_unknown) {
            self.life = life;
        }
    }
}
