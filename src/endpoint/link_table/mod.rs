//! The link table: what an endpoint holds of each link, and the indexes that find the link of a
//! datagram or of a peer. Entries and indexes change only together.

mod entry;
mod life;
pub(super) mod lifetime;
mod replacement;
mod stage;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
};

pub(super) use entry::LinkEntry;
pub use entry::{HANDSHAKE_BYTES, LINK_BYTES};
use rand_core::Rng;
pub(super) use replacement::Rekey;
use smallvec::SmallVec;
pub(super) use stage::{Accepting, Answering, Role, Stage};

use super::{
    identity::KeyIndex,
    ids::{ById, LinkId},
    limits::LINKS_PER_KEY_MAX,
    path::Path,
    worker_id::WorkerId,
};
use crate::{
    crypto::PublicKey,
    faults::{Fault, is_planted},
    link::Time,
    wire::{ConnectionId, HandshakeId, LinkName},
};

/// All links of an endpoint.
#[derive(Debug, Default)]
pub(super) struct LinkTable {
    entries: ById<Box<LinkEntry>>,
    /// Links that this side opened, by remote address. The other side has no id for them unless
    /// they are shared.
    by_address: BTreeSet<(SocketAddr, LinkId)>,
    /// Links that others opened and named by a connection id of their own, which their Resets
    /// carry. Holds the latest link of each id, so that a lookup has one result, however many a
    /// stranger opens.
    by_name: BTreeMap<(SocketAddr, ConnectionId), LinkId>,
    /// Plain links that others opened, by the connection id that the initiator chose.
    by_plain: BTreeMap<(SocketAddr, ConnectionId), LinkId>,
    /// Proven links that others opened, by the initiator's key.
    by_peer: HashMap<PublicKey, SmallVec<[LinkId; 2]>>,
    /// Shared links that this side opened to realms, by the realm's key.
    dialed: BTreeMap<PublicKey, LinkId>,
    /// Keys of other realms.
    realms: BTreeSet<PublicKey>,
}

