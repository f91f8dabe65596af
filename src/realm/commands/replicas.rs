//! Groups of other realms: `joingrouprealm`, `leavegrouprealm`, `inboxgrouprealm`.

use crate::realm::{
    Caller, Realm,
    commands::{
        asking::{Decided, needed},
        work::Work,
    },
    failure::Failure,
    groups::memberships::leave_replica,
    storage::Unnoted,
};
use crate::{
    store::Store,
    wire::{
        AnsweredByPeer as _, ErrorCode, GroupName, Options, Page, PeerRequest, RealmId, SessionRef,
        command, peer,
    },
};

impl<S: Store> Realm<S> {
    pub(in crate::realm) async fn joingrouprealm(
        &self,
        work: &mut Work<'_>,
        command: &command::JoinGroupRealm<'_>,
    ) -> Result<Decided<()>, Failure> {
        let &command::JoinGroupRealm {
            session,
            src_address,
            src_port,
            realm,
            group,
            password,
            ..
        } = command;
        let current = self.session_noted(work, session).await?;
        let peer = self.peers.peer(&mut work.batch, realm).await?;
        self.peers.check_peering(realm, &mut work.batch).await?;
        let peer = peer.asked_by(self.named_source(src_address, src_port)?);
        let user = current.user;
        let which = (realm, group);
        self.groups
            .begin_join_elsewhere(which, user, &mut work.batch)
            .await?;
        let request = PeerRequest::Join(peer::Join {
            group,
            user,
            password,
        });
        let answer = match work.answer_of(&peer, request.to_bytes()) {
            Ok(answer) => needed(answer)?,
            Err(question) => return Ok(Decided::Ask(question)),
        };
        let joined = peer::Join::answered(answer)??;
        work.ends |= self
            .groups
            .put_joined_elsewhere(which, user, (joined, work.caller.now), &mut work.batch)
            .await?;
        work.affected = Some(user);
        work.replica = Some((realm, group));
        Ok(Decided::Answer(()))
    }

    pub(super) async fn leavegrouprealm(
        &self,
        work: &mut Work<'_>,
        command: &command::LeaveGroupRealm,
    ) -> Result<Decided<()>, Failure> {
        let &command::LeaveGroupRealm {
            session,
            realm,
            group,
            ..
        } = command;
        let current = self.session_noted(work, session).await?;
        let peer = self.peers.peer(&mut work.batch, realm).await?;
        let user = current.user;
        let (replica, member) = self
            .groups
            .replica_for(&mut work.batch, (realm, group), user)
            .await?;
        // If the group has ended, only this realm knows of the membership. The home realm may have
        // another group of that name.
        if !replica.has_ended() {
            let gone = [ErrorCode::NoSuchGroup, ErrorCode::NotAMember];
            let leave = PeerRequest::Leave(peer::Leave {
                group,
                user,
                membership: member.membership,
            });
            let answer = match work.answer_of(&peer, leave.to_bytes()) {
                Ok(answer) => needed(answer)?,
                Err(question) => return Ok(Decided::Ask(question)),
            };
            match peer::Leave::answered(answer)? {
                Err(refusal) if !gone.contains(&refusal.code) => return Err(refusal.into()),
                Ok(()) | Err(_) => {}
            }
        }
        leave_replica((realm, group), user, &mut work.batch);
        Ok(Decided::Answer(()))
    }

    pub(super) async fn inboxgrouprealm(
        &self,
        caller: &Caller,
        (session, realm, group): (SessionRef, RealmId, GroupName),
        options: &Options,
    ) -> Result<Page, Failure> {
        let current = self.sessions.session(caller, session).await?;
        self.peers.peer(&mut Unnoted, realm).await?;
        let which = (realm, group);
        let (replica, _) = self
            .groups
            .replica_for(&mut Unnoted, which, current.user)
            .await?;
        let place = replica.place(realm, group);
        let blocked = self.blocks.blocked_by(current.user).await?;
        self.mailboxes
            .read_page(caller, &current, (&place, &blocked), options)
            .await
    }
}
