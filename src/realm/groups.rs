//! Groups, from a member's side (GRP-1 … GRP-5): make, join, leave, list.

use super::{
    Caller, Failure, Guess, Hashed, Moment, Realm, Work,
    records::{
        self, BanRecord, GroupLink, GroupLogRecord, GroupRecord, MemberRecord, Place, Record as _,
    },
    sessions::Current,
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Expected, Key, Store, Version},
    wire::{
        Answer, Command, ErrorCode, GroupName, Member, Options, PASSWORD_MAX, Password, Position,
        RealmId, Refusal, Role, Sender, SessionRef, Username,
    },
};

/// Names on a page unless the reader asks for fewer.
const NAMES_MAX: u64 = 1000;
/// Members looked at to find who follows an owner that leaves, and removed with a group in one go.
pub const MEMBERS_AT_ONCE: usize = 1000;
/// Bytes of an answer before its first name: kind, more.
const ANSWER_HEAD: usize = 2;

/// A group that exists.
#[derive(Debug)]
pub struct Group {
    pub name: GroupName,
    pub record: GroupRecord,
    pub version: Version,
}

impl Group {
    /// Where its messages are.
    pub fn place(&self) -> Place {
        Place::group(self.name, &self.record)
    }

    /// Makes a batch depend on the group being as it is.
    pub fn rely_on(&self, batch: &mut Batch) {
        batch.expect(records::group(self.name), Expected::At(self.version));
    }

    fn member_key(&self, who: &Sender) -> Key {
        records::member(self.name, self.record.epoch, who)
    }

    /// The realms whose users are members too.
    pub fn realms(&self) -> impl Iterator<Item = RealmId> {
        self.record
            .realms
            .iter()
            .filter_map(|realm| realm.parse().ok())
    }

    /// Adds to `batch` that someone is a member no more.
    pub fn remove(&self, who: &Sender, batch: &mut Batch) {
        batch.delete(self.member_key(who));
        if who.realm.is_none() {
            batch.delete(records::joined_group(who.user, self.name));
        }
    }

    /// Adds to `batch` that the group is `owner`'s.
    pub fn put_owner(&self, owner: Username, batch: &mut Batch) -> Result<(), Failure> {
        let record = GroupRecord {
            owner: owner.as_str().into(),
            ..self.record.clone()
        };
        batch.put(records::group(self.name), record.to_value()?);
        Ok(())
    }

    /// Adds to `batch` that someone is a member.
    pub fn put(
        &self,
        who: &Sender,
        member: &MemberRecord,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        batch.put(self.member_key(who), member.to_value()?);
        if who.realm.is_none() {
            let epoch = self.record.epoch;
            let key = records::joined_group(who.user, self.name);
            batch.put(key, GroupLink { epoch }.to_value()?);
        }
        Ok(())
    }
}

/// A user's place in a group.
#[derive(Debug)]
pub struct Membership {
    pub role: Role,
    pub record: MemberRecord,
    key: Key,
    version: Version,
}

impl Membership {
    /// Makes a batch depend on the membership being as it is.
    pub fn rely_on(&self, batch: &mut Batch) {
        batch.expect(self.key.clone(), Expected::At(self.version));
    }
}

impl<S: Store> Realm<S> {
    /// The group of that name.
    pub(super) async fn group(&self, name: GroupName) -> Result<Group, Failure> {
        self.find_group(name)
            .await?
            .ok_or(ErrorCode::NoSuchGroup.into())
    }

    pub(super) async fn find_group(&self, name: GroupName) -> Result<Option<Group>, Failure> {
        let found = self.record(&records::group(name)).await?;
        Ok(found.map(|(record, version)| Group {
            name,
            record,
            version,
        }))
    }

    /// What someone is in a group; `None` for a stranger.
    pub(super) async fn find_member(
        &self,
        group: &Group,
        who: &Sender,
    ) -> Result<Option<Membership>, Failure> {
        let key = group.member_key(who);
        let found = self.record::<MemberRecord>(&key).await?;
        Ok(found.map(|(record, version)| Membership {
            role: role(group, who, &record),
            record,
            key,
            version,
        }))
    }

    /// What `user`, who asks, is in a group.
    pub(super) async fn membership(
        &self,
        group: &Group,
        user: Username,
    ) -> Result<Membership, Failure> {
        self.find_member(group, &local(user))
            .await?
            .ok_or(ErrorCode::NotAMember.into())
    }

