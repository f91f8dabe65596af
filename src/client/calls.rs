//! The commands as calls.

use super::{CallError, Client};
use crate::wire::{
    Account, Answer, Body, Command, DeviceSession, Entry, Handle, OperationNumber, Options, Page,
    Password, Sent, SessionId, SessionRef, Text, Username,
};

/// Filled in by [`Client::call`].
const UNNUMBERED: OperationNumber = OperationNumber(0);

impl Client {
    /// Makes an account and opens a session. `full_name` and `country` are 1 to 64 bytes, the
    /// password 8 to 128.
    pub async fn register(
        &self,
        full_name: &str,
        country: &str,
        username: Username,
        password: &[u8],
    ) -> Result<SessionId, CallError> {
        let command = Command::Register {
            operation: UNNUMBERED,
            full_name: Text(full_name),
            country: Text(country),
            username,
            password: Password(password),
        };
        session(self.call(Options::NONE, command).await?)
    }

    /// Opens a session.
    pub async fn auth(&self, username: Username, password: &[u8]) -> Result<SessionId, CallError> {
        let command = Command::Auth {
            operation: UNNUMBERED,
            username,
            password: Password(password),
        };
        session(self.call(Options::NONE, command).await?)
    }

    /// Ends the session.
    pub async fn logout(&self) -> Result<(), CallError> {
        let command = Command::Logout {
            operation: UNNUMBERED,
            session: self.session()?,
        };
        done(&self.call(Options::NONE, command).await?)
    }

    /// Writes to a user. `Ok` means that the message is in the recipient's mailbox for good.
    pub async fn send(&self, to: Username, message: &[u8]) -> Result<Sent, CallError> {
        let command = Command::Send {
            operation: UNNUMBERED,
            session: self.session()?,
            to,
            message: Body(message),
        };
        match self.call(Options::NONE, command).await? {
            Answer::Sent(sent) => Ok(sent),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads one page of the private messages, as `options` say: `after` confirms everything up to
    /// there, `offset` takes up a long entry in its middle, `limit` and `bytes` bound the page.
    pub async fn inbox(&self, options: Options) -> Result<Page, CallError> {
        let command = Command::Inbox {
            session: self.session()?,
        };
        match self.call(options, command).await? {
            Answer::Page(page) => Ok(page),
            other => Err(unexpected(&other)),
        }
    }

    /// All private messages after what was last [`Client::shown`], whole.
    pub async fn unread(&self) -> Result<Vec<Entry>, CallError> {
        let after = self.profile().load()?.shown;
        self.inbox_whole(after, usize::MAX).await
    }

    /// At most `limit` private messages after `after` (where the realm says, if that is `None`),
    /// each of them whole.
    pub async fn inbox_whole(
        &self,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Entry>, CallError> {
        let mut entries: Vec<Entry> = Vec::new();
        let (mut after, mut offset) = (after, None);
        loop {
            let left = limit - entries.len().min(limit) + usize::from(offset.is_some());
            let options = Options {
                after,
                offset,
                limit: Some(u64::try_from(left).unwrap_or(u64::MAX).min(100)),
                ..Options::NONE
            };
            let page = self.inbox(options).await?;
            for piece in page.entries {
                match entries.last_mut() {
                    // The rest of an entry whose beginning the page before brought.
                    Some(last) if last.position == piece.position => {
                        last.body.extend_from_slice(&piece.body);
                    }
                    _ => entries.push(piece),
                }
            }
            let Some(last) = entries.last_mut() else {
                return Ok(entries);
            };
            let have = last.body.len() as u64;
            offset = last
                .fragment
                .filter(|fragment| have < fragment.total)
                .map(|_| have);
            after = match offset {
                // What is only half here is not confirmed.
                Some(_) => after.max(last.position.0.checked_sub(1)),
                None => {
                    last.fragment = None;
                    Some(last.position.0)
                }
            };
            if offset.is_none() && (!page.more || entries.len() >= limit) {
                return Ok(entries);
            }
        }
    }

    /// Notes that `entry`, or the piece of one that it is, has been shown to its reader: the next read
    /// goes on after it, and tells the realm that it arrived.
    pub fn shown(&self, entry: &Entry) -> Result<(), CallError> {
        let read = entry
            .fragment
            .map(|fragment| (fragment.offset + entry.body.len() as u64, fragment.total));
        self.profile().update(|state| match read {
            Some((end, total)) if end < total => {
                state.shown = Some(entry.position.0.saturating_sub(1)).max(state.shown);
                state.shown_offset = end;
            }
            _ if state.shown < Some(entry.position.0) => {
                state.shown = Some(entry.position.0);
                state.shown_offset = 0;
            }
            _ => {}
        })?;
        Ok(())
    }

    /// Who the session's user is.
    pub async fn whoami(&self) -> Result<Account, CallError> {
        let command = Command::WhoAmI {
            session: self.session()?,
        };
        match self.call(Options::NONE, command).await? {
            Answer::Account(account) => Ok(account),
            other => Err(unexpected(&other)),
        }
    }

    /// The user's sessions.
    pub async fn sessions(&self) -> Result<Vec<DeviceSession>, CallError> {
        let command = Command::Sessions {
            session: self.session()?,
        };
        match self.call(Options::NONE, command).await? {
            Answer::Sessions(sessions) => Ok(sessions),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends one of the user's sessions.
    pub async fn revoke(&self, handle: Handle) -> Result<(), CallError> {
        let command = Command::Revoke {
            operation: UNNUMBERED,
            session: self.session()?,
            handle,
        };
        done(&self.call(Options::NONE, command).await?)
    }

    /// Changes the password; all the user's other sessions end.
    pub async fn passwd(&self, old: &[u8], new: &[u8]) -> Result<(), CallError> {
        let command = Command::Passwd {
            operation: UNNUMBERED,
            session: self.session()?,
            old: Password(old),
            new: Password(new),
        };
        done(&self.call(Options::NONE, command).await?)
    }

    /// How commands name their session: in full where one was given or the link proves no device.
    fn session(&self) -> Result<SessionRef, CallError> {
        if let Some(id) = self.options.session {
            return Ok(SessionRef::Named(id));
        }
        let state = self.profile().load()?;
        match state.session {
            _ if !state.plain => Ok(SessionRef::Bound),
            Some(id) => Ok(SessionRef::Named(SessionId(id))),
            None => Err(CallError::NotLoggedIn),
        }
    }
}

fn session(answer: Answer) -> Result<SessionId, CallError> {
    match answer {
        Answer::Session(id) => Ok(id),
        other => Err(unexpected(&other)),
    }
}

fn done(answer: &Answer) -> Result<(), CallError> {
    match answer {
        Answer::Done => Ok(()),
        other => Err(unexpected(other)),
    }
}

fn unexpected(answer: &Answer) -> CallError {
    let kind = match answer {
        Answer::Done => "done",
        Answer::Sent(_) => "a delivery state",
        Answer::Session(_) => "a session",
        Answer::Page(_) => "a page",
        Answer::Account(_) => "an account",
        Answer::Sessions(_) => "sessions",
        Answer::Names(_) => "names",
        Answer::Realms(_) => "realms",
        Answer::Unread(_) => "counts",
        Answer::Refused(_) => "a refusal",
    };
    CallError::Misunderstood(format!("{kind} was not asked for"))
}
