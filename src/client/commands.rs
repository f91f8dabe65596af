//! The commands as calls. Calls that read mailboxes are in `reading`.

use std::time::Duration;

use tokio::time::Instant;

use super::{CallError, Client, Message, Meter, PathMemory, RealmAddress, Receipt};
use crate::wire::{
    Account, Body, Command, DeviceSession, ErrorCode, GroupName, Handle, List, Member, Operation,
    Options, Password, RealmId, RegistrationCode, Role, Sender, SessionId, SessionRef, Text,
    Username, command,
};

/// Filled in by [`Client::call`].
pub(super) const UNNUMBERED: Operation = Operation::UNNUMBERED;

/// An account to be created.
#[derive(Clone, Copy, Debug)]
pub struct Registration<'a> {
    /// The user's name for people: 1 to 64 bytes.
    pub full_name: &'a str,
    /// The user's country: 1 to 64 bytes.
    pub country: &'a str,
    /// The user name, which is free in the realm.
    pub username: Username,
    /// The password: 8 to 128 bytes.
    pub password: &'a [u8],
    /// The code that the realm may ask for.
    pub code: Option<RegistrationCode>,
}

/// The commands. Each fails with a [`CallError`]. [`CallError::effect`] tells whether the command
/// may have taken effect. A realm's refusal is [`CallError::Refused`]; `spec/commands.md` lists the
/// refusals of each command.
impl Client {
    /// Creates an account and opens a session. `full_name` and `country` are 1 to 64 bytes, the
    /// password 8 to 128 bytes. If this device has taken the name itself and the answer was lost,
    /// the same password opens the session.
    ///
    /// # Errors
    /// A refusal with [`ErrorCode::UsernameTaken`] if another account has the name.
    pub async fn register(
        &self,
        full_name: &str,
        country: &str,
        username: Username,
        password: &[u8],
    ) -> Result<SessionId, CallError> {
        let registration = Registration {
            full_name,
            country,
            username,
            password,
            code: None,
        };
        self.register_with(registration).await
    }

    /// Like [`Client::register`], on a realm that may ask for a code.
    ///
    /// # Errors
    /// As [`Client::register`], and a refusal if the realm makes no accounts or asks for another
    /// code.
    pub async fn register_with(
        &self,
        registration: Registration<'_>,
    ) -> Result<SessionId, CallError> {
        let Registration {
            full_name,
            country,
            username,
            password,
            code,
        } = registration;
        let options = Options {
            code,
            ..Options::NONE
        };
        let command = command::Register {
            operation: UNNUMBERED,
            full_name: Text(full_name),
            country: Text(country),
            username,
            password: Password(password),
        };
        let taken = match self.call(options, command).await {
            Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::UsernameTaken => refusal,
            outcome => return outcome,
        };
        // This device may have taken the name itself, with its answer lost. Then the same password
        // opens the session.
        if self
            .whoami()
            .await
            .is_ok_and(|own| own.username == username)
        {
            match self.auth(username, password).await {
                Err(CallError::Refused(_)) => {}
                outcome => return outcome,
            }
        }
        Err(CallError::Refused(taken))
    }

    /// Opens a session for a user, who is then logged in on this device.
    ///
    /// # Errors
    /// A refusal with [`ErrorCode::WrongPassword`] if the name or the password is wrong.
    pub async fn auth(&self, username: Username, password: &[u8]) -> Result<SessionId, CallError> {
        let command = command::Auth {
            operation: UNNUMBERED,
            username,
            password: Password(password),
        };
        self.call(Options::NONE, command).await
    }

    /// Ends the session.
    pub async fn logout(&self) -> Result<(), CallError> {
        let command = command::Logout {
            operation: UNNUMBERED,
            session: self.session()?,
        };
        self.call(Options::NONE, command).await
    }