    pub(super) async fn addgroup(&self, work: &mut Work<'_>) -> Result<Answer, Failure> {
        let Command::AddGroup {
            session,
            group: name,
            password,
            ..
        } = work.request.command
        else {
            return Err(ErrorCode::Internal.into());
        };
        let current = self.session(work.caller, session).await?;
        if self.find_group(name).await?.is_some() {
            return Err(ErrorCode::GroupExists.into());
        }
        let epoch = u64::from_be_bytes(self.random());
        // READ-6: the log of the groups that had the name before goes on, so that no cursor is ahead of it.
        let former_key = records::former_log(name);
        let former = self.record::<GroupLogRecord>(&former_key).await?;
        let (log, expected) = former.map_or((epoch, Expected::Absent), |(former, version)| {
            (former.log, Expected::At(version))
        });
        let log = if is_planted(Fault::ReusePositions) {
            epoch
        } else {
            log
        };
        let floor = self.store.last(&records::group_log(name, log)).await?;
        let record = GroupRecord {
            owner: current.user.as_str().into(),
            password: self.group_password(&password, work).await?,
            created: work.caller.now.wall,
            epoch,
            realms: Vec::new(),
            log,
            floor: floor.0,
        };
        // Whoever made one and deleted it meanwhile has moved the end of the log.
        work.batch.expect(former_key, expected);
        current.rely_on(&mut work.batch);
        let key = records::group(name);
        work.batch
            .expect(key.clone(), Expected::Absent)
            .put(key, record.to_value()?);
        let group = Group {
            name,
            record,
            version: Version(0),
        };
        let member = MemberRecord {
            moderator: false,
            joined: work.caller.now.wall,
        };
        group.put(&local(current.user), &member, &mut work.batch)?;
        work.joined = Some(current.user);
        Ok(Answer::Done)
    }

    /// What is kept of a group's password; nothing when there is none.
    pub(super) async fn group_password(
        &self,
        password: &Password<'_>,
        work: &mut Work<'_>,
    ) -> Result<Option<String>, Failure> {
        match password.0.len() {
            0 => Ok(None),
            1..=PASSWORD_MAX => {
                if work.hashed.made.is_none() {
                    self.limiter.join(work.caller.now, &work.caller.subnet)?;
                }
                Ok(Some(self.hashed(password, &mut work.hashed).await?))
            }
            _ => Err(Refusal::too_large(PASSWORD_MAX as u64).into()),
        }
    }

