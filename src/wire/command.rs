//! The commands of a client to a realm (`spec/commands.md`).
//!
//! One table below defines them all: the opcode, the name that people type, and the fields in their
//! order on the wire. The last field follows a `;` because it has no length. The parser and the
//! emitter are generated from the table, so they cannot disagree.

use alloc::vec::Vec;

use bytes::BufMut;
use nom::number::complete::be_u8;

use super::{
    Body, Field, GroupName, Handle, Mailbox, Malformed, Operation, OperationNumber, Options,
    Password, Port, Position, RealmId, Role, Sender, SessionRef, Text, Username, all, parse_varint,
};

/// The bit that is set in an opcode if its command has optional fields.
const HAS_OPTIONS: u8 = 0x80;

macro_rules! commands {
    ($(
        $(#[$doc:meta])*
        $code:literal $Name:ident $name:literal { $($field:ident: $Type:ty),* ; $last:ident: $Last:ty }
    )*) => {
        /// A command with its fields.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the fields are named in spec/commands.md, which is their documentation")]
        pub enum Command<'a> { $(
            $(#[$doc])*
            $Name { $($field: $Type,)* $last: $Last },
        )* }

        /// The opcode and name of every command.
        pub const COMMANDS: &[(u8, &str)] = &[$(($code, $name)),*];

        impl<'a> Command<'a> {
            /// Returns the opcode.
            pub const fn code(&self) -> u8 {
                match self { $(Self::$Name { .. } => $code,)* }
            }

            /// Returns the name that people type.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$Name { .. } => $name,)* }
            }

            fn parse(code: u8, input: &'a [u8]) -> Result<Self, nom::Err<Malformed>> {
                match code {
                    $($code => {
                        $(let (input, $field) = <$Type as Field<'a>>::parse(input)?;)*
                        let (_, $last) = <$Last as Field<'a>>::parse_last(input)?;
                        Ok(Self::$Name { $($field,)* $last })
                    })*
                    _ => Malformed::error("command: its opcode is not known"),
                }
            }

            fn emit(&self, out: &mut impl BufMut) {
                match self { $(
                    Self::$Name { $($field,)* $last } => {
                        $($field.emit(out);)*
                        $last.emit_last(out);
                    }
                )* }
            }
        }
    };
}

