//! Resets: a realm that has forgotten a link tells its initiator (HS-8).

use std::net::SocketAddr;

use super::{Endpoint, LinkId, Path, link_table::Role, trace_handshake};
use crate::{
    crypto::same,
    link::Time,
    wire::{ConnectionId, RESET_LEN, ResetToken},
};

impl Endpoint {
    /// Handles a Reset of an open link, whose other side has forgotten it. False if there is no
    /// such link here.
    pub(super) fn handle_reset_of_open_link(
        &mut self,
        now: Time,
        from: SocketAddr,
        connection: ConnectionId,
        token: &ResetToken,
    ) -> bool {
        let reset = self.links.with_name(from, connection).find(|id| {
            self.links.get(*id).is_some_and(|entry| {
                entry.stage().is_open()
                    && entry.remote() == Some(connection)
                    && entry.believes_reset(token)
            })
        });
        let Some(id) = reset else {
            return false;
        };
        let Some(entry) = self.links.get_mut(id) else {
            return false;
        };
        trace_handshake(id, false, ("reset", RESET_LEN), None);
        entry.on_reset(now);
        if entry.role() == Role::Initiator {
            self.dial_again(now, id);
        } else {
            // The initiator has forgotten the link, and only it can reopen it. It may have opened
            // another.
            if let Some(other) = self.links.other_than(id) {
                self.move_requests(now, id, other);
            }
            self.end(id, None);
        }
        true
    }

    /// Handles a Reset of the predecessor of a link that this side is dialing: the other side is
    /// reachable again, so the first packet is resent at once, one time (HS-22). False if there is
    /// no such link.
    pub(super) fn handle_reset_of_predecessor(
        &mut self,
        now: Time,
        from: SocketAddr,
        connection: ConnectionId,
        token: &ResetToken,
    ) -> bool {
        let waits = self.links.opened_to(from).find(|id| {
            self.links.get(*id).is_some_and(|entry| {
                let is_former = entry.reset_token().is_some_and(|known| same(known, token));
                entry.stage().dial().is_some() && entry.remote() == Some(connection) && is_former
            })
        });
        let Some(id) = waits else {
            return false;
        };
        if let Some(entry) = self.links.get_mut(id) {
            entry.on_predecessor_reset();
            trace_handshake(id, false, ("reset", RESET_LEN), None);
        }
        self.touch(now, id);
        true
    }

    /// Sends a Reset to the other side of an ending link, so that it opens another when it needs
    /// one.
    pub(super) fn send_reset_of(&mut self, id: LinkId) {
        if let Some(entry) = self.links.get(id) {
            let reset = self.keys.reset(entry.connection(id));
            self.outbox.send(entry.path(), reset);
        }
    }

    /// Sends a Reset for a link that was forgotten, as after a restart (HS-22). Does nothing if a
    /// link of that id exists again.
    pub fn tell_forgotten(&mut self, link: ConnectionId, path: Path) {
        if !self.links.contains(LinkId(link.0)) {
            self.outbox.send(path, self.keys.reset(link));
        }
    }

    /// HS-8: sends a Reset, which is smaller than the packet of `came` bytes that it answers,
    /// within the rate limit.
    pub(super) fn answer_with_reset(
        &mut self,
        now: Time,
        path: Path,
        connection: ConnectionId,
        came: usize,
    ) {
        // While shutting down, a Reset would only make the client dial again in vain.
        if self.config.accept.is_none() || !self.admission.is_open() {
            return;
        }
        let reset = self.keys.reset(connection);
        if reset.len() < came && self.admission.admits_reset(now, path.remote.ip()) {
            self.outbox.answer(path, reset);
            self.stats.answers.resets += 1;
        }
    }
}
