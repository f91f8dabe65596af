//! `claim`, and what only operators may do.

use crate::realm::{Realm, commands::work::Work, failure::Failure, sessions::Sessions};
use crate::{
    crypto::same,
    store::Store,
    wire::{ErrorCode, SessionRef, Username, command},
};

impl<S: Store> Realm<S> {
    pub(in crate::realm) async fn claim(
        &self,
        work: &mut Work<'_>,
        command: &command::Claim<'_>,
    ) -> Result<(), Failure> {
        let &command::Claim { session, code, .. } = command;
        let current = self.session_noted(work, session).await?;
        if !same(code.0, self.own.operator_code.as_bytes()) {
            tracing::warn!(user = %current.user, from = %work.caller.subnet, "wrong operator code was given");
            return Err(ErrorCode::WrongPassword.into());
        }
        let user = current.user;
        Sessions::<S>::make_operator(current, &mut work.batch)?;
        tracing::info!(%user, from = %work.caller.subnet, "operator code was given; the session is an operator's");
        Ok(())
    }

    /// Returns the user of a command that is for operators.
    pub(in crate::realm) async fn operator(
        &self,
        work: &mut Work<'_>,
        session: SessionRef,
    ) -> Result<Username, Failure> {
        let current = self.session_noted(work, session).await?;
        if current.record.operator {
            Ok(current.user)
        } else {
            Err(ErrorCode::NotOperator.into())
        }
    }
}
