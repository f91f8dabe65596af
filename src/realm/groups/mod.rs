//! Groups as members use them (GRP-1 … GRP-5): make, join, leave, list.

pub(super) mod host;
pub(super) mod memberships;
pub(super) mod replicas;
pub(super) mod teardown;
pub(super) mod vouchers;

use std::sync::{Arc, atomic::AtomicBool};

use tokio::sync::Notify;

use crate::realm::{
    credentials::{Credentials, Hashed},
    current_session::Current,
    failure::Failure,
    identity::RealmIdentity,
    limits::{Guess, Limiter, Limits},
    network::Network,
    peers::Peers,
    random::Random,
    records::{self, ChangedRecord, GroupLink, GroupRecord, MailboxLog, MemberRecord, Record as _},
    storage::{Notes, Storage},
    time::Moment,
};
use crate::{
    store::{Batch, Key, Store},
    wire::{ErrorCode, GroupName, Password, RealmId, Role, Sender, Username},
};

/// The number of members that are read at once, and that are removed in the commit that ends their
/// group. The remaining members of a larger group are removed after that commit.
pub const MEMBERS_AT_ONCE: usize = 1000;

/// A group that exists.
#[derive(Debug)]
pub struct Group {
    pub name: GroupName,
    pub record: GroupRecord,
}

impl Group {
    /// Returns the log of its messages.
    pub fn place(&self) -> MailboxLog {
        MailboxLog::group(self.name, &self.record)
    }

    fn member_key(&self, who: &Sender) -> Key {
        records::member(self.name, self.record.epoch, who)
    }

    /// Returns the other realms that have members in it.
    pub fn realms(&self) -> impl Iterator<Item = RealmId> {
        self.record
            .realms
            .iter()
            .filter_map(|realm| realm.parse().ok())
    }

    /// Adds to `batch` that a user is no member any more. `member` is the membership that ends.
    pub fn remove(
        &self,
        who: &Sender,
        member: &MemberRecord,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        batch.delete(self.member_key(who));
        if who.realm.is_none() {
            let (name, epoch) = (self.name, self.record.epoch);
            batch
                .delete(records::joined_group(who.user, name))
                .delete(records::standing(name, epoch, who.user, member));
            self.members_change(batch)?;
        }
        Ok(())
    }

    /// Makes every decision that depends on the members of the group conflict.
    fn members_change(&self, batch: &mut Batch) -> Result<(), Failure> {
        let key = records::members_changed(self.name, self.record.epoch);
        batch.put(key, ChangedRecord {}.to_value()?);
        Ok(())
    }

    /// Adds to `batch` that `owner` owns the group.
    pub fn put_owner(&self, owner: Username, batch: &mut Batch) -> Result<(), Failure> {
        let record = GroupRecord {
            owner: owner.as_str().into(),
            ..self.record.clone()
        };
        batch.put(records::group(self.name), record.to_value()?);
        Ok(())
    }

    /// Adds to `batch` that a user is a member. `former` is the membership before, if there was
    /// one.
    pub fn put(
        &self,
        who: &Sender,
        member: &MemberRecord,
        former: Option<&MemberRecord>,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        batch.put(self.member_key(who), member.to_value()?);
        if who.realm.is_none() {
            let (name, epoch) = (self.name, self.record.epoch);
            let standing = |member| records::standing(name, epoch, who.user, member);
            if let Some(former) = former {
                batch.delete(standing(former));
            }
            let link = GroupLink { epoch }.to_value()?;
            batch
                .put(records::joined_group(who.user, name), link)
                .put(standing(member), ChangedRecord {}.to_value()?);
            self.members_change(batch)?;
        }
        Ok(())
    }
}

/// A user's membership in a group.
#[derive(Debug)]
pub struct Membership {
    pub role: Role,
    pub record: MemberRecord,
}

/// The groups of this realm, and the copies of groups of others.
#[derive(Debug)]
pub struct Groups<S> {
    storage: Arc<Storage<S>>,
    random: Arc<Random>,
    peers: Arc<Peers<S>>,
    credentials: Arc<Credentials>,
    own: Arc<RealmIdentity>,
    limits: Limits,
    limiter: Arc<Limiter>,
    network: Arc<Network>,
    /// Wakes the work for the members of a group that has ended.
    chores: Arc<Notify>,
    /// True if the replicas are listed by user.
    are_copies_listed: AtomicBool,
}

impl<S> Groups<S> {
    /// Returns the service over those that it uses.
    #[expect(
        clippy::too_many_arguments,
        reason = "one for each service that it uses"
    )]
    pub(in crate::realm) fn new(
        storage: Arc<Storage<S>>,
        random: Arc<Random>,
        peers: Arc<Peers<S>>,
        credentials: Arc<Credentials>,
        own: Arc<RealmIdentity>,
        limits: Limits,
        limiter: Arc<Limiter>,
        network: Arc<Network>,
        chores: Arc<Notify>,
    ) -> Self {
        Self {
            storage,
            random,
            peers,
            credentials,
            own,
            limits,
            limiter,
            network,
            chores,
            are_copies_listed: AtomicBool::new(false),
        }
    }
}

