//! Groups, from the owner's and the moderators' side (GRP-6, GRP-7).

use super::{
    Failure, Realm, Work,
    groups::{Group, Membership, local},
    records::{self, AccountRecord, BanRecord, GroupRecord, MemberRecord, Record as _},
    sessions::Current,
};
use crate::{
    store::Store,
    wire::{Answer, ErrorCode, GroupName, Password, Role, Sender, Username},
};

/// Who asks to change a group, and which.
struct Asking {
    current: Current,
    group: Group,
    member: Membership,
}

impl Asking {
    /// Makes what is written depend on all that allowed it.
    fn rely_on(&self, work: &mut Work<'_>) {
        self.current.rely_on(&mut work.batch);
        self.group.rely_on(&mut work.batch);
        self.member.rely_on(&mut work.batch);
    }
}

impl<S: Store> Realm<S> {
    /// Who asks, if they are at least `least`.
    async fn asking(
        &self,
        work: &mut Work<'_>,
        name: GroupName,
        least: Role,
    ) -> Result<Asking, Failure> {
        let current = self.session_of(work.caller, &work.request.command).await?;
        let group = self.group(name).await?;
        let member = self.membership(&group, current.user).await?;
        if member.role < least {
            return Err(ErrorCode::NotPermitted.into());
        }
        let asking = Asking {
            current,
            group,
            member,
        };
        asking.rely_on(work);
        Ok(asking)
    }

    pub(super) async fn kick(
        &self,
        work: &mut Work<'_>,
        name: GroupName,
        who: Sender,
    ) -> Result<Answer, Failure> {
        let asking = self.asking(work, name, Role::Moderator).await?;
        let member = self.find_member(&asking.group, &who).await?;
        let member = member.ok_or(ErrorCode::NoSuchUser)?;
        if member.role >= asking.member.role {
            return Err(ErrorCode::NotPermitted.into());
        }
        member.rely_on(&mut work.batch);
        self.expel(&asking.group, &who, work).await?;
        Ok(Answer::Done)
    }

    pub(super) async fn ban(
        &self,
        work: &mut Work<'_>,
        name: GroupName,
        who: Sender,
    ) -> Result<Answer, Failure> {
        let asking = self.asking(work, name, Role::Moderator).await?;
        match self.find_member(&asking.group, &who).await? {
            Some(member) if member.role >= asking.member.role => {
                return Err(ErrorCode::NotPermitted.into());
            }
            Some(member) => {
                member.rely_on(&mut work.batch);
                self.expel(&asking.group, &who, work).await?;
            }
            None => match who.realm {
                // Whether another realm has such a user is for that realm to know.
                Some(realm) => drop(self.peer(realm).await?),
                None => {
                    let account = records::account(who.user);
                    let account = self.record::<AccountRecord>(&account).await?;
                    account.ok_or(ErrorCode::NoSuchUser)?;
                }
            },
        }
        let key = records::ban(name, asking.group.record.epoch, &who);
        let since = work.caller.now.wall;
        work.batch.put(key, BanRecord { since }.to_value()?);
        Ok(Answer::Done)
    }

    /// Adds to the work's batch that someone is a member no more, and that a user's realm is told so.
    async fn expel(&self, group: &Group, who: &Sender, work: &mut Work<'_>) -> Result<(), Failure> {
        self.remove_member(group, who, &mut work.batch).await?;
        if let Some(realm) = who.realm
            && let Some(peer) = self.find_peer(realm).await?
        {
            Self::queue_expulsion(&peer, group.name, who.user, work)?;
        }
        Ok(())
    }

    pub(super) async fn unban(
        &self,
        work: &mut Work<'_>,
        name: GroupName,
        who: Sender,
    ) -> Result<Answer, Failure> {
        let asking = self.asking(work, name, Role::Moderator).await?;
        let key = records::ban(name, asking.group.record.epoch, &who);
        work.batch.delete(key);
        Ok(Answer::Done)
    }

    pub(super) async fn set_role(
        &self,
        work: &mut Work<'_>,
        name: GroupName,
        user: Username,
        role: Role,
    ) -> Result<Answer, Failure> {
        let asking = self.asking(work, name, Role::Owner).await?;
        let member = self.find_member(&asking.group, &local(user)).await?;
        let member = member.ok_or(ErrorCode::NoSuchUser)?;
        if user == asking.current.user {
            // An owner steps down by naming another.
            return if role == Role::Owner {
                Ok(Answer::Done)
            } else {
                Err(ErrorCode::NotPermitted.into())
            };
        }
        member.rely_on(&mut work.batch);
        let moderator = role != Role::Member;
        let record = MemberRecord {
            moderator,
            ..member.record
        };
        asking.group.put(&local(user), &record, &mut work.batch)?;
        if role == Role::Owner {
            let former = MemberRecord {
                moderator: true,
                ..asking.member.record
            };
            asking
                .group
                .put(&local(asking.current.user), &former, &mut work.batch)?;
            asking.group.put_owner(user, &mut work.batch)?;
        }
        Ok(Answer::Done)
    }

    pub(super) async fn grouppasswd(
        &self,
        work: &mut Work<'_>,
        name: GroupName,
        password: Password<'_>,
    ) -> Result<Answer, Failure> {
        let asking = self.asking(work, name, Role::Owner).await?;
        let record = GroupRecord {
            password: self.group_password(&password, work).await?,
            ..asking.group.record.clone()
        };
        work.batch.put(records::group(name), record.to_value()?);
        Ok(Answer::Done)
    }

    pub(super) async fn delgroup(
        &self,
        work: &mut Work<'_>,
        name: GroupName,
    ) -> Result<Answer, Failure> {
        let asking = self.asking(work, name, Role::Owner).await?;
        self.delete_group(&asking.group, &mut work.batch).await?;
        Ok(Answer::Done)
    }
}
