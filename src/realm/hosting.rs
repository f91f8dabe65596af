//! Groups of this realm whose members are users of others too (PEER-8 … PEER-11).

use super::{
    ATTEMPTS_MAX, CONTENDED_MS, Caller, Failure, Guess, Hashed, Outcome, Realm,
    groups::Group,
    network::GroupWork,
    peers::Peer,
    records::{self, BanRecord, GroupRecord, MemberRecord, Place, Record as _},
};
use crate::{
    store::{Batch, Expected, Store},
    wire::{Answer, ErrorCode, GroupName, Password, Position, RealmId, Refusal, Sender, Username},
};

/// Entries on a page for another realm.
const PAGE_ENTRIES: usize = 100;
/// Realms whose users may be in one group.
const REALMS_MAX: usize = 64;

impl<S: Store> Realm<S> {
    /// A user of a peer joins a group.
    pub(super) async fn host_join(
        &self,
        caller: &Caller,
        peer: &Peer,
        (name, user): (GroupName, Username),
        password: &Password<'_>,
    ) -> Result<Answer, Failure> {
        let mut hashed = Hashed::default();
        let who = Sender {
            user,
            realm: Some(peer.realm),
        };
        for _ in 0..ATTEMPTS_MAX {
            let group = match self.group(name).await {
                Err(Failure::Refused(refusal))
                    if refusal.code == ErrorCode::NoSuchGroup && self.limits.hide_groups =>
                {
                    return Err(ErrorCode::WrongPassword.into());
                }
                group => group?,
            };
            if group.record.password.is_some() && hashed.compared.is_none() {
                self.limiter.join(caller.now, &peer.realm)?;
            }
            let guess = (caller.now, &Guess::Join(who));
            self.check_group_password(guess, &group, password, &mut hashed)
                .await?;
            let joined = Answer::Joined {
                epoch: group.record.epoch,
                known_as: peer.realm,
            };
            let ban = records::ban(name, group.record.epoch, &who);
            if self.record::<BanRecord>(&ban).await?.is_some() {
                return Err(ErrorCode::Banned.into());
            }
            if self.find_member(&group, &who).await?.is_some() {
                return Ok(joined);
            }
            let mut batch = Batch::new();
            group.rely_on(&mut batch);
            batch.expect(ban, Expected::Absent);
            let member = MemberRecord {
                moderator: false,
                joined: caller.now.wall,
            };
            group.put(&who, &member, &mut batch)?;
            if !group.realms().any(|realm| realm == peer.realm) {
                let mut realms = group.record.realms.clone();
                if realms.len() >= REALMS_MAX {
                    return Err(Refusal::too_large(REALMS_MAX as u64).into());
                }
                realms.push(peer.realm.as_str().into());
                put_realms(&group, realms, &mut batch)?;
            }
            if let Outcome::Durable = self.commit(batch).await? {
                return Ok(joined);
            }
        }
        Err(Refusal::busy(CONTENDED_MS).into())
    }

    /// A user of a peer leaves a group.
    pub(super) async fn host_leave(
        &self,
        peer: &Peer,
        name: GroupName,
        user: Username,
    ) -> Result<Answer, Failure> {
        let who = Sender {
            user,
            realm: Some(peer.realm),
        };
        for _ in 0..ATTEMPTS_MAX {
            let group = self.group(name).await?;
            let member = self.find_member(&group, &who).await?;
            let member = member.ok_or(ErrorCode::NotAMember)?;
            let mut batch = Batch::new();
            group.rely_on(&mut batch);
            member.rely_on(&mut batch);
            self.remove_member(&group, &who, &mut batch).await?;
            if let Outcome::Durable = self.commit(batch).await? {
                return Ok(Answer::Done);
            }
        }
        Err(Refusal::busy(CONTENDED_MS).into())
    }

    /// Adds to `batch` that someone is a member no more. A realm that has no other members there is told
    /// nothing of the group any more.
    pub(super) async fn remove_member(
        &self,
        group: &Group,
        who: &Sender,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        group.remove(who, batch);
        let Some(realm) = who.realm else {
            return Ok(());
        };
        let members = self
            .members_of(group, super::groups::MEMBERS_AT_ONCE)
            .await?;
        let is_left = |(other, _): &(Sender, _)| other.realm == who.realm && *other != *who;
        if !members.iter().any(is_left) {
            let mut realms = group.record.realms.clone();
            realms.retain(|other| other != realm.as_str());
            put_realms(group, realms, batch)?;
        }
        Ok(())
    }

    /// Where a message of a peer's user to a group goes, and who is to be told of it.
    pub(super) async fn host_post(
        &self,
        peer: &Peer,
        from: Username,
        name: GroupName,
        batch: &mut Batch,
    ) -> Result<(Place, Vec<RealmId>), Failure> {
        let group = self.group(name).await?;
        let who = Sender {
            user: from,
            realm: Some(peer.realm),
        };
        let member = self.find_member(&group, &who).await?;
        member.ok_or(ErrorCode::NotAMember)?.rely_on(batch);
        // As for a message from here: a realm that joins meanwhile must hear of it.
        group.rely_on(batch);
        Ok((group.place(), group.realms().collect()))
    }

    /// A peer, of whose users some are members, reads a group.
    pub(super) async fn host_read(
        &self,
        caller: &Caller,
        peer: &Peer,
        (name, epoch): (GroupName, u64),
        start: (Position, u64),
    ) -> Result<Answer, Failure> {
        let group = self.group(name).await?;
        if group.record.epoch != epoch {
            return Err(ErrorCode::NoSuchGroup.into());
        }
        if !group.realms().any(|realm| realm == peer.realm) {
            return Err(ErrorCode::NotAMember.into());
        }
        let room = (caller.room, caller.longest);
        let page = self
            .page(&group.place(), start, 0, PAGE_ENTRIES, room)
            .await?;
        Ok(Answer::Page(page))
    }

    /// Sees to it that the realms of a group's members hear that it has grown.
    pub(super) fn tell_all(&self, realms: &[RealmId], group: GroupName) {
        for realm in realms {
            self.network.add_work(*realm, GroupWork::Tell(group));
        }
    }
}

fn put_realms(group: &Group, realms: Vec<String>, batch: &mut Batch) -> Result<(), Failure> {
    let record = GroupRecord {
        realms,
        ..group.record.clone()
    };
    batch.put(records::group(group.name), record.to_value()?);
    Ok(())
}