    pub(super) async fn joingroup(&self, work: &mut Work<'_>) -> Result<Answer, Failure> {
        let Command::JoinGroup {
            session,
            group: name,
            password,
            ..
        } = work.request.command
        else {
            return Err(ErrorCode::Internal.into());
        };
        let current = self.session(work.caller, session).await?;
        let group = self.find_group(name).await?;
        if group.is_none() && !self.limits.hide_groups {
            return Err(ErrorCode::NoSuchGroup.into());
        }
        let needs_hashing = group
            .as_ref()
            .is_none_or(|group| group.record.password.is_some());
        if needs_hashing && work.hashed.compared.is_none() {
            self.limiter.join(work.caller.now, &work.caller.subnet)?;
        }
        let guess = Guess::Join(local(current.user));
        let guess = (work.caller.now, &guess);
        let Some(group) = group else {
            // As long as a wrong password takes, or the time would tell.
            self.compare(guess, &password, None, &mut work.hashed)
                .await?;
            return Err(ErrorCode::WrongPassword.into());
        };
        self.check_group_password(guess, &group, &password, &mut work.hashed)
            .await?;
        let ban = records::ban(name, group.record.epoch, &local(current.user));
        if self.record::<BanRecord>(&ban).await?.is_some() {
            return Err(ErrorCode::Banned.into());
        }
        let user = local(current.user);
        if self.find_member(&group, &user).await?.is_some() {
            return Ok(Answer::Done);
        }
        current.rely_on(&mut work.batch);
        group.rely_on(&mut work.batch);
        work.batch
            .expect(ban, Expected::Absent)
            .expect(group.member_key(&user), Expected::Absent);
        let member = MemberRecord {
            moderator: false,
            joined: work.caller.now.wall,
        };
        group.put(&local(current.user), &member, &mut work.batch)?;
        work.joined = Some(current.user);
        Ok(Answer::Done)
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
                self.compare(guess, password, kept, hashed).await?
            }
        };
        if fits {
            Ok(())
        } else {
            Err(ErrorCode::WrongPassword.into())
        }
    }

    pub(super) async fn leavegroup(
        &self,
        work: &mut Work<'_>,
        session: SessionRef,
        name: GroupName,
    ) -> Result<Answer, Failure> {
        let current = self.session(work.caller, session).await?;
        let group = self.group(name).await?;
        let member = self.membership(&group, current.user).await?;
        current.rely_on(&mut work.batch);
        group.rely_on(&mut work.batch);
        member.rely_on(&mut work.batch);
        if member.role != Role::Owner {
            group.remove(&local(current.user), &mut work.batch);
            return Ok(Answer::Done);
        }
        match self.successor(&group, &current).await? {
            Some(owner) => {
                group.remove(&local(current.user), &mut work.batch);
                group.put_owner(owner, &mut work.batch)?;
            }
            None => self.delete_group(&group, &mut work.batch).await?,
        }
        Ok(Answer::Done)
    }

    /// Who follows an owner that leaves: the moderator, else the member, of longest standing.
    async fn successor(
        &self,
        group: &Group,
        leaving: &Current,
    ) -> Result<Option<Username>, Failure> {
        let members = self.members_of(group, MEMBERS_AT_ONCE).await?;
        // A group has its owner in its own realm.
        let others = members
            .into_iter()
            .filter(|(who, _)| who.realm.is_none() && who.user != leaving.user);
        let first = others.min_by_key(|(who, member)| (!member.moderator, member.joined, who.user));
        Ok(first.map(|(who, _)| who.user))
    }

    /// Members in the order of their names.
    pub(super) async fn members_of(
        &self,
        group: &Group,
        limit: usize,
    ) -> Result<Vec<(Sender, MemberRecord)>, Failure> {
        let prefix = records::members(group.name, group.record.epoch);
        let found = self.store.list(&prefix, None, limit).await?;
        found
            .into_iter()
            .filter_map(|(key, found)| {
                let who = records::member_in(&key, &prefix)?;
                Some(MemberRecord::from_value(&found.value).map(|member| (who, member)))
            })
            .collect::<Result<_, _>>()
            .map_err(Into::into)
    }

    /// Adds to `batch` that a group is gone, with its messages and members.
    pub(super) async fn delete_group(
        &self,
        group: &Group,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let former = GroupLogRecord {
            log: group.record.log,
        };
        batch
            .delete(records::group(group.name))
            .put(records::former_log(group.name), former.to_value()?)
            .trim(group.place().log, Position(u64::MAX));
        // Whoever is left over in a very large group is a member of an epoch that is over.
        for (who, _) in self.members_of(group, MEMBERS_AT_ONCE).await? {
            group.remove(&who, batch);
        }
        Ok(())
    }

    pub(super) async fn members(
        &self,
        caller: &Caller,
        session: SessionRef,
        name: GroupName,
        options: &Options,
    ) -> Result<Answer, Failure> {
        let current = self.session(caller, session).await?;
        let group = self.group(name).await?;
        self.membership(&group, current.user).await?;
        let (skip, limit) = asked(options);
        let found = self.members_of(&group, skip + limit + 1).await?;
        let all = found.into_iter().skip(skip).map(|(who, member)| Member {
            who,
            role: role(&group, &who, &member),
        });
        // The name of a realm has its length where the text has an @; the user's length and the role follow.
        let size = |member: &Member| member.who.to_string().len() + 2;
        let (members, more) = fill(all, limit, caller.room, size);
        Ok(Answer::Members { more, members })
    }

    pub(super) async fn groups(
        &self,
        caller: &Caller,
        session: SessionRef,
        options: &Options,
    ) -> Result<Answer, Failure> {
        let current = self.session(caller, session).await?;
        let (skip, limit) = asked(options);
        let prefix = records::joined(current.user);
        let links = self.store.list(&prefix, None, skip + limit + 1).await?;
        let mut names = Vec::new();
        for (key, link) in links {
            let Some(name) = records::name_in::<GroupName>(&key, &prefix) else {
                continue;
            };
            let GroupLink { epoch } = GroupLink::from_value(&link.value)?;
            // A group that is gone may have left a trace.
            if let Some(group) = self.find_group(name).await?
                && group.record.epoch == epoch
            {
                names.push(name.as_str().to_string());
            }
        }
        let size = |name: &String| name.len() + 1;
        let (names, more) = fill(names.into_iter().skip(skip), limit, caller.room, size);
        Ok(Answer::Names { more, names })
    }
}

/// What a member may do.
fn role(group: &Group, who: &Sender, member: &MemberRecord) -> Role {
    if who.realm.is_none() && group.record.owner == who.user.as_str() {
        Role::Owner
    } else if member.moderator {
        Role::Moderator
    } else {
        Role::Member
    }
}

/// A user of this realm.
pub const fn local(user: Username) -> Sender {
    Sender { user, realm: None }
}

/// How many names to skip, and how many to give at most.
fn asked(options: &Options) -> (usize, usize) {
    let number = |n: u64| {
        usize::try_from(n)
            .unwrap_or(usize::MAX / 4)
            .min(usize::MAX / 4)
    };
    let limit = options.limit.unwrap_or(NAMES_MAX).clamp(1, NAMES_MAX);
    (number(options.offset.unwrap_or(0)), number(limit))
}

/// As many of `all` as fit, and whether others follow.
fn fill<T>(
    all: impl Iterator<Item = T>,
    limit: usize,
    room: usize,
    size: impl Fn(&T) -> usize,
) -> (Vec<T>, bool) {
    let mut left = room.saturating_sub(ANSWER_HEAD);
    let mut page = Vec::new();
    for item in all {
        let size = size(&item);
        if page.len() == limit || size > left {
            return (page, true);
        }
        left -= size;
        page.push(item);
    }
    (page, false)
}
