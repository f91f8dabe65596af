//! The commands that talk to a realm, in four groups. Each group has a module that executes it, so
//! the compiler requires that module to handle every new command.

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;
use merpati::{
    crypto::PublicKey,
    server::units::parse_span,
    wire::{GroupName, Handle, RealmId, Role, Sender, Username},
};

use super::{
    names::{GroupAt, KeyShown, personal},
    shared_args::{GroupPassword, Inbox, Message, PasswordSource},
};

fn role(text: &str) -> Result<Role, String> {
    text.parse()
        .map_err(|error: merpati::wire::Malformed| error.to_string())
}

/// A command that talks to a realm.
#[derive(Debug, PartialEq, Subcommand)]
pub enum RemoteCommand {
    #[command(flatten)]
    User(UserCommand),
    #[command(flatten)]
    Group(GroupCommand),
    #[command(flatten)]
    Realm(RealmCommand),
    #[command(flatten)]
    Peering(PeeringCommand),
}

/// What a command does in the realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It reads.
    Reads,
    /// It changes something, and is kept until its outcome is known.
    Changes,
    /// It changes something, and carries a password or a code, which is never kept.
    ChangesWithPassword,
}

/// A command about the account, and about messages between users.
#[derive(Debug, PartialEq, Subcommand)]
pub enum UserCommand {
    /// Create an account, and log in.
    Register {
        /// Your full name.
        #[arg(value_parser = personal)]
        name: String,
        /// Your country.
        #[arg(value_parser = personal)]
        country: String,
        /// 1 to 32 of a-z 0-9 . _ -
        username: Username,
        #[command(flatten)]
        password: PasswordSource,
        /// Read the registration code from a file, for a realm that asks for one.
        #[arg(long, value_name = "FILE")]
        code_file: Option<PathBuf>,
        /// Let the profile forget the account that it has, and take this one.
        #[arg(long)]
        replace: bool,
    },
    /// Log in.
    Auth {
        username: Username,
        #[command(flatten)]
        password: PasswordSource,
    },
    /// Log out.
    Logout,
    /// Write to a user.
    Send {
        /// The recipient; one of another realm as name@realm.
        username_to: Sender,
        #[command(flatten)]
        message: Message,
    },
    /// Read your private messages: those not shown before, or those after a position.
    Inbox(Inbox),
    /// Show messages as they come, until Ctrl-C.
    Watch {
        /// Stop after this many messages.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// Send a keepalive after so long a silence, so that the realm can still reach this device;
        /// 0s sends none. By default --link says after how long; a silence below two minutes grows
        /// up to that while it is short enough.
        #[arg(long, value_name = "SPAN", value_parser = parse_span)]
        keepalive: Option<Duration>,
        /// Confirm only what comes back on standard input: a line `<mailbox> <position>` confirms
        /// the messages of that mailbox up to that position. The end of standard input ends the
        /// watch.
        #[arg(long)]
        ack: bool,
    },
    /// Show the number of unread messages of each mailbox.
    Unread,
    /// Block a user: you see nothing more of what they write, and they do not find out.
    ///
    /// Their private messages from now on are thrown away. Their messages in groups are not shown
    /// to you for as long as you block them.
    Block {
        /// The user; one of another realm as name@realm.
        username: Sender,
    },
    /// Unblock a user: you see again what they write.
    Unblock {
        /// The user; one of another realm as name@realm.
        username: Sender,
    },
    /// List the users whom you block.
    Blocks,
    /// List the commands that have no outcome yet; wait for them, or cancel them.
    Outbox {
        #[command(subcommand)]
        action: Option<OutboxAction>,
    },
    /// Ask the realm for an answer and nothing else, and say what the path is like.
    ///
    /// The first answer says what a command costs that begins with nothing; the others, what one
    /// costs on an open link. What is lost is sent again, and shows in the time.
    Ping {
        /// How often.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        count: u32,
    },
    /// Show who you are.
    Whoami,
    /// List your sessions.
    Sessions,
    /// End one of your sessions.
    Revoke {
        /// The session's handle, as `sessions` lists it.
        handle: Handle,
    },
    /// Change your password; all your other sessions end.
    Passwd {
        #[command(flatten)]
        password: PasswordSource,
        /// Read the new password from a file.
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
    },
}

/// What is to become of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum OutboxAction {
    /// Wait until an entry is finished, or all are.
    Wait {
        /// The entry's number, as `outbox` lists it.
        number: Option<u64>,
    },
    /// Cancel an entry.
    Cancel {
        /// The entry's number, as `outbox` lists it.
        number: u64,
    },
}

