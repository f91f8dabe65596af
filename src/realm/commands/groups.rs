//! `addgroup`, `joingroup`, `leavegroup`, `members` and `groups`.

use crate::realm::{
    Caller, Realm,
    commands::work::Work,
    failure::Failure,
    groups::{local, role},
    limits::Guess,
    mailboxes::reading::page_limit,
    records,
    storage::Unnoted,
};
use crate::{
    store::Store,
    wire::{
        ErrorCode, GroupName, List, Member, Options, PASSWORD_MAX, Password, Refusal, Role,
        SessionRef, command,
    },
};

/// The number of bytes of an answer before its first name: kind, more.
const ANSWER_HEAD: usize = 2;

/// The number of names on a page, unless the reader asks for fewer.
const NAMES_MAX: usize = 1000;

/// The number of names that are looked up before it is known whether they fit.
const NAMES_AT_ONCE: usize = 64;

impl<S: Store> Realm<S> {
    pub(super) async fn addgroup(
        &self,
        work: &mut Work<'_>,
        command: &command::AddGroup<'_>,
    ) -> Result<(), Failure> {
        let &command::AddGroup {
            session,
            group: name,
            password,
            ..
        } = command;
        let current = self.session_noted(work, session).await?;
        let new = self.groups.begin_group(name, &mut work.batch).await?;
        let password = self.group_password(&password, work).await?;
        let (now, batch) = (work.caller.now, &mut work.batch);
        self.groups
            .put_new_group(new, current.user, password, now, batch)
            .await?;
        work.affected = Some(current.user);
        Ok(())
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
    ) -> Result<(), Failure> {
        let &command::JoinGroup {
            session,
            group: name,
            password,
            ..
        } = command;
        let current = self.session_noted(work, session).await?;
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
        let user = local(current.user);
        let batch = &mut work.batch;
        self.groups.check_ban(batch, &group, &user).await?;
        if self
            .groups
            .find_member(batch, &group, &user)
            .await?
            .is_some()
        {
            return Ok(());
        }
        self.groups.check_room(current.user, batch).await?;
        group.put_new_member(&user, 0, work.caller.now, batch)?;
        work.affected = Some(current.user);
        Ok(())
    }

    pub(super) async fn leavegroup(
        &self,
        work: &mut Work<'_>,
        command: &command::LeaveGroup,
    ) -> Result<(), Failure> {
        let &command::LeaveGroup {
            session,
            group: name,
            ..
        } = command;
        let current = self.session_noted(work, session).await?;
        let batch = &mut work.batch;
        let (group, member) = self
            .groups
            .group_of_member(batch, name, current.user)
            .await?;
        if member.role != Role::Owner {
            group.remove(&local(current.user), &member.record, batch)?;
            return Ok(());
        }
        match self.groups.successor(batch, &group, &current).await? {
            Some(owner) => {
                group.remove(&local(current.user), &member.record, batch)?;
                group.put_owner(owner, batch)?;
            }
            None => self.delete_group(&group, work).await?,
        }
        Ok(())
    }

    pub(in crate::realm) async fn members(
        &self,
        caller: &Caller,
        session: SessionRef,
        name: GroupName,
        options: &Options,
    ) -> Result<List<Member>, Failure> {
        let current = self.sessions.session(caller, session).await?;
        let (group, _) = self
            .groups
            .group_of_member(&mut Unnoted, name, current.user)
            .await?;
        let mut page = NamesPage::new(options, caller.answer_limits.inline);
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
        Ok(page.into_list())
    }

    pub(in crate::realm) async fn groups(
        &self,
        caller: &Caller,
        session: SessionRef,
        options: &Options,
    ) -> Result<List<String>, Failure> {
        let current = self.sessions.session(caller, session).await?;
        let mut page = NamesPage::new(options, caller.answer_limits.inline);
        let behind = options.behind.map(|behind| behind.user.as_str().parse());
        let behind = behind.transpose().map_err(|_| ErrorCode::BadRequest)?;
        let mut after = behind.map(|name| records::joined_group(current.user, name));
        let mut seen = 0;
        while !page.more {
            let links = self
                .groups
                .next_links(current.user, &mut after, NAMES_AT_ONCE)
                .await?;
            let Some(links) = links else {
                break;
            };
            for (name, link) in links {
                seen += 1;
                // A group that has ended may have left a stale link.
                if let Some(group) = self.groups.find_group(&mut Unnoted, name).await?
                    && group.record.epoch == link.group_epoch()?
                {
                    page.add(name.as_str().len() + 1, name.as_str().to_string());
                    if page.more {
                        break;
                    }
                }
            }
        }
        self.limiter.charge(caller.now, &current.user, seen);
        Ok(page.into_list())
    }
}

/// A page of a list: as many items as fit.
pub(super) struct NamesPage<T> {
    items: Vec<T>,
    /// True if more items follow.
    more: bool,
    limit: usize,
    left: usize,
}

impl<T> NamesPage<T> {
    /// Returns an empty page for an answer of at most `bytes` bytes.
    pub fn new(options: &Options, bytes: usize) -> Self {
        Self {
            items: Vec::new(),
            more: false,
            limit: page_limit(options.limit, NAMES_MAX),
            left: bytes.saturating_sub(ANSWER_HEAD),
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

    /// Returns the page as what the answer holds.
    pub fn into_list(self) -> List<T> {
        List {
            more: self.more,
            items: self.items,
        }
    }
}