impl LinkTable {
    /// Returns the number of links.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn contains(&self, id: LinkId) -> bool {
        self.entries.contains_key(&id)
    }

    pub fn get(&self, id: LinkId) -> Option<&LinkEntry> {
        self.entries.get(&id).map(Box::as_ref)
    }

    pub fn get_mut(&mut self, id: LinkId) -> Option<&mut LinkEntry> {
        self.entries.get_mut(&id).map(Box::as_mut)
    }

    /// Returns all links, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (LinkId, &LinkEntry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry.as_ref()))
    }

    /// Returns the ids of all links, in order.
    pub fn ids(&self) -> Vec<LinkId> {
        let mut ids: Vec<LinkId> = self.entries.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Returns a random free id that `worker` may assign.
    pub fn free_id(&self, worker: WorkerId, rng: &mut impl Rng) -> LinkId {
        let mut id = LinkId(rng.next_u32());
        while self.contains(id) || !worker.may_give(id) {
            id = LinkId(rng.next_u32());
        }
        id
    }

    /// Inserts a link under a free id.
    pub fn insert(&mut self, id: LinkId, entry: LinkEntry) {
        let address = entry.path.remote;
        match (entry.role, entry.peer, entry.remote) {
            (Role::Initiator, _, _) => {
                self.by_address.insert((address, id));
            }
            (Role::Responder, None, Some(connection)) => {
                self.by_plain.insert((address, connection), id);
            }
            (Role::Responder, _, _) => {}
        }
        self.entries.insert(id, Box::new(entry));
    }

    /// Removes a link from the table and from all indexes.
    pub fn remove(&mut self, id: LinkId) -> Option<Box<LinkEntry>> {
        let entry = self.entries.remove(&id)?;
        let address = entry.path.remote;
        if !is_planted(Fault::KeepAddress) {
            self.by_address.remove(&(address, id));
        }
        if let Some(remote) = entry.remote {
            if self.by_plain.get(&(address, remote)) == Some(&id) {
                self.by_plain.remove(&(address, remote));
            }
            self.forget_name(address, remote, id);
        }
        if let Some(peer) = entry.peer {
            if self.dialed.get(&peer) == Some(&id) {
                self.dialed.remove(&peer);
            }
            if let Some(links) = self.by_peer.get_mut(&peer) {
                links.retain(|link| *link != id);
                if links.is_empty() {
                    self.by_peer.remove(&peer);
                }
            }
        }
        Some(entry)
    }

    /// Restarts a link that the other side has forgotten; `name` is its name if it is shared.
    pub fn restart(
        &mut self,
        now: Time,
        id: LinkId,
        name: Option<LinkName>,
    ) -> Option<&mut LinkEntry> {
        let entry = Box::new(self.entries.remove(&id)?.restart(now, name));
        Some(
            self.entries
                .entry(id)
                .insert_entry(entry)
                .into_mut()
                .as_mut(),
        )
    }

    /// Records the connection id that the initiator has given to a link.
    pub fn set_name(&mut self, id: LinkId, name: ConnectionId) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let address = entry.path.remote;
        let former = entry.remote.replace(name);
        if let Some(former) = former {
            self.forget_name(address, former, id);
        }
        self.by_name.insert((address, name), id);
    }

    /// Moves a link that another side opened to another path. Returns the former path.
    pub fn migrate(&mut self, id: LinkId, path: Path) -> Option<Path> {
        let entry = self.entries.get_mut(&id)?;
        debug_assert!(
            entry.role == Role::Responder && entry.peer.is_some(),
            "only links that others opened and sealed migrate"
        );
        let before = core::mem::replace(&mut entry.path, path);
        if let Some(name) = entry.remote {
            self.forget_name(before.remote, name, id);
            self.by_name.insert((path.remote, name), id);
        }
        Some(before)
    }

    /// Removes the name of a link at an address, unless it is another link's by now.
    fn forget_name(&mut self, address: SocketAddr, name: ConnectionId, id: LinkId) {
        if self.by_name.get(&(address, name)) == Some(&id) {
            self.by_name.remove(&(address, name));
        }
    }

    /// Returns the links that this side opened to `address`.
    pub fn opened_to(&self, address: SocketAddr) -> impl Iterator<Item = LinkId> {
        self.by_address
            .range((address, LinkId(0))..=(address, LinkId(u32::MAX)))
            .map(|(_, id)| *id)
    }

    /// Returns the link that dials `address` with the handshake id `handshake`.
    pub fn dialing(&self, address: SocketAddr, handshake: HandshakeId) -> Option<LinkId> {
        self.opened_to(address).find(|id| {
            let dial = self.get(*id).and_then(|entry| entry.stage().dial());
            dial.is_some_and(|dial| dial.is_for(handshake))
        })
    }

    /// Returns the plain link that the initiator at `address` has opened under `connection`.
    pub fn plain(&self, address: SocketAddr, connection: ConnectionId) -> Option<LinkId> {
        self.by_plain.get(&(address, connection)).copied()
    }

    /// Returns the links that a Reset from `address` with the name `connection` may be for.
    pub fn with_name(
        &self,
        address: SocketAddr,
        connection: ConnectionId,
    ) -> impl Iterator<Item = LinkId> {
        let theirs = self.by_name.get(&(address, connection)).copied();
        self.opened_to(address).chain(theirs)
    }

    /// Adds a link that was proven to the links of its initiator's key. False if it was proven
    /// before and has only migrated.
    pub fn add_proven(&mut self, id: LinkId, peer: PublicKey) -> bool {
        let links = self.by_peer.entry(peer).or_default();
        let is_new = !links.contains(&id);
        if is_new {
            links.push(id);
        }
        is_new
    }

    /// Returns the proven links that the holder of `peer` has opened, the latest last.
    pub fn proven_of(&self, peer: &PublicKey) -> &[LinkId] {
        match self.by_peer.get(peer) {
            Some(links) => links,
            None => &[],
        }
    }

    /// Returns the link that was heard least recently, if a key has too many.
    pub fn surplus_of(&self, peer: &PublicKey) -> Option<LinkId> {
        let links = self.proven_of(peer);
        if links.len() <= LINKS_PER_KEY_MAX {
            return None;
        }
        let heard = |link: &&LinkId| self.get(**link).and_then(LinkEntry::heard);
        links.iter().min_by_key(heard).copied()
    }

    /// Returns the shared link that this side has opened to a realm.
    pub fn dialed(&self, peer: &PublicKey) -> Option<LinkId> {
        self.dialed.get(peer).copied()
    }

    /// Makes `link` the shared link to a realm. Returns the one before.
    pub fn set_dialed(&mut self, peer: PublicKey, link: LinkId) -> Option<LinkId> {
        self.dialed.insert(peer, link)
    }

    /// Makes `new` the shared link to a realm, if `old` is.
    pub fn replace_dialed(&mut self, peer: PublicKey, old: LinkId, new: LinkId) {
        if self.dialed.get(&peer) == Some(&old) {
            self.dialed.insert(peer, new);
        }
    }

    /// Returns the shared link that this side has opened to a realm at that address.
    pub fn dialed_to(
        &self,
        own: KeyIndex,
        peer: &PublicKey,
        address: SocketAddr,
    ) -> Option<LinkId> {
        let id = self.dialed(peer)?;
        self.get(id)?.is_to(own, address).then_some(id)
    }

    /// Returns the link that tries whether a realm is at that unverified address.
    pub fn trial(&self, own: KeyIndex, peer: &PublicKey, address: SocketAddr) -> Option<LinkId> {
        let is_trial = |entry: &LinkEntry| {
            entry.is_trial() && entry.peer == Some(*peer) && entry.is_to(own, address)
        };
        let mut links = self.iter();
        links
            .find(|(_, entry)| is_trial(entry))
            .map(|(link, _)| link)
    }

    /// Returns the latest proven link that the holder of `peer` has opened to this side's key
    /// `own`.
    pub fn accepted_from(&self, own: KeyIndex, peer: &PublicKey) -> Option<LinkId> {
        let is_usable = |id: &&LinkId| {
            self.get(**id)
                .is_some_and(|entry| entry.own() == own && !entry.link.is_closing())
        };
        self.proven_of(peer).iter().rev().find(is_usable).copied()
    }

    /// Returns the open link with a realm, opened by either side, on which it was heard last.
    pub fn open_with(&self, own: KeyIndex, peer: &PublicKey) -> Option<LinkId> {
        let theirs = self.proven_of(peer).iter().copied();
        let open = theirs.chain(self.dialed(peer)).filter_map(|id| {
            let entry = self.get(id)?;
            let is_open = entry.stage().is_open() && !entry.link.is_closing();
            (entry.own() == own && is_open).then_some((entry.heard(), id))
        });
        open.max().map(|(_, id)| id)
    }

    /// Returns another link with the other side of `link`, which has ended.
    pub fn other_than(&self, link: LinkId) -> Option<LinkId> {
        let entry = self.get(link)?;
        let peer = entry.peer?;
        self.dialed(&peer)
            .or_else(|| self.accepted_from(entry.own(), &peer))
            .filter(|other| *other != link)
    }

    /// Sets the keys of other realms.
    pub fn set_realms(&mut self, realms: impl IntoIterator<Item = PublicKey>) {
        self.realms = realms.into_iter().collect();
    }

    /// True if it is the key of another realm.
    pub fn is_realm(&self, peer: &PublicKey) -> bool {
        self.realms.contains(peer)
    }

    /// Asserts that each entry of an index leads to an existing link, and that the links of this
    /// side can be found.
    pub fn check(&self) {
        for (address, id) in &self.by_address {
            let is_there = self
                .get(*id)
                .is_some_and(|entry| entry.path.remote == *address);
            debug_assert!(
                is_there || is_planted(Fault::KeepAddress),
                "an address leads to no link"
            );
        }
        for ((address, name), id) in self.by_name.iter().chain(&self.by_plain) {
            let is_it =
                |entry: &LinkEntry| entry.path.remote == *address && entry.remote == Some(*name);
            debug_assert!(self.get(*id).is_some_and(is_it), "a name leads to no link");
        }
        for (peer, ids) in &self.by_peer {
            let is_theirs =
                |id: &LinkId| self.get(*id).is_some_and(|entry| entry.peer == Some(*peer));
            debug_assert!(
                !ids.is_empty() && ids.iter().all(is_theirs),
                "a key leads to no link of its own"
            );
        }
        for (peer, id) in &self.dialed {
            let is_dialed = |entry: &LinkEntry| entry.is_shared && entry.peer == Some(*peer);
            debug_assert!(
                self.get(*id).is_some_and(is_dialed),
                "a realm's link is none"
            );
        }
        for (id, entry) in self.iter() {
            debug_assert!(
                entry.role == Role::Responder || self.by_address.contains(&(entry.path.remote, id)),
                "a link cannot be found by its address"
            );
        }
    }
}

#[cfg(test)]
impl LinkTable {
    /// Returns the only link, or any of several.
    pub fn any(&self) -> LinkId {
        self.entries.keys().next().copied().unwrap()
    }

    /// Returns all entries, in no order.
    pub fn values(&self) -> impl Iterator<Item = &LinkEntry> {
        self.entries.values().map(Box::as_ref)
    }

    /// Returns the numbers of names and of keys in the indexes.
    pub fn named(&self) -> usize {
        self.by_name.len()
    }

    /// Returns the number of keys with proven links.
    pub fn keys(&self) -> usize {
        self.by_peer.len()
    }

    /// Returns what the table holds, by name.
    pub fn leftovers(&self) -> [(&'static str, usize); 6] {
        [
            ("links", self.entries.len()),
            ("addresses", self.by_address.len()),
            ("names", self.by_name.len()),
            ("plain links", self.by_plain.len()),
            ("keys", self.by_peer.len()),
            ("dialed links", self.dialed.len()),
        ]
    }
}

#[cfg(test)]
impl core::ops::Index<LinkId> for LinkTable {
    type Output = LinkEntry;

    fn index(&self, id: LinkId) -> &LinkEntry {
        &self.entries[&id]
    }
}