/// A command about a group, of this realm unless it names another.
#[derive(Debug, PartialEq, Subcommand)]
pub enum GroupCommand {
    /// Create a group; you are its owner.
    Addgroup {
        groupname: GroupName,
        #[command(flatten)]
        password: GroupPassword,
    },
    /// Join a group.
    Joingroup {
        /// The group; one of another realm as group@realm.
        groupname: GroupAt,
        #[command(flatten)]
        password: GroupPassword,
    },
    /// Write to a group.
    Sendgroup {
        /// The group; one of another realm as group@realm.
        groupname: GroupAt,
        #[command(flatten)]
        message: Message,
    },
    /// Read a group's messages: those not shown before, or those after a position.
    Inboxgroup {
        /// The group; one of another realm as group@realm.
        groupname: GroupAt,
        #[command(flatten)]
        inbox: Inbox,
    },
    /// Leave a group. With its last member a group ends.
    Leavegroup {
        /// The group; one of another realm as group@realm.
        groupname: GroupAt,
    },
    /// List the groups you are in.
    Groups,
    /// List a group's members.
    Members { groupname: GroupName },
    /// Remove a member from a group.
    Kick {
        groupname: GroupName,
        /// The user; one of another realm as name@realm.
        username: Sender,
    },
    /// Keep a user out of a group.
    Ban {
        groupname: GroupName,
        /// The user; one of another realm as name@realm.
        username: Sender,
    },
    /// Let a banned user join again.
    Unban {
        groupname: GroupName,
        /// The user; one of another realm as name@realm.
        username: Sender,
    },
    /// Give a member another role: member, moderator or owner.
    Role {
        groupname: GroupName,
        username: Username,
        #[arg(value_parser = role)]
        role: Role,
    },
    /// Change a group's password.
    Grouppasswd {
        groupname: GroupName,
        #[command(flatten)]
        password: GroupPassword,
    },
    /// Delete a group and its messages.
    Delgroup { groupname: GroupName },
}

/// A command to or about another realm, as the table of commands has it, and the operator's login.
#[derive(Debug, PartialEq, Subcommand)]
pub enum RealmCommand {
    /// Become the realm's operator, with the code from its operator-code file.
    Claim {
        #[command(flatten)]
        code: PasswordSource,
    },
    /// Peer with another realm (operators only).
    Addrealm {
        /// The name by which this realm is to know it.
        realm_id: RealmId,
        /// Its host.
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        realm_address: String,
        /// Its port.
        #[arg(value_parser = clap::value_parser!(u16).range(1..))]
        realm_port: u16,
        /// The address of this realm at which it is to answer; - for the first.
        #[arg(default_value = "-")]
        src_address: String,
        /// The port of that address; - for the first.
        #[arg(default_value = "-")]
        src_port: String,
        /// Its key; without it, the key of whoever answers there is accepted.
        // A key may begin with a hyphen.
        #[arg(long, allow_hyphen_values = true)]
        key: Option<PublicKey>,
    },
    /// Write to a user of another realm.
    Sendrealm {
        realm_id: RealmId,
        username_to: Username,
        #[command(flatten)]
        message: Message,
        /// The address of this realm that it leaves from; by default the peering's.
        #[arg(long, value_name = "ADDR:PORT")]
        src: Option<String>,
        /// The session's user; filled in unless it is given.
        #[arg(long, hide = true)]
        from: Option<Username>,
    },
    /// Join a group of another realm.
    Joingrouprealm {
        realm_id: RealmId,
        groupname: GroupName,
        #[command(flatten)]
        password: GroupPassword,
        /// The address of this realm to ask from; by default the peering's.
        #[arg(long, value_name = "ADDR:PORT")]
        src: Option<String>,
    },
    /// Write to a group of another realm.
    Sendgrouprealm {
        realm_id: RealmId,
        groupname: GroupName,
        #[command(flatten)]
        message: Message,
        /// The address of this realm that it leaves from; by default the peering's.
        #[arg(long, value_name = "ADDR:PORT")]
        src: Option<String>,
    },
    /// Read this realm's copy of a group of another realm.
    Inboxgrouprealm {
        realm_id: RealmId,
        groupname: GroupName,
        #[command(flatten)]
        inbox: Inbox,
    },
    /// Leave a group of another realm.
    Leavegrouprealm {
        realm_id: RealmId,
        groupname: GroupName,
    },
    /// Read your private messages from another realm.
    Inboxrealm {
        realm_id: RealmId,
        #[command(flatten)]
        inbox: Inbox,
    },
}

