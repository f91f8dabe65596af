//! The lives of a realm's store on the wire (HS-14): the life that an Init claims, and the life in
//! WELCOME. The caller decides whether a store had a life.

use super::{Endpoint, Event, IncomingRequest, LinkId};
use crate::{
    faults::{Fault, is_planted},
    link::Time,
    wire::Life,
};

/// What the caller knows of the life that the other side of a link has claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimedLife {
    /// The store had it, or the other side has claimed none.
    Known,
    /// The store may have forgotten what happened in it.
    Unknown,
}

impl ClaimedLife {
    /// Returns [`ClaimedLife::Unknown`] if `is_unknown`.
    pub const fn unknown_if(is_unknown: bool) -> Self {
        if is_unknown {
            Self::Unknown
        } else {
            Self::Known
        }
    }
}

impl Endpoint {
    /// Sets the life that the handshakes of `link` claim, until the realm tells another. Without
    /// it, and with `None`, they claim to know no life. Call it before anything of the link is
    /// transmitted.
    pub fn claim_life(&mut self, link: LinkId, life: Option<Life>) {
        if let Some(entry) = self.links.get_mut(link) {
            entry.life_mut().claim(life.unwrap_or(Life::NONE));
        }
    }

    /// Sets the life that the WELCOME of `link` tells, and the verdict on the life that its other
    /// side claimed. Call it before [`Endpoint::welcome`].
    pub fn tell_life(&mut self, link: LinkId, life: Option<Life>, claimed: ClaimedLife) {
        if let Some(entry) = self.links.get_mut(link) {
            entry.life_mut().tell(life.unwrap_or(Life::NONE), claimed);
        }
    }

    /// Holds an early request until `link` is proven, if its other side claimed a life that is
    /// unknown here. The store may have forgotten that the request was executed, and it may be a
    /// replayed recording (HS-7). Otherwise returns the request.
    pub fn keep_for_proof(
        &mut self,
        now: Time,
        link: LinkId,
        request: IncomingRequest,
    ) -> Option<IncomingRequest> {
        let waits = self
            .links
            .get(link)
            .is_some_and(|entry| entry.life().is_claim_unknown() && entry.waits_for_proof(false));
        if !waits || is_planted(Fault::TakeAllEarlyOnceRestored) {
            return Some(request);
        }
        self.hold(now, link, request);
        None
    }

    /// Holds a request until `link` is proven, because its answer could not travel before. It comes
    /// again as [`Event::Request`].
    pub fn hold(&mut self, now: Time, link: LinkId, request: IncomingRequest) {
        let Some(entry) = self.links.get_mut(link) else {
            return;
        };
        if entry.waits_for_proof(false) {
            entry.hold(request);
            self.touch(now, link);
        } else {
            // The link was proven meanwhile.
            self.events.push_back(Event::Request {
                link,
                number: request.number,
                bytes: request.bytes,
                early: false,
            });
        }
    }
}
