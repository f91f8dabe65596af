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
    groups::vouchers::Posts,
    limits::{Guess, Limiter, Limits},
    network::Network,
    peers::Peers,
    random::Random,
    records::{
        self, BanRecord, ChangedRecord, GroupLink, GroupLogRecord, GroupRecord, MailboxLog,
        MemberRecord, Record as _,
    },
    shared::Shared,
    storage::{Notes, Storage},
    time::Moment,
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Key, Position, Store},
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
                .delete(records::seniority(name, epoch, who.user, member));
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

    /// Adds to `batch` another password of the group, or none.
    pub fn put_password(&self, password: Option<String>, batch: &mut Batch) -> Result<(), Failure> {
        let record = GroupRecord {
            password,
            ..self.record.clone()
        };
        batch.put(records::group(self.name), record.to_value()?);
        Ok(())
    }

    /// Adds to `batch` that a user may not join.
    pub fn put_ban(&self, who: &Sender, now: Moment, batch: &mut Batch) -> Result<(), Failure> {
        let key = records::ban(self.name, self.record.epoch, who);
        batch.put(key, BanRecord { since: now.wall }.to_value()?);
        Ok(())
    }

    /// Adds to `batch` that a user may join.
    pub fn lift_ban(&self, who: &Sender, batch: &mut Batch) {
        batch.delete(records::ban(self.name, self.record.epoch, who));
    }

    /// Adds to `batch` that a user becomes a member. `membership` is the number of the membership,
    /// or 0 for a user of this realm.
    pub fn put_new_member(
        &self,
        who: &Sender,
        membership: u64,
        now: Moment,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let member = MemberRecord {
            moderator: false,
            joined: now.wall,
            membership,
        };
        self.put(who, &member, None, batch)
    }

    /// Adds to `batch` the role of a member below the owner. An owner counts as a moderator here:
    /// [`Group::put_owner`] says who it is.
    pub fn put_role(
        &self,
        who: &Sender,
        member: &MemberRecord,
        role: Role,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let record = MemberRecord {
            moderator: role != Role::Member,
            ..member.clone()
        };
        self.put(who, &record, Some(member), batch)
    }

    /// Adds to `batch` that a user is a member. `former` is the membership before, if there was
    /// one.
    fn put(
        &self,
        who: &Sender,
        member: &MemberRecord,
        former: Option<&MemberRecord>,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        batch.put(self.member_key(who), member.to_value()?);
        if who.realm.is_none() {
            let (name, epoch) = (self.name, self.record.epoch);
            let seniority = |member| records::seniority(name, epoch, who.user, member);
            if let Some(former) = former {
                batch.delete(seniority(former));
            }
            let link = GroupLink { epoch }.to_value()?;
            batch
                .put(records::joined_group(who.user, name), link)
                .put(seniority(member), ChangedRecord {}.to_value()?);
            self.members_change(batch)?;
        }
        Ok(())
    }
}

/// A group that is about to be made.
#[derive(Clone, Copy)]
pub struct NewGroup {
    name: GroupName,
    epoch: u64,
    /// Names its log.
    log: u64,
    /// Where the former groups of its name have left the log.
    floor: Position,
}

/// A user's membership in a group.
#[derive(Debug)]
pub struct Membership {
    pub role: Role,
    pub record: MemberRecord,
}

/// The groups of this realm, and the replicas of groups of others.
#[derive(Debug)]
pub struct Groups<S> {
    storage: Arc<Storage<S>>,
    posts: Arc<Posts<S>>,
    random: Arc<Random>,
    peers: Arc<Peers<S>>,
    credentials: Arc<Credentials>,
    limits: Limits,
    limiter: Arc<Limiter>,
    network: Arc<Network>,
    /// Wakes the work for the members of a group that has ended.
    chores: Arc<Notify>,
    /// True if the replicas are listed by user.
    are_replicas_listed: AtomicBool,
}

