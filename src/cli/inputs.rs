//! The input of a command apart from its words: passwords, codes and texts. It is read before
//! anything is sent.

use std::io::{self, Read as _};

use merpati::wire::{PASSWORD_MAX, PASSWORD_MIN, RegistrationCode};

use super::{
    output::{Failure, Output, READ_INPUT},
    passwords::{self, Secret},
    remote_args::{GroupCommand, RealmCommand, RemoteCommand, UserCommand},
    shared_args::{GroupPassword, Message, PasswordSource},
};

/// The longest message that is read from standard input, in bytes. Realms accept 16 KiB unless
/// configured otherwise.
const MESSAGE_BYTES_MAX: u64 = 64 << 10;
const OF_GROUP: &str = "The group's password (empty for none)";

/// The input that was read.
#[derive(Debug, Default)]
pub struct Given {
    pub password: Secret,
    pub new_password: Secret,
    pub code: Option<RegistrationCode>,
    pub text: String,
}

/// The place where a command was typed.
#[derive(Debug)]
pub enum Typed {
    /// On the command line.
    Once,
    /// In the shell, possibly with its password.
    InShell(Option<Secret>),
}

impl Given {
    /// Reads the input of `command`. People are asked for missing input.
    pub fn read(command: &RemoteCommand, typed: Typed) -> Result<Self, Failure> {
        let (inline, in_shell) = match typed {
            Typed::Once => (None, false),
            Typed::InShell(inline) => (inline, true),
        };
        let mut given = Self::default();
        match command {
            RemoteCommand::User(command) => given.read_for_user(command, inline, in_shell)?,
            RemoteCommand::Group(command) => match command {
                GroupCommand::Addgroup { password, .. }
                | GroupCommand::Joingroup { password, .. }
                | GroupCommand::Grouppasswd { password, .. } => {
                    given.password = of_group(password, inline)?;
                }
                GroupCommand::Sendgroup { message, .. } => given.text = text(message, in_shell)?,
                GroupCommand::Inboxgroup { .. }
                | GroupCommand::Leavegroup { .. }
                | GroupCommand::Groups
                | GroupCommand::Members { .. }
                | GroupCommand::Kick { .. }
                | GroupCommand::Ban { .. }
                | GroupCommand::Unban { .. }
                | GroupCommand::Role { .. }
                | GroupCommand::Delgroup { .. } => {}
            },
            RemoteCommand::Realm(command) => match command {
                RealmCommand::Joingrouprealm { password, .. } => {
                    given.password = of_group(password, inline)?;
                }
                RealmCommand::Claim { code } => {
                    given.password = inline.map_or_else(
                        || passwords::password(code, "The realm's operator code"),
                        Ok,
                    )?;
                }
                RealmCommand::Sendrealm { message, .. }
                | RealmCommand::Sendgrouprealm { message, .. } => {
                    given.text = text(message, in_shell)?;
                }
                RealmCommand::Addrealm { .. }
                | RealmCommand::Inboxgrouprealm { .. }
                | RealmCommand::Leavegrouprealm { .. }
                | RealmCommand::Inboxrealm { .. } => {}
            },
            RemoteCommand::Peering(_) => {}
        }
        Ok(given)
    }

    fn read_for_user(
        &mut self,
        command: &UserCommand,
        inline: Option<Secret>,
        in_shell: bool,
    ) -> Result<(), Failure> {
        match command {
            UserCommand::Register {
                password,
                code_file,
                ..
            } => {
                self.code = code_file.as_deref().map(passwords::code).transpose()?;
                self.password = match inline {
                    Some(inline) => inline,
                    None => passwords::new_password(password, "Password")?,
                };
                passwords::check_new(&self.password)?;
            }
            UserCommand::Auth { password, .. } => {
                self.password =
                    inline.map_or_else(|| passwords::password(password, "Password"), Ok)?;
            }
            UserCommand::Passwd {
                password,
                new_password_file,
            } => {
                self.password = passwords::password(password, "Old password")?;
                let new = PasswordSource {
                    password_file: new_password_file.clone(),
                    ..password.clone()
                };
                self.new_password = passwords::new_password(&new, "New password")?;
            }
            UserCommand::Send { message, .. } => self.text = text(message, in_shell)?,
            UserCommand::Logout
            | UserCommand::Inbox(_)
            | UserCommand::Watch { .. }
            | UserCommand::Unread
            | UserCommand::Outbox { .. }
            | UserCommand::Ping { .. }
            | UserCommand::Whoami
            | UserCommand::Block { .. }
            | UserCommand::Unblock { .. }
            | UserCommand::Blocks
            | UserCommand::Sessions
            | UserCommand::Revoke { .. } => {}
        }
        Ok(())
    }
}

fn of_group(password: &GroupPassword, inline: Option<Secret>) -> Result<Secret, Failure> {
    inline.map_or_else(|| passwords::group_password(password, OF_GROUP), Ok)
}

/// Returns the message as given, or reads it from standard input if it is `-`.
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
    // One byte more shows that a message is too long, and a line end may follow.
    io::stdin()
        .lock()
        .take(MESSAGE_BYTES_MAX + 2)
        .read_to_end(&mut bytes)
        .map_err(Failure::cannot(READ_INPUT))?;
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

/// Prints the rules for a new password, before a person is asked for one.
pub fn tell_password_rules(command: &RemoteCommand) {
    let is_asked = |source: &PasswordSource| {
        source.password_file.is_none() && !source.password_stdin && passwords::can_ask()
    };
    let RemoteCommand::User(
        UserCommand::Register {
            password: source, ..
        }
        | UserCommand::Passwd {
            password: source,
            new_password_file: None,
        },
    ) = command
    else {
        return;
    };
    if is_asked(source) {
        Output::aside(&format!(
            "a password has {PASSWORD_MIN} to {PASSWORD_MAX} bytes; it is not shown while you type"
        ));
    }
}
