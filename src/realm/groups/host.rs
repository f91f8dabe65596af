//! Groups of this realm that also have members of other realms (PEER-8 … PEER-11).

use crate::realm::{
    ATTEMPTS_MAX, Caller,
    credentials::Hashed,
    failure::Failure,
    groups::{Group, Groups, MEMBERS_AT_ONCE, Membership},
    limits::Guess,
    network::GroupWork,
    peer::Peer,
    records::{self, GroupRecord, MailboxLog, MemberRecord, RealmMembersRecord, Record as _},
    storage::{Notes, Outcome},
};
use crate::{
    store::{Batch, Store},
    wire::{Answer, ErrorCode, GroupName, Password, RealmId, Refusal, Sender, Username},
};

/// The most realms whose users may be in one group.
const REALMS_MAX: usize = 64;
/// The most uninvited peers whose users may be in one group. The remaining places are for peers
/// that an operator has added.
const UNINVITED_MAX: usize = 32;

impl<S: Store> Groups<S> {
    /// Handles the request of a peer's user to join a group.
    pub(in crate::realm) async fn host_join(
        &self,
        caller: &Caller,
        peer: &Peer,
        (name, user): (GroupName, Username),
        password: &Password<'_>,
    ) -> Result<Answer, Failure> {
        self.limiter.may_store_from(caller.now, peer.realm)?;
        let mut hashed = Hashed::default();
        let who = Sender {
            user,
            realm: Some(peer.realm),
        };
        for _ in 0..ATTEMPTS_MAX {
            let mut batch = Batch::new();
            self.peers.rely_on_peer(&mut batch, peer).await?;
            self.peers.check_peering(peer.realm, &mut batch).await?;
            let group = match self.group(&mut batch, name).await {
                Err(Failure::Refused(refusal))
                    if refusal.code == ErrorCode::NoSuchGroup && self.limits.hide_groups =>
                {
                    return Err(ErrorCode::WrongPassword.into());
                }
                group => group?,
            };
            if group.record.password.is_some() && hashed.compared.is_none() {
                self.limiter.join_from(caller.now, peer.realm)?;
            }
            let guess = (caller.now, &Guess::Join(who));
            self.check_group_password(guess, &group, password, &mut hashed)
                .await?;
            let joined = |membership| Answer::Joined {
                group_epoch: group.record.epoch,
                membership,
                known_as: peer.realm,
            };
            self.check_ban(&mut batch, &group, &who).await?;
            if let Some(member) = self.find_member(&mut batch, &group, &who).await? {
                return Ok(joined(member.record.membership));
            }
            let membership = u64::from_be_bytes(self.random.random());
            group.put_new_member(&who, membership, caller.now, &mut batch)?;
            let count = self.realm_members(&mut batch, &group, peer.realm).await?;
            put_realm_members(&group, peer.realm, count + 1, &mut batch)?;
            if !group.realms().any(|realm| realm == peer.realm) {
                let mut realms = group.record.realms.clone();
                self.check_realms(peer, &realms).await?;
                realms.push(peer.realm.as_str().into());
                put_realms(&group, realms, &mut batch)?;
            }
            self.limiter
                .stored_from(caller.now, peer.realm, batch.bytes());
            if let Outcome::Durable = self.storage.commit(batch).await? {
                return Ok(joined(membership));
            }
        }
        Err(Failure::contended())
    }

    /// Refuses the first user of `peer` in a group that already has members of the most realms.
    async fn check_realms(&self, peer: &Peer, realms: &[String]) -> Result<(), Failure> {
        let too_many = |most: usize| Err(Refusal::too_large(most as u64).into());
        if realms.len() >= REALMS_MAX {
            return too_many(REALMS_MAX);
        }
        if peer.is_added() || realms.len() < UNINVITED_MAX {
            return Ok(());
        }
        // Anybody can run that many realms. They leave room for peers that an operator has added.
        let peers = self.peers.list_peers().await?;
        let uninvited = peers.iter().filter(|peer| !peer.is_added());
        let theirs = uninvited.filter(|peer| realms.iter().any(|name| name == peer.realm.as_str()));
        if theirs.count() >= UNINVITED_MAX {
            return too_many(UNINVITED_MAX);
        }
        Ok(())
    }