impl<S> Groups<S> {
    /// Returns the service over those that it uses.
    pub(in crate::realm) fn new(
        shared: &Shared<S>,
        posts: Arc<Posts<S>>,
        peers: Arc<Peers<S>>,
        credentials: Arc<Credentials>,
    ) -> Self {
        Self {
            storage: shared.storage.clone(),
            posts,
            random: shared.random.clone(),
            peers,
            credentials,
            limits: shared.limits,
            limiter: shared.limiter.clone(),
            network: shared.network.clone(),
            chores: shared.chores.clone(),
            are_replicas_listed: AtomicBool::new(false),
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

    /// Begins a group of that name, if there is none.
    pub(in crate::realm) async fn begin_group(
        &self,
        name: GroupName,
        batch: &mut Batch,
    ) -> Result<NewGroup, Failure> {
        if self.find_group(batch, name).await?.is_some() {
            return Err(ErrorCode::GroupExists.into());
        }
        let epoch = u64::from_be_bytes(self.random.random());
        // READ-6: the log of the former groups of that name is continued, so that no cursor is
        // ahead of it.
        let former = records::former_log(name);
        let former = self.storage.noted::<GroupLogRecord>(batch, &former).await?;
        let log = match former {
            Some((former, _)) if !is_planted(Fault::ReusePositions) => former.log,
            Some(_) | None => epoch,
        };
        let floor = self.storage.last(&records::group_log(name, log)).await?;
        Ok(NewGroup {
            name,
            epoch,
            log,
            floor,
        })
    }

    /// Adds a group to `batch`, with its owner as the only member.
    pub(in crate::realm) async fn put_new_group(
        &self,
        new: NewGroup,
        owner: Username,
        password: Option<String>,
        now: Moment,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        self.check_room(owner, batch).await?;
        let (name, epoch) = (new.name, new.epoch);
        let record = GroupRecord {
            owner: owner.as_str().into(),
            password,
            created: now.wall,
            epoch,
            realms: Vec::new(),
            log: new.log,
            floor: new.floor.0,
        };
        let all_listed = ChangedRecord {}.to_value()?;
        batch
            .put(records::group(name), record.to_value()?)
            .put(records::seniorities(name, epoch), all_listed);
        Group { name, record }.put_new_member(&local(owner), 0, now, batch)
    }

    /// Refuses a user that is banned from a group.
    pub(in crate::realm) async fn check_ban(
        &self,
        notes: &mut impl Notes,
        group: &Group,
        who: &Sender,
    ) -> Result<(), Failure> {
        let key = records::ban(group.name, group.record.epoch, who);
        match self.storage.noted::<BanRecord>(notes, &key).await? {
            Some(_) => Err(ErrorCode::Banned.into()),
            None => Ok(()),
        }
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

    /// Returns a group, and the membership in it of `user`, the sender of the command.
    pub(in crate::realm) async fn group_of_member(
        &self,
        notes: &mut impl Notes,
        name: GroupName,
        user: Username,
    ) -> Result<(Group, Membership), Failure> {
        let group = self.group(notes, name).await?;
        let member = self.find_member(notes, &group, &local(user)).await?;
        Ok((group, member.ok_or(ErrorCode::NotAMember)?))
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

    /// Returns the successor of an owner that leaves: the most senior moderator, else the
    /// most senior member. The owner of a group is always a user of its home realm.
    pub(in crate::realm) async fn successor(
        &self,
        notes: &mut impl Notes,
        group: &Group,
        leaving: &Current,
    ) -> Result<Option<Username>, Failure> {
        let (name, epoch) = (group.name, group.record.epoch);
        let changed = records::members_changed(name, epoch);
        self.storage.noted::<ChangedRecord>(notes, &changed).await?;
        if !self.storage.has(&records::seniorities(name, epoch)).await? {
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

    /// Does the same for a group that is older than the list of members by seniority.
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
