//! The definition of the command line. Help, completions and errors are made from it.

use std::{path::PathBuf, time::Duration};

pub use super::local_args::{Bench, Demo, Limits, Rotatekey, Serve};
use super::remote_args::RemoteCommand;
use clap::{Args, CommandFactory as _, Parser, Subcommand, builder::Resettable};
use clap_complete::Shell;
use merpati::{
    client::{DATAGRAM_MIN, LinkProfile, Meter, Redundancy, Token},
    crypto::ConnectionString,
    server::units::{parse_rate, parse_size, parse_span},
    wire::SessionId,
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

/// Returns the definition of the command line. An empty environment variable counts as unset.
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
    /// Use no encryption, for a realm with a plain listener.
    #[arg(long, global = true, requires = "server")]
    pub plain: bool,
    /// Print JSON, one object a line.
    #[arg(long, global = true)]
    pub json: bool,
    /// How long a command is tried.
    #[arg(long, global = true, value_name = "TIME", default_value = "2m", value_parser = parse_span)]
    pub deadline: Duration,
    /// The kind of link: lora, satellite, nb-iot or lan.
    #[arg(long, global = true, value_name = "KIND", env = "MERPATI_LINK")]
    pub link: Option<LinkProfile>,
    /// The maximum bitrate of the link, in bps, kbps or Mbps; at least 80bps.
    #[arg(long, global = true, value_name = "RATE", value_parser = parse_rate)]
    pub max_bitrate: Option<u64>,
    /// The largest datagram to send and accept, from 160B to 9000B.
    #[arg(long, global = true, value_name = "SIZE", value_parser = datagram)]
    pub max_datagram: Option<usize>,
    /// Whether small packets are sent twice: auto (while much is lost), off (where each byte is
    /// paid for) or on.
    #[arg(long, global = true, value_name = "CHOICE")]
    pub redundancy: Option<Redundancy>,
    /// Send no command in the first packet: one more round trip, and forward secrecy for all.
    #[arg(long, global = true)]
    pub no_early_data: bool,
    /// Name a session in full, instead of the profile's own.
    #[arg(long, global = true, value_name = "ID", value_parser = session_id)]
    pub session: Option<SessionId>,
    /// Give up a command at its deadline instead of keeping it in the outbox.
    #[arg(long, global = true)]
    pub no_keep: bool,
    /// Identify the command: repeated with the same token it is the same command, done once.
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
    /// Returns these options, except those in `given`, which are taken from the shell's `line`.
    pub fn with_line(&self, line: &Self, given: &[String]) -> Self {
        // A new option has to be named here, and then below.
        let Self {
            home,
            profile,
            server,
            trust,
            plain,
            json,
            deadline,
            link,
            max_bitrate,
            max_datagram,
            redundancy,
            no_early_data,
            session,
            no_keep,
            id,
            is_server_typed: _,
            typed: _,
            meter: _,
        } = line;
        let mut global = self.clone();
        for name in given {
            match name.as_str() {
                "home" => global.home.clone_from(home),
                "profile" => global.profile.clone_from(profile),
                "server" => {
                    global.server.clone_from(server);
                    global.is_server_typed = true;
                }
                "no_keep" => global.no_keep = *no_keep,
                "id" => global.id.clone_from(id),
                "trust" => global.trust = *trust,
                "plain" => global.plain = *plain,
                "json" => global.json = *json,
                "deadline" => global.deadline = *deadline,
                "link" => global.link = *link,
                "max_bitrate" => global.max_bitrate = *max_bitrate,
                "max_datagram" => global.max_datagram = *max_datagram,
                "redundancy" => global.redundancy = *redundancy,
                "no_early_data" => global.no_early_data = *no_early_data,
                "session" => global.session = *session,
                // An option of the command itself.
                _ => {}
            }
        }
        global
    }
}

/// The largest datagram that may be asked for, as in a realm's configuration.
const DATAGRAM_MAX: usize = 9000;

fn datagram(text: &str) -> Result<usize, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    match usize::try_from(size) {
        Ok(size) if (DATAGRAM_MIN..=DATAGRAM_MAX).contains(&size) => Ok(size),
        _ => Err(format!(
            "write a size from \"{DATAGRAM_MIN}B\" to \"{DATAGRAM_MAX}B\""
        )),
    }
}

fn session_id(text: &str) -> Result<SessionId, String> {
    text.parse()
        .map_err(|error: merpati::wire::Malformed| error.to_string())
}

#[derive(Debug, PartialEq, Subcommand)]
pub enum Command {
    /// Run a realm.
    Serve(Serve),
    #[command(flatten)]
    Remote(RemoteCommand),
    /// Show what a realm can be made to hold in memory, by whom, and which setting says so.
    Limits(Limits),
    /// Give the realm a new key from its next start on; the old one vouches for it.
    Rotatekey(Rotatekey),
    /// Show what this is: two realms, three people and a bad link, on this machine.
    Demo(Demo),
    /// Measure a realm: time, bytes and CPU time of a command, beside a bare echo.
    Bench(Bench),
    /// Show this profile's traffic: bytes and datagrams, of its last run and of all together.
    Cost {
        /// Start counting anew.
        #[arg(long)]
        reset: bool,
    },
    /// Type commands one after another.
    Shell,
    /// Show this device's fingerprint and the realm's, for two people to compare.
    Fingerprint,
    /// Print completions for a shell.
    Completions { shell: Shell },
    /// Show the version of this program and of its JSON output.
    Version,
}
