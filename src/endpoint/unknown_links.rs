//! Packets for unknown links: first packets of plain links, and packets of links that have ended.

use rand::Rng as _;

use super::{
    Dropped, Endpoint, Path, SERVES,
    link_entry::{LinkEntry, Role, Stage},
    link_slots::Shown,
    reset::Resets,
};
use crate::{
    link::{Link, Time},
    wire::{ConnectionId, Frame, Frames, LinkPacket, Packet},
};

impl Endpoint {
    /// Handles a packet of an unknown plain link. A packet with an OPEN begins a link (LINK-11).
    pub(super) fn handle_plain_stranger(
        &mut self,
        now: Time,
        path: Path,
        connection: ConnectionId,
        packet: &LinkPacket<'_>,
        datagram: &[u8],
    ) -> Result<(), Dropped> {
        if !SERVES {
            return Err(Dropped::NotServed);
        }
        let payload = packet
            .body
            .split_last_chunk::<4>()
            .map_or(&[][..], |(p, _)| p);
        let opens = Frames::checked(payload)
            .is_ok_and(|mut frames| frames.any(|frame| matches!(frame, Frame::Open(_))));
        if !opens {
            self.send_reset(now, path, connection, datagram.len());
            return Err(Dropped::UnknownLink);
        }
        if !self.admitting {
            return Err(Dropped::NotServed);
        }
        if !self.make_room() {
            return Err(Dropped::Full);
        }
        let mut link = Link::respond(self.link_config(None), 0);
        link.establish_plain(None);
        let mut data = [0; 8];
        self.rng.fill_bytes(&mut data);
        link.challenge(data);
        let mut slot = LinkEntry::new(now, link, Role::Responder, path, None, Stage::Open);
        slot.remote = Some(connection);
        let id = self.insert(slot);
        self.stand_half_open(id, Shown::Nothing);
        if !self.slots.contains_key(&id) {
            return Err(Dropped::Full);
        }
        self.by_plain.insert((path.remote, connection), id);
        Ok(self.hand_in(now, id, packet, datagram)?)
    }

    /// HS-8: sends a Reset, which is smaller than the packet that it answers, within the rate
    /// limit.
    pub(super) fn send_reset(
        &mut self,
        now: Time,
        path: Path,
        connection: ConnectionId,
        came: usize,
    ) {
        // While shutting down, a Reset would only make the client dial again in vain.
        if self.config.accept.is_none() || !self.admitting {
            return;
        }
        let Some(counts) = &self.counts else {
            return;
        };
        let mut out = Vec::new();
        Packet::emit_reset(connection, &self.resets.token(connection), &mut out);
        if out.len() < came && Resets::allow(now, path.remote.ip(), counts) {
            self.answer(path, out);
            self.stats.answers.resets += 1;
        }
    }
}
