//! Rekeying (LINK-21): a fresh handshake replaces an old link with fresh keys. The old link lives
//! until the new one is open.

use core::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use super::{
    Endpoint, LinkId,
    link_entry::{LinkEntry, Role, Stage},
};
use crate::{
    link::{Link, Time},
    wire::CloseReason,
};

/// Age at which a link is replaced.
pub const LINK_LIFETIME: Duration = Duration::from_hours(24);
/// Time until a failed replacement is retried.
const TRIED_AGAIN_AFTER: Duration = Duration::from_hours(1);

/// The state of a link's replacement. Takes no memory until it begins, because most links are never
/// replaced.
#[derive(Debug, Default)]
pub(super) struct Rekey(Option<Box<Replacing>>);

/// The state of a link's replacement.
#[derive(Debug, Default)]
pub(super) struct Replacing {
    /// The link that this one is to replace.
    pub replaces: Option<LinkId>,
    /// The link that is to replace this one.
    pub replaced_by: Option<LinkId>,
    /// When the last replacement began.
    pub begun: Option<Time>,
}

impl Deref for Rekey {
    type Target = Replacing;

    fn deref(&self) -> &Replacing {
        const NOTHING: &Replacing = &Replacing {
            replaces: None,
            replaced_by: None,
            begun: None,
        };
        self.0.as_deref().unwrap_or(NOTHING)
    }
}

impl DerefMut for Rekey {
    fn deref_mut(&mut self) -> &mut Replacing {
        self.0.get_or_insert_default()
    }
}

impl LinkEntry {
    /// True if a link in use is due for replacement. An unused link is not replaced.
    pub(super) fn wants_renewal(&self, now: Time, lifetime: Duration) -> bool {
        let is_ours = self.role == Role::Initiator && self.peer.is_some();
        let is_old = now - self.opened >= lifetime || self.link.is_worn();
        let tried = self.renewal.begun;
        let may_try = tried.is_none_or(|begun| now - begun >= TRIED_AGAIN_AFTER);
        is_ours
            && is_old
            && may_try
            && self.renewal.replaced_by.is_none()
            && self.renewal.replaces.is_none()
            && matches!(self.stage, Stage::Open)
            && !self.link.is_closing()
    }
}

impl Endpoint {
    /// Opens a link to replace `old`.
    pub(super) fn renew(&mut self, now: Time, old: LinkId) {
        let id = self.free_id();
        let Some(slot) = self.slots.get(&old) else {
            return;
        };
        let (path, peer) = (slot.path, slot.peer);
        let (own, is_shared, rtt, life) = (slot.own, slot.is_shared, slot.link.rtt(), slot.life);
        let name = is_shared.then(|| self.name_of(id));
        let link = Link::initiate(self.link_config(rtt), name);
        let mut fresh = LinkEntry::new(now, link, Role::Initiator, path, peer, Stage::Calling);
        (fresh.own, fresh.is_shared, fresh.life) = (own, is_shared, life);
        fresh.renewal.replaces = Some(old);
        if let Some(slot) = self.slots.get_mut(&old) {
            slot.renewal.replaced_by = Some(id);
            slot.renewal.begun = Some(now);
        }
        self.place(id, fresh);
    }

    /// Handles an open replacement: the requests of the old link move to it.
    pub(super) fn renewed(&mut self, now: Time, new: LinkId) {
        let Some(slot) = self.slots.get_mut(&new) else {
            return;
        };
        let Some(old) = slot.renewal.replaces else {
            return;
        };
        // The responder has to learn that this link is genuine before it hears that the old one
        // ends.
        slot.link.ping();
        if let Some(peer) = slot.peer
            && self.dialed.get(&peer) == Some(&old)
        {
            self.dialed.insert(peer, new);
        }
        self.move_requests(now, old, new);
        if let Some(slot) = self.slots.get_mut(&old) {
            slot.link.keep_alive(None);
        }
    }

    /// Closes the link that `new` replaces, after a packet arrived on `new`.
    pub(super) fn end_replaced(&mut self, now: Time, new: LinkId) {
        let Some(slot) = self.slots.get_mut(&new) else {
            return;
        };
        if let Some(old) = slot.renewal.replaces.take() {
            if let Some(slot) = self.slots.get_mut(&old) {
                slot.renewal.replaced_by = None;
            }
            self.close(now, old, CloseReason::Replaced);
        }
    }

    /// Closes the links of a replacement together with the closed link: the one that it replaces,
    /// and the one that replaces it.
    pub(super) fn close_renewal(&mut self, now: Time, renewal: &Rekey, reason: CloseReason) {
        if let Some(old) = renewal.replaces {
            if let Some(slot) = self.slots.get_mut(&old) {
                slot.renewal.replaced_by = None;
            }
            self.close(now, old, reason);
        }
        if let Some(new) = renewal.replaced_by {
            if let Some(slot) = self.slots.get_mut(&new) {
                slot.renewal.replaces = None;
            }
            self.close(now, new, reason);
        }
    }

    /// Ends the replacement of an ended link.
    pub(super) fn end_renewal(&mut self, renewal: &Rekey) {
        if let Some(old) = renewal.replaces
            && let Some(slot) = self.slots.get_mut(&old)
        {
            slot.renewal.replaced_by = None;
        }
        if let Some(new) = renewal.replaced_by
            && let Some(slot) = self.slots.get(&new)
            && slot.renewal.replaces.is_some()
        {
            self.end(new, None);
        }
    }
}
