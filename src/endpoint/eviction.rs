//! Eviction: ends or hibernates links when link slots or memory run out (HS-13, LINK-23).
//! `accounting` chooses the link.

use super::{
    AccountId, Dropped, Endpoint, LinkId,
    holder::{AddressProof, SlotKind},
    link_table::{LinkEntry, lifetime},
    ticket::Resumed,
};
use crate::link::Time;

impl Endpoint {
    /// Records that `account` is logged in on the other side of `link`. From now on the link may
    /// reassemble long messages here (LINK-13).
    pub fn trust(&mut self, link: LinkId, account: AccountId) {
        if let Some(entry) = self.links.get_mut(link) {
            entry.link.opening_mut().trust();
            entry.holding_mut().set_account(account);
            self.count_for_account(link);
        }
    }

    /// Gives a slot to a link that another side opens. Unproven links have limits, and beyond one a
    /// link is evicted, which may be the link itself.
    pub(super) fn give_slot(&mut self, id: LinkId, proof: AddressProof) -> Result<(), Dropped> {
        let entry = self.links.get_mut(id).ok_or(Dropped::Full)?;
        let ticket = entry.resumption().resumed().map(Resumed::ticket);
        if let Some(surplus) = self.accounting.add_unproven(id, entry, proof) {
            self.end(surplus, None);
        }
        if let Some(ticket) = ticket {
            let is_idle = |id| self.links.get(id).is_some_and(|entry| entry.link.is_idle());
            if let Some(surplus) = self.accounting.surplus_resumed(ticket, is_idle) {
                self.end(surplus, None);
            }
        }
        if self.links.contains(id) {
            Ok(())
        } else {
            Err(Dropped::Full)
        }
    }

    /// Gives a slot to a link whose address was proven, the first time or after a migration. If it
    /// is a stranger's, the oldest stranger's link of its subnet may be evicted, which may be the
    /// link itself.
    pub(super) fn give_proven_slot(&mut self, id: LinkId) {
        let Some(entry) = self.links.get_mut(id) else {
            return;
        };
        if !self.accounting.add_proven(id, entry) {
            return;
        }
        if let SlotKind::Account(..) = entry.holding().slot() {
            self.keep_slots_for_newcomers(id);
        } else if let Some(surplus) = self.accounting.surplus_stranger(entry, &self.config) {
            self.end(surplus, None);
        }
    }

    /// Moves a link to its account's slots once the account is known.
    pub(super) fn count_for_account(&mut self, id: LinkId) {
        if let Some(entry) = self.links.get_mut(id)
            && self.accounting.add_account(id, entry)
        {
            self.keep_slots_for_newcomers(id);
        }
    }

    /// Reserves a part of the slots for newcomers: a new account link beyond that evicts another
    /// account's link.
    fn keep_slots_for_newcomers(&mut self, newest: LinkId) {
        loop {
            let heard = |id: &LinkId| {
                let heard = self.links.get(*id).and_then(LinkEntry::heard);
                (*id == newest, heard)
            };
            let Some(surplus) = self.accounting.surplus_account(&self.config, heard) else {
                return;
            };
            self.send_reset_of(surplus);
            self.end(surplus, None);
        }
    }

    /// Evicts a link for a newcomer if all slots are taken. Fails if there is none to evict.
    pub(super) fn evict_for_newcomer(&mut self) -> Result<(), Dropped> {
        if self.accounting.is_full(&self.config) {
            let evicted = self.accounting.for_newcomer().ok_or(Dropped::Full)?;
            self.end(evicted, None);
        }
        Ok(())
    }

    /// Updates the memory that a link holds for its other side. Beyond the limit, ends the largest
    /// link of the largest holder. Its initiator learns of it by a Reset, opens another link, and
    /// repeats its requests.
    pub(super) fn count_memory(&mut self, id: LinkId) {
        if let Some(entry) = self.links.get_mut(id)
            && self.accounting.count_memory(id, entry)
        {
            while let Some(largest) = self.accounting.surplus_memory(&self.config) {
                self.end(largest, None);
            }
        }
    }

    /// Makes a link dormant if it is due, and releases the memory that it held for the other side.
    /// False if it is not due.
    pub(super) fn hibernate(&mut self, now: Time, id: LinkId) -> bool {
        let Some(entry) = self.links.get_mut(id) else {
            return false;
        };
        if lifetime::hibernates_at(entry).is_none_or(|at| at > now) {
            return false;
        }
        let Some(counters) = entry.link.hibernate() else {
            return false;
        };
        self.stats.links += counters;
        self.accounting.release_memory(id, entry);
        let timeout = lifetime::timeout(entry, &self.config);
        self.schedule.set(id, timeout);
        true
    }
}