    /// Sends a message to a user of the realm. `Ok` means that the message is durably in the
    /// recipient's mailbox. To answer a message from another realm, use [`Client::sendrealm`].
    pub async fn send(
        &self,
        to: Username,
        message: impl Into<Message<'_>>,
    ) -> Result<Receipt, CallError> {
        let message = message.into();
        let command = command::Send {
            operation: UNNUMBERED,
            session: self.session()?,
            to,
            message: Body(message.body),
        };
        self.call_message(&message, command).await
    }

    /// Creates a group owned by the session's user. The password is at most 128 bytes. With an
    /// empty password everybody may join.
    pub async fn addgroup(&self, group: GroupName, password: &[u8]) -> Result<(), CallError> {
        let command = command::AddGroup {
            operation: UNNUMBERED,
            session: self.session()?,
            group,
            password: Password(password),
        };
        self.call(Options::NONE, command).await
    }

    /// Joins a group.
    pub async fn joingroup(&self, group: GroupName, password: &[u8]) -> Result<(), CallError> {
        let command = command::JoinGroup {
            operation: UNNUMBERED,
            session: self.session()?,
            group,
            password: Password(password),
        };
        self.call(Options::NONE, command).await
    }

    /// Sends a message to a group.
    pub async fn sendgroup(
        &self,
        group: GroupName,
        message: impl Into<Message<'_>>,
    ) -> Result<Receipt, CallError> {
        let message = message.into();
        let command = command::SendGroup {
            operation: UNNUMBERED,
            session: self.session()?,
            group,
            message: Body(message.body),
        };
        self.call_message(&message, command).await
    }

    /// Leaves a group. If the owner leaves, the moderator of longest standing becomes owner, or
    /// else the member of longest standing. When the last member leaves, the group ends.
    pub async fn leavegroup(&self, group: GroupName) -> Result<(), CallError> {
        let command = command::LeaveGroup {
            operation: UNNUMBERED,
            session: self.session()?,
            group,
        };
        self.call(Options::NONE, command).await
    }

    /// Returns the groups of the session's user, sorted by name.
    pub async fn groups(&self) -> Result<Vec<String>, CallError> {
        let mut all = Vec::new();
        loop {
            let command = command::Groups {
                session: self.session()?,
            };
            let last = all.last().and_then(|last: &String| last.parse().ok());
            if add(&mut all, self.call(behind(last), command).await?) {
                return Ok(all);
            }
        }
    }

    /// Returns a group's members, sorted by name.
    pub async fn members(&self, group: GroupName) -> Result<Vec<Member>, CallError> {
        let mut all = Vec::new();
        loop {
            let command = command::Members {
                session: self.session()?,
                group,
            };
            let last = all.last().map(|last: &Member| last.who);
            if add(&mut all, self.call(behind(last), command).await?) {
                return Ok(all);
            }
        }
    }

    /// Removes a member from a group. A moderator may remove members, the owner anybody else.
    pub async fn kick(&self, group: GroupName, user: Sender) -> Result<(), CallError> {
        let command = command::Kick {
            operation: UNNUMBERED,
            session: self.session()?,
            group,
            user,
        };
        self.call(Options::NONE, command).await
    }

    /// Bans a user from a group, and removes them if they are a member.
    pub async fn ban(&self, group: GroupName, user: Sender) -> Result<(), CallError> {
        let command = command::Ban {
            operation: UNNUMBERED,
            session: self.session()?,
            group,
            user,
        };
        self.call(Options::NONE, command).await
    }

    /// Lets a banned user join again.
    pub async fn unban(&self, group: GroupName, user: Sender) -> Result<(), CallError> {
        let command = command::Unban {
            operation: UNNUMBERED,
            session: self.session()?,
            group,
            user,
        };
        self.call(Options::NONE, command).await
    }

    /// Changes a member's role. When another owner is named, the former owner becomes a moderator.
    pub async fn set_role(
        &self,
        group: GroupName,
        user: Username,
        role: Role,
    ) -> Result<(), CallError> {
        let command = command::SetRole {
            operation: UNNUMBERED,
            session: self.session()?,
            group,
            user,
            role,
        };
        self.call(Options::NONE, command).await
    }

