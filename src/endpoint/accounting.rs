//! Accounting of what other parties hold at this endpoint: link slots (HS-13), memory (LINK-23) and
//! bytes in reassembly (LINK-13), all counted for the same holders. It names the link to evict; the
//! endpoint ends that link.

use super::{
    ACCEPTS_LINKS,
    config::Config,
    holder::{AddressProof, Holder, SlotKind},
    ids::LinkId,
    link_slots::LinkSlots,
    link_table::{LinkEntry, Role},
    memory::Memory,
    reassembly_quota::ReassemblyQuota,
};
use crate::{subnet::Subnet, wire::ConnectionId};

/// The slots, memory and reassembly quota of all holders.
#[derive(Debug, Default)]
pub(super) struct Accounting {
    slots: LinkSlots,
    memory: Memory,
    reassembly: ReassemblyQuota,
}

impl Accounting {
    /// Moves a link to a slot of another kind, and what it holds to the holder of that slot.
    fn move_link(&mut self, id: LinkId, entry: &mut LinkEntry, to: SlotKind) {
        if !ACCEPTS_LINKS {
            return;
        }
        let before = entry.holder();
        self.slots.move_to(id, entry, to);
        let holders = (before, entry.holder());
        self.memory.hand_over(id, entry.holding().memory(), holders);
        self.reassembly.hand_over(entry.link.assembling(), holders);
    }

    /// Gives a slot to a link that another side opens. Returns the link to end for it, if any,
    /// which may be the link itself.
    pub fn add_unproven(
        &mut self,
        id: LinkId,
        entry: &mut LinkEntry,
        proof: AddressProof,
    ) -> Option<LinkId> {
        let subnet = entry.path().remote.into();
        let to = match proof {
            AddressProof::None => SlotKind::Unverified,
            AddressProof::TicketAddress => SlotKind::TicketAddress(subnet),
            AddressProof::Cookie => SlotKind::Cookie(subnet),
        };
        self.move_link(id, entry, to);
        self.slots.surplus_unproven(proof)
    }

    /// Gives a slot to a link whose address was proven, the first time or after a migration. Until
    /// then it keeps its former slot. False if it stays there.
    pub fn add_proven(&mut self, id: LinkId, entry: &mut LinkEntry) -> bool {
        let subnet = Subnet::from(entry.path().remote);
        let to = match (entry.holding().account(), entry.holding().slot()) {
            (Some(_), SlotKind::Account(there, _)) if there == subnet => return false,
            (Some(_), _) => SlotKind::Account(subnet, 0),
            (None, _) => SlotKind::Stranger(subnet),
        };
        if entry.holding().slot() == to {
            return false;
        }
        self.move_link(id, entry, to);
        true
    }

    /// Moves a link to its account's slots once the account is known. False if it stays where it
    /// is: an unproven link may come from a recorded Init, and counts for no account.
    pub fn add_account(&mut self, id: LinkId, entry: &mut LinkEntry) -> bool {
        let holding = entry.holding();
        let (Some(_), SlotKind::Stranger(subnet)) = (holding.account(), holding.slot()) else {
            return false;
        };
        self.move_link(id, entry, SlotKind::Account(subnet, 0));
        true
    }

    /// Releases all that a link holds, which ends.
    pub fn remove(&mut self, id: LinkId, entry: &LinkEntry) {
        if ACCEPTS_LINKS {
            self.slots.remove(id, entry);
        }
        self.memory
            .change(id, entry.holder(), entry.holding().memory(), 0);
        self.reassembly
            .change(entry.holder(), entry.link.assembling(), 0);
    }

    /// Returns the stranger's link to evict, after the link with this entry was proven.
    pub fn surplus_stranger(&self, entry: &LinkEntry, config: &Config) -> Option<LinkId> {
        match entry.holding().slot() {
            SlotKind::Stranger(subnet) => self.slots.surplus_stranger(subnet, config.worker),
            SlotKind::Own
            | SlotKind::Unverified
            | SlotKind::TicketAddress(_)
            | SlotKind::Cookie(_)
            | SlotKind::Account(..) => None,
        }
    }

    /// Returns the account's link to evict, if accounts have too many.
    pub fn surplus_account<H: Ord>(
        &self,
        config: &Config,
        heard: impl Fn(&LinkId) -> H,
    ) -> Option<LinkId> {
        self.slots.surplus_account(config.links_max, heard)
    }

    /// Returns the unproven link to evict of a ticket that has resumed too many.
    pub fn surplus_resumed(
        &self,
        ticket: ConnectionId,
        is_idle: impl Fn(LinkId) -> bool,
    ) -> Option<LinkId> {
        self.slots.surplus_resumed(ticket, is_idle)
    }

    /// Returns the link to evict for a newcomer.
    pub fn for_newcomer(&self) -> Option<LinkId> {
        self.slots.for_newcomer()
    }

    /// True if all slots are taken. Links that this side opens take no slot: they would take those
    /// of newcomers.
    pub fn is_full(&self, config: &Config) -> bool {
        self.slots.len() >= config.links_max
    }

    /// Updates the memory that a link holds for its other side. False if it is the same.
    pub fn count_memory(&mut self, id: LinkId, entry: &mut LinkEntry) -> bool {
        if !ACCEPTS_LINKS || entry.role() == Role::Initiator {
            return false;
        }
        let now = entry.link.memory() + entry.held_bytes();
        let before = entry.holding_mut().count_memory(now);
        if now != before {
            self.memory.change(id, entry.holder(), before, now);
        }
        now != before
    }

    /// Releases the memory of a link that has become dormant.
    pub fn release_memory(&mut self, id: LinkId, entry: &mut LinkEntry) {
        let before = entry.holding_mut().count_memory(0);
        self.memory.change(id, entry.holder(), before, 0);
    }

    /// Returns the link to evict if links hold more memory than they may: the largest of the
    /// largest holder.
    pub fn surplus_memory(&self, config: &Config) -> Option<LinkId> {
        (self.memory.total() > config.memory_max)
            .then(|| self.memory.largest())
            .flatten()
    }

    /// Changes the bytes in reassembly of a holder's link.
    pub fn change_reassembly(&mut self, holder: Holder, before: usize, after: usize) {
        self.reassembly.change(holder, before, after);
    }

    /// Returns how many more bytes a holder's link may have in reassembly.
    pub fn remaining_reassembly(&self, holder: Holder) -> usize {
        self.reassembly.remaining(holder)
    }

    /// Returns the bytes in reassembly of all holders.
    pub fn reassembly(&self) -> usize {
        self.reassembly.total()
    }

    /// Returns the bytes of all links that are worth ending.
    #[cfg(test)]
    pub const fn memory(&self) -> usize {
        self.memory.total()
    }

    #[cfg(test)]
    pub const fn slots(&self) -> &LinkSlots {
        &self.slots
    }
}