    /// Handles the request of a peer's user to leave a group.
    pub(in crate::realm) async fn host_leave(
        &self,
        peer: &Peer,
        (name, user): (GroupName, Username),
        membership: u64,
    ) -> Result<Answer, Failure> {
        let who = Sender {
            user,
            realm: Some(peer.realm),
        };
        for _ in 0..ATTEMPTS_MAX {
            let mut batch = Batch::new();
            self.peers.rely_on_peer(&mut batch, peer).await?;
            let group = self.group(&mut batch, name).await?;
            let member = self.find_member(&mut batch, &group, &who).await?;
            // The request may be for a membership that is over: there may be another by now.
            let is_meant = |member: &Membership| is_of(membership, member.record.membership);
            let Some(member) = member.filter(is_meant) else {
                if let Outcome::Durable = self.storage.commit(batch).await? {
                    return Err(ErrorCode::NotAMember.into());
                }
                continue;
            };
            self.remove_member(&group, (&who, &member.record), &mut batch)
                .await?;
            if let Outcome::Durable = self.storage.commit(batch).await? {
                return Ok(Answer::Done);
            }
        }
        Err(Failure::contended())
    }

    /// Adds to `batch` that a user is no member any more. If that realm has no other members in the
    /// group, it is not told of the group any more.
    pub(in crate::realm) async fn remove_member(
        &self,
        group: &Group,
        (who, member): (&Sender, &MemberRecord),
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        group.remove(who, member, batch)?;
        let Some(realm) = who.realm else {
            return Ok(());
        };
        let count = self.realm_members(batch, group, realm).await?;
        put_realm_members(group, realm, count.saturating_sub(1), batch)?;
        if count <= 1 {
            let mut realms = group.record.realms.clone();
            realms.retain(|other| other != realm.as_str());
            put_realms(group, realms, batch)?;
        }
        Ok(())
    }

    /// Returns how many users of another realm are in a group.
    async fn realm_members(
        &self,
        notes: &mut impl Notes,
        group: &Group,
        realm: RealmId,
    ) -> Result<u64, Failure> {
        let key = records::realm_members(group.name, group.record.epoch, realm);
        let found = self
            .storage
            .noted::<RealmMembersRecord>(notes, &key)
            .await?;
        if let Some((record, _)) = found {
            return Ok(record.count);
        }
        // There are none, or they have not been counted yet.
        let (mut count, mut after) = (0, None);
        while group.realms().any(|known| known == realm) {
            let members = self
                .members_of(group, after.as_ref(), MEMBERS_AT_ONCE)
                .await?;
            let Some((last, _)) = members.last() else {
                break;
            };
            after = Some(*last);
            let theirs = members.iter().filter(|(who, _)| who.realm == Some(realm));
            count += theirs.count() as u64;
            // Other tasks may run in between.
            tokio::task::yield_now().await;
        }
        Ok(count)
    }

    /// Returns the log for a message of a peer's user to a group, and the realms to tell of it.
    pub(in crate::realm) async fn host_post(
        &self,
        peer: &Peer,
        from: Username,
        name: GroupName,
        batch: &mut Batch,
    ) -> Result<(MailboxLog, Vec<RealmId>), Failure> {
        // As for a local message: a realm that joins meanwhile must hear of it.
        let group = self.group(batch, name).await?;
        let who = Sender {
            user: from,
            realm: Some(peer.realm),
        };
        let member = self.find_member(batch, &group, &who).await?;
        member.ok_or(ErrorCode::NotAMember)?;
        Ok((group.place(), group.realms().collect()))
    }

    /// Queues a message to the realms of a group's members: the group has grown.
    pub(in crate::realm) fn tell_all(&self, realms: &[RealmId], group: GroupName) {
        for realm in realms {
            self.network.add_work(*realm, GroupWork::Tell(group));
        }
    }
}

/// True if `said` means the present membership. A membership without a number was made by an
/// earlier release.
pub(in crate::realm) fn is_of(said: u64, membership: u64) -> bool {
    said == membership || said == 0 || membership == 0
}

fn put_realm_members(
    group: &Group,
    realm: RealmId,
    count: u64,
    batch: &mut Batch,
) -> Result<(), Failure> {
    let key = records::realm_members(group.name, group.record.epoch, realm);
    if count == 0 {
        batch.delete(key);
    } else {
        batch.put(key, RealmMembersRecord { count }.to_value()?);
    }
    Ok(())
}

pub(in crate::realm) fn put_realms(
    group: &Group,
    realms: Vec<String>,
    batch: &mut Batch,
) -> Result<(), Failure> {
    let record = GroupRecord {
        realms,
        ..group.record.clone()
    };
    batch.put(records::group(group.name), record.to_value()?);
    Ok(())
}