    /// Changes a group's password.
    pub async fn grouppasswd(&self, group: GroupName, password: &[u8]) -> Result<(), CallError> {
        let command = command::GroupPasswd {
            operation: UNNUMBERED,
            session: self.session()?,
            group,
            password: Password(password),
        };
        self.call(Options::NONE, command).await
    }

    /// Deletes a group and its messages.
    pub async fn delgroup(&self, group: GroupName) -> Result<(), CallError> {
        let command = command::DelGroup {
            operation: UNNUMBERED,
            session: self.session()?,
            group,
        };
        self.call(Options::NONE, command).await
    }

    /// Blocks a user: their private messages from now on are discarded, and their messages in
    /// groups are not shown while they are blocked. They do not find out.
    pub async fn block(&self, user: Sender) -> Result<(), CallError> {
        let command = command::Block {
            operation: UNNUMBERED,
            session: self.session()?,
            user,
        };
        self.call(Options::NONE, command).await
    }

    /// Ends a block.
    pub async fn unblock(&self, user: Sender) -> Result<(), CallError> {
        let command = command::Unblock {
            operation: UNNUMBERED,
            session: self.session()?,
            user,
        };
        self.call(Options::NONE, command).await
    }

    /// Returns the users whom the session's user has blocked, sorted by name.
    pub async fn blocks(&self) -> Result<Vec<Sender>, CallError> {
        let mut all = Vec::new();
        loop {
            let command = command::Blocks {
                session: self.session()?,
            };
            let last = all.last().copied();
            if add(&mut all, self.call(behind(last), command).await?) {
                return Ok(all);
            }
        }
    }

    /// Makes the session an operator's, with the code from the realm's `operator-code` file.
    pub async fn claim(&self, code: &[u8]) -> Result<(), CallError> {
        let command = command::Claim {
            operation: UNNUMBERED,
            session: self.session()?,
            code: Password(code),
        };
        self.call(Options::NONE, command).await
    }

    /// Sends a message to a user of another realm. `source` is the address of this realm at which
    /// the other one can reach it; the default is this realm's first address. `from` is the user of
    /// the session.
    ///
    /// [`Sent::Delivered`](crate::wire::Sent::Delivered): it is in the recipient's mailbox there.
    /// [`Sent::Queued`](crate::wire::Sent::Queued): it is on its way. If it fails for good, a
    /// notice of the realm in the user's private mailbox reports it (PEER-6).
    pub async fn sendrealm(
        &self,
        source: Option<RealmAddress<'_>>,
        realm: RealmId,
        from: Username,
        to: Username,
        message: impl Into<Message<'_>>,
    ) -> Result<Receipt, CallError> {
        let message = message.into();
        let (src_address, src_port) = source.unwrap_or(RealmAddress::OWN).fields();
        let command = command::SendRealm {
            operation: UNNUMBERED,
            session: self.session()?,
            src_address,
            src_port,
            realm,
            from,
            to,
            message: Body(message.body),
        };
        self.call_message(&message, command).await
    }

    /// Joins a group of another realm, which must be reachable. `source` is as in
    /// [`Client::sendrealm`].
    pub async fn joingrouprealm(
        &self,
        source: Option<RealmAddress<'_>>,
        realm: RealmId,
        group: GroupName,
        password: &[u8],
    ) -> Result<(), CallError> {
        let (src_address, src_port) = source.unwrap_or(RealmAddress::OWN).fields();
        let command = command::JoinGroupRealm {
            operation: UNNUMBERED,
            session: self.session()?,
            src_address,
            src_port,
            realm,
            group,
            password: Password(password),
        };
        self.call(Options::NONE, command).await
    }

