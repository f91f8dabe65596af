//! The commands of a client to a realm (`spec/commands.md`).
//!
//! One table below defines them all: the opcode, the name that people type, and the fields in their
//! order on the wire. The last field follows a `;` because it has no length. The parser and the
//! emitter are generated from the table, so they cannot disagree. The optional fields that belong
//! to a command stand behind it, and behind `as` what they say together, if they decide what the
//! command does (`form.rs`). Behind `->` stands the type of its answer (`from_answer.rs`).
//!
//! What holds for every command follows from the types of its fields: a [`SessionRef`] makes it one
//! that needs a session, a [`Password`] one that must not be replayed or kept.

use alloc::{string::String, vec::Vec};

use bytes::BufMut;
use nom::number::complete::be_u8;

use super::{
    Account, Answer, Body, DeviceSession, Field, FromAnswer, GroupName, Handle, List, Mailbox,
    Malformed, Member, Operation, OperationNumber, Options, Page, Password, PeerAddition, PeerList,
    PeerListing, PeerRemoval, Peered, Port, Position, RealmId, Role, Sender, Sent, SessionId,
    SessionRef, Text, UnknownForm, Username, all, answer, parse_varint,
};

/// The bit that is set in an opcode if its command has optional fields.
const HAS_OPTIONS: u8 = 0x80;

