//! One line of the shell. The definition of the command line parses it, with three additions of the
//! command table: a session id may come first, a password may come last, and a message needs no
//! quotes.

use std::cell::RefCell;

use clap::{Arg, ArgMatches, FromArgMatches as _, error::ErrorKind, parser::ValueSource};
use merpati::wire::SessionId;
use zeroize::Zeroizing;

use crate::{
    args::{self, Cli, Command, Global},
    names::about_message,
};

/// Commands whose last argument is the rest of the line, and the number of arguments before it.
const WITH_REST: &[(&str, usize)] = &[
    ("send", 1),
    ("sendgroup", 1),
    ("sendrealm", 2),
    ("sendgrouprealm", 2),
    ("register", 3),
    ("auth", 1),
    ("addgroup", 1),
    ("joingroup", 1),
    ("joingrouprealm", 2),
    ("grouppasswd", 1),
];
/// Commands whose last argument is a password, which the command line does not accept.
const WITH_PASSWORD: &[&str] = &[
    "register",
    "auth",
    "addgroup",
    "joingroup",
    "joingrouprealm",
    "grouppasswd",
    "claim",
];
/// Commands that the shell does not accept.
const NOT_IN_SHELL: &[&str] = &[
    "serve",
    "limits",
    "rotatekey",
    "demo",
    "bench",
    "shell",
    "completions",
    "version",
];
/// Commands that exist only in the shell.
const ONLY_IN_SHELL: &[(&str, &str)] = &[
    ("help [command]", "Show this, or all about one command"),
    ("exit", "Leave; Ctrl-D does too"),
];
/// The name of the argument for a password.
const PASSWORD: &str = "inline_password";
/// Options and arguments before the rest of a line, at most.
const WORDS_BEFORE_REST_MAX: usize = 12;

/// The error for a line that cannot be split.
const OPEN_QUOTE: &str =
    "a quote is not closed, or a \\ has nothing after it; close the quote, or write \\\\ for a \\";

/// A parsed line.
#[derive(Debug)]
pub enum Line {
    Nothing,
    Exit,
    /// Shows what the session has spent so far.
    Cost,
    /// Shows a text.
    Told(String),
    Command(Box<Typed>),
}

/// A command with its options and password.
#[derive(Debug)]
pub struct Typed {
    pub command: Command,
    pub password: Option<Zeroizing<String>>,
    /// The options of the line, and the names of the options that the line itself sets.
    pub global: Global,
    pub given: Vec<String>,
    /// The position of the password in the line, in bytes.
    password_at: Option<usize>,
}

/// A word of a line. Quotes and backslashes work as in a POSIX shell, but # begins no comment.
#[derive(Debug)]
struct Word<'a> {
    start: usize,
    raw: &'a str,
    /// The word without its quotes; `None` if a quote is not closed.
    text: Option<String>,
}

impl<'a> Word<'a> {
    fn new(start: usize, raw: &'a str) -> Self {
        let text = if raw.starts_with('#') {
            Some(raw.to_owned())
        } else {
            let unquoted = shlex::split(raw).filter(|words| words.len() == 1);
            unquoted.and_then(|words| words.into_iter().next())
        };
        Self { start, raw, text }
    }

    /// Returns the word as the rest of a line. Quotes in a sentence are part of it; quotes around
    /// all of it are not.
    fn as_rest(&self) -> Option<&str> {
        let quote = self.raw.chars().next().filter(|c| matches!(c, '"' | '\''));
        match quote {
            Some(quote) if self.raw.len() > 1 && self.raw.ends_with(quote) => self.text.as_deref(),
            Some(_) => self.text.as_deref().and(Some(self.raw)),
            None => Some(self.raw),
        }
    }
}

/// Splits a line, which neither begins nor ends with white space, at white space outside of quotes.
fn split(line: &str) -> Vec<Word<'_>> {
    let (mut quote, mut is_escaped) = (None, false);
    let pieces = line.split_inclusive(|c: char| {
        match quote {
            _ if is_escaped => is_escaped = false,
            Some('\'') => quote = quote.filter(|_| c != '\''),
            Some(_) if c == '"' => quote = None,
            _ if c == '\\' => is_escaped = true,
            Some(_) => {}
            None if matches!(c, '\'' | '"') => quote = Some(c),
            None => return c.is_whitespace(),
        }
        false
    });
    let (mut words, mut start) = (Vec::new(), 0);
    for piece in pieces {
        // All pieces but the last end with the white space at which the line is split.
        let raw = piece.strip_suffix(char::is_whitespace).unwrap_or(piece);
        if !raw.is_empty() {
            words.push(Word::new(start, raw));
        }
        start += piece.len();
    }
    words
}

