//! What a command needs beside its words: passwords, codes and texts. They are read before anything is sent.

use std::io::{self, Read as _};

use merpati::wire::RegistrationCode;

use super::{
    args::{Command, Message, PasswordSource},
    output::{Failure, Output},
    passwords::{self, Secret},
};

/// The longest message that is read from standard input, in bytes; realms take 16 KiB unless they say otherwise.
const MESSAGE_BYTES_MAX: u64 = 64 << 10;
const OF_GROUP: &str = "The group's password (empty for none)";

/// What was read.
#[derive(Debug, Default)]
pub struct Given {
    pub password: Secret,
    pub new_password: Secret,
    pub code: Option<RegistrationCode>,
    pub text: String,
}

/// Where a command was typed.
#[derive(Debug)]
pub enum Typed {
    /// On the command line.
    Once,
    /// In the shell, perhaps with its password.
    InShell(Option<Secret>),
}

impl Given {
    /// Reads what `command` needs; people are asked for what is missing.
    pub fn read(command: &Command, typed: Typed) -> Result<Self, Failure> {
        let (inline, in_shell) = match typed {
            Typed::Once => (None, false),
            Typed::InShell(inline) => (inline, true),
        };
        let mut given = Self::default();
        match command {
            Command::Register {
                password,
                code_file,
                ..
            } => {
                given.code = code_file.as_deref().map(passwords::code).transpose()?;
                given.password = match inline {
                    Some(inline) => inline,
                    None => passwords::new_password(password, "Password")?,
                };
                passwords::check_new(&given.password)?;
            }
            Command::Auth { password, .. } => {
                given.password =
                    inline.map_or_else(|| passwords::password(password, "Password"), Ok)?;
            }
            Command::Addgroup { password, .. }
            | Command::Joingroup { password, .. }
            | Command::Grouppasswd { password, .. }
            | Command::Joingrouprealm { password, .. } => {
                given.password =
                    inline.map_or_else(|| passwords::group_password(password, OF_GROUP), Ok)?;
            }
            Command::Claim { code } => {
                given.password = inline.map_or_else(
                    || passwords::password(code, "The realm's operator code"),
                    Ok,
                )?;
            }
            Command::Passwd {
                password,
                new_password_file,
            } => {
                given.password = passwords::password(password, "Old password")?;
                let new = PasswordSource {
                    password_file: new_password_file.clone(),
                    ..password.clone()
                };
                given.new_password = passwords::new_password(&new, "New password")?;
            }
            Command::Send { message, .. }
            | Command::Sendgroup { message, .. }
            | Command::Sendrealm { message, .. }
            | Command::Sendgrouprealm { message, .. } => given.text = text(message, in_shell)?,
            _ => {}
        }
        Ok(given)
    }
}

/// The message as given, or from standard input when it is `-`.
fn text(message: &Message, in_shell: bool) -> Result<String, Failure> {
    let text = match message.given() {
        "-" if in_shell => {
            return Err(Failure::usage(
                "in the shell a message cannot come from standard input, where the commands come from; type it",
            ));
        }
        "-" => from_stdin()?,
        given => given.to_owned(),
    };
    if text.is_empty() {
        let what = if message.given() == "-" {
            "standard input brought no message"
        } else {
            "the message is empty"
        };
        return Err(Failure::usage(format!("{what}: nothing was sent")));
    }
    Ok(text)
}

fn from_stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    // One byte more tells a message that is too long from one that fits, and a line end may follow.
    io::stdin()
        .lock()
        .take(MESSAGE_BYTES_MAX + 2)
        .read_to_end(&mut bytes)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    if bytes.len() as u64 > MESSAGE_BYTES_MAX {
        return Err(Failure::usage(format!(
            "the message on standard input is longer than {MESSAGE_BYTES_MAX} bytes, more than any realm takes: \
             nothing was sent"
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::usage(format!(
            "the message on standard input is not UTF-8 text: byte {at} is wrong; nothing was sent"
        ))
    })
}

/// Tells the rules for a new password, before a person is asked for one.
pub fn tell_password_rules(command: &Command) {
    let is_asked = |source: &PasswordSource| {
        source.password_file.is_none() && !source.password_stdin && passwords::can_ask()
    };
    let asks = match command {
        Command::Register { password, .. } => is_asked(password),
        Command::Passwd {
            password,
            new_password_file: None,
        } => is_asked(password),
        _ => false,
    };
    if asks {
        Output::aside("a password has 8 to 128 bytes; it is not shown while you type");
    }
}
