//! The command line: what there is to say, and what it means. Help, completions and errors come from
//! this one definition.

use std::{path::PathBuf, time::Duration};

pub use super::local_args::{Bench, Demo, Limits, Rotatekey, Serve};
use super::names::{GroupAt, KeyShown, personal};
use clap::{Args, CommandFactory as _, Parser, Subcommand, builder::Resettable};
use clap_complete::Shell;
use merpati::{
    client::{DATAGRAM_MIN, LinkProfile, Meter, Redundancy, Token},
    crypto::{ConnectionString, PublicKey},
    server::units::{parse_rate, parse_size, parse_span},
    wire::{GroupName, Handle, RealmId, Role, Sender, SessionId, Username},
};

/// Chat over UDP for constrained networks: encrypted, exactly once, few bytes.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 the realm refused; 2 wrong usage; 3 not done and not kept; 4 kept, or not known \
yet; 5 trouble on this machine; 141 the reader of the output has gone.";

/// The definition of the command line. An environment variable that is empty counts as unset.
pub fn definition() -> clap::Command {
    unset_empty(Cli::command())
}

fn unset_empty(command: clap::Command) -> clap::Command {
    let is_empty = |name: &_| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| match arg.get_env() {
            Some(name) if is_empty(name) => arg.env(Resettable::Reset),
            _ => arg,
        })
        .mut_subcommands(unset_empty)
}

/// Options of every command that talks to a realm.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Where profiles are kept, instead of the XDG data directory.
    #[arg(long, global = true, value_name = "DIR", env = "MERPATI_HOME")]
    pub home: Option<PathBuf>,
    /// One account on one realm.
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "MERPATI_PROFILE",
        default_value = "default"
    )]
    pub profile: String,
    /// The realm's connection string, merpati://host:port#key; needed once, then remembered.
    #[arg(long, global = true, value_name = "STRING", env = "MERPATI_SERVER")]
    pub server: Option<ConnectionString>,
    /// Accept an unknown realm's key on first use.
    #[arg(long, global = true)]
    pub trust: bool,
    /// Do without encryption, for a realm that listens so.
    #[arg(long, global = true, requires = "server")]
    pub plain: bool,
    /// Print JSON, one object a line.
    #[arg(long, global = true)]
    pub json: bool,
    /// How long to go on trying.
    #[arg(long, global = true, value_name = "TIME", default_value = "2m", value_parser = parse_span)]
    pub deadline: Duration,
    /// What kind of link there is: lora, satellite, nb-iot or lan.
    #[arg(long, global = true, value_name = "KIND", env = "MERPATI_LINK")]
    pub link: Option<LinkProfile>,
    /// What the link is not to exceed, in bps, kbps or Mbps.
    #[arg(long, global = true, value_name = "RATE", value_parser = parse_rate)]
    pub max_bitrate: Option<u64>,
    /// The largest datagram to send and take.
    #[arg(long, global = true, value_name = "SIZE", value_parser = datagram)]
    pub max_datagram: Option<usize>,
    /// Whether small packets leave twice: auto (while much is lost), off (each byte is paid for) or on.
    #[arg(long, global = true, value_name = "CHOICE")]
    pub redundancy: Option<Redundancy>,
    /// Let no command leave in the first packet: a round trip more, and forward secrecy for all.
    #[arg(long, global = true)]
    pub no_early_data: bool,
    /// Name a session in full, instead of the profile's own.
    #[arg(long, global = true, value_name = "ID", value_parser = session_id)]
    pub session: Option<SessionId>,
    /// Give a command up at its deadline instead of keeping it in the outbox.
    #[arg(long, global = true)]
    pub no_keep: bool,
    /// Name the command: repeated under the same token it is the same command, done once.
    #[arg(long, global = true, value_name = "TOKEN")]
    pub id: Option<Token>,
    /// The realm was named on the command line, not by the environment: it is remembered.
    #[arg(skip)]
    pub is_server_typed: bool,
    /// The options by which the profile was named on the command line.
    #[arg(skip)]
    pub typed: String,
    /// Counts what is spent.
    #[arg(skip)]
    pub meter: Meter,
}

