//! Sessions: `logout`, `sessions`, `revoke` and `whoami` (SES-1 … SES-6).

use crate::realm::{
    Caller, Failure, Realm, Work, records,
    sessions::{handle_of, put_ended},
    storage::Unnoted,
};
use crate::{
    store::Store,
    wire::{Answer, DeviceSession, ErrorCode, SessionRef, command},
};

impl<S: Store> Realm<S> {
    pub(in crate::realm) async fn logout(
        &self,
        work: &mut Work<'_>,
        command: &command::Logout,
    ) -> Result<Answer, Failure> {
        let &command::Logout { session, .. } = command;
        let current = self.sessions.session_noted(work, session).await?;
        work.affected = Some(current.user);
        if current.record.device.is_none() {
            // This is one of its numbers.
            put_ended(&current, &mut work.batch)?;
        }
        self.sessions
            .end_sessions(&[current], None, &mut work.batch)
            .await?;
        Ok(Answer::Done)
    }

    pub(in crate::realm) async fn sessions(
        &self,
        caller: &Caller,
        session: SessionRef,
    ) -> Result<Answer, Failure> {
        let current = self.sessions.session(caller, session).await?;
        let mut all = self
            .sessions
            .sessions_of(&mut Unnoted, current.user)
            .await?;
        all.sort_by_key(|session| (session.record.created, session.hash));
        let listed = all.into_iter().map(|session| {
            Ok(DeviceSession {
                handle: handle_of(&session.hash)?,
                created: session.record.created,
                used: session.record.used,
                current: session.hash == current.hash,
                device: session.record.device.is_some(),
            })
        });
        Ok(Answer::Sessions(listed.collect::<Result<_, Failure>>()?))
    }

    pub(in crate::realm) async fn revoke(
        &self,
        work: &mut Work<'_>,
        command: &command::Revoke,
    ) -> Result<Answer, Failure> {
        let &command::Revoke {
            session, handle, ..
        } = command;
        let current = self.sessions.session_noted(work, session).await?;
        let meant = self
            .sessions
            .sessions_of(&mut work.batch, current.user)
            .await?
            .into_iter()
            .find(|session| handle_of(&session.hash).is_ok_and(|found| found == handle))
            .ok_or(ErrorCode::NoSession)?;
        if meant.hash != current.hash {
            meant.rely_on(&mut work.batch);
        }
        work.affected = Some(current.user);
        self.sessions
            .end_sessions(&[meant], None, &mut work.batch)
            .await?;
        Ok(Answer::Done)
    }

    pub(in crate::realm) async fn whoami(
        &self,
        caller: &Caller,
        session: SessionRef,
    ) -> Result<Answer, Failure> {
        let current = self.sessions.session(caller, session).await?;
        let (account, _) = self
            .storage
            .record::<records::AccountRecord>(&records::account(current.user))
            .await?
            .ok_or(ErrorCode::NoSession)?;
        Ok(Answer::Account(crate::wire::Account {
            operator: current.record.operator,
            username: current.user,
            full_name: account.full_name,
            country: account.country,
        }))
    }
}
