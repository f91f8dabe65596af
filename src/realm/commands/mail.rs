//! Sending: `send` and `sendgroup`. Each message is one append, however many users read it.

use crate::realm::{
    Realm,
    commands::work::Work,
    current_session::Current,
    failure::Failure,
    groups::local,
    message_content::MessageContent,
    records::{EntryRecord, MailboxLog, Record as _},
};
use crate::{
    store::{Log, Store},
    wire::{Body, ErrorCode, Options, Sent, command},
};

impl<S: Store> Realm<S> {
    pub(in crate::realm) async fn send(
        &self,
        work: &mut Work<'_>,
        command: &command::Send<'_>,
    ) -> Result<Sent, Failure> {
        let &command::Send { to, message, .. } = command;
        let options = &work.request.options;
        let current = self.session_of(work).await?;
        let content = self.check_message(options, &message)?;
        if !self.accounts.has(to).await? {
            return Err(ErrorCode::NoSuchUser.into());
        }
        let from = local(current.user);
        let [log] = self
            .blocks
            .logs_for(&mut work.batch, [MailboxLog::private(to)], (&from, to))
            .await?;
        append(work, &current, (content, &message), log)?;
        Ok(Sent::Stored)
    }

    pub(super) async fn sendgroup(
        &self,
        work: &mut Work<'_>,
        command: &command::SendGroup<'_>,
    ) -> Result<Sent, Failure> {
        let &command::SendGroup { group, message, .. } = command;
        let current = self.session_of(work).await?;
        let content = self.check_message(&work.request.options, &message)?;
        // A realm that joins meanwhile has read the group without this message, and must be told of
        // it.
        // A member that is removed meanwhile must not send any more.
        let (group, _) = self
            .groups
            .group_of_member(&mut work.batch, group, current.user)
            .await?;
        work.hints = group.realms().map(|realm| (realm, group.name)).collect();
        append(work, &current, (content, &message), group.place().log)?;
        Ok(Sent::Stored)
    }

    /// Checks a message. Refuses it if it is too long or does not match its content type; returns
    /// the content type.
    fn check_message(&self, options: &Options, message: &Body<'_>) -> Result<u8, Failure> {
        let content = MessageContent::new(options.content, *message, self.limits.max_message)?;
        Ok(content.content_type())
    }
}

/// Adds to the work's batch the message at the end of a log.
fn append(
    work: &mut Work<'_>,
    current: &Current,
    (content, message): (u8, &Body<'_>),
    log: Log,
) -> Result<(), Failure> {
    let entry = EntryRecord {
        time: work.caller.now.wall,
        content,
        user: current.user.as_str().into(),
        realm: None,
        body: message.0.to_vec(),
        alleged: None,
    };
    work.batch.append(log, entry.to_value()?);
    Ok(())
}
