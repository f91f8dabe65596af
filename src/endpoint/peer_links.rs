//! Links between realms (PEER-12): both sides send requests on one link, regardless of its
//! initiator.
//!
//! A realm sends requests on a link that the other has opened, or else on its own. When both open
//! one at the same time, the link of the smaller key stays, and requests on the other move to it.

use std::net::SocketAddr;

use rand::Rng as _;
use smallvec::SmallVec;

use super::{
    Endpoint, Event, LinkId,
    link_entry::{LinkEntry, Role, Stage},
};
use crate::{
    crypto::PublicKey,
    faults::{Fault, is_planted},
    link::{Link, Time},
    wire::{CloseReason, ConnectionId, LinkName, RequestId},
};

impl Endpoint {
    /// Returns the link for requests to the realm with the key `peer`, which knows this side by its
    /// key `own`: a link that the realm has opened, one that this side has opened to `address`, or
    /// a new one.
    pub fn link_with(
        &mut self,
        now: Time,
        own: &PublicKey,
        peer: PublicKey,
        address: SocketAddr,
    ) -> LinkId {
        let own = self.own_key(own);
        let dialed = self.dialed_to(own, (peer, address));
        let is_open = |id: &LinkId| {
            self.slots
                .get(id)
                .is_some_and(|slot| matches!(slot.stage, Stage::Open))
        };
        let ours = dialed.filter(|id| is_open(id) && self.ours_stays(own, &peer));
        let theirs = self.accepted_from(own, &peer);
        match ours.or(theirs).or(dialed) {
            Some(link) => link,
            None => self.dial_instead(now, own, (peer, address)),
        }
    }

    /// Returns a link to the realm with the key `peer` that this side opened to `address`. An open
    /// one shows the other realm that it can be called. With `is_once` the Init is sent
    /// [`DIALS_ONCE`] times at most. Until the answer arrives such a link takes no requests from a
    /// link to another address, because the address is unverified.
    ///
    /// [`DIALS_ONCE`]: super::limits::DIALS_ONCE
    pub fn link_to(
        &mut self,
        now: Time,
        own: &PublicKey,
        (peer, address): (PublicKey, SocketAddr),
        is_once: bool,
    ) -> LinkId {
        let own = self.own_key(own);
        if let Some(link) = self.dialed_to(own, (peer, address)) {
            return link;
        }
        if !is_once || is_planted(Fault::TrialTakesLink) {
            return self.dial_instead(now, own, (peer, address));
        }
        let is_tried =
            |slot: &LinkEntry| slot.is_once && slot.peer == Some(peer) && slot.is_to(own, address);
        let mut slots = self.slots.iter();
        if let Some((link, _)) = slots.find(|(_, slot)| is_tried(slot)) {
            return *link;
        }
        let link = self.dial_realm(now, own, peer, address);
        if let Some(slot) = self.slots.get_mut(&link) {
            slot.is_once = true;
        }
        link
    }

