//! Arguments that several commands take: passwords, messages, and which part of a mailbox is read.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use merpati::server::units::parse_span;

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
    /// For how long it is worth delivering, from 1s to 7d. If a message to another realm is not
    /// delivered by then, a notice tells you.
    #[arg(long, value_name = "SPAN", value_parser = ttl)]
    ttl: Option<Duration>,
}

impl Message {
    /// Returns the given message: the text, or - for standard input.
    pub fn given(&self) -> &str {
        &self.message
    }

    /// Returns the message with this text.
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
    /// Continue the first message at this byte.
    #[arg(long, value_name = "N")]
    pub offset: Option<u64>,
    /// At most this many messages.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// At most this many bytes of answer; a message that is longer comes in pieces.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub bytes: Option<u64>,
    /// Confirm only what comes back on standard input: a line with a position confirms the messages
    /// up to it. Ends when all are confirmed, or at the end of standard input; with none, nothing
    /// is confirmed.
    #[arg(long)]
    pub ack: bool,
}
