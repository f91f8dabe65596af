//! Links between realms (PEER-12): both sides send requests on one link, regardless of its
//! initiator.
//!
//! A realm sends requests on a link that the other has opened, or else on its own. When both open
//! one at the same time, the link of the smaller key stays, and requests on the other move to it.

use std::net::SocketAddr;

use smallvec::SmallVec;

use super::{
    EarlyData, Endpoint, Event, LinkId, LinkStatus,
    identity::KeyIndex,
    link_table::{LinkEntry, Role, Stage},
};
use crate::{
    crypto::PublicKey,
    faults::{Fault, is_planted},
    link::{Link, Time},
    wire::{CloseReason, RequestId},
};

/// Where the address of a realm comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// An operator or a name vouches for it.
    Vouched,
    /// Only the peer itself has claimed it (PEER-23). It is called [`DIALS_ONCE`] times at most,
    /// and until the answer arrives the link takes no requests from a link to another address.
    ///
    /// [`DIALS_ONCE`]: super::limits::DIALS_ONCE
    Claimed,
}

/// The links with a realm.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerLinks {
    /// The proven links that the realm has opened.
    pub accepted: SmallVec<[LinkId; 2]>,
    /// The open link that this side has opened.
    pub dialed: Option<LinkId>,
}

impl Endpoint {
    /// Sets the keys of other realms. Handshakes with them belong to the primary worker from now
    /// on, and links that they open are reported ([`Event::Proven`]).
    pub fn set_realms(&mut self, realms: impl IntoIterator<Item = PublicKey>) {
        self.links.set_realms(realms);
    }

    /// True for the endpoint of the primary worker at its address.
    pub const fn is_primary_worker(&self) -> bool {
        self.config.worker.is_primary()
    }

    /// Returns the link for requests to the realm with the key `peer`, which knows this side by its
    /// key `own`: a link that the realm has opened, one that this side has opened to `address`, or
    /// a new one.
    pub fn link_for_requests(
        &mut self,
        now: Time,
        own: &PublicKey,
        peer: PublicKey,
        address: SocketAddr,
    ) -> LinkId {
        let own = self.keys.index_of(own);
        let dialed = self.links.dialed_to(own, &peer, address);
        let is_open = |id: &LinkId| {
            let entry = self.links.get(*id);
            entry.is_some_and(|entry| entry.stage().is_open())
        };
        let ours = dialed.filter(|id| is_open(id) && self.keys.link_stays(own, &peer));
        let theirs = self.links.accepted_from(own, &peer);
        match ours.or(theirs).or(dialed) {
            Some(link) => link,
            None => self.dial_instead(now, own, peer, address),
        }
    }

    /// Returns a link to the realm with the key `peer` that this side opened to `address`. An open
    /// one shows the other realm that it can be called.
    pub fn dial(
        &mut self,
        now: Time,
        own: &PublicKey,
        peer: PublicKey,
        address: SocketAddr,
        source: AddressSource,
    ) -> LinkId {
        let own = self.keys.index_of(own);
        if let Some(link) = self.links.dialed_to(own, &peer, address) {
            return link;
        }
        if source == AddressSource::Vouched || is_planted(Fault::TrialTakesLink) {
            return self.dial_instead(now, own, peer, address);
        }
        if let Some(link) = self.links.trial(own, &peer, address) {
            return link;
        }
        let link = self.dial_realm(now, own, peer, address);
        if let Some(entry) = self.links.get_mut(link) {
            entry.set_trial(true);
        }
        link
    }

    /// Records that a realm answered at a claimed address. It is called there from now on.
    pub(super) fn confirm_address(&mut self, now: Time, id: LinkId) {
        let Some(entry) = self.links.get_mut(id) else {
            return;
        };
        entry.set_trial(false);
        if let Some(peer) = entry.peer() {
            self.replace_dialed(now, peer, id);
        }
    }

    /// Returns the open link with the realm with the key `peer`, opened by either side, on which it
    /// was heard last.
    pub fn find_open_link(&self, own: &PublicKey, peer: &PublicKey) -> Option<LinkId> {
        self.links.open_with(self.keys.index_of(own), peer)
    }

    /// Returns the links with the realm with the key `peer`.
    pub fn links_with(&self, peer: &PublicKey) -> PeerLinks {
        PeerLinks {
            accepted: SmallVec::from_slice(self.links.proven_of(peer)),
            dialed: self
                .links
                .dialed(peer)
                .filter(|id| self.link(*id).is_some_and(LinkStatus::is_open)),
        }
    }

