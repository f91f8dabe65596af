//! Groups as members use them (GRP-1 … GRP-5): make, join, leave, list.

use super::{
    Caller, Credentials, Failure, Guess, Hashed, Limiter, Limits, Moment, Network, Peers, Random,
    Realm, RealmIdentity, Storage, Work,
    records::{
        self, BanRecord, ChangedRecord, GroupLink, GroupLogRecord, GroupRecord, MailboxLog,
        MemberRecord, Record as _,
    },
    sessions::Current,
    storage::{Notes, Unnoted},
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Key, Store},
    wire::{
        Answer, ErrorCode, GroupName, Member, Options, PASSWORD_MAX, Password, RealmId, Refusal,
        Role, Sender, SessionRef, Username, command,
    },
};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::Notify;

/// The number of names on a page, unless the reader asks for fewer.
const NAMES_MAX: u64 = 1000;
/// The number of names that are looked up before it is known whether they fit.
const NAMES_AT_ONCE: usize = 64;
/// The number of members that are read at once, and that are removed in the commit that ends their
/// group. The remaining members of a larger group are removed after that commit.
pub const MEMBERS_AT_ONCE: usize = 1000;
/// The number of bytes of an answer before its first name: kind, more.
const ANSWER_HEAD: usize = 2;

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
    pub(super) storage: Arc<Storage<S>>,
    pub(super) random: Arc<Random>,
    pub(super) peers: Arc<Peers<S>>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) own: Arc<RealmIdentity>,
    pub(super) limits: Limits,
    pub(super) limiter: Arc<Limiter>,
    pub(super) network: Arc<Network>,
    /// Wakes the work for the members of a group that has ended.
    pub(super) chores: Arc<Notify>,
    /// True if the replicas are listed by user.
    pub(super) are_copies_listed: AtomicBool,
}

impl<S: Store> Groups<S> {
    /// Returns the group of that name.
    pub(super) async fn group(
        &self,
        notes: &mut impl Notes,
        name: GroupName,
    ) -> Result<Group, Failure> {
        self.find_group(notes, name)
            .await?
            .ok_or(ErrorCode::NoSuchGroup.into())
    }

    pub(super) async fn find_group(
        &self,
        notes: &mut impl Notes,
        name: GroupName,
    ) -> Result<Option<Group>, Failure> {
        let found = self.storage.noted(notes, &records::group(name)).await?;
        Ok(found.map(|(record, _)| Group { name, record }))
    }