macro_rules! commands {
    (
        changes { $(
            $(#[$doc:meta])*
            $code:literal $Name:ident $(<$lifetime:lifetime>)? $name:literal $fields:tt $([$($option:ident),*])? $(as $Form:ident)? -> $Answer:ty;
        )* }
        reads { $(
            $(#[$read_doc:meta])*
            $read_code:literal $Read:ident $read_name:literal $read_fields:tt $([$($read_option:ident),*])? $(as $ReadForm:ident)? -> $ReadAnswer:ty;
        )* }
    ) => {
        commands! { @table
            $($(#[$doc])* $code $Name $(<$lifetime>)? $name $fields $([$($option),*])? $(as $Form)? -> $Answer;)*
            $(
                $(#[$read_doc])*
                $read_code $Read $read_name $read_fields $([$($read_option),*])? $(as $ReadForm)? -> $ReadAnswer;
            )*
        }

        /// A command that changes something.
        #[derive(Clone, Copy, Debug)]
        pub enum Change<'r, 'a> { $(
            $(#[$doc])*
            $Name(&'r $Name $(<$lifetime>)?),
        )* }

        /// A command that changes nothing.
        #[derive(Clone, Copy, Debug)]
        pub enum Read<'r> { $(
            $(#[$read_doc])*
            $Read(&'r $Read),
        )* }

        impl Change<'_, '_> {
            /// Returns the operation.
            pub const fn operation(&self) -> Operation {
                match self { $(Self::$Name(command) => command.operation,)* }
            }
        }

        impl<'a> Command<'a> {
            /// Returns the command by whether it changes something.
            pub const fn kind(&self) -> Kind<'_, 'a> {
                match self {
                    $(Self::$Name(command) => Kind::Change(Change::$Name(command)),)*
                    $(Self::$Read(command) => Kind::Read(Read::$Read(command)),)*
                }
            }
        }
    };
    (@table $(
        $(#[$doc:meta])*
        $code:literal $Name:ident $(<$lifetime:lifetime>)? $name:literal
            { $($field:ident: $Type:ty),* ; $last:ident: $Last:ty } $([$($option:ident),*])? $(as $Form:ident)? -> $Answer:ty;
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq)]
            #[allow(missing_docs, reason = "the fields are named in spec/commands.md, which is their documentation")]
            pub struct $Name $(<$lifetime>)? { $(pub $field: $Type,)* pub $last: $Last }

            impl<'a> From<$Name $(<$lifetime>)?> for Command<'a> {
                fn from(command: $Name $(<$lifetime>)?) -> Self {
                    Self::$Name(command)
                }
            }

            impl<'a> Answered<'a> for $Name $(<$lifetime>)? {
                type Answer = $Answer;
            }

            commands! { @form $Name [$(<$lifetime>)?] [$($Form)?] }
        )*

        /// A command with its fields.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Command<'a> { $(
            $(#[$doc])*
            $Name($Name $(<$lifetime>)?),
        )* }

        /// The opcode and name of every command.
        pub const COMMANDS: &[(u8, &str)] = &[$(($code, $name)),*];

        impl<'a> Command<'a> {
            /// Returns the opcode.
            pub const fn code(&self) -> u8 {
                match self { $(Self::$Name(_) => $code,)* }
            }

            /// Returns the name that people type.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$Name(_) => $name,)* }
            }

            fn parse(code: u8, input: &'a [u8]) -> Result<Self, nom::Err<Malformed>> {
                match code {
                    $($code => {
                        $(let (input, $field) = <$Type as Field<'a>>::parse(input)?;)*
                        let (_, $last) = <$Last as Field<'a>>::parse_last(input)?;
                        Ok(Self::$Name($Name { $($field,)* $last }))
                    })*
                    _ => Malformed::error("command: its opcode is not known"),
                }
            }

            fn emit(&self, out: &mut impl BufMut) {
                match self { $(
                    Self::$Name($Name { $($field,)* $last }) => {
                        $($field.emit(out);)*
                        $last.emit_last(out);
                    }
                )* }
            }

            /// Returns the operation of a command that changes something, for filling in.
            pub fn operation_mut(&mut self) -> Option<&mut Operation> {
                match self { $(
                    Self::$Name(command) => None
                        $(.or(<$Type as Field<'a>>::operation_mut(&mut command.$field)))*
                        .or(<$Last as Field<'a>>::operation_mut(&mut command.$last)),
                )* }
            }

            /// Returns the session that the command is for; `auth` and `register` have none.
            pub fn session(&self) -> Option<SessionRef> {
                match self { $(
                    Self::$Name(command) => None
                        $(.or_else(|| <$Type as Field<'a>>::session(&command.$field)))*
                        .or_else(|| <$Last as Field<'a>>::session(&command.$last)),
                )* }
            }

            /// Returns the session that the command is for, for filling in.
            pub fn session_mut(&mut self) -> Option<&mut SessionRef> {
                match self { $(
                    Self::$Name(command) => None
                        $(.or(<$Type as Field<'a>>::session_mut(&mut command.$field)))*
                        .or(<$Last as Field<'a>>::session_mut(&mut command.$last)),
                )* }
            }

            /// Returns the options without those that belong to the command.
            const fn other_options(&self, mut options: Options) -> Options {
                match self { $(
                    Self::$Name(_) => { $($(options.$option = Options::NONE.$option;)*)? }
                )* }
                options
            }

            /// True if the command carries a password: it must not travel in early data (HS-7), or
            /// be stored on a disk.
            pub const fn carries_password(&self) -> bool {
                match self { $(
                    Self::$Name(_) => false
                        $(|| <$Type as Field<'a>>::IS_SECRET)*
                        || <$Last as Field<'a>>::IS_SECRET,
                )* }
            }

            /// Returns the passwords of the command, in their order.
            fn passwords_mut(&mut self) -> impl Iterator<Item = &mut Password<'a>> {
                let found: Vec<_> = match self { $(
                    Self::$Name(command) => [
                        $(<$Type as Field<'a>>::password_mut(&mut command.$field),)*
                        <$Last as Field<'a>>::password_mut(&mut command.$last),
                    ].into_iter().flatten().collect(),
                )* };
                found.into_iter()
            }
        }
    };
    (@form $Name:ident [$(<$lifetime:lifetime>)?] []) => {};
    (@form $Name:ident [$(<$lifetime:lifetime>)?] [$Form:ident]) => {
        impl $(<$lifetime>)? $Name $(<$lifetime>)? {
            /// Returns what the command does, as its optional fields say.
            ///
            /// # Errors
            /// If they ask for a form that this version does not know.
            pub fn form(&self, options: &Options) -> Result<$Form, UnknownForm> {
                $Form::try_from(options)
            }
        }
    };
}

commands! {
    changes {
        /// Opens a session.
        1 Auth<'a> "auth" { operation: Operation, username: Username; password: Password<'a> } -> SessionId;
        /// Ends a session.
        2 Logout "logout" { operation: Operation; session: SessionRef } -> ();
        /// Creates an account and opens a session.
        3 Register<'a> "register" { operation: Operation, full_name: Text<'a>, country: Text<'a>, username: Username; password: Password<'a> } [code] -> SessionId;
        /// Sends a message to a user.
        4 Send<'a> "send" { operation: Operation, session: SessionRef, to: Username; message: Body<'a> } [content, ttl] -> Sent;
        /// Creates a group.
        6 AddGroup<'a> "addgroup" { operation: Operation, session: SessionRef, group: GroupName; password: Password<'a> } -> ();
        /// Joins a group.
        7 JoinGroup<'a> "joingroup" { operation: Operation, session: SessionRef, group: GroupName; password: Password<'a> } -> ();
        /// Sends a message to a group.
        8 SendGroup<'a> "sendgroup" { operation: Operation, session: SessionRef, group: GroupName; message: Body<'a> } [content, ttl] -> Sent;
        /// Peers with another realm.
        10 AddRealm<'a> "addrealm" { operation: Operation, session: SessionRef, realm: RealmId, address: Text<'a>, port: Port, src_address: Text<'a>; src_port: Port } [key, form] as PeerAddition -> Peered;
        /// Sends a message to a group of another realm.
        11 SendGroupRealm<'a> "sendgrouprealm" { operation: Operation, session: SessionRef, src_address: Text<'a>, src_port: Port, realm: RealmId, group: GroupName; message: Body<'a> } [content, ttl] -> Sent;
        /// Sends a message to a user of another realm.
        13 SendRealm<'a> "sendrealm" { operation: Operation, session: SessionRef, src_address: Text<'a>, src_port: Port, realm: RealmId, from: Username, to: Username; message: Body<'a> } [content, ttl] -> Sent;
        /// Joins a group of another realm.
        15 JoinGroupRealm<'a> "joingrouprealm" { operation: Operation, session: SessionRef, src_address: Text<'a>, src_port: Port, realm: RealmId, group: GroupName; password: Password<'a> } -> ();
        /// Leaves a group.
        18 LeaveGroup "leavegroup" { operation: Operation, session: SessionRef; group: GroupName } -> ();
        /// Ends a peering.
        22 RemoveRealm "removerealm" { operation: Operation, session: SessionRef; realm: RealmId } [key, form] as PeerRemoval -> ();
        /// Ends one of the user's own sessions.
        24 Revoke "revoke" { operation: Operation, session: SessionRef; handle: Handle } -> ();
        /// Changes the user's own password; all other sessions end.
        25 Passwd<'a> "passwd" { operation: Operation, session: SessionRef, old: Password<'a>; new: Password<'a> } -> ();
        /// Makes the session an operator's.
        28 Claim<'a> "claim" { operation: Operation, session: SessionRef; code: Password<'a> } -> ();
        /// Removes a member from a group.
        29 Kick "kick" { operation: Operation, session: SessionRef, group: GroupName; user: Sender } -> ();
        /// Removes a user from a group and forbids them to join again.
        30 Ban "ban" { operation: Operation, session: SessionRef, group: GroupName; user: Sender } -> ();
        /// Lets a banned user join again.
        31 Unban "unban" { operation: Operation, session: SessionRef, group: GroupName; user: Sender } -> ();
        /// Gives a member another role in a group.
        32 SetRole "role" { operation: Operation, session: SessionRef, group: GroupName, user: Username; role: Role } -> ();
        /// Changes a group's password.
        33 GroupPasswd<'a> "grouppasswd" { operation: Operation, session: SessionRef, group: GroupName; password: Password<'a> } -> ();
        /// Deletes a group and its messages.
        34 DelGroup "delgroup" { operation: Operation, session: SessionRef; group: GroupName } -> ();
        /// Leaves a group of another realm.
        35 LeaveGroupRealm "leavegrouprealm" { operation: Operation, session: SessionRef, realm: RealmId; group: GroupName } -> ();
        /// Uses up its operation number and changes nothing else: a command that was sent before
        /// under that number has no effect any more.
        36 Void "void" { operation: Operation; session: SessionRef } -> ();
        /// Blocks a user: the session's user sees nothing more of what that user writes (BLK-1).
        37 Block "block" { operation: Operation, session: SessionRef; user: Sender } -> ();
        /// Ends a block of a user (BLK-1).
        38 Unblock "unblock" { operation: Operation, session: SessionRef; user: Sender } -> ();
    }
    reads {
        /// Reads the private messages.
        5 Inbox "inbox" { ; session: SessionRef } [after, limit, bytes, offset] -> Page;
        /// Reads a group's messages.
        9 InboxGroup "inboxgroup" { session: SessionRef; group: GroupName } [after, limit, bytes, offset] -> Page;
        /// Reads this realm's copy of a group of another realm.
        12 InboxGroupRealm "inboxgrouprealm" { session: SessionRef, realm: RealmId; group: GroupName } [after, limit, bytes, offset] -> Page;
        /// Reads the private messages from another realm.
        14 InboxRealm "inboxrealm" { session: SessionRef; realm: RealmId } [after, limit, bytes, offset] -> Page;
        /// Subscribes to new entries, from the given cursors on.
        16 Watch "watch" { session: SessionRef; cursors: Cursors } -> ();
        /// Ends the subscription.
        17 Unwatch "unwatch" { ; session: SessionRef } -> ();
        /// Lists the groups that the user is a member of.
        19 Groups "groups" { ; session: SessionRef } [limit, behind] -> List<String>;
        /// Lists a group's members.
        20 Members "members" { session: SessionRef; group: GroupName } [limit, behind] -> List<Member>;
        /// Lists the peers.
        21 Realms "realms" { ; session: SessionRef } [form] as PeerListing -> PeerList;
        /// Lists the user's own sessions.
        23 Sessions "sessions" { ; session: SessionRef } -> Vec<DeviceSession>;
        /// Returns the user's own account.
        26 WhoAmI "whoami" { ; session: SessionRef } -> Account;
        /// Counts the unread entries.
        27 Unread "unread" { session: SessionRef; cursors: Cursors } -> Vec<answer::Unread>;
        /// Lists the users that the session's user has blocked.
        39 Blocks "blocks" { ; session: SessionRef } [limit, behind] -> List<Sender>;
    }
}

/// A command by whether it changes something. Whoever executes commands matches on these, so that
/// the compiler asks for each new one.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'r, 'a> {
    /// It changes something, and takes effect exactly once.
    Change(Change<'r, 'a>),
    /// It changes nothing.
    Read(Read<'r>),
}

/// A command with the type of its answer. Every command of the table is one, with the type that the
/// table names.
pub trait Answered<'a>: Into<Command<'a>> {
    /// What a realm answers, unless it refuses: realms make their answers of it, and clients take
    /// it out of them.
    type Answer: FromAnswer + Into<Answer>;
}

/// Any command may get any answer.
impl<'a> Answered<'a> for Command<'a> {
    type Answer = Answer;
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

    /// True if the optional fields that must be understood belong to the command (WIRE-13).
    pub fn has_only_own_options(&self) -> bool {
        let mut others = self.command.other_options(self.options);
        others.urgent = false;
        others.is_empty()
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

impl Command<'_> {
    /// Returns the operation of a command that changes something.
    pub const fn operation(&self) -> Option<Operation> {
        match self.kind() {
            Kind::Change(change) => Some(change.operation()),
            Kind::Read(_) => None,
        }
    }

    /// Returns the command with empty passwords and operation number 0. The salt stays.
    #[must_use]
    fn without_secrets(&self) -> Self {
        let mut command = self.clone();
        for password in command.passwords_mut() {
            *password = Password(b"");
        }
        if let Some(operation) = command.operation_mut() {
            operation.number = OperationNumber(0);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{PeerDetails, Refusal},
        *,
    };

    /// EXACT-11: `void` needs only its number and the session.
    #[test]
    fn command_void_takes_five_bytes() {
        let command = Command::Void(Void {
            operation: Operation::new(9, *b"qz"),
            session: SessionRef::Bound,
        });
        assert_eq!(Request::from(command).to_bytes(), b"\x24\x09qz\x00");
    }

    /// WATCH-5: `unread` without cursors has the same bytes as before cursors were added.
    #[test]
    fn command_unread_without_cursors_takes_two_bytes() {
        let command = Command::Unread(Unread {
            session: SessionRef::Bound,
            cursors: Cursors::default(),
        });
        assert_eq!(Request::from(command).to_bytes(), [27, 0]);
    }

    /// WIRE-12: the fourteen commands keep the numbers of the command table.
    #[test]
    fn command_opcodes_are_distinct_and_leave_option_bit_free() {
        let mut commands = COMMANDS.to_vec();
        commands.sort_unstable();
        for (at, (code, name)) in commands.iter().enumerate() {
            assert_eq!(usize::from(*code), at + 1, "{name}");
            assert!(code & HAS_OPTIONS == 0);
        }
    }

    #[test]
    fn command_send_with_short_message_is_short() {
        let command = Command::Send(Send {
            operation: Operation::new(9, *b"qz"),
            session: SessionRef::Bound,
            to: "bob".parse().unwrap(),
            message: Body(b"twenty bytes of text"),
        });
        assert_eq!(Request::from(command).to_bytes().len(), 1 + 3 + 1 + 4 + 20);
    }

    #[test]
    fn command_without_secrets_contains_no_password() {
        let command = Command::Auth(Auth {
            operation: Operation::new(9, *b"qz"),
            username: "bob".parse().unwrap(),
            password: Password(b"correct horse"),
        });
        assert!(command.carries_password());
        let bytes = Request::from(command.without_secrets()).to_bytes();
        assert_eq!(bytes, b"\x01\x00qz\x03bob");
    }

    /// WIRE-14: answers of a kind belong to the commands for which the table names them.
    #[test]
    fn command_is_answered_by_type_of_table() {
        fn is_for<'a, C: Answered<'a>>(_: &C, answer: &Answer) -> bool {
            let content = C::Answer::from_answer(answer.clone());
            content.is_ok_and(|content| Into::<Answer>::into(content) == *answer)
        }
        let session = SessionRef::Bound;
        let answers = [
            Answer::Page(Page::default()),
            Answer::Done,
            Answer::Realms(Vec::new()),
            Answer::Details(PeerDetails::default()),
            Answer::Refused(Refusal::busy(1)),
        ];
        let kinds = answers.each_ref().map(|answer| {
            [
                is_for(&Inbox { session }, answer),
                is_for(&Unwatch { session }, answer),
                is_for(&Realms { session }, answer),
            ]
        });
        assert_eq!(
            kinds,
            [
                [true, false, false],
                [false, true, false],
                [false, false, true],
                [false, false, true],
                [false, false, false],
            ]
        );
    }

    proptest! {
        /// WIRE-12: every command that parses is written and read back as the same command.
        #[test]
        fn command_parsed_then_emitted_is_identical(row in 0..COMMANDS.len(), options: bool, bytes: Vec<u8>) {
            let (code, _) = COMMANDS[row];
            let mut input = vec![code | if options { HAS_OPTIONS } else { 0 }];
            input.extend_from_slice(&bytes);
            if let Ok(request) = Request::parse(&input) {
                let bytes = request.to_bytes();
                prop_assert_eq!(Request::parse(&bytes).map(|r| r.command), Ok(request.command.clone()));
            }
        }
    }
}