impl<S: Store> Groups<S> {
    /// Returns the group of that name.
    pub(in crate::realm) async fn group(
        &self,
        notes: &mut impl Notes,
        name: GroupName,
    ) -> Result<Group, Failure> {
        self.find_group(notes, name)
            .await?
            .ok_or(ErrorCode::NoSuchGroup.into())
    }

    pub(in crate::realm) async fn find_group(
        &self,
        notes: &mut impl Notes,
        name: GroupName,
    ) -> Result<Option<Group>, Failure> {
        let found = self.storage.noted(notes, &records::group(name)).await?;
        Ok(found.map(|(record, _)| Group { name, record }))
    }

    /// Returns a user's membership in a group, or `None` if the user is no member.
    pub(in crate::realm) async fn find_member(
        &self,
        notes: &mut impl Notes,
        group: &Group,
        who: &Sender,
    ) -> Result<Option<Membership>, Failure> {
        let key = group.member_key(who);
        let found = self.storage.noted::<MemberRecord>(notes, &key).await?;
        Ok(found.map(|(record, _)| Membership {
            role: role(group, who, &record),
            record,
        }))
    }

    /// Returns the membership of `user`, the sender of the command.
    pub(in crate::realm) async fn membership(
        &self,
        notes: &mut impl Notes,
        group: &Group,
        user: Username,
    ) -> Result<Membership, Failure> {
        self.find_member(notes, group, &local(user))
            .await?
            .ok_or(ErrorCode::NotAMember.into())
    }

    pub(in crate::realm) async fn check_group_password(
        &self,
        guess: (Moment, &Guess),
        group: &Group,
        password: &Password<'_>,
        hashed: &mut Hashed,
    ) -> Result<(), Failure> {
        let fits = match &group.record.password {
            None => password.0.is_empty(),
            Some(kept) => {
                let kept = Some(kept.clone());
                self.credentials
                    .compare(guess, password, kept, hashed)
                    .await?
            }
        };
        if fits {
            Ok(())
        } else {
            Err(ErrorCode::WrongPassword.into())
        }
    }

    /// Returns the successor of an owner that leaves: the moderator of longest standing, else the
    /// member of longest standing. The owner of a group is always a user of its home realm.
    pub(in crate::realm) async fn successor(
        &self,
        notes: &mut impl Notes,
        group: &Group,
        leaving: &Current,
    ) -> Result<Option<Username>, Failure> {
        let (name, epoch) = (group.name, group.record.epoch);
        let changed = records::members_changed(name, epoch);
        self.storage.noted::<ChangedRecord>(notes, &changed).await?;
        if !self.storage.has(&records::standings(name, epoch)).await? {
            return self.successor_by_name(group, leaving).await;
        }
        for is_moderator in [true, false] {
            let prefix = records::ranked(name, epoch, is_moderator);
            // One of the two may be the user that leaves.
            for (key, _) in self.storage.list(&prefix, None, 2).await? {
                let user = records::ranked_in(&key, &prefix);
                if user.is_some_and(|user| user != leaving.user) {
                    return Ok(user);
                }
            }
        }
        Ok(None)
    }

    /// Does the same for a group that is older than the list of members by standing.
    async fn successor_by_name(
        &self,
        group: &Group,
        leaving: &Current,
    ) -> Result<Option<Username>, Failure> {
        let mut first = None;
        let mut after = None;
        loop {
            let members = self
                .members_of(group, after.as_ref(), MEMBERS_AT_ONCE)
                .await?;
            let Some((last, _)) = members.last() else {
                return Ok(first.map(|(_, _, user)| user));
            };
            after = Some(*last);
            let others = members
                .iter()
                .filter(|(who, _)| who.realm.is_none() && who.user != leaving.user)
                .map(|(who, member)| (!member.moderator, member.joined, who.user));
            first = first.into_iter().chain(others).min();
            // Other tasks may run in between.
            tokio::task::yield_now().await;
        }
    }

    /// Returns members in the order of their names, beginning after one.
    pub(in crate::realm) async fn members_of(
        &self,
        group: &Group,
        after: Option<&Sender>,
        limit: usize,
    ) -> Result<Vec<(Sender, MemberRecord)>, Failure> {
        let prefix = records::members(group.name, group.record.epoch);
        let after = after.map(|after| group.member_key(after));
        let found = self.storage.list(&prefix, after.as_ref(), limit).await?;
        found
            .into_iter()
            .filter_map(|(key, found)| {
                let who = records::member_in(&key, &prefix)?;
                Some(MemberRecord::from_value(&found.value).map(|member| (who, member)))
            })
            .collect::<Result<_, _>>()
            .map_err(Into::into)
    }
}

/// Returns a member's role.
pub(in crate::realm) fn role(group: &Group, who: &Sender, member: &MemberRecord) -> Role {
    if who.realm.is_none() && group.record.owner == who.user.as_str() {
        Role::Owner
    } else if member.moderator {
        Role::Moderator
    } else {
        Role::Member
    }
}

/// Returns a user of this realm as a sender.
pub const fn local(user: Username) -> Sender {
    Sender { user, realm: None }
}