/// Parses a line.
pub fn parse(line: &str) -> Result<Line, String> {
    let line = line.trim();
    let words = split(line);
    let Some((Word { raw: name, .. }, mut arguments)) = words.split_first() else {
        return Ok(Line::Nothing);
    };
    match (*name, arguments) {
        ("exit" | "quit", []) => return Ok(Line::Exit),
        ("cost", []) => return Ok(Line::Cost),
        ("help", []) => return Ok(Line::Told(help())),
        ("help", [command]) => return about(command.raw),
        _ => {}
    }
    if NOT_IN_SHELL.contains(name) {
        return Err(format!(
            "`{name}` is not for the shell; give it as `merpati {name}`"
        ));
    }
    let usage = usage(name)?;
    let mut head = vec![(*name).to_owned()];
    if let [first, others @ ..] = arguments
        && let Ok(session) = first.raw.parse::<SessionId>()
        && !matches!(*name, "auth" | "register")
    {
        head.push(format!("--session={session}"));
        arguments = others;
    }
    // Some arguments have another place in the command table than on the command line.
    take_source(name, &mut arguments, &mut head)?;
    take_position(name, &mut arguments, &mut head);
    read(line, &usage, &head, arguments)
}

/// Takes the source address, its port and, for `sendrealm`, the sender. The command table has them
/// in front.
fn take_source(
    name: &str,
    arguments: &mut &[Word<'_>],
    head: &mut Vec<String>,
) -> Result<(), String> {
    let least = match name {
        "sendrealm" => 6,
        "sendgrouprealm" => 5,
        "joingrouprealm" => 4,
        _ => return Ok(()),
    };
    let [address, port, others @ ..] = *arguments else {
        return Ok(());
    };
    let is_port = port.raw == "-" || port.raw.parse::<u16>().is_ok();
    if arguments.len() < least || !is_port {
        return Ok(());
    }
    match (address.raw, port.raw) {
        ("-", "-") => {}
        (_, "-") | ("-", _) => {
            return Err("give the source address and its port, or - for both".into());
        }
        (address, port) => head.push(format!("--src={address}:{port}")),
    }
    *arguments = match (name, others) {
        ("sendrealm", [realm, from, others @ ..]) => {
            head.push(format!("--from={}", from.raw));
            head.push(realm.raw.to_owned());
            others
        }
        _ => others,
    };
    Ok(())
}

/// Makes `inbox --after 12` of `inbox 12`, and so for the related commands.
fn take_position(name: &str, arguments: &mut &[Word<'_>], head: &mut Vec<String>) {
    let names = match name {
        "inbox" => 0,
        "inboxgroup" | "inboxrealm" => 1,
        "inboxgrouprealm" => 2,
        _ => return,
    };
    if let [before @ .., last] = *arguments
        && before.len() == names
        && last.raw.chars().all(|c| c.is_ascii_digit())
    {
        head.push(format!("--after={}", last.raw));
        *arguments = before;
    }
}

/// Parses the arguments of a command: its words, or some words and the rest of the line.
///
/// `head` is the command and what was taken from the line already.
fn read(line: &str, usage: &str, head: &[String], arguments: &[Word<'_>]) -> Result<Line, String> {
    let rest = WITH_REST
        .iter()
        .find(|(known, _)| head.first().is_some_and(|name| name == known));
    // Arguments that were taken from the front count among the words before the rest.
    let before = head.iter().skip(1).filter(|word| !word.starts_with("--"));
    let least = rest.map_or(usize::MAX, |(_, count)| {
        count.saturating_sub(before.count())
    });
    let text = |(at, word): (usize, &Word<'_>)| {
        if at < least {
            word.text.clone()
        } else {
            word.as_rest().map(ToOwned::to_owned)
        }
    };
    let whole: Option<Vec<String>> = arguments.iter().enumerate().map(text).collect();
    let error = match whole.map(|words| attempt(head, &words)) {
        Some(Ok(typed)) => return Ok(Line::Command(found(typed, arguments))),
        Some(Err(error)) => {
            // A word whose quote is not closed is shown as it was typed.
            let shown = |word: Word<'_>| word.text.unwrap_or_else(|| word.raw.to_owned());
            let typed: Vec<String> = split(line).into_iter().map(shown).collect();
            if let Some(hint) = about_message(error.kind(), &[], &typed) {
                return Err(hint);
            }
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    return Ok(Line::Told(error.render().to_string()));
                }
                // The line has too many words, perhaps because the last of them are one argument.
                ErrorKind::UnknownArgument if arguments.len() > least => None,
                _ => Some(error),
            }
        }
        None => None,
    };
    if let Some(error) = error {
        return Err(explained(usage, &error));
    }
    if rest.is_none() {
        return Err(OPEN_QUOTE.into());
    }
    let dashes = arguments.iter().position(|word| word.raw == "--");
    let counts = dashes.map(|at| at + 1).into_iter();
    let mut first = None;
    for count in counts.chain(least..arguments.len().min(WORDS_BEFORE_REST_MAX)) {
        let Some((before, [after, ..])) = arguments.split_at_checked(count) else {
            continue;
        };
        let words: Option<Vec<String>> = before.iter().map(|word| word.text.clone()).collect();
        let (Some(mut words), Some(rest)) = (words, line.get(after.start..)) else {
            continue;
        };
        words.push(rest.trim_end().into());
        match attempt(head, &words) {
            Ok(mut typed) => {
                typed.password_at = typed.password.as_ref().map(|_| after.start);
                return Ok(Line::Command(Box::new(typed)));
            }
            Err(error) => first = first.or(Some(error)),
        }
    }
    match first {
        Some(error) => Err(explained(usage, &error)),
        None => Err(OPEN_QUOTE.into()),
    }
}

/// Records the position of the password in the line.
fn found(mut typed: Typed, arguments: &[Word<'_>]) -> Box<Typed> {
    if let Some(password) = &typed.password {
        let is_it = |word: &&Word<'_>| word.as_rest() == Some(password.as_str());
        // If the password is not found, the whole line counts as password.
        let word = arguments.iter().rev().find(is_it);
        typed.password_at = Some(word.map_or(0, |word| word.start));
    }
    Box::new(typed)
}

/// Parses words by the definition of the command line.
fn attempt(head: &[String], arguments: &[String]) -> Result<Typed, clap::Error> {
    let all = ["merpati".to_owned()]
        .into_iter()
        .chain(head.iter().cloned())
        .chain(arguments.iter().cloned());
    let matches = with_definition(|parser| parser.try_get_matches_from_mut(all))?;
    let password = matches.subcommand().and_then(|(_, matches)| {
        let password = matches.try_get_one::<String>(PASSWORD).ok()??;
        Some(Zeroizing::new(password.clone()))
    });
    let given = given(&matches);
    let Cli { global, command } = Cli::from_arg_matches(&matches)?;
    Ok(Typed {
        command,
        password,
        global,
        given,
        password_at: None,
    })
}

/// Returns the names of the options of all commands that are given.
fn given(matches: &ArgMatches) -> Vec<String> {
    let is_given =
        |name: &&clap::Id| matches.value_source(name.as_str()) == Some(ValueSource::CommandLine);
    let names = matches.ids().filter(is_given);
    names.map(|name| name.as_str().to_owned()).collect()
}

fn with_definition<T>(read: impl FnOnce(&mut clap::Command) -> T) -> T {
    thread_local! {
        /// It is made once, because to describe all arguments takes longer than the rest of parsing
        /// a line.
        static DEFINITION: RefCell<clap::Command> = RefCell::new(definition());
    }
    DEFINITION.with_borrow_mut(read)
}

/// Returns the definition of the command line, with the passwords that may be typed in the shell.
fn definition() -> clap::Command {
    let password = || {
        Arg::new(PASSWORD)
            .value_name("PASSWORD")
            .help("The password; asked for where it is left out")
            .allow_hyphen_values(true)
            .conflicts_with_all(["password_file", "password_stdin"])
    };
    // The shell has a `help` of its own.
    let definition = args::definition().disable_help_subcommand(true);
    definition.mut_subcommands(|command| {
        if WITH_PASSWORD.contains(&command.get_name()) {
            command.arg(password())
        } else {
            command
        }
    })
}

/// Returns the syntax of a command.
fn usage(name: &str) -> Result<String, String> {
    with_definition(|definition| definition.find_subcommand(name).map(written))
        .ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> String {
    format!("there is no command {name:?}; `help` lists them")
}

fn written(command: &clap::Command) -> String {
    let positionals = command.get_positionals().map(|argument| {
        let names = argument.get_value_names().unwrap_or_default();
        let name = names.first();
        let name = name
            .map_or(argument.get_id().as_str(), |name| name)
            .to_lowercase();
        if argument.is_required_set() {
            format!("<{name}>")
        } else {
            format!("[{name}]")
        }
    });
    let words: Vec<String> = [command.get_name().to_owned()]
        .into_iter()
        .chain(positionals)
        .collect();
    words.join(" ")
}

/// Returns the message of clap as one sentence, and `usage`, the syntax of the command.
fn explained(usage: &str, error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let lines = rendered.trim_start_matches("error: ").lines();
    let what: Vec<&str> = lines
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    format!("{}\nit is written: {usage}", what.join(" "))
}

/// Returns the names of the commands.
pub fn names() -> Vec<String> {
    let own = ONLY_IN_SHELL
        .iter()
        .filter_map(|(usage, _)| usage.split(' ').next());
    let mut names: Vec<String> = with_definition(|definition| {
        let names = definition.get_subcommands().map(clap::Command::get_name);
        let names = names.filter(|name| !NOT_IN_SHELL.contains(name));
        names.map(ToOwned::to_owned).collect()
    });
    names.extend(own.map(ToOwned::to_owned));
    names
}

/// Returns a list of all commands, with their syntax and a short description.
fn help() -> String {
    let mut rows: Vec<(String, String)> = with_definition(|definition| {
        let commands = definition.get_subcommands();
        let commands = commands.filter(|command| !NOT_IN_SHELL.contains(&command.get_name()));
        // The first clause is enough here; `help <command>` shows the rest.
        let about = |command: &clap::Command| {
            let about = command.get_about()?.to_string();
            Some(about.split([':', ';', ',']).next()?.to_owned())
        };
        commands
            .map(|command| (written(command), about(command).unwrap_or_default()))
            .collect()
    });
    let own = ONLY_IN_SHELL.iter();
    rows.extend(own.map(|(usage, about)| ((*usage).to_owned(), (*about).to_owned())));
    let row = |(usage, about): (String, String)| match usage.len() {
        0..28 => format!("  {usage:<28}{about}\n"),
        _ => format!("  {usage}\n  {:28}{about}\n", ""),
    };
    let rows: String = rows.into_iter().map(row).collect();
    rows + "A message is the rest of the line and needs no quotes. `help send` tells the\n\
            options of `send`; they are those of the command line."
}

/// Returns the help of one command, without the options that every command has.
fn about(name: &str) -> Result<Line, String> {
    let text = with_definition(|definition| {
        let command = definition.find_subcommand(name)?.clone();
        let mut command = command.mut_args(|argument| {
            let is_hidden = argument.is_global_set() || argument.is_hide_set();
            argument.hide(is_hidden)
        });
        Some(command.render_help().to_string())
    });
    let text = text.ok_or_else(|| unknown(name))?;
    Ok(Line::Told(format!(
        "{}\n\n`merpati --help` tells the options that every command takes.",
        text.trim_end()
    )))
}

/// True if the line may contain a password.
fn has_password(line: &str) -> bool {
    let names = WITH_PASSWORD.iter().chain(&["passwd"]);
    names.into_iter().any(|name| line.starts_with(name))
}

/// Returns the line without its password, for the history.
pub fn for_history(line: &str) -> String {
    let line = line.trim();
    match parse(line) {
        Ok(Line::Command(typed)) => {
            let end = typed.password_at.unwrap_or(line.len());
            line.get(..end).unwrap_or_default().trim_end().to_owned()
        }
        // A line that cannot be parsed may have a password anywhere.
        Err(_) if has_password(line) => String::new(),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