impl Global {
    /// These options, but for those that a line of the shell gives itself, by their names in `given`.
    pub fn with_line(&self, line: &Self, given: &[String]) -> Self {
        let mut global = self.clone();
        for name in given {
            match name.as_str() {
                "home" => global.home.clone_from(&line.home),
                "profile" => global.profile.clone_from(&line.profile),
                "server" => {
                    global.server.clone_from(&line.server);
                    global.is_server_typed = true;
                }
                "no_keep" => global.no_keep = line.no_keep,
                "id" => global.id.clone_from(&line.id),
                "trust" => global.trust = line.trust,
                "plain" => global.plain = line.plain,
                "json" => global.json = line.json,
                "deadline" => global.deadline = line.deadline,
                "link" => global.link = line.link,
                "max_bitrate" => global.max_bitrate = line.max_bitrate,
                "max_datagram" => global.max_datagram = line.max_datagram,
                "redundancy" => global.redundancy = line.redundancy,
                "no_early_data" => global.no_early_data = line.no_early_data,
                "session" => global.session = line.session,
                _ => {}
            }
        }
        global
    }
}

fn datagram(text: &str) -> Result<usize, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    match usize::try_from(size) {
        Ok(size) if (DATAGRAM_MIN..=9000).contains(&size) => Ok(size),
        _ => Err("a datagram has from 160B to 9000B".into()),
    }
}

fn session_id(text: &str) -> Result<SessionId, String> {
    text.parse()
        .map_err(|error: merpati::wire::Malformed| error.to_string())
}

fn role(text: &str) -> Result<Role, String> {
    text.parse()
        .map_err(|error: merpati::wire::Malformed| error.to_string())
}

#[derive(Debug, PartialEq, Subcommand)]
pub enum Command {
    /// Run a realm.
    Serve(Serve),
    /// Make an account, and log in.
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
    /// Make a group; you are its owner.
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
        /// At which of this realm's addresses it is to answer; - for the first.
        #[arg(default_value = "-")]
        src_address: String,
        /// The port of that address; - for the first.
        #[arg(default_value = "-")]
        src_port: String,
        /// Its key; without it, whoever is there is taken at their word.
        // A key may begin with a hyphen.
        #[arg(long, allow_hyphen_values = true)]
        key: Option<PublicKey>,
    },
    /// End a peering (operators only).
    ///
    /// What waits for the realm comes back to its senders.
    Removerealm {
        realm_id: RealmId,
        /// Drop what waits for it; its senders are not told.
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
    /// Say where a peer is now (operators only).
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
    /// For operators: how each peering stands.
    Realms {
        /// For operators: all that there is to tell of each.
        #[arg(long, conflicts_with = "pending")]
        details: bool,
        /// For operators: the realms that have introduced themselves and wait for a decision.
        #[arg(long)]
        pending: bool,
    },
    /// Write to a user of another realm.
    Sendrealm {
        realm_id: RealmId,
        username_to: Username,
        #[command(flatten)]
        message: Message,
        /// By which of this realm's addresses it is to leave; by default the peering's.
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
        /// By which of this realm's addresses to ask; by default the peering's.
        #[arg(long, value_name = "ADDR:PORT")]
        src: Option<String>,
    },
    /// Write to a group of another realm.
    Sendgrouprealm {
        realm_id: RealmId,
        groupname: GroupName,
        #[command(flatten)]
        message: Message,
        /// By which of this realm's addresses it is to leave; by default the peering's.
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
    /// Show messages as they come, until Ctrl-C.
    Watch {
        /// Stop after so many messages.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// Ask for a sign of life after so long a silence, which keeps the way back open; 0s does not. Else after
        /// what the kind of link says, and up to two minutes while the way is seen to stay open.
        #[arg(long, value_name = "SPAN", value_parser = parse_span)]
        keepalive: Option<Duration>,
        /// Confirm only what comes back on standard input: a line `<mailbox> <position>` confirms the messages of that
        /// mailbox up to that position. The end of standard input ends the watch.
        #[arg(long)]
        ack: bool,
    },
    /// Tell how many messages have not been read, mailbox by mailbox.
    Unread,
    /// List what was typed and is not finished; wait for it, or take it back.
    Outbox {
        #[command(subcommand)]
        action: Option<OutboxAction>,
    },
    /// Ask the realm for an answer and nothing else, and say what the path is like.
    ///
    /// The first answer says what a command costs that begins with nothing; the others, what one costs on an open link. What is lost is sent
    /// again, and shows in the time.
    Ping {
        /// How often.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        count: u32,
    },
    /// Tell who you are.
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
    /// Show what a realm can be made to hold in memory, by whom, and which setting says so.
    Limits(Limits),
    /// Give the realm a new key from its next start on; the old one vouches for it.
    Rotatekey(Rotatekey),
    /// Show what this is: two realms, three people and a bad link, on this machine.
    Demo(Demo),
    /// Measure a realm: what a command takes in time, bytes and processor, beside a bare echo.
    Bench(Bench),
    /// Tell what this profile has spent: bytes and datagrams, in its last run and in all of them together.
    Cost {
        /// Begin to count anew.
        #[arg(long)]
        reset: bool,
    },
    /// Type commands one after another.
    Shell,
    /// Show this device's fingerprint and the realm's, for two people to compare.
    Fingerprint,
    /// Print completions for a shell.
    Completions { shell: Shell },
    /// Tell the version of this program and of its JSON output.
    Version,
}

/// Where a password comes from. Never the command line: `ps` and the shell's history would keep it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct PasswordSource {
    /// Read the password from a file.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Read the password from standard input, one line (`passwd`: the old one, then the new one).
    #[arg(long, conflicts_with = "password_file")]
    pub password_stdin: bool,
}

