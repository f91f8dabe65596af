//! How much of a group a peer reads, which keeps a copy of it.

use crate::realm::{
    Caller,
    failure::Failure,
    mailboxes::{Mailboxes, reading::Reader},
    peer::Peer,
    storage::Unnoted,
};
use crate::{
    store::Store,
    wire::{Answer, ErrorCode, GroupName, Position},
};

/// The number of entries on a page for another realm.
const PAGE_ENTRIES: usize = 100;

impl<S: Store> Mailboxes<S> {
    /// Handles the request of a peer that has members in a group to read it.
    pub(in crate::realm) async fn host_read(
        &self,
        caller: &Caller,
        peer: &Peer,
        (name, epoch): (GroupName, u64),
        start: (Position, u64),
    ) -> Result<Answer, Failure> {
        let group = self.groups.group(&mut Unnoted, name).await?;
        if group.record.epoch != epoch {
            return Err(ErrorCode::NoSuchGroup.into());
        }
        if !group.realms().any(|realm| realm == peer.realm) {
            return Err(ErrorCode::NotAMember.into());
        }
        let room = (caller.room, caller.longest);
        let read = self
            .page(&group.place(), start, Reader::REALM, PAGE_ENTRIES, room)
            .await?;
        Ok(Answer::Page(read.page))
    }
}
