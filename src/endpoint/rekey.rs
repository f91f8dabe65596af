//! Rekeying (LINK-21): a fresh handshake replaces an old link with fresh keys. The old link lives
//! until the new one is open.

use super::{
    Endpoint, LinkId,
    link_table::{LinkEntry, Rekey, Role, Stage},
};
use crate::{
    link::{Link, Time},
    wire::CloseReason,
};

impl Endpoint {
    /// Opens a link to replace `old`.
    pub(super) fn begin_rekey(&mut self, now: Time, old: LinkId) {
        let id = self.free_id();
        let Some(entry) = self.links.get(old) else {
            return;
        };
        let (path, peer) = (entry.path(), entry.peer());
        let (own, is_shared, rtt, life) = (
            entry.own(),
            entry.is_shared(),
            entry.link.rtt(),
            entry.life().current(),
        );
        let name = is_shared.then(|| self.keys.link_name(id));
        let link = Link::initiate(self.link_config(rtt), name);
        let fresh = LinkEntry::new(now, link, Role::Initiator, path, peer, Stage::Calling);
        let mut fresh = fresh.with_key(own).replacing(old);
        if is_shared {
            fresh = fresh.shared();
        }
        fresh.life_mut().claim(life);
        if let Some(entry) = self.links.get_mut(old) {
            entry.rekey_mut().begin(now, id);
        }
        self.insert_as(id, fresh);
    }

    /// Handles an open replacement: the requests of the old link move to it.
    pub(super) fn finish_rekey(&mut self, now: Time, new: LinkId) {
        let Some(entry) = self.links.get_mut(new) else {
            return;
        };
        let Some(old) = entry.rekey().replaces() else {
            return;
        };
        // The responder has to learn that this link is genuine before it hears that the old one
        // ends.
        entry.link.ping();
        if let Some(peer) = entry.peer() {
            self.links.replace_dialed(peer, old, new);
        }
        self.move_requests(now, old, new);
        if let Some(entry) = self.links.get_mut(old) {
            entry.link.keep_alive(None);
        }
    }

    /// Closes the link that `new` replaces, after a packet arrived on `new`.
    pub(super) fn end_replaced(&mut self, now: Time, new: LinkId) {
        let Some(entry) = self.links.get_mut(new) else {
            return;
        };
        if let Some(old) = entry.rekey_mut().predecessor_ended() {
            if let Some(entry) = self.links.get_mut(old) {
                entry.rekey_mut().replacement_ended();
            }
            self.close(now, old, CloseReason::Replaced);
        }
    }

    /// Closes the links of a replacement together with the closed link: the one that it replaces,
    /// and the one that replaces it.
    pub(super) fn close_replacement(&mut self, now: Time, rekey: &Rekey, reason: CloseReason) {
        if let Some(old) = rekey.replaces() {
            if let Some(entry) = self.links.get_mut(old) {
                entry.rekey_mut().replacement_ended();
            }
            self.close(now, old, reason);
        }
        if let Some(new) = rekey.replaced_by() {
            if let Some(entry) = self.links.get_mut(new) {
                entry.rekey_mut().predecessor_ended();
            }
            self.close(now, new, reason);
        }
    }

    /// Ends the replacement of an ended link.
    pub(super) fn end_replacement(&mut self, rekey: &Rekey) {
        if let Some(old) = rekey.replaces()
            && let Some(entry) = self.links.get_mut(old)
        {
            entry.rekey_mut().replacement_ended();
        }
        if let Some(new) = rekey.replaced_by()
            && let Some(entry) = self.links.get(new)
            && entry.rekey().replaces().is_some()
        {
            self.end(new, None);
        }
    }
}