/// A command about peers.
#[derive(Debug, PartialEq, Subcommand)]
pub enum PeeringCommand {
    /// End a peering (operators only).
    ///
    /// The messages queued for it are returned to their senders.
    Removerealm {
        realm_id: RealmId,
        /// Drop the messages queued for it; their senders are not told.
        #[arg(long)]
        drop: bool,
    },
    /// Peer with a pending realm (operators only).
    ///
    /// `realms --pending` shows which have introduced themselves.
    Acceptrealm {
        /// How it calls itself.
        realm_id: RealmId,
        /// Its key, or its fingerprint as shown: nobody can take its place in between.
        // A key may begin with a hyphen.
        #[arg(long, allow_hyphen_values = true)]
        key: KeyShown,
        /// The name by which this realm is to know it, if another.
        #[arg(long = "as", value_name = "NAME")]
        known_as: Option<RealmId>,
    },
    /// Refuse a pending realm (operators only).
    ///
    /// It is not shown again for a day.
    Refuserealm {
        /// How it calls itself.
        realm_id: RealmId,
        /// Its key, or its fingerprint as shown.
        #[arg(long, allow_hyphen_values = true)]
        key: KeyShown,
    },
    /// Change the address of a peer (operators only).
    Moverealm {
        realm_id: RealmId,
        /// Its host.
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        realm_address: String,
        /// Its port.
        #[arg(value_parser = clap::value_parser!(u16).range(1..))]
        realm_port: u16,
    },
    /// List the realms that you can write to.
    ///
    /// For operators: the state of each peering.
    Realms {
        /// For operators: everything known of each.
        #[arg(long, conflicts_with = "pending")]
        details: bool,
        /// For operators: the realms that have introduced themselves and wait for a decision.
        #[arg(long)]
        pending: bool,
    },
}

impl RemoteCommand {
    /// Returns what the command does in the realm.
    pub const fn doing(&self) -> Doing {
        match self {
            Self::User(command) => command.doing(),
            Self::Group(command) => command.doing(),
            Self::Realm(command) => command.doing(),
            Self::Peering(command) => command.doing(),
        }
    }

    /// True for commands that read acknowledgements from standard input.
    pub const fn wants_acks(&self) -> bool {
        match self {
            Self::User(UserCommand::Inbox(inbox))
            | Self::Group(GroupCommand::Inboxgroup { inbox, .. })
            | Self::Realm(
                RealmCommand::Inboxrealm { inbox, .. }
                | RealmCommand::Inboxgrouprealm { inbox, .. },
            ) => inbox.ack,
            Self::User(UserCommand::Watch { ack, .. }) => *ack,
            Self::User(_) | Self::Group(_) | Self::Realm(_) | Self::Peering(_) => false,
        }
    }

    /// True for `watch`, which ends by itself when Ctrl-C is typed.
    pub const fn is_watch(&self) -> bool {
        matches!(self, Self::User(UserCommand::Watch { .. }))
    }
}

impl UserCommand {
    const fn doing(&self) -> Doing {
        match self {
            Self::Inbox(_)
            | Self::Watch { .. }
            | Self::Unread
            | Self::Outbox { .. }
            | Self::Ping { .. }
            | Self::Whoami
            | Self::Blocks
            | Self::Sessions => Doing::Reads,
            Self::Logout
            | Self::Send { .. }
            | Self::Block { .. }
            | Self::Unblock { .. }
            | Self::Revoke { .. } => Doing::Changes,
            Self::Register { .. } | Self::Auth { .. } | Self::Passwd { .. } => {
                Doing::ChangesWithPassword
            }
        }
    }
}

impl GroupCommand {
    const fn doing(&self) -> Doing {
        match self {
            Self::Inboxgroup { .. } | Self::Groups | Self::Members { .. } => Doing::Reads,
            Self::Sendgroup { .. }
            | Self::Leavegroup { .. }
            | Self::Kick { .. }
            | Self::Ban { .. }
            | Self::Unban { .. }
            | Self::Role { .. }
            | Self::Delgroup { .. } => Doing::Changes,
            Self::Addgroup { .. } | Self::Joingroup { .. } | Self::Grouppasswd { .. } => {
                Doing::ChangesWithPassword
            }
        }
    }
}

impl RealmCommand {
    const fn doing(&self) -> Doing {
        match self {
            Self::Inboxrealm { .. } | Self::Inboxgrouprealm { .. } => Doing::Reads,
            Self::Addrealm { .. }
            | Self::Sendrealm { .. }
            | Self::Sendgrouprealm { .. }
            | Self::Leavegrouprealm { .. } => Doing::Changes,
            Self::Claim { .. } | Self::Joingrouprealm { .. } => Doing::ChangesWithPassword,
        }
    }
}

impl PeeringCommand {
    const fn doing(&self) -> Doing {
        match self {
            Self::Realms { .. } => Doing::Reads,
            Self::Removerealm { .. }
            | Self::Acceptrealm { .. }
            | Self::Refuserealm { .. }
            | Self::Moverealm { .. } => Doing::Changes,
        }
    }
}
