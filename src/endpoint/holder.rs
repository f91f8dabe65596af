//! The kind of a link's slot, and who holds it (HS-13).

use super::accounts::AccountId;
use crate::subnet::{Network, Subnet};

/// The kind of a link's slot. The subnet is that of the last proven address of the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SlotKind {
    /// This side opened it.
    #[default]
    Own,
    /// Not proven; its Init may have a forged address.
    Unverified,
    /// Not proven, and resumed from the address of its ticket, which the device has proven. Anyone
    /// with the ticket can forge that address.
    TicketAddress(Subnet),
    /// Not proven; a cookie came from its subnet.
    Cookie(Subnet),
    /// Proven, from a device without a known account.
    Stranger(Subnet),
    /// A user is logged in, or it is a peer's link: its account does not change any more. The
    /// number is the link's serial number of arrival.
    Account(Subnet, u32),
}

/// What an unproven link has shown of the other side's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressProof {
    None,
    /// It came from the address of its ticket.
    TicketAddress,
    /// It came with a cookie.
    Cookie,
}

/// The holder of a link's slot and of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    /// This side.
    Own,
    /// All links whose address is unproven.
    Nobody,
    /// All links of a network without an account.
    Network(Network),
    Account(AccountId),
}

impl Holder {
    /// Returns the holder of a link with a slot of this kind and with this account.
    fn of(slot: SlotKind, account: Option<AccountId>) -> Self {
        match (slot, account) {
            (SlotKind::Own, _) => Self::Own,
            (SlotKind::Unverified | SlotKind::TicketAddress(_), _) => Self::Nobody,
            (SlotKind::Account(..), Some(account)) => Self::Account(account),
            (
                SlotKind::Cookie(subnet)
                | SlotKind::Stranger(subnet)
                | SlotKind::Account(subnet, _),
                _,
            ) => Self::Network(subnet.into()),
        }
    }
}

/// What a link holds here for its other side.
#[derive(Debug, Default)]
pub(super) struct Holding {
    /// The account of the device, if known.
    account: Option<AccountId>,
    slot: SlotKind,
    /// Memory, in bytes.
    memory: usize,
}

impl Holding {
    /// The account of the device, if known.
    pub const fn account(&self) -> Option<AccountId> {
        self.account
    }

    pub const fn slot(&self) -> SlotKind {
        self.slot
    }

    /// The memory that it holds, in bytes, as last counted.
    pub const fn memory(&self) -> usize {
        self.memory
    }

    /// Returns the holder of the slot and of the memory.
    pub fn holder(&self) -> Holder {
        Holder::of(self.slot, self.account)
    }

    /// Records the account of the device. A known account does not change any more.
    pub fn set_account(&mut self, account: AccountId) {
        self.account.get_or_insert(account);
    }

    /// Records that it has another slot.
    pub const fn move_to(&mut self, slot: SlotKind) {
        self.slot = slot;
    }

    /// Counts the memory anew. Returns the former count.
    pub const fn count_memory(&mut self, bytes: usize) -> usize {
        core::mem::replace(&mut self.memory, bytes)
    }
}