    /// Handles a dial without an answer: its requests move to another link, if there is one.
    pub(super) fn give_up_dial(&mut self, now: Time, id: LinkId) {
        if let Some(entry) = self.links.get(id)
            && entry.is_dialing()
            && let Some(peer) = entry.peer()
            && let Some(other) = self.links.open_with(entry.own(), &peer)
        {
            self.move_requests(now, id, other);
        }
    }

    /// Opens a link to a realm. Requests on a link to another address move to it.
    fn dial_instead(
        &mut self,
        now: Time,
        own: KeyIndex,
        peer: PublicKey,
        address: SocketAddr,
    ) -> LinkId {
        let link = self.dial_realm(now, own, peer, address);
        self.replace_dialed(now, peer, link);
        link
    }

    /// Makes `link` the link to a realm, and closes the one to another address.
    fn replace_dialed(&mut self, now: Time, peer: PublicKey, link: LinkId) {
        if let Some(elsewhere) = self.links.set_dialed(peer, link) {
            self.move_requests(now, elsewhere, link);
            self.close(now, elsewhere, CloseReason::Done);
        }
    }

    /// Ends a link on which a request timed out, if the other side opened it. That side may have
    /// forgotten the link, and only it can reopen it.
    pub fn distrust(&mut self, now: Time, link: LinkId) {
        if self
            .links
            .get(link)
            .is_some_and(|entry| entry.role() == Role::Responder)
        {
            self.close(now, link, CloseReason::Done);
        }
    }

    /// Cancels a request.
    pub fn give_up(&mut self, now: Time, link: LinkId, number: RequestId) {
        if let Some(entry) = self.links.get_mut(link) {
            entry.link.ask_until(number, now);
            self.handle_link_timeout(now, link);
            self.touch(now, link);
        }
    }

    /// Stops dialing a link without open requests.
    pub fn end_idle_dial(&mut self, link: LinkId) {
        let entry = self.links.get(link);
        if entry.is_some_and(|entry| entry.is_dialing() && !entry.link.is_waiting()) {
            self.end(link, None);
        }
    }

    fn dial_realm(
        &mut self,
        now: Time,
        own: KeyIndex,
        peer: PublicKey,
        address: SocketAddr,
    ) -> LinkId {
        let id = self.free_id();
        let link = Link::initiate(self.link_config(None), Some(self.keys.link_name(id)));
        let entry = LinkEntry::new(
            now,
            link,
            Role::Initiator,
            address.into(),
            Some(peer),
            Stage::Calling,
        );
        self.insert_as(id, entry.with_key(own).shared());
        id
    }

    /// Keeps only one link with a realm whose link has just been proven.
    pub(super) fn keep_one_link(&mut self, now: Time, theirs: LinkId) {
        let Some(entry) = self.links.get(theirs) else {
            return;
        };
        let (own, Some(peer)) = (entry.own(), entry.peer()) else {
            return;
        };
        // The realm may have forgotten its earlier links, and requests on those would never be
        // answered.
        let is_asked = |id: &LinkId| {
            let entry = self.links.get(*id);
            *id != theirs
                && entry.is_some_and(|entry| entry.own() == own && entry.link.is_waiting())
        };
        let links = self.links.proven_of(&peer).iter().copied();
        let asked: SmallVec<[LinkId; 2]> = links.filter(is_asked).collect();
        for before in asked {
            if !is_planted(Fault::WaitOnDeadLink) {
                self.move_requests(now, before, theirs);
            }
        }
        let Some(ours) = self.links.dialed(&peer) else {
            return;
        };
        let stays = self.keys.link_stays(own, &peer);
        let Some(entry) = self.links.get_mut(ours).filter(|entry| entry.own() == own) else {
            return;
        };
        let is_open = entry.stage().is_open();
        if is_open && stays {
            // The other side has to learn that this link is genuine, before it ends its own.
            entry.link.ping();
            self.touch(now, ours);
            return;
        }
        self.move_requests(now, ours, theirs);
        if is_open {
            self.close(now, ours, CloseReason::Replaced);
        } else {
            self.end(ours, None);
        }
    }

    /// Moves the open requests of `from` to `to`.
    pub(super) fn move_requests(&mut self, now: Time, from: LinkId, to: LinkId) {
        let Some(entry) = self.links.get_mut(from) else {
            return;
        };
        let asked = entry.link.take_requests();
        if !asked.is_empty() {
            // Packets that waited for a long request may leave now.
            self.schedule.wake(from);
        }
        for (number, asked) in asked {
            let early_data = EarlyData::allowed_if(asked.early);
            let moved = self.request(now, to, asked.bytes, asked.deadline, early_data);
            self.events.push_back(match moved {
                Some(as_number) => Event::Moved {
                    link: from,
                    number,
                    to,
                    as_number,
                },
                None => Event::Expired {
                    link: from,
                    number,
                    heard: true,
                },
            });
        }
    }
}
