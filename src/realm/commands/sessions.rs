//! Sessions: `logout`, `sessions`, `revoke` and `whoami` (SES-1 … SES-6).

use crate::realm::{
    Caller, Realm, commands::work::Work, current_session::Current, failure::Failure,
    sessions::put_ended, storage::Unnoted,
};
use crate::{
    store::Store,
    wire::{
        Account, DeviceSession, ErrorCode, Handle, SessionRef,
        command::{self, Change},
    },
};

impl<S: Store> Realm<S> {
    /// Returns the session of a command that changes something. The commit depends on it.
    pub(in crate::realm) async fn session_noted(
        &self,
        work: &mut Work<'_>,
        session: SessionRef,
    ) -> Result<Current, Failure> {
        let number = Some(work.number());
        let current = self
            .sessions
            .open_session_of(work.caller, session, number)
            .await?;
        // The command counts once, however often it is decided.
        if !work.is_counted {
            self.limiter.command(work.caller.now, &current.user)?;
            work.is_counted = true;
        }
        let current = self.sessions.use_session(current, work.caller.now).await?;
        if adds_to_store(work.change) {
            self.limiter.may_store(work.caller, &current.user)?;
            work.adds_for = Some(current.user);
        }
        current.rely_on(&mut work.batch);
        Ok(current)
    }

    /// The same, for the session that the command itself names.
    pub(in crate::realm) async fn session_of(
        &self,
        work: &mut Work<'_>,
    ) -> Result<Current, Failure> {
        match work.request.command.session() {
            Some(session) => self.session_noted(work, session).await,
            None => Err(ErrorCode::NoSession.into()),
        }
    }

    pub(in crate::realm) async fn logout(
        &self,
        work: &mut Work<'_>,
        command: &command::Logout,
    ) -> Result<(), Failure> {
        let &command::Logout { session, .. } = command;
        let current = self.session_noted(work, session).await?;
        work.affected = Some(current.user);
        if current.record.device.is_none() {
            // This is one of its numbers.
            put_ended(&current, &mut work.batch)?;
        }
        self.sessions
            .end_sessions(&[current], None, &mut work.batch)
            .await?;
        Ok(())
    }

    pub(in crate::realm) async fn sessions(
        &self,
        caller: &Caller,
        session: SessionRef,
    ) -> Result<Vec<DeviceSession>, Failure> {
        let current = self.sessions.session(caller, session).await?;
        let mut all = self
            .sessions
            .sessions_of(&mut Unnoted, current.user)
            .await?;
        all.sort_by_key(|session| (session.record.created, session.hash));
        let listed = all.into_iter().map(|session| DeviceSession {
            handle: Handle::of_session(&session.hash),
            created: session.record.created,
            used: session.record.used,
            current: session.hash == current.hash,
            device: session.record.device.is_some(),
        });
        Ok(listed.collect())
    }

    pub(in crate::realm) async fn revoke(
        &self,
        work: &mut Work<'_>,
        command: &command::Revoke,
    ) -> Result<(), Failure> {
        let &command::Revoke {
            session, handle, ..
        } = command;
        let current = self.session_noted(work, session).await?;
        let meant = self
            .sessions
            .sessions_of(&mut work.batch, current.user)
            .await?
            .into_iter()
            .find(|session| Handle::of_session(&session.hash) == handle)
            .ok_or(ErrorCode::NoSession)?;
        if meant.hash != current.hash {
            meant.rely_on(&mut work.batch);
        }
        work.affected = Some(current.user);
        self.sessions
            .end_sessions(&[meant], None, &mut work.batch)
            .await?;
        Ok(())
    }

    pub(in crate::realm) async fn whoami(
        &self,
        caller: &Caller,
        session: SessionRef,
    ) -> Result<Account, Failure> {
        let current = self.sessions.session(caller, session).await?;
        let account = self.accounts.find(&mut Unnoted, current.user).await?;
        let account = account.ok_or(ErrorCode::NoSession)?;
        let is_operator = current.record.operator;
        Ok(account.into_shown(is_operator))
    }
}

/// True for commands that make the store larger. The others are also allowed to users that have
/// used up their storage quota.
const fn adds_to_store(change: Change<'_, '_>) -> bool {
    match change {
        Change::Send(_)
        | Change::SendGroup(_)
        | Change::SendRealm(_)
        | Change::SendGroupRealm(_)
        | Change::AddGroup(_)
        | Change::JoinGroup(_)
        | Change::JoinGroupRealm(_)
        | Change::Ban(_) => true,
        // A user has a bounded number of blocks, and needs them most when others fill the store.
        Change::Block(_)
        | Change::Unblock(_)
        | Change::Auth(_)
        | Change::Logout(_)
        | Change::Register(_)
        | Change::Revoke(_)
        | Change::Passwd(_)
        | Change::Claim(_)
        | Change::Void(_)
        | Change::AddRealm(_)
        | Change::RemoveRealm(_)
        | Change::LeaveGroup(_)
        | Change::LeaveGroupRealm(_)
        | Change::Kick(_)
        | Change::Unban(_)
        | Change::SetRole(_)
        | Change::GroupPasswd(_)
        | Change::DelGroup(_) => false,
    }
}
