//! `merpati shell`: the command table's own syntax, typed one line after another.

mod line;

use std::io::{IsTerminal as _, stdin};

use line::{COMMANDS, Line};
use merpati::client::Client;
use rustyline::{
    Completer, Editor, Helper, Highlighter, Hinter, Validator, config::Configurer as _,
    error::ReadlineError, history::DefaultHistory,
};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::{
    args::{Command, Global, PasswordSource},
    ask, cost, groups,
    output::{Failure, Output},
    passwords, realms, watch,
};

/// Lines that the history keeps.
const HISTORY_MAX: usize = 1000;
const OF_GROUP: &str = "The group's password (empty for none)";
const PROMPT: &str = "merpati> ";

/// Completes the names of commands.
#[derive(Completer, Helper, Highlighter, Hinter, Validator)]
struct Names {
    #[rustyline(Completer)]
    names: NameCompleter,
}

struct NameCompleter;

impl rustyline::completion::Completer for NameCompleter {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line.get(..at).unwrap_or_default();
        let names = COMMANDS
            .iter()
            .filter(|(name, ..)| !typed.contains(' ') && name.starts_with(typed))
            .map(|(name, ..)| format!("{name} "));
        Ok((0, names.collect()))
    }
}

/// Reads lines and carries them out until there are no more.
pub fn shell(global: &Global, output: Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // One client for all lines without a session of their own: one link, and one open profile.
    let client = ask::client(global, None)?;
    if stdin().is_terminal() {
        interactive(global, output, &runtime, &client)
    } else {
        piped(global, output, &runtime, &client)
    }
}

fn interactive(
    global: &Global,
    output: Output,
    runtime: &Runtime,
    client: &Client,
) -> Result<(), Failure> {
    let mut editor = Editor::<Names, DefaultHistory>::new().map_err(Failure::local)?;
    editor
        .set_max_history_size(HISTORY_MAX)
        .map_err(Failure::local)?;
    editor.set_auto_add_history(false);
    editor.set_helper(Some(Names {
        names: NameCompleter,
    }));
    let history = client.profile().directory().join("history");
    // There is none before the first time.
    let _ = editor.load_history(&history);
    println!("`help` lists the commands, `exit` leaves.");
    loop {
        let text = match editor.readline(PROMPT) {
            Ok(text) => Zeroizing::new(text),
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(Failure::local(error)),
        };
        let kept = line::for_history(&text);
        if !kept.is_empty() {
            editor.add_history_entry(kept).map_err(Failure::local)?;
            editor.save_history(&history).map_err(Failure::local)?;
        }
        match carry_out(&text, global, output, runtime, client) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(failure) => output.failure(&failure),
        }
    }
}

/// Lines from a program or a file: the first that fails ends it, with its exit code.
fn piped(
    global: &Global,
    output: Output,
    runtime: &Runtime,
    client: &Client,
) -> Result<(), Failure> {
    for text in stdin().lines() {
        let text = Zeroizing::new(text?);
        if !carry_out(&text, global, output, runtime, client)? {
            break;
        }
    }
    Ok(())
}

/// Carries a line out. False when it asks to leave.
fn carry_out(
    text: &str,
    global: &Global,
    output: Output,
    runtime: &Runtime,
    client: &Client,
) -> Result<bool, Failure> {
    let (session, line) = line::parse(text).map_err(Failure::usage)?;
    if line == Line::Exit {
        return Ok(false);
    }
    let named;
    let client = match session {
        None => client,
        Some(_) => {
            named = ask::client(global, session)?;
            &named
        }
    };
    if line == Line::Cost {
        cost::so_far(global, output)?;
        return Ok(true);
    }
    runtime.block_on(execute(client, output, line))?;
    Ok(true)
}

/// Carries out what a line asks for.
async fn execute(client: &Client, output: Output, line: Line) -> Result<(), Failure> {
    let ask_for = |what| passwords::password(&PasswordSource::default(), what);
    let ask_twice = |what| passwords::new_password(&PasswordSource::default(), what);
    match line {
        Line::Nothing | Line::Cost | Line::Exit => Ok(()),
        Line::Auth(username, password) => {
            let password = password.map_or_else(|| ask_for("Password"), |p| Ok(p.into()))?;
            ask::auth(client, output, username, &password).await
        }
        Line::Register {
            name,
            country,
            username,
            password,
        } => {
            let password = password.map_or_else(|| ask_twice("Password"), |p| Ok(p.into()))?;
            ask::register(client, output, None, (&name, &country, username), &password).await
        }
        Line::Logout => ask::logout(client, output).await,
        Line::Send(to, message) => ask::send(client, output, to, message.as_str().into()).await,
        Line::Inbox(mailbox, after) => {
            ask::inbox(client, output, mailbox, &Line::inbox(after)).await
        }
        Line::AddGroup(group, password) => {
            let password = password.map_or_else(|| ask_for(OF_GROUP), |p| Ok(p.into()))?;
            groups::addgroup(client, output, group, &password).await
        }
        Line::JoinGroup(group, password) => {
            let password = password.map_or_else(|| ask_for(OF_GROUP), |p| Ok(p.into()))?;
            groups::joingroup(client, output, group, &password).await
        }
        Line::SendGroup(group, message) => {
            groups::sendgroup(client, output, group, message.as_str().into()).await
        }
        Line::LeaveGroup(group) => groups::leavegroup(client, output, group).await,
        Line::Groups => groups::groups(client, output).await,
        Line::SendRealm {
            source,
            from,
            to,
            message,
        } => {
            let source = match source {
                Some((address, port)) => realms::source(&address, &port)?,
                None => None,
            };
            let from = from.map_or_else(|| realms::own_name(client), Ok)?;
            realms::sendrealm(client, output, source, from, to, message.as_str().into()).await
        }
        Line::SendGroupRealm {
            source,
            to,
            message,
        } => {
            let source = match source {
                Some((address, port)) => realms::source(&address, &port)?,
                None => None,
            };
            realms::sendgrouprealm(client, output, source, to, message.as_str().into()).await
        }
        Line::Other(command) => match *command {
            command @ (Command::Claim { .. }
            | Command::Addrealm { .. }
            | Command::Removerealm { .. }
            | Command::Realms
            | Command::Inboxrealm { .. }
            | Command::Joingrouprealm { .. }
            | Command::Inboxgrouprealm { .. }
            | Command::Leavegrouprealm { .. }) => {
                let code = realms::secret(&command)?;
                realms::once(client, output, command, &code).await
            }
            command => {
                let password = groups::password(&command)?;
                groups::once(client, output, command, &password).await
            }
        },
        Line::Members(group) => groups::members(client, output, group).await,
        Line::Watch => watch::watch(client, output, None).await,
        Line::Unread => watch::unread(client, output).await,
        Line::Whoami => ask::whoami(client, output).await,
        Line::Sessions => ask::sessions(client, output).await,
        Line::Revoke(handle) => ask::revoke(client, output, handle).await,
        Line::Passwd => {
            let (old, new) = (ask_for("Old password")?, ask_twice("New password")?);
            ask::passwd(client, output, &old, &new).await
        }
        Line::Help => {
            for (name, arguments, what) in COMMANDS {
                println!("  {:<60}{what}", format!("{name} {arguments}"));
            }
            Ok(())
        }
    }
}
