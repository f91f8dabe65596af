//! `block`, `unblock` and `blocks` (BLK-1 … BLK-5).

use crate::realm::{
    Caller, Realm,
    commands::{groups::NamesPage, work::Work},
    failure::Failure,
    groups::local,
    mailboxes::blocks,
    records::BlocksRecord,
    storage::Unnoted,
};
use crate::{
    store::Store,
    wire::{ErrorCode, List, Options, Refusal, Sender, SessionRef, Username, command},
};

/// The most users that a user blocks at once.
pub const BLOCKS_MAX: usize = 128;

impl<S: Store> Realm<S> {
    pub(in crate::realm) async fn block(
        &self,
        work: &mut Work<'_>,
        command: &command::Block,
    ) -> Result<(), Failure> {
        let current = self.session_of(work).await?;
        let who = self.blocks.as_shown(command.user);
        if who == local(current.user) {
            return Err(ErrorCode::BadRequest.into());
        }
        let mut record = self
            .blocks
            .blocks_record(&mut work.batch, current.user)
            .await?;
        let name = who.to_string();
        let Err(at) = record.users.binary_search(&name) else {
            return Ok(());
        };
        match who.realm {
            // The user may be of a realm that is no peer, and write in a group that is read here.
            // The block must not begin after that of a peer's users has ended.
            Some(realm) => drop(self.peers.find_peer(&mut work.batch, realm).await?),
            None => {
                self.accounts
                    .check_exists(&mut work.batch, who.user)
                    .await?;
            }
        }
        if record.users.len() >= BLOCKS_MAX {
            return Err(Refusal::too_large(BLOCKS_MAX as u64).into());
        }
        record.users.insert(at, name);
        put_blocks(work, current.user, &record)?;
        Ok(())
    }

    pub(in crate::realm) async fn unblock(
        &self,
        work: &mut Work<'_>,
        command: &command::Unblock,
    ) -> Result<(), Failure> {
        let current = self.session_of(work).await?;
        let who = self.blocks.as_shown(command.user);
        let mut record = self
            .blocks
            .blocks_record(&mut work.batch, current.user)
            .await?;
        if let Ok(at) = record.users.binary_search(&who.to_string()) {
            record.users.remove(at);
            put_blocks(work, current.user, &record)?;
        }
        Ok(())
    }

    pub(in crate::realm) async fn blocks(
        &self,
        caller: &Caller,
        session: SessionRef,
        options: &Options,
    ) -> Result<List<Sender>, Failure> {
        let current = self.sessions.session(caller, session).await?;
        let record = self
            .blocks
            .blocks_record(&mut Unnoted, current.user)
            .await?;
        let behind = options.behind.map(|behind| behind.to_string());
        let mut page = NamesPage::new(options, caller.answer_limits.inline);
        for user in record.users() {
            let name = user.to_string();
            if behind.as_ref().is_none_or(|behind| name > *behind) {
                page.add(name.len() + 1, user);
            }
        }
        Ok(page.into_list())
    }
}

/// Adds to the work's batch the record of a user's blocks, which the user's watches follow.
fn put_blocks(work: &mut Work<'_>, user: Username, record: &BlocksRecord) -> Result<(), Failure> {
    blocks::put_blocks(user, record, &mut work.batch)?;
    work.affected = Some(user);
    // It is allowed to users who have used up their storage quota, but not for nothing.
    work.adds_for = Some(user);
    Ok(())
}
