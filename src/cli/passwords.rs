//! Password input: from a terminal that does not show it, a file, or standard input.

use std::{
    fs,
    io::{self, BufRead as _, IsTerminal as _},
    path::Path,
};

use merpati::wire::{PASSWORD_MAX, PASSWORD_MIN, RegistrationCode};
use zeroize::Zeroizing;

use super::{
    output::{Failure, READ_INPUT},
    shared_args::{GroupPassword, PasswordSource},
};

/// A password, which is wiped when dropped.
pub type Secret = Zeroizing<String>;

/// Reads a password. `what` is the prompt.
pub fn password(source: &PasswordSource, what: &str) -> Result<Secret, Failure> {
    let password = read(source, what)?;
    if !password.is_empty() {
        return Ok(password);
    }
    Err(Failure::usage(match &source.password_file {
        Some(file) => format!(
            "the file {} holds no password: nothing was done; write it into the file",
            file.display()
        ),
        None => "the password is empty: nothing was done; give one".into(),
    }))
}

fn read(source: &PasswordSource, what: &str) -> Result<Secret, Failure> {
    match &source.password_file {
        Some(file) => from_file(file),
        None if source.password_stdin => from_stdin(),
        None => from_terminal(what),
    }
}

/// Reads a group's password. It is empty for a group without one.
pub fn group_password(group: &GroupPassword, what: &str) -> Result<Secret, Failure> {
    if group.no_password {
        return Ok(Secret::default());
    }
    read(&group.source, what)
}

/// Reads a new password. A person types it twice.
pub fn new_password(source: &PasswordSource, what: &str) -> Result<Secret, Failure> {
    let password = password(source, what)?;
    if source.password_file.is_none() && !source.password_stdin {
        let again = from_terminal(&format!("{what} (again)"))?;
        if *again != *password {
            return Err(Failure::usage(
                "the two passwords differ: nothing was done; type the same one twice",
            ));
        }
    }
    check_new(&password)?;
    Ok(password)
}

/// Refuses a new password of a length that no realm accepts.
pub fn check_new(password: &str) -> Result<(), Failure> {
    let len = password.len();
    if (PASSWORD_MIN..=PASSWORD_MAX).contains(&len) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "a password has {PASSWORD_MIN} to {PASSWORD_MAX} bytes, this one has {len}"
    )))
}

/// True if a person can be asked.
pub fn can_ask() -> bool {
    io::stdin().is_terminal()
}

fn from_file(path: &Path) -> Result<Secret, Failure> {
    let text = fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| {
            Failure::local(format!("cannot read the file {}: {error}", path.display()))
        })?;
    Ok(without_line_end(&text))
}

/// Reads the registration code in a file.
pub fn code(path: &Path) -> Result<RegistrationCode, Failure> {
    let text = from_file(path)?;
    text.trim()
        .parse()
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

fn from_stdin() -> Result<Secret, Failure> {
    let mut line = Zeroizing::new(String::new());
    let read = io::stdin().lock().read_line(&mut line);
    if read.map_err(Failure::cannot(READ_INPUT))? == 0 {
        return Err(Failure::usage(
            "standard input ended before a password came: nothing was done; write each password on a line of its own",
        ));
    }
    Ok(without_line_end(&line))
}

fn from_terminal(what: &str) -> Result<Secret, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(
            "there is no terminal to ask for the password on; pass --password-file or --password-stdin",
        ));
    }
    rpassword::prompt_password(format!("{what}: "))
        .map(Zeroizing::new)
        .map_err(Failure::cannot("read the password from the terminal"))
}

fn without_line_end(text: &str) -> Secret {
    let text = text.strip_suffix('\n').unwrap_or(text);
    Zeroizing::new(text.strip_suffix('\r').unwrap_or(text).to_string())
}