commands! {
    /// Opens a session.
    1 Auth "auth" { operation: Operation, username: Username; password: Password<'a> }
    /// Ends a session.
    2 Logout "logout" { operation: Operation; session: SessionRef }
    /// Creates an account and opens a session.
    3 Register "register" { operation: Operation, full_name: Text<'a>, country: Text<'a>, username: Username; password: Password<'a> }
    /// Sends a message to a user.
    4 Send "send" { operation: Operation, session: SessionRef, to: Username; message: Body<'a> }
    /// Reads the private messages.
    5 Inbox "inbox" { ; session: SessionRef }
    /// Creates a group.
    6 AddGroup "addgroup" { operation: Operation, session: SessionRef, group: GroupName; password: Password<'a> }
    /// Joins a group.
    7 JoinGroup "joingroup" { operation: Operation, session: SessionRef, group: GroupName; password: Password<'a> }
    /// Sends a message to a group.
    8 SendGroup "sendgroup" { operation: Operation, session: SessionRef, group: GroupName; message: Body<'a> }
    /// Reads a group's messages.
    9 InboxGroup "inboxgroup" { session: SessionRef; group: GroupName }
    /// Peers with another realm.
    10 AddRealm "addrealm" { operation: Operation, session: SessionRef, realm: RealmId, address: Text<'a>, port: Port, src_address: Text<'a>; src_port: Port }
    /// Sends a message to a group of another realm.
    11 SendGroupRealm "sendgrouprealm" { operation: Operation, session: SessionRef, src_address: Text<'a>, src_port: Port, realm: RealmId, group: GroupName; message: Body<'a> }
    /// Reads this realm's copy of a group of another realm.
    12 InboxGroupRealm "inboxgrouprealm" { session: SessionRef, realm: RealmId; group: GroupName }
    /// Sends a message to a user of another realm.
    13 SendRealm "sendrealm" { operation: Operation, session: SessionRef, src_address: Text<'a>, src_port: Port, realm: RealmId, from: Username, to: Username; message: Body<'a> }
    /// Reads the private messages from another realm.
    14 InboxRealm "inboxrealm" { session: SessionRef; realm: RealmId }
    /// Joins a group of another realm.
    15 JoinGroupRealm "joingrouprealm" { operation: Operation, session: SessionRef, src_address: Text<'a>, src_port: Port, realm: RealmId, group: GroupName; password: Password<'a> }
    /// Subscribes to new entries, from the given cursors on.
    16 Watch "watch" { session: SessionRef; cursors: Cursors }
    /// Ends the subscription.
    17 Unwatch "unwatch" { ; session: SessionRef }
    /// Leaves a group.
    18 LeaveGroup "leavegroup" { operation: Operation, session: SessionRef; group: GroupName }
    /// Lists the groups that the user is a member of.
    19 Groups "groups" { ; session: SessionRef }
    /// Lists a group's members.
    20 Members "members" { session: SessionRef; group: GroupName }
    /// Lists the peers.
    21 Realms "realms" { ; session: SessionRef }
    /// Ends a peering.
    22 RemoveRealm "removerealm" { operation: Operation, session: SessionRef; realm: RealmId }
    /// Lists the user's own sessions.
    23 Sessions "sessions" { ; session: SessionRef }
    /// Ends one of the user's own sessions.
    24 Revoke "revoke" { operation: Operation, session: SessionRef; handle: Handle }
    /// Changes the user's own password; all other sessions end.
    25 Passwd "passwd" { operation: Operation, session: SessionRef, old: Password<'a>; new: Password<'a> }
    /// Returns the user's own account.
    26 WhoAmI "whoami" { ; session: SessionRef }
    /// Counts the unread entries.
    27 Unread "unread" { session: SessionRef; cursors: Cursors }
    /// Makes the session an operator's.
    28 Claim "claim" { operation: Operation, session: SessionRef; code: Password<'a> }
    /// Removes a member from a group.
    29 Kick "kick" { operation: Operation, session: SessionRef, group: GroupName; user: Sender }
    /// Removes a user from a group and forbids them to join again.
    30 Ban "ban" { operation: Operation, session: SessionRef, group: GroupName; user: Sender }
    /// Lets a banned user join again.
    31 Unban "unban" { operation: Operation, session: SessionRef, group: GroupName; user: Sender }
    /// Gives a member another role in a group.
    32 SetRole "role" { operation: Operation, session: SessionRef, group: GroupName, user: Username; role: Role }
    /// Changes a group's password.
    33 GroupPasswd "grouppasswd" { operation: Operation, session: SessionRef, group: GroupName; password: Password<'a> }
    /// Deletes a group and its messages.
    34 DelGroup "delgroup" { operation: Operation, session: SessionRef; group: GroupName }
    /// Leaves a group of another realm.
    35 LeaveGroupRealm "leavegrouprealm" { operation: Operation, session: SessionRef, realm: RealmId; group: GroupName }
    /// Uses up its operation number and changes nothing else: a command that was sent before under
    /// that number has no effect any more.
    36 Void "void" { operation: Operation; session: SessionRef }
}

/// The maximum number of mailboxes in one command (WATCH-1): more than a user has.
pub const CURSORS_MAX: usize = 2048;

/// The cursors of a reader: the position read in each mailbox; at most [`CURSORS_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursors(pub Vec<(Mailbox, Position)>);

impl<'a> Field<'a> for Cursors {
    /// Always the last field.
    fn parse(input: &'a [u8]) -> super::Parsed<'a, Self> {
        Self::parse_last(input)
    }

    fn emit(&self, out: &mut impl BufMut) {
        for (mailbox, position) in &self.0 {
            mailbox.emit(out);
            position.emit(out);
        }
    }

    fn parse_last(input: &'a [u8]) -> super::Parsed<'a, Self> {
        let (input, cursors) = all(|input| {
            let (input, mailbox) = Mailbox::parse(input)?;
            let (input, position) = parse_varint(input)?;
            Ok((input, (mailbox, Position(position))))
        })(input)?;
        if cursors.len() > CURSORS_MAX {
            return Malformed::error("cursors");
        }
        Ok((input, Self(cursors)))
    }
}

/// A command with its optional fields: the contents of a REQUEST frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The optional fields.
    pub options: Options,
    /// The command.
    pub command: Command<'a>,
}

impl<'a> From<Command<'a>> for Request<'a> {
    fn from(command: Command<'a>) -> Self {
        Self {
            options: Options::NONE,
            command,
        }
    }
}

impl<'a> Request<'a> {
    /// Reads a command.
    ///
    /// # Errors
    /// If the bytes are not a command that this version knows.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (input, code) = be_u8::<_, Malformed>(bytes)?;
        let (input, options) = if code & HAS_OPTIONS == 0 {
            (input, Options::NONE)
        } else {
            Options::parse(input)?
        };
        Ok(Self {
            options,
            command: Command::parse(code & !HAS_OPTIONS, input)?,
        })
    }

    /// Returns the command without its secrets and with operation number 0, but with its salt. Two
    /// commands are the same if this is the same (EXACT-5), and no secret is kept.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        Self {
            options: Options {
                code: None,
                // The time to live decreases while the command waits to be sent again.
                ttl: None,
                ..self.options
            },
            command: self.command.without_secrets(),
        }
    }

    /// Writes the command.
    pub fn emit(&self, out: &mut impl BufMut) {
        if self.options.is_empty() {
            out.put_u8(self.command.code());
        } else {
            out.put_u8(self.command.code() | HAS_OPTIONS);
            self.options.emit(out);
        }
        self.command.emit(out);
    }

    /// Returns the command's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.emit(&mut out);
        out
    }
}

impl<'a> Command<'a> {
    /// Returns the operation of a command that changes something.
    pub fn operation(&self) -> Option<Operation> {
        self.clone().operation_mut().copied()
    }

    /// Returns the operation of a command that changes something, for filling in.
    pub fn operation_mut(&mut self) -> Option<&mut Operation> {
        match self {
            Self::Auth { operation, .. }
            | Self::Logout { operation, .. }
            | Self::Register { operation, .. }
            | Self::Send { operation, .. }
            | Self::AddGroup { operation, .. }
            | Self::JoinGroup { operation, .. }
            | Self::SendGroup { operation, .. }
            | Self::AddRealm { operation, .. }
            | Self::SendGroupRealm { operation, .. }
            | Self::SendRealm { operation, .. }
            | Self::JoinGroupRealm { operation, .. }
            | Self::LeaveGroup { operation, .. }
            | Self::RemoveRealm { operation, .. }
            | Self::Revoke { operation, .. }
            | Self::Passwd { operation, .. }
            | Self::Claim { operation, .. }
            | Self::Kick { operation, .. }
            | Self::Ban { operation, .. }
            | Self::Unban { operation, .. }
            | Self::SetRole { operation, .. }
            | Self::GroupPasswd { operation, .. }
            | Self::DelGroup { operation, .. }
            | Self::LeaveGroupRealm { operation, .. }
            | Self::Void { operation, .. } => Some(operation),
            Self::Inbox { .. }
            | Self::InboxGroup { .. }
            | Self::InboxGroupRealm { .. }
            | Self::InboxRealm { .. }
            | Self::Watch { .. }
            | Self::Unwatch { .. }
            | Self::Groups { .. }
            | Self::Members { .. }
            | Self::Realms { .. }
            | Self::Sessions { .. }
            | Self::WhoAmI { .. }
            | Self::Unread { .. } => None,
        }
    }

    /// Returns the passwords of the command: they must not travel in early data (HS-7), or be
    /// stored on a disk.
    pub fn passwords_mut(&mut self) -> [Option<&mut Password<'a>>; 2] {
        match self {
            Self::Auth { password, .. }
            | Self::Register { password, .. }
            | Self::AddGroup { password, .. }
            | Self::JoinGroup { password, .. }
            | Self::JoinGroupRealm { password, .. }
            | Self::GroupPasswd { password, .. } => [Some(password), None],
            Self::Claim { code, .. } => [Some(code), None],
            Self::Passwd { old, new, .. } => [Some(old), Some(new)],
            // Listed by name, so that a new command must be added here and its secrets considered.
            Self::Logout { .. }
            | Self::Send { .. }
            | Self::Inbox { .. }
            | Self::SendGroup { .. }
            | Self::InboxGroup { .. }
            | Self::AddRealm { .. }
            | Self::SendGroupRealm { .. }
            | Self::InboxGroupRealm { .. }
            | Self::SendRealm { .. }
            | Self::InboxRealm { .. }
            | Self::Watch { .. }
            | Self::Unwatch { .. }
            | Self::LeaveGroup { .. }
            | Self::Groups { .. }
            | Self::Members { .. }
            | Self::Realms { .. }
            | Self::RemoveRealm { .. }
            | Self::Sessions { .. }
            | Self::Revoke { .. }
            | Self::WhoAmI { .. }
            | Self::Unread { .. }
            | Self::Kick { .. }
            | Self::Ban { .. }
            | Self::Unban { .. }
            | Self::SetRole { .. }
            | Self::DelGroup { .. }
            | Self::LeaveGroupRealm { .. }
            | Self::Void { .. } => [None, None],
        }
    }

    /// True if the command carries a password.
    pub fn carries_password(&self) -> bool {
        self.clone().passwords_mut()[0].is_some()
    }

    /// Returns the command with empty passwords and operation number 0. The salt stays.
    #[must_use]
    fn without_secrets(&self) -> Self {
        let mut command = self.clone();
        for password in command.passwords_mut().into_iter().flatten() {
            *password = Password(b"");
        }
        if let Some(operation) = command.operation_mut() {
            operation.number = OperationNumber(0);
        }
        command
    }

    /// Returns the session that the command is for; `auth` and `register` have none.
    pub const fn session(&self) -> Option<SessionRef> {
        match self {
            Self::Auth { .. } | Self::Register { .. } => None,
            Self::Logout { session, .. }
            | Self::Send { session, .. }
            | Self::Inbox { session }
            | Self::AddGroup { session, .. }
            | Self::JoinGroup { session, .. }
            | Self::SendGroup { session, .. }
            | Self::InboxGroup { session, .. }
            | Self::AddRealm { session, .. }
            | Self::SendGroupRealm { session, .. }
            | Self::InboxGroupRealm { session, .. }
            | Self::SendRealm { session, .. }
            | Self::InboxRealm { session, .. }
            | Self::JoinGroupRealm { session, .. }
            | Self::Watch { session, .. }
            | Self::Unwatch { session }
            | Self::LeaveGroup { session, .. }
            | Self::Groups { session }
            | Self::Members { session, .. }
            | Self::Realms { session }
            | Self::RemoveRealm { session, .. }
            | Self::Sessions { session }
            | Self::Revoke { session, .. }
            | Self::Passwd { session, .. }
            | Self::WhoAmI { session }
            | Self::Unread { session, .. }
            | Self::Claim { session, .. }
            | Self::Kick { session, .. }
            | Self::Ban { session, .. }
            | Self::Unban { session, .. }
            | Self::SetRole { session, .. }
            | Self::GroupPasswd { session, .. }
            | Self::DelGroup { session, .. }
            | Self::LeaveGroupRealm { session, .. }
            | Self::Void { session, .. } => Some(*session),
        }
    }

    /// Returns the session that the command is for, for filling in.
    pub const fn session_mut(&mut self) -> Option<&mut SessionRef> {
        match self {
            Self::Auth { .. } | Self::Register { .. } => None,
            Self::Logout { session, .. }
            | Self::Send { session, .. }
            | Self::Inbox { session }
            | Self::AddGroup { session, .. }
            | Self::JoinGroup { session, .. }
            | Self::SendGroup { session, .. }
            | Self::InboxGroup { session, .. }
            | Self::AddRealm { session, .. }
            | Self::SendGroupRealm { session, .. }
            | Self::InboxGroupRealm { session, .. }
            | Self::SendRealm { session, .. }
            | Self::InboxRealm { session, .. }
            | Self::JoinGroupRealm { session, .. }
            | Self::Watch { session, .. }
            | Self::Unwatch { session }
            | Self::LeaveGroup { session, .. }
            | Self::Groups { session }
            | Self::Members { session, .. }
            | Self::Realms { session }
            | Self::RemoveRealm { session, .. }
            | Self::Sessions { session }
            | Self::Revoke { session, .. }
            | Self::Passwd { session, .. }
            | Self::WhoAmI { session }
            | Self::Unread { session, .. }
            | Self::Claim { session, .. }
            | Self::Kick { session, .. }
            | Self::Ban { session, .. }
            | Self::Unban { session, .. }
            | Self::SetRole { session, .. }
            | Self::GroupPasswd { session, .. }
            | Self::DelGroup { session, .. }
            | Self::LeaveGroupRealm { session, .. }
            | Self::Void { session, .. } => Some(session),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// EXACT-11: `void` needs only its number and the session.
    #[test]
    fn a_void_takes_five_bytes() {
        let command = Command::Void {
            operation: Operation::new(9, *b"qz"),
            session: SessionRef::Bound,
        };
        assert_eq!(Request::from(command).to_bytes(), b"\x24\x09qz\x00");
    }

    /// WATCH-5: `unread` without cursors has the same bytes as before cursors were added.
    #[test]
    fn unread_without_cursors_takes_two_bytes() {
        let command = Command::Unread {
            session: SessionRef::Bound,
            cursors: Cursors::default(),
        };
        assert_eq!(Request::from(command).to_bytes(), [27, 0]);
    }

    /// WIRE-12: the fourteen commands keep the numbers of the command table.
    #[test]
    fn the_opcodes_are_distinct_and_leave_the_option_bit_free() {
        for (at, (code, name)) in COMMANDS.iter().enumerate() {
            assert_eq!(usize::from(*code), at + 1, "{name}");
            assert!(code & HAS_OPTIONS == 0);
        }
    }

    #[test]
    fn a_short_send_is_short() {
        let command = Command::Send {
            operation: Operation::new(9, *b"qz"),
            session: SessionRef::Bound,
            to: "bob".parse().unwrap(),
            message: Body(b"twenty bytes of text"),
        };
        assert_eq!(Request::from(command).to_bytes().len(), 1 + 3 + 1 + 4 + 20);
    }

    #[test]
    fn secrets_are_taken_out() {
        let command = Command::Auth {
            operation: Operation::new(9, *b"qz"),
            username: "bob".parse().unwrap(),
            password: Password(b"correct horse"),
        };
        assert!(command.carries_password());
        let bytes = Request::from(command.without_secrets()).to_bytes();
        assert_eq!(bytes, b"\x01\x00qz\x03bob");
    }

    proptest! {
        /// WIRE-12: every command that parses is written and read back as the same command.
        #[test]
        fn what_parses_is_written_back(code in 1u8..=36, options: bool, bytes: Vec<u8>) {
            let mut input = vec![code | if options { HAS_OPTIONS } else { 0 }];
            input.extend_from_slice(&bytes);
            if let Ok(request) = Request::parse(&input) {
                let bytes = request.to_bytes();
                prop_assert_eq!(Request::parse(&bytes).map(|r| r.command), Ok(request.command.clone()));
            }
        }
    }
}
