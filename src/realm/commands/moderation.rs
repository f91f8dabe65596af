//! Groups as owners and moderators manage them (GRP-6, GRP-7).

use crate::realm::{
    Realm,
    commands::work::Work,
    current_session::Current,
    failure::Failure,
    groups::{Group, Membership, local},
    queues::MembershipReport,
    records::MemberRecord,
};
use crate::{
    store::Store,
    wire::{ErrorCode, GroupName, Role, Sender, command},
};

/// The sender of a command that changes a group, and the group.
struct Asking {
    current: Current,
    group: Group,
    member: Membership,
}

impl<S: Store> Realm<S> {
    /// Returns the sender, if their role is at least `least`.
    async fn asking(
        &self,
        work: &mut Work<'_>,
        name: GroupName,
        least: Role,
    ) -> Result<Asking, Failure> {
        let current = self.session_of(work).await?;
        let (group, member) = self
            .groups
            .group_of_member(&mut work.batch, name, current.user)
            .await?;
        if member.role < least {
            return Err(ErrorCode::NotPermitted.into());
        }
        Ok(Asking {
            current,
            group,
            member,
        })
    }

    pub(in crate::realm) async fn kick(
        &self,
        work: &mut Work<'_>,
        command: &command::Kick,
    ) -> Result<(), Failure> {
        let &command::Kick {
            group: name,
            user: who,
            ..
        } = command;
        let asking = self.asking(work, name, Role::Moderator).await?;
        let member = self
            .groups
            .find_member(&mut work.batch, &asking.group, &who)
            .await?
            .ok_or(ErrorCode::NoSuchUser)?;
        if member.role >= asking.member.role {
            return Err(ErrorCode::NotPermitted.into());
        }
        self.expel(&asking.group, (&who, &member.record), work)
            .await?;
        Ok(())
    }

    pub(in crate::realm) async fn ban(
        &self,
        work: &mut Work<'_>,
        command: &command::Ban,
    ) -> Result<(), Failure> {
        let &command::Ban {
            group: name,
            user: who,
            ..
        } = command;
        let asking = self.asking(work, name, Role::Moderator).await?;
        let member = self
            .groups
            .find_member(&mut work.batch, &asking.group, &who)
            .await?;
        match member {
            Some(member) if member.role >= asking.member.role => {
                return Err(ErrorCode::NotPermitted.into());
            }
            Some(member) => {
                self.expel(&asking.group, (&who, &member.record), work)
                    .await?;
            }
            None => match who.realm {
                // Only the other realm knows whether it has such a user.
                Some(realm) => drop(self.peers.peer(&mut work.batch, realm).await?),
                None => {
                    self.accounts
                        .check_exists(&mut work.batch, who.user)
                        .await?;
                }
            },
        }
        asking
            .group
            .put_ban(&who, work.caller.now, &mut work.batch)?;
        Ok(())
    }

    /// Adds to the work's batch that a user is no member any more, and that the user's realm is
    /// told.
    async fn expel(
        &self,
        group: &Group,
        (who, member): (&Sender, &MemberRecord),
        work: &mut Work<'_>,
    ) -> Result<(), Failure> {
        self.groups
            .remove_member(group, (who, member), &mut work.batch)
            .await?;
        if let Some(realm) = who.realm
            && let Some(peer) = self.peers.find_peer(&mut work.batch, realm).await?
        {
            let report = MembershipReport::Expelled(who.user, member.membership);
            let (now, batch) = (work.caller.now, &mut work.batch);
            self.queues
                .queue_membership_report(&peer, group.name, report, now, batch)?;
        }
        Ok(())
    }

    pub(in crate::realm) async fn unban(
        &self,
        work: &mut Work<'_>,
        command: &command::Unban,
    ) -> Result<(), Failure> {
        let &command::Unban {
            group: name,
            user: who,
            ..
        } = command;
        let asking = self.asking(work, name, Role::Moderator).await?;
        asking.group.lift_ban(&who, &mut work.batch);
        Ok(())
    }

    pub(super) async fn set_role(
        &self,
        work: &mut Work<'_>,
        command: &command::SetRole,
    ) -> Result<(), Failure> {
        let &command::SetRole {
            group: name,
            user,
            role,
            ..
        } = command;
        let asking = self.asking(work, name, Role::Owner).await?;
        let member = self
            .groups
            .find_member(&mut work.batch, &asking.group, &local(user))
            .await?
            .ok_or(ErrorCode::NoSuchUser)?;
        if user == asking.current.user {
            // An owner steps down by naming another owner.
            return if role == Role::Owner {
                Ok(())
            } else {
                Err(ErrorCode::NotPermitted.into())
            };
        }
        let batch = &mut work.batch;
        asking
            .group
            .put_role(&local(user), &member.record, role, batch)?;
        if role == Role::Owner {
            let owner = local(asking.current.user);
            asking
                .group
                .put_role(&owner, &asking.member.record, Role::Moderator, batch)?;
            asking.group.put_owner(user, batch)?;
        }
        Ok(())
    }

    pub(super) async fn grouppasswd(
        &self,
        work: &mut Work<'_>,
        command: &command::GroupPasswd<'_>,
    ) -> Result<(), Failure> {
        let &command::GroupPasswd {
            group: name,
            password,
            ..
        } = command;
        let asking = self.asking(work, name, Role::Owner).await?;
        let password = self.group_password(&password, work).await?;
        asking.group.put_password(password, &mut work.batch)?;
        Ok(())
    }

    pub(super) async fn delgroup(
        &self,
        work: &mut Work<'_>,
        command: &command::DelGroup,
    ) -> Result<(), Failure> {
        let &command::DelGroup { group: name, .. } = command;
        let asking = self.asking(work, name, Role::Owner).await?;
        self.delete_group(&asking.group, work).await?;
        Ok(())
    }
}