    /// Sends a message to a group of another realm. `source` is as in [`Client::sendrealm`].
    pub async fn sendgrouprealm(
        &self,
        source: Option<RealmAddress<'_>>,
        realm: RealmId,
        group: GroupName,
        message: impl Into<Message<'_>>,
    ) -> Result<Receipt, CallError> {
        let message = message.into();
        let (src_address, src_port) = source.unwrap_or(RealmAddress::OWN).fields();
        let command = command::SendGroupRealm {
            operation: UNNUMBERED,
            session: self.session()?,
            src_address,
            src_port,
            realm,
            group,
            message: Body(message.body),
        };
        self.call_message(&message, command).await
    }

    /// Leaves a group of another realm, which must be reachable.
    pub async fn leavegrouprealm(&self, realm: RealmId, group: GroupName) -> Result<(), CallError> {
        let command = command::LeaveGroupRealm {
            operation: UNNUMBERED,
            session: self.session()?,
            realm,
            group,
        };
        self.call(Options::NONE, command).await
    }

    /// Sends a request that only needs an answer. Returns how long the answer took, with all
    /// retransmissions. The refusal that nobody is logged in also counts as an answer.
    ///
    /// # Errors
    /// As any command.
    pub async fn ping(&self) -> Result<Duration, CallError> {
        let begun = Instant::now();
        let command = Command::WhoAmI(command::WhoAmI {
            session: SessionRef::Bound,
        });
        // An answer of any kind.
        match self.call(Options::NONE, command).await {
            Ok(_) | Err(CallError::Refused(_)) => Ok(begun.elapsed()),
            Err(error) => Err(error),
        }
    }

    /// Tells the realm that a watch has ended, if one has, and writes the path memory. Call it
    /// before the process ends.
    pub async fn leave(&self) {
        self.shared.leave().await;
    }

    /// Returns the counter of the datagrams sent and received.
    pub fn meter(&self) -> Meter {
        self.shared.options.meter.clone()
    }

    /// Returns the path memory of the link. `None` before there is a link.
    pub async fn path(&self) -> Option<PathMemory> {
        self.shared.path_memory().await
    }

    /// Returns the account of the session's user.
    pub async fn whoami(&self) -> Result<Account, CallError> {
        let command = command::WhoAmI {
            session: self.session()?,
        };
        self.call(Options::NONE, command).await
    }

    /// Returns the user's sessions.
    pub async fn sessions(&self) -> Result<Vec<DeviceSession>, CallError> {
        let command = command::Sessions {
            session: self.session()?,
        };
        self.call(Options::NONE, command).await
    }

    /// Ends one of the user's sessions.
    pub async fn revoke(&self, handle: Handle) -> Result<(), CallError> {
        let command = command::Revoke {
            operation: UNNUMBERED,
            session: self.session()?,
            handle,
        };
        self.call(Options::NONE, command).await
    }

    /// Changes the password. All other sessions of the user end.
    pub async fn passwd(&self, old: &[u8], new: &[u8]) -> Result<(), CallError> {
        let command = command::Passwd {
            operation: UNNUMBERED,
            session: self.session()?,
            old: Password(old),
            new: Password(new),
        };
        self.call(Options::NONE, command).await
    }

    /// Returns how commands name their session: in full if one was given or the link authenticates
    /// no device.
    pub(super) fn session(&self) -> Result<SessionRef, CallError> {
        if let Some(id) = self.shared.options.session {
            return Ok(SessionRef::Named(id));
        }
        self.state()?.session_ref().ok_or(CallError::NotLoggedIn)
    }
}

/// Returns the options for the next page of a list, after the last name so far.
fn behind(last: Option<Sender>) -> Options {
    Options {
        behind: last,
        ..Options::NONE
    }
}

/// Adds the next items of a list. Returns true if it is complete.
fn add<T>(all: &mut Vec<T>, next: List<T>) -> bool {
    let is_last = !next.more || next.items.is_empty();
    all.extend(next.items);
    is_last
}