    /// Returns a user's membership in a group, or `None` if the user is no member.
    pub(super) async fn find_member(
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
    pub(super) async fn membership(
        &self,
        notes: &mut impl Notes,
        group: &Group,
        user: Username,
    ) -> Result<Membership, Failure> {
        self.find_member(notes, group, &local(user))
            .await?
            .ok_or(ErrorCode::NotAMember.into())
    }

    pub(super) async fn check_group_password(
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
    async fn successor(
        &self,
        notes: &mut impl Notes,
        group: &Group,
        leaving: &Current,
    ) -> Result<Option<Username>, Failure> {
        let (name, epoch) = (group.name, group.record.epoch);
        let changed = records::members_changed(name, epoch);
        self.storage.noted::<ChangedRecord>(notes, &changed).await?;
        if self
            .storage
            .store
            .get(&records::standings(name, epoch))
            .await?
            .is_none()
        {
            return self.successor_by_name(group, leaving).await;
        }
        for is_moderator in [true, false] {
            let prefix = records::ranked(name, epoch, is_moderator);
            // One of the two may be the user that leaves.
            for (key, _) in self.storage.store.list(&prefix, None, 2).await? {
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
    pub(super) async fn members_of(
        &self,
        group: &Group,
        after: Option<&Sender>,
        limit: usize,
    ) -> Result<Vec<(Sender, MemberRecord)>, Failure> {
        let prefix = records::members(group.name, group.record.epoch);
        let after = after.map(|after| group.member_key(after));
        let found = self
            .storage
            .store
            .list(&prefix, after.as_ref(), limit)
            .await?;
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

impl<S: Store> Realm<S> {
    pub(super) async fn addgroup(
        &self,
        work: &mut Work<'_>,
        command: &command::AddGroup<'_>,
    ) -> Result<Answer, Failure> {
        let &command::AddGroup {
            session,
            group: name,
            password,
            ..
        } = command;
        let current = self.sessions.session_noted(work, session).await?;
        if self
            .groups
            .find_group(&mut work.batch, name)
            .await?
            .is_some()
        {
            return Err(ErrorCode::GroupExists.into());
        }
        let epoch = u64::from_be_bytes(self.random.random());
        // READ-6: the log of the former groups of that name is continued, so that no cursor is
        // ahead of it.
        let former = self
            .storage
            .noted::<GroupLogRecord>(&mut work.batch, &records::former_log(name))
            .await?;
        let log = former.map_or(epoch, |(former, _)| former.log);
        let log = if is_planted(Fault::ReusePositions) {
            epoch
        } else {
            log
        };
        let floor = self
            .storage
            .store
            .last(&records::group_log(name, log))
            .await?;
        let record = GroupRecord {
            owner: current.user.as_str().into(),
            password: self.group_password(&password, work).await?,
            created: work.caller.now.wall,
            epoch,
            realms: Vec::new(),
            log,
            floor: floor.0,
        };
        self.groups
            .check_room(current.user, &mut work.batch)
            .await?;
        work.batch
            .put(records::group(name), record.to_value()?)
            .put(
                records::standings(name, epoch),
                ChangedRecord {}.to_value()?,
            );
        let group = Group { name, record };
        let member = MemberRecord {
            moderator: false,
            joined: work.caller.now.wall,
            membership: 0,
        };
        group.put(&local(current.user), &member, None, &mut work.batch)?;
        work.affected = Some(current.user);
        Ok(Answer::Done)
    }

    /// Returns the record of a group's password, or `None` if it has no password.
    pub(super) async fn group_password(
        &self,
        password: &Password<'_>,
        work: &mut Work<'_>,
    ) -> Result<Option<String>, Failure> {
        match password.0.len() {
            0 => Ok(None),
            1..=PASSWORD_MAX => {
                if work.hashed.made.is_none() {
                    self.limiter.join(work.caller)?;
                }
                Ok(Some(
                    self.credentials.hashed(password, &mut work.hashed).await?,
                ))
            }
            _ => Err(Refusal::too_large(PASSWORD_MAX as u64).into()),
        }
    }

    pub(super) async fn joingroup(
        &self,
        work: &mut Work<'_>,
        command: &command::JoinGroup<'_>,
    ) -> Result<Answer, Failure> {
        let &command::JoinGroup {
            session,
            group: name,
            password,
            ..
        } = command;
        let current = self.sessions.session_noted(work, session).await?;
        let group = self.groups.find_group(&mut work.batch, name).await?;
        if group.is_none() && !self.limits.hide_groups {
            return Err(ErrorCode::NoSuchGroup.into());
        }
        let needs_hashing = group
            .as_ref()
            .is_none_or(|group| group.record.password.is_some());
        if needs_hashing && work.hashed.compared.is_none() {
            self.limiter.join(work.caller)?;
        }
        let guess = Guess::Join(local(current.user));
        let guess = (work.caller.now, &guess);
        let Some(group) = group else {
            // This takes as long as a wrong password; otherwise the time would tell.
            self.credentials
                .compare(guess, &password, None, &mut work.hashed)
                .await?;
            return Err(ErrorCode::WrongPassword.into());
        };
        self.groups
            .check_group_password(guess, &group, &password, &mut work.hashed)
            .await?;
        let ban = records::ban(name, group.record.epoch, &local(current.user));
        let batch = &mut work.batch;
        if self
            .storage
            .noted::<BanRecord>(batch, &ban)
            .await?
            .is_some()
        {
            return Err(ErrorCode::Banned.into());
        }
        let user = local(current.user);
        if self
            .groups
            .find_member(batch, &group, &user)
            .await?
            .is_some()
        {
            return Ok(Answer::Done);
        }
        self.groups.check_room(current.user, batch).await?;
        let member = MemberRecord {
            moderator: false,
            joined: work.caller.now.wall,
            membership: 0,
        };
        group.put(&user, &member, None, batch)?;
        work.affected = Some(current.user);
        Ok(Answer::Done)
    }

    pub(super) async fn leavegroup(
        &self,
        work: &mut Work<'_>,
        command: &command::LeaveGroup,
    ) -> Result<Answer, Failure> {
        let &command::LeaveGroup {
            session,
            group: name,
            ..
        } = command;
        let current = self.sessions.session_noted(work, session).await?;
        let batch = &mut work.batch;
        let group = self.groups.group(batch, name).await?;
        let member = self.groups.membership(batch, &group, current.user).await?;
        if member.role != Role::Owner {
            group.remove(&local(current.user), &member.record, batch)?;
            return Ok(Answer::Done);
        }
        match self.groups.successor(batch, &group, &current).await? {
            Some(owner) => {
                group.remove(&local(current.user), &member.record, batch)?;
                group.put_owner(owner, batch)?;
            }
            None => self.delete_group(&group, work).await?,
        }
        Ok(Answer::Done)
    }

    pub(super) async fn members(
        &self,
        caller: &Caller,
        session: SessionRef,
        name: GroupName,
        options: &Options,
    ) -> Result<Answer, Failure> {
        let current = self.sessions.session(caller, session).await?;
        let group = self.groups.group(&mut Unnoted, name).await?;
        self.groups
            .membership(&mut Unnoted, &group, current.user)
            .await?;
        let mut page = NamesPage::new(options, caller.room);
        let mut after = options.behind;
        loop {
            let found = self
                .groups
                .members_of(&group, after.as_ref(), NAMES_AT_ONCE)
                .await?;
            let Some((last, _)) = found.last() else {
                break;
            };
            after = Some(*last);
            for (who, member) in found {
                let role = role(&group, &who, &member);
                // A realm's name has a length byte where the text has an @. The user's length and
                // the role follow.
                page.add(who.to_string().len() + 2, Member { who, role });
            }
            if page.more {
                break;
            }
        }
        self.limiter
            .charge(caller.now, &current.user, page.items.len());
        let (more, members) = (page.more, page.items);
        Ok(Answer::Members { more, members })
    }

    pub(super) async fn groups(
        &self,
        caller: &Caller,
        session: SessionRef,
        options: &Options,
    ) -> Result<Answer, Failure> {
        let current = self.sessions.session(caller, session).await?;
        let mut page = NamesPage::new(options, caller.room);
        let prefix = records::joined(current.user);
        let behind = options.behind.map(|behind| behind.user.as_str().parse());
        let behind = behind.transpose().map_err(|_| ErrorCode::BadRequest)?;
        let mut after = behind.map(|name| records::joined_group(current.user, name));
        let mut seen = 0;
        while !page.more {
            let links = self
                .storage
                .store
                .list(&prefix, after.as_ref(), NAMES_AT_ONCE)
                .await?;
            let Some((last, _)) = links.last() else {
                break;
            };
            after = Some(last.clone());
            for (key, link) in links {
                seen += 1;
                let Some(name) = records::name_in::<GroupName>(&key, &prefix) else {
                    continue;
                };
                let GroupLink { epoch } = GroupLink::from_value(&link.value)?;
                // A group that has ended may have left a stale link.
                if let Some(group) = self.groups.find_group(&mut Unnoted, name).await?
                    && group.record.epoch == epoch
                {
                    page.add(name.as_str().len() + 1, name.as_str().to_string());
                    if page.more {
                        break;
                    }
                }
            }
        }
        self.limiter.charge(caller.now, &current.user, seen);
        let (more, names) = (page.more, page.items);
        Ok(Answer::Names { more, names })
    }
}

/// Returns a member's role.
fn role(group: &Group, who: &Sender, member: &MemberRecord) -> Role {
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

/// A page of a list: as many items as fit.
pub(super) struct NamesPage<T> {
    pub items: Vec<T>,
    /// True if more items follow.
    pub more: bool,
    limit: usize,
    left: usize,
}

impl<T> NamesPage<T> {
    /// Returns an empty page for an answer of at most `room` bytes.
    pub fn new(options: &Options, room: usize) -> Self {
        let limit = options.limit.unwrap_or(NAMES_MAX).clamp(1, NAMES_MAX);
        Self {
            items: Vec::new(),
            more: false,
            limit: usize::try_from(limit).unwrap_or(1),
            left: room.saturating_sub(ANSWER_HEAD),
        }
    }

    /// Adds an item of `size` bytes, unless the page is full.
    pub fn add(&mut self, size: usize, item: T) {
        if self.more || self.items.len() == self.limit || size > self.left {
            self.more = true;
            return;
        }
        self.left -= size;
        self.items.push(item);
    }
}