    /// Records that a realm answered at a tried address. It is called there from now on.
    pub(super) fn is_there(&mut self, now: Time, id: LinkId) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.is_once = false;
        if let Some(peer) = slot.peer {
            self.take_place(now, peer, id);
        }
    }

    /// Returns the link that this side has opened to a realm at that address.
    fn dialed_to(&self, own: u16, (peer, address): (PublicKey, SocketAddr)) -> Option<LinkId> {
        let id = self.dialed.get(&peer)?;
        let slot = self.slots.get(id)?;
        slot.is_to(own, address).then_some(*id)
    }

    /// Returns the open link with the realm with the key `peer`, opened by either side, on which it
    /// was heard last.
    pub fn link_there(&self, own: &PublicKey, peer: &PublicKey) -> Option<LinkId> {
        self.open_link(self.own_key(own), peer)
    }

    fn open_link(&self, own: u16, peer: &PublicKey) -> Option<LinkId> {
        let theirs = self.by_peer.get(peer).map_or(&[][..], |links| links);
        let all = theirs.iter().chain(self.dialed.get(peer)).copied();
        let open = all.filter_map(|id| {
            let slot = self.slots.get(&id)?;
            let is_open = matches!(slot.stage, Stage::Open) && !slot.link.is_closing();
            (slot.own == own && is_open).then_some((slot.heard, id))
        });
        open.max().map(|(_, id)| id)
    }

    /// Returns the proven links that the holder of `peer` has opened, and the open link of this
    /// side.
    pub fn links_with(&self, peer: &PublicKey) -> (SmallVec<[LinkId; 2]>, Option<LinkId>) {
        let ours = self.dialed.get(peer).copied();
        let ours = ours.filter(|id| self.is_open(*id));
        (self.by_peer.get(peer).cloned().unwrap_or_default(), ours)
    }

    /// True while this side waits for the other to accept the link.
    pub fn is_dialing(&self, link: LinkId) -> bool {
        let slot = self.slots.get(&link);
        slot.is_some_and(|slot| slot.role == Role::Initiator && !matches!(slot.stage, Stage::Open))
    }

    /// True if the path of `link` is kept alive.
    pub fn is_kept_alive(&self, link: LinkId) -> bool {
        let slot = self.slots.get(&link);
        slot.is_some_and(|slot| slot.link.is_kept_alive())
    }

    /// Handles a dial without an answer: its requests move to another link, if there is one.
    pub(super) fn give_up_dial(&mut self, now: Time, id: LinkId) {
        let Some(slot) = self.slots.get(&id).filter(|_| self.is_dialing(id)) else {
            return;
        };
        if let Some(peer) = slot.peer
            && let Some(other) = self.open_link(slot.own, &peer)
        {
            self.move_requests(now, id, other);
        }
    }

    /// Opens a link to a realm. Requests on a link to another address move to it.
    fn dial_instead(
        &mut self,
        now: Time,
        own: u16,
        (peer, address): (PublicKey, SocketAddr),
    ) -> LinkId {
        let link = self.dial_realm(now, own, peer, address);
        self.take_place(now, peer, link);
        link
    }

    /// Makes `link` the link to a realm, and closes the one to another address.
    fn take_place(&mut self, now: Time, peer: PublicKey, link: LinkId) {
        if let Some(elsewhere) = self.dialed.insert(peer, link) {
            self.move_requests(now, elsewhere, link);
            self.close(now, elsewhere, CloseReason::Done);
        }
    }

    /// Ends a link on which a request timed out, if the other side opened it. That side may have
    /// forgotten the link, and only it can reopen it.
    pub fn distrust(&mut self, now: Time, link: LinkId) {
        if self
            .slots
            .get(&link)
            .is_some_and(|slot| slot.role == Role::Responder)
        {
            self.close(now, link, CloseReason::Done);
        }
    }

    /// True while `link` exists.
    pub fn has(&self, link: LinkId) -> bool {
        self.slots.contains_key(&link)
    }

    /// Returns when a packet last arrived on `link`.
    pub fn heard(&self, link: LinkId) -> Option<Time> {
        self.slots.get(&link)?.heard
    }

    /// True if the other side has accepted this side and packets can be exchanged.
    pub fn is_open(&self, link: LinkId) -> bool {
        let slot = self.slots.get(&link);
        slot.is_some_and(|slot| {
            matches!(slot.stage, Stage::Open) && slot.link.opening().is_welcomed()
        })
    }

    /// True while a keepalive on `link` is unanswered.
    pub fn awaits_sign(&self, link: LinkId) -> bool {
        let slot = self.slots.get(&link);
        slot.is_some_and(|slot| slot.link.awaits_sign())
    }

    /// Cancels a request.
    pub fn give_up(&mut self, now: Time, link: LinkId, number: RequestId) {
        if let Some(slot) = self.slots.get_mut(&link) {
            slot.link.ask_until(number, now);
            self.let_time_pass(now, link);
            self.touch(now, link);
        }
    }

    /// Stops dialing a link without open requests.
    pub fn end_idle_dial(&mut self, link: LinkId) {
        let slot = self.slots.get(&link);
        if self.is_dialing(link) && slot.is_some_and(|slot| !slot.link.is_waiting()) {
            self.end(link, None);
        }
    }

    fn dial_realm(&mut self, now: Time, own: u16, peer: PublicKey, address: SocketAddr) -> LinkId {
        let id = self.free_id();
        let link = Link::initiate(self.link_config(None), Some(self.name_of(id)));
        let mut slot = LinkEntry::new(
            now,
            link,
            Role::Initiator,
            address.into(),
            Some(peer),
            Stage::Calling,
        );
        slot.own = own;
        slot.is_shared = true;
        self.place(id, slot);
        id
    }

    /// Returns the name of link `id`, which this side opens to a realm.
    pub(super) fn name_of(&self, id: LinkId) -> LinkName {
        let connection = ConnectionId(id.0);
        LinkName {
            connection,
            token: self.resets.token(connection),
        }
    }

    /// Returns a free link id.
    pub(super) fn free_id(&mut self) -> LinkId {
        let mut id = LinkId(self.rng.next_u32());
        while self.slots.contains_key(&id) || !self.config.place.may_give(id) {
            id = LinkId(self.rng.next_u32());
        }
        id
    }

    /// Returns the latest proven link that the holder of `peer` has opened to this side's key
    /// `own`.
    fn accepted_from(&self, own: u16, peer: &PublicKey) -> Option<LinkId> {
        let links = self.by_peer.get(peer)?;
        let usable = |id: &&LinkId| {
            self.slots
                .get(id)
                .is_some_and(|slot| slot.own == own && !slot.link.is_closing())
        };
        links.iter().rev().find(usable).copied()
    }

    /// True if, of two links opened by both sides, this side's stays.
    fn ours_stays(&self, own: u16, peer: &PublicKey) -> bool {
        let own = self.keys.get(usize::from(own));
        own.is_some_and(|key| key.public < *peer)
    }

    /// Keeps only one link with a realm whose link has just been proven.
    pub(super) fn settle_for_one(&mut self, now: Time, theirs: LinkId) {
        let Some(slot) = self.slots.get(&theirs) else {
            return;
        };
        let (own, Some(peer)) = (slot.own, slot.peer) else {
            return;
        };
        // The realm may have forgotten its earlier links, and requests on those would never be
        // answered.
        let links = self.by_peer.get(&peer).map_or(&[][..], |links| links);
        let is_asked = |id: &&LinkId| {
            let slot = self.slots.get(id);
            **id != theirs && slot.is_some_and(|slot| slot.own == own && slot.link.is_waiting())
        };
        let asked: SmallVec<[LinkId; 2]> = links.iter().filter(is_asked).copied().collect();
        for before in asked {
            if !is_planted(Fault::WaitOnDeadLink) {
                self.move_requests(now, before, theirs);
            }
        }
        let Some(ours) = self.dialed.get(&peer).copied() else {
            return;
        };
        let stays = self.ours_stays(own, &peer);
        let Some(slot) = self.slots.get_mut(&ours).filter(|slot| slot.own == own) else {
            return;
        };
        let is_open = matches!(slot.stage, Stage::Open);
        if is_open && stays {
            // The other side has to learn that this link is genuine, before it ends its own.
            slot.link.ping();
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

    /// Returns another link with the other side of `link`, which has ended.
    pub(super) fn other_link(&self, link: LinkId) -> Option<LinkId> {
        let slot = self.slots.get(&link)?;
        let peer = slot.peer?;
        let dialed = self.dialed.get(&peer).copied();
        dialed
            .or_else(|| self.accepted_from(slot.own, &peer))
            .filter(|other| *other != link)
    }

    /// Moves the open requests of `from` to `to`.
    pub(super) fn move_requests(&mut self, now: Time, from: LinkId, to: LinkId) {
        let Some(slot) = self.slots.get_mut(&from) else {
            return;
        };
        let asked = slot.link.take_requests();
        if !asked.is_empty() {
            // Packets that waited for a long request may leave now.
            self.schedule.wake(from);
        }
        for (number, asked) in asked {
            let moved = self.request(now, to, asked.bytes, asked.deadline, asked.early);
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
