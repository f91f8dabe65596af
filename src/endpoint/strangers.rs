//! Proven links of devices that have no session and have had nothing done here (HS-13): few from one subnet, and the first to
//! go where there is no place left. A device's key costs nothing, and a link would else be its for a day.

use std::{collections::BTreeSet, net::SocketAddr};

use super::{Endpoint, LinkId, SERVES, limits::STRANGERS_PER_SUBNET, path::SubnetId};
use crate::{
    faults::{Fault, is_planted},
    link::Time,
};

/// The links of strangers.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    by_subnet: BTreeSet<(SubnetId, LinkId)>,
    /// Oldest first.
    by_age: BTreeSet<(Time, LinkId)>,
}

impl Strangers {
    fn add(&mut self, address: SocketAddr, opened: Time, link: LinkId) {
        self.by_subnet.insert((SubnetId::of(address), link));
        self.by_age.insert((opened, link));
    }

    /// The links that come from where `address` is.
    fn of_subnet(&self, address: SocketAddr) -> impl Iterator<Item = LinkId> {
        let subnet = SubnetId::of(address);
        let theirs = (subnet, LinkId(0))..=(subnet, LinkId(u32::MAX));
        self.by_subnet.range(theirs).map(|(_, link)| *link)
    }

    fn remove(&mut self, address: SocketAddr, opened: Time, link: LinkId) {
        self.by_subnet.remove(&(SubnetId::of(address), link));
        self.by_age.remove(&(opened, link));
    }

    /// The one that is to make room for another.
    pub fn first(&self) -> Option<LinkId> {
        let first = self.by_age.first().filter(|_| SERVES);
        first.map(|(_, link)| *link)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_age.len()
    }
}

impl Endpoint {
    /// A link is proven: if nothing is known of its device, it is a stranger's, and the oldest one of its subnet may have to go.
    pub(super) fn meet_stranger(&mut self, id: LinkId) {
        if !SERVES {
            return;
        }
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if slot.is_stranger || slot.link.is_trusted() || is_planted(Fault::StrangersStay) {
            return;
        }
        slot.is_stranger = true;
        let address = slot.path.remote;
        self.strangers.add(address, slot.opened, id);
        // All endpoints behind the address together keep so many.
        let kept = STRANGERS_PER_SUBNET.div_ceil(self.config.place.count());
        if self.strangers.of_subnet(address).count() > kept {
            let opened = |id: &LinkId| self.slots.get(id).map(|slot| slot.opened);
            let oldest = self.strangers.of_subnet(address).min_by_key(opened);
            if let Some(oldest) = oldest {
                self.end(oldest, None);
            }
        }
    }

    /// A link is not a stranger's any more, or not at `address`, where it was so far.
    pub(super) fn leave_stranger(&mut self, id: LinkId, opened: Time, address: SocketAddr) {
        if SERVES {
            self.strangers.remove(address, opened, id);
        }
    }

    /// A link has moved from `before`.
    pub(super) fn count_elsewhere(&mut self, id: LinkId, before: SocketAddr) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if SERVES && core::mem::take(&mut slot.is_stranger) {
            let opened = slot.opened;
            self.leave_stranger(id, opened, before);
            self.meet_stranger(id);
        } else {
            let account = slot.account;
            self.remove_from_account(id, account, before);
            self.add_to_account(id);
        }
    }
}
