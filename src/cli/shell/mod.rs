//! `merpati shell`: commands typed line by line, in the grammar of the command line.

mod line;

use std::io::{BufRead as _, ErrorKind, IsTerminal as _, Read as _, stdin};

use line::{Line, Typed};
use merpati::client::Client;
use rustyline::{
    Completer, Editor, Helper, Highlighter, Hinter, Validator, config::Configurer as _,
    error::ReadlineError, history::DefaultHistory,
};
use serde_json::json;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::{
    args::{Command, Global},
    ask, commands, cost,
    inputs::{self, Given, Typed as Typing},
    output::{self, Failure, Output, READ_INPUT, READER_GONE},
    remote_args::{RemoteCommand, UserCommand},
};

/// Lines that the history keeps.
const HISTORY_MAX: usize = 1000;
/// The longest line of a pipe, in bytes. It is longer than any message with its command.
const LINE_BYTES_MAX: u64 = 128 << 10;
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
        let Some(typed) = line.get(..at) else {
            return Ok((at, Vec::new()));
        };
        let names = line::names().into_iter();
        let names = names
            .filter(|name| !typed.contains(' ') && name.starts_with(typed))
            .map(|name| name + " ");
        Ok((0, names.collect()))
    }
}

/// Reads and executes lines until the end of input.
pub fn shell(global: &Global, output: Output) -> Result<(), Failure> {
    // The outbox is sent while nobody types.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    // All lines without a session of their own share one client: one link, and one open profile.
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
    // The first time there is no history.
    let _ = editor.load_history(&history);
    output::print_line("`help` lists the commands, `exit` leaves.")?;
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
            Err(failure) if failure.code == READER_GONE => return Err(failure),
            Err(failure) => output.failure(&failure),
        }
    }
}

/// Executes lines from a program or a file. The first line that fails ends the shell, with its exit
/// code.
fn piped(
    global: &Global,
    output: Output,
    runtime: &Runtime,
    client: &Client,
) -> Result<(), Failure> {
    let mut number = 0;
    loop {
        number += 1;
        let text = match read_line() {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(()),
            Err(failure) => return Err(failure.of_line(number)),
        };
        match carry_out(&text, global, output, runtime, client) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(failure) => return Err(failure.of_line(number)),
        }
    }
}

/// Reads the next line of standard input. It may also be a password, so standard input is not
/// locked between lines.
fn read_line() -> Result<Option<Zeroizing<String>>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = stdin().lock().take(LINE_BYTES_MAX).read_line(&mut text);
    match read {
        Ok(0) => Ok(None),
        Ok(len) if len as u64 == LINE_BYTES_MAX => Err(Failure::usage(format!(
            "a line has to be shorter than {LINE_BYTES_MAX} bytes"
        ))),
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Err(Failure::usage("the line is not UTF-8 text"))
        }
        Err(error) => Err(Failure::cannot(READ_INPUT)(error)),
    }
}

/// Executes a line. Returns false if it leaves the shell.
fn carry_out(
    text: &str,
    global: &Global,
    output: Output,
    runtime: &Runtime,
    client: &Client,
) -> Result<bool, Failure> {
    match line::parse(text).map_err(Failure::usage)? {
        Line::Nothing => Ok(true),
        Line::Exit => Ok(false),
        Line::Cost => cost::so_far(global, output).map(|()| true),
        Line::Told(text) => output
            .result(&json!({ "text": text }), &text)
            .map(|()| true),
        Line::Command(typed) => run(*typed, global, runtime, client).map(|()| true),
    }
}

/// Executes a command. A line with options of its own gets a client of its own.
fn run(typed: Typed, global: &Global, runtime: &Runtime, client: &Client) -> Result<(), Failure> {
    let own = global.with_line(&typed.global, &typed.given);
    let output = Output { json: own.json };
    let needs_client = typed.given.iter().any(|name| name != "json");
    let command = match typed.command {
        Command::Remote(command) => command,
        Command::Cost { reset } => return cost::cost(&own, output, reset),
        Command::Fingerprint => return ask::fingerprint(&own, output),
        Command::Serve(_)
        | Command::Limits(_)
        | Command::Rotatekey(_)
        | Command::Demo(_)
        | Command::Bench(_)
        | Command::Shell
        | Command::Completions { .. }
        | Command::Version => {
            return Err(Failure::usage(
                "this command is not for the shell; give it to `merpati` itself",
            ));
        }
    };
    if let RemoteCommand::User(UserCommand::Register {
        replace, username, ..
    }) = &command
    {
        ask::check_replaced(&ask::client(&own, None)?, *username, *replace)?;
    }
    if command.wants_acks() {
        return Err(Failure::usage(
            "--ack is not for the shell, whose standard input brings commands; give it to `merpati` itself",
        ));
    }
    if typed.password.is_none() {
        inputs::tell_password_rules(&command);
    }
    let given = Given::read(&command, Typing::InShell(typed.password))?;
    let named;
    let client = if needs_client {
        named = ask::client(&own, None)?;
        &named
    } else {
        client
    };
    let is_watch = command.is_watch();
    let interrupted = commands::told_when_interrupted(&command, !own.no_keep);
    runtime.block_on(async {
        tokio::select! {
            // This branch is first, so that Ctrl-C is handled before anything is done. A watch ends
            // by itself, after it has confirmed what was taken.
            biased;
            stopped = tokio::signal::ctrl_c(), if !is_watch => {
                stopped?;
                Err(Failure::interrupted(interrupted))
            }
            outcome = commands::execute(client, output, command, given) => outcome,
        }
    })
}
