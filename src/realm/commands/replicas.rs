//! Groups of other realms: `joingrouprealm`, `leavegrouprealm`, `inboxgrouprealm`.

use crate::realm::{
    Caller, Realm,
    commands::{
        asking::{Decided, needed},
        work::Work,
    },
    failure::Failure,
    groups::teardown::put_ending,
    records::{self, ChangedRecord, Ending, Record as _, ReplicaMemberRecord, ReplicaRecord},
    storage::Unnoted,
};
use crate::{
    store::Store,
    wire::{
        Answer, ErrorCode, GroupName, Options, PeerRequest, Position, RealmId, SessionRef, command,
    },
};

impl<S: Store> Realm<S> {
    pub(in crate::realm) async fn joingrouprealm(
        &self,
        work: &mut Work<'_>,
        command: &command::JoinGroupRealm<'_>,
    ) -> Result<Decided, Failure> {
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
        // This is noted before the home realm is asked: what it tells of the group meanwhile may be
        // newer than its answer.
        let batch = &mut work.batch;
        self.storage
            .noted::<ChangedRecord>(batch, &records::words(realm, group))
            .await?;
        let member_key = records::copy_member(realm, group, user);
        let found = self
            .storage
            .noted::<ReplicaMemberRecord>(batch, &member_key)
            .await?;
        if found.is_none() {
            self.groups.check_room(user, batch).await?;
        }
        let request = PeerRequest::Join {
            group,
            user,
            password,
        };
        let answer = match work.answer_of(&peer, request.to_bytes()) {
            Ok(answer) => needed(answer)?,
            Err(question) => return Ok(Decided::Ask(question)),
        };
        let (epoch, membership, known_as) = match answer {
            Answer::Joined {
                epoch,
                membership,
                known_as,
            } => (epoch, membership, known_as),
            Answer::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(ErrorCode::Internal.into()),
        };
        let member = ReplicaMemberRecord {
            joined: work.caller.now.wall,
            epoch: Some(epoch),
            membership,
        };
        let key = records::copy(realm, group);
        let copy = self.groups.find_copy(&mut work.batch, realm, group).await?;
        let known_as = known_as.as_str().into();
        let record = match &copy {
            Some(copy) if copy.record().epoch == epoch => ReplicaRecord {
                known_as,
                // If it had ended and exists again, its home realm was restored from a backup.
                ended: false,
                ..copy.record().clone()
            },
            // The group was made again there. The new one is read from its beginning, and its
            // entries follow those of the former one in the log here (READ-6).
            Some(copy) => {
                let log = copy.place(realm, group).log;
                let floor = self.storage.last(&log).await?.0;
                work.batch.trim(log, Position(floor + 1));
                let former = (copy.record().epoch, copy.record().log);
                let (which, batch) = ((Some(realm), group), &mut work.batch);
                if !copy.has_ended() {
                    put_ending(Ending::Tell, which, former, batch)?;
                }
                put_ending(Ending::ForgetCopy, which, former, batch)?;
                work.ends = true;
                ReplicaRecord {
                    epoch,
                    known_as,
                    position: 0,
                    log: copy.record().log,
                    floor,
                    ended: false,
                }
            }
            None => ReplicaRecord {
                epoch,
                known_as,
                position: 0,
                log: epoch,
                floor: 0,
                ended: false,
            },
        };
        work.batch
            .put(key, record.to_value()?)
            .put(member_key, member.to_value()?)
            .put(
                records::copied_group(user, realm, group),
                ChangedRecord {}.to_value()?,
            );
        work.affected = Some(user);
        work.copies = Some((realm, group));
        Ok(Decided::Answer(Answer::Done))
    }

    pub(super) async fn leavegrouprealm(
        &self,
        work: &mut Work<'_>,
        command: &command::LeaveGroupRealm,
    ) -> Result<Decided, Failure> {
        let &command::LeaveGroupRealm {
            session,
            realm,
            group,
            ..
        } = command;
        let current = self.session_noted(work, session).await?;
        let peer = self.peers.peer(&mut work.batch, realm).await?;
        let user = current.user;
        let (copy, member) = self
            .groups
            .copy_for(&mut work.batch, (realm, group), user)
            .await?;
        // If the group has ended, only this realm knows of the membership. The home realm may have
        // another group of that name.
        if !copy.has_ended() {
            let gone = [ErrorCode::NoSuchGroup, ErrorCode::NotAMember];
            let leave = PeerRequest::Leave {
                group,
                user,
                membership: member.membership,
            };
            let answer = match work.answer_of(&peer, leave.to_bytes()) {
                Ok(answer) => needed(answer)?,
                Err(question) => return Ok(Decided::Ask(question)),
            };
            match answer {
                Answer::Done => {}
                Answer::Refused(refusal) if gone.contains(&refusal.code) => {}
                Answer::Refused(refusal) => return Err(refusal.into()),
                _ => return Err(ErrorCode::Internal.into()),
            }
        }
        work.batch
            .delete(records::copy_member(realm, group, user))
            .delete(records::copied_group(user, realm, group));
        Ok(Decided::Answer(Answer::Done))
    }

    pub(super) async fn inboxgrouprealm(
        &self,
        caller: &Caller,
        (session, realm, group): (SessionRef, RealmId, GroupName),
        options: &Options,
    ) -> Result<Answer, Failure> {
        let current = self.sessions.session(caller, session).await?;
        self.peers.peer(&mut Unnoted, realm).await?;
        let which = (realm, group);
        let (copy, _) = self
            .groups
            .copy_for(&mut Unnoted, which, current.user)
            .await?;
        let place = copy.place(realm, group);
        let blocked = self.mailboxes.blocked_by(current.user).await?;
        self.mailboxes
            .read_page(caller, &current, (&place, &blocked), options)
            .await
    }
}