/// A group's password, which it may do without.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct GroupPassword {
    #[command(flatten)]
    pub source: PasswordSource,
    /// The group has no password.
    #[arg(long, conflicts_with_all = ["password_file", "password_stdin"])]
    pub no_password: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Message {
    /// The message; - reads it from standard input.
    #[arg(allow_hyphen_values = true)]
    message: String,
    /// For how long it is worth delivering; one to another realm that outlives that comes back as a notice.
    #[arg(long, value_name = "SPAN", value_parser = ttl)]
    ttl: Option<Duration>,
}

impl Message {
    /// What was given: the text, or - for standard input.
    pub fn given(&self) -> &str {
        &self.message
    }

    /// The message with this text.
    pub const fn with<'a>(&self, text: &'a str) -> merpati::client::Message<'a> {
        merpati::client::Message {
            body: text.as_bytes(),
            ttl: self.ttl,
        }
    }
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = parse_span(text).map_err(|error| error.to_string())?;
    if ttl < Duration::from_secs(1) || ttl > Duration::from_hours(7 * 24) {
        return Err("write a span from \"1s\" to \"7d\"".into());
    }
    Ok(ttl)
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Inbox {
    /// Begin after this position; 0 for the very first.
    #[arg(long, value_name = "N")]
    pub after: Option<u64>,
    /// Take up the first message at this byte.
    #[arg(long, value_name = "N")]
    pub offset: Option<u64>,
    /// At most so many messages.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// At most so many bytes of answer; a message that is longer comes in pieces.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub bytes: Option<u64>,
    /// Confirm only what comes back on standard input: a line with a position confirms the messages up to it. Ends when
    /// all are confirmed, or at the end of standard input; with none, nothing is confirmed.
    #[arg(long)]
    pub ack: bool,
}

/// What is to become of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum OutboxAction {
    /// Wait until an entry is finished, or all are.
    Wait {
        /// The entry's number, as `outbox` lists it.
        number: Option<u64>,
    },
    /// Take an entry back.
    Cancel {
        /// The entry's number, as `outbox` lists it.
        number: u64,
    },
}
