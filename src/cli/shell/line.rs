//! One line of the shell: the command table's own syntax, with or without the session id, and with or
//! without the password, which is asked for when it is left out.

use std::cell::RefCell;

use clap::{CommandFactory as _, FromArgMatches as _};
use merpati::wire::{GroupName, Handle, Mailbox, RealmId, SessionId, Username};

use crate::args::{Cli, Command, Inbox};

/// The commands, as they are typed, and what they do.
pub const COMMANDS: &[(&str, &str, &str)] = &[
    ("auth", "<username> [password]", "log in"),
    ("logout", "[sessionid]", "log out"),
    (
        "register",
        "<name> <country> <username> [password]",
        "make an account, and log in",
    ),
    (
        "send",
        "[sessionid] <username_to> <message>",
        "write to a user",
    ),
    ("inbox", "[sessionid] [after]", "read your private messages"),
    (
        "addgroup",
        "[sessionid] <groupname> [password]",
        "make a group",
    ),
    (
        "joingroup",
        "[sessionid] <groupname> [password]",
        "join a group",
    ),
    (
        "sendgroup",
        "[sessionid] <groupname> <message>",
        "write to a group",
    ),
    (
        "inboxgroup",
        "[sessionid] <groupname> [after]",
        "read a group's messages",
    ),
    ("leavegroup", "[sessionid] <groupname>", "leave a group"),
    ("groups", "[sessionid]", "list the groups you are in"),
    (
        "members",
        "[sessionid] <groupname>",
        "list a group's members",
    ),
    (
        "kick",
        "[sessionid] <groupname> <username>",
        "remove a member from a group",
    ),
    (
        "ban",
        "[sessionid] <groupname> <username>",
        "keep a user out of a group",
    ),
    (
        "unban",
        "[sessionid] <groupname> <username>",
        "let a banned user join again",
    ),
    (
        "role",
        "[sessionid] <groupname> <username> <role>",
        "member, moderator or owner",
    ),
    (
        "grouppasswd",
        "[sessionid] <groupname>",
        "change a group's password",
    ),
    (
        "delgroup",
        "[sessionid] <groupname>",
        "delete a group and its messages",
    ),
    (
        "sendrealm",
        "[sessionid] [src_addr src_port] <realm_id> [from] <username_to> <message>",
        "write to a user of another realm",
    ),
    (
        "inboxrealm",
        "[sessionid] <realm_id>",
        "read your private messages from a realm",
    ),
    (
        "joingrouprealm",
        "[sessionid] <realm_id> <groupname>",
        "join a group of another realm",
    ),
    (
        "sendgrouprealm",
        "[sessionid] [src_addr src_port] <realm_id> <groupname> <message>",
        "write to a group of another realm",
    ),
    (
        "inboxgrouprealm",
        "[sessionid] <realm_id> <groupname>",
        "read a group of another realm",
    ),
    (
        "leavegrouprealm",
        "[sessionid] <realm_id> <groupname>",
        "leave a group of another realm",
    ),
    ("claim", "[sessionid]", "become the realm's operator"),
    (
        "addrealm",
        "[sessionid] <realm_id> <address> <port> [src_address src_port]",
        "peer with a realm",
    ),
    ("removerealm", "[sessionid] <realm_id>", "end a peering"),
    ("realms", "[sessionid]", "list the peers"),
    (
        "watch",
        "[sessionid]",
        "show messages as they come, until Ctrl-C",
    ),
    ("unread", "[sessionid]", "tell how much you have not read"),
    ("whoami", "[sessionid]", "tell who you are"),
    ("cost", "", "tell what this session has spent so far"),
    ("sessions", "[sessionid]", "list your sessions"),
    ("revoke", "[sessionid] <handle>", "end one of your sessions"),
    ("passwd", "[sessionid]", "change your password"),
    ("help", "", "show this"),
    ("exit", "", "leave; Ctrl-D does too"),
];

/// The commands that carry a password.
const WITH_PASSWORD: &[&str] = &["auth", "register", "addgroup", "joingroup"];

/// Commands that are written in the shell as on the command line.
const AS_ON_THE_COMMAND_LINE: &[&str] = &[
    "kick",
    "ban",
    "unban",
    "role",
    "grouppasswd",
    "delgroup",
    "claim",
    "addrealm",
    "removerealm",
    "realms",
    "inboxrealm",
    "joingrouprealm",
    "inboxgrouprealm",
    "leavegrouprealm",
];

/// What a line asks for.
#[derive(Debug, PartialEq)]
pub enum Line {
    Nothing,
    Auth(Username, Option<String>),
    Logout,
    Register {
        name: String,
        country: String,
        username: Username,
        password: Option<String>,
    },
    Send(Username, String),
    Inbox(Mailbox, Option<u64>),
    AddGroup(GroupName, Option<String>),
    JoinGroup(GroupName, Option<String>),
    SendGroup(GroupName, String),
    LeaveGroup(GroupName),
    Groups,
    Members(GroupName),
    SendRealm {
        source: Option<(String, String)>,
        from: Option<Username>,
        to: (RealmId, Username),
        message: String,
    },
    SendGroupRealm {
        source: Option<(String, String)>,
        to: (RealmId, GroupName),
        message: String,
    },
    /// One of [`AS_ON_THE_COMMAND_LINE`].
    Other(Box<Command>),
    Watch,
    Unread,
    Whoami,
    Cost,
    Sessions,
    Revoke(Handle),
    Passwd,
    Help,
    Exit,
}

impl Line {
    /// What `inbox` is asked.
    pub fn inbox(after: Option<u64>) -> Inbox {
        Inbox {
            after,
            ..Inbox::default()
        }
    }
}

/// Splits `text` into words; quotes hold words together. At most `max` words: the last of so many is
/// the whole rest, so that a message needs no quotes.
fn words(text: &str, max: usize) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if words.len() + 1 == max && !rest.starts_with(['"', '\'']) {
            words.push(rest.to_string());
            break;
        }
        let (word, after) = match rest.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let inner = rest.get(1..).unwrap_or_default();
                let (word, after) = inner
                    .split_once(quote)
                    .ok_or_else(|| format!("the {quote} is not closed"))?;
                if words.len() + 1 == max && !after.trim().is_empty() {
                    // A message that only begins with a quoted word.
                    (rest, "")
                } else {
                    (word, after)
                }
            }
            _ => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_string());
        rest = after.trim_start();
    }
    Ok(words)
}

/// Reads a line: the session it names, and what it asks for.
pub fn parse(text: &str) -> Result<(Option<SessionId>, Line), String> {
    let text = text.trim();
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let (session, rest) = match name {
        "auth" | "register" => (None, rest),
        _ => take_session(rest),
    };
    if name == "sendrealm" {
        return Ok((session, sendrealm(rest)?));
    }
    if name == "sendgrouprealm" {
        return Ok((session, sendgrouprealm(rest)?));
    }
    let max = match name {
        "register" => 4,
        "auth" | "send" | "addgroup" | "joingroup" | "sendgroup" => 2,
        _ => usize::MAX,
    };
    let words = words(rest, max)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let line = match (name, words.as_slice()) {
        ("", _) => Line::Nothing,
        ("auth", [username]) => Line::Auth(user(username)?, None),
        ("auth", [username, password]) => Line::Auth(user(username)?, Some((*password).into())),
        ("logout", []) => Line::Logout,
        ("register", [name, country, username, password @ ..]) => Line::Register {
            name: (*name).into(),
            country: (*country).into(),
            username: user(username)?,
            password: password.first().map(|password| (*password).into()),
        },
        ("send", [to, message]) => Line::Send(user(to)?, (*message).into()),
        ("inbox", []) => Line::Inbox(Mailbox::Private, None),
        ("inbox", [after]) => Line::Inbox(Mailbox::Private, Some(position(after)?)),
        ("inboxgroup", [name]) => Line::Inbox(Mailbox::Group(group(name)?), None),
        ("inboxgroup", [name, after]) => {
            Line::Inbox(Mailbox::Group(group(name)?), Some(position(after)?))
        }
        ("addgroup", [name]) => Line::AddGroup(group(name)?, None),
        ("addgroup", [name, password]) => Line::AddGroup(group(name)?, Some((*password).into())),
        ("joingroup", [name]) => Line::JoinGroup(group(name)?, None),
        ("joingroup", [name, password]) => Line::JoinGroup(group(name)?, Some((*password).into())),
        ("sendgroup", [name, message]) => Line::SendGroup(group(name)?, (*message).into()),
        ("leavegroup", [name]) => Line::LeaveGroup(group(name)?),
        ("groups", []) => Line::Groups,
        ("members", [name]) => Line::Members(group(name)?),
        (name, arguments) if AS_ON_THE_COMMAND_LINE.contains(&name) => {
            let all = ["merpati", name]
                .into_iter()
                .chain(arguments.iter().copied());
            Line::Other(Box::new(
                on_the_command_line(all).ok_or_else(|| usage(name))?,
            ))
        }
        ("watch", []) => Line::Watch,
        ("unread", []) => Line::Unread,
        ("whoami", []) => Line::Whoami,
        ("cost", []) => Line::Cost,
        ("sessions", []) => Line::Sessions,
        ("revoke", [handle]) => Line::Revoke(handle.parse().map_err(|error| {
            format!("{handle:?} is not a handle, as `sessions` lists them: {error}")
        })?),
        ("passwd", []) => Line::Passwd,
        ("help", _) => Line::Help,
        ("exit" | "quit", []) => Line::Exit,
        _ => return Err(usage(name)),
    };
    Ok((session, line))
}

/// What `arguments` ask for if they are given to the program itself.
fn on_the_command_line<'a>(arguments: impl Iterator<Item = &'a str>) -> Option<Command> {
    thread_local! {
        /// Made once: to describe all arguments anew for each line takes longer than anything else in it.
        static PARSER: RefCell<clap::Command> = RefCell::new(Cli::command());
    }
    let matches = PARSER.with_borrow_mut(|parser| parser.try_get_matches_from_mut(arguments));
    Some(Cli::from_arg_matches(&matches.ok()?).ok()?.command)
}

fn user(text: &str) -> Result<Username, String> {
    text.parse()
        .map_err(|error| format!("{text:?} is not a username: {error}"))
}

/// `sendrealm` as the command table has it, or without what can be filled in.
fn sendrealm(rest: &str) -> Result<Line, String> {
    let whole = words(rest, 6)?;
    let whole: Vec<&str> = whole.iter().map(String::as_str).collect();
    if let [address, port, realm, from, to, message] = whole.as_slice()
        && (*port == "-" || port.parse::<u16>().is_ok())
    {
        return Ok(Line::SendRealm {
            source: Some(((*address).into(), (*port).into())),
            from: Some(user(from)?),
            to: (self::realm(realm)?, user(to)?),
            message: (*message).into(),
        });
    }
    let short = words(rest, 3)?;
    match short.as_slice() {
        [realm, to, message] => Ok(Line::SendRealm {
            source: None,
            from: None,
            to: (self::realm(realm)?, user(to)?),
            message: message.clone(),
        }),
        _ => Err(usage("sendrealm")),
    }
}

/// `sendgrouprealm` as the command table has it, or without what can be filled in.
fn sendgrouprealm(rest: &str) -> Result<Line, String> {
    let whole = words(rest, 5)?;
    let whole: Vec<&str> = whole.iter().map(String::as_str).collect();
    if let [address, port, realm, name, message] = whole.as_slice()
        && (*port == "-" || port.parse::<u16>().is_ok())
    {
        return Ok(Line::SendGroupRealm {
            source: Some(((*address).into(), (*port).into())),
            to: (self::realm(realm)?, group(name)?),
            message: (*message).into(),
        });
    }
    let short = words(rest, 3)?;
    match short.as_slice() {
        [realm, name, message] => Ok(Line::SendGroupRealm {
            source: None,
            to: (self::realm(realm)?, group(name)?),
            message: message.clone(),
        }),
        _ => Err(usage("sendgrouprealm")),
    }
}

fn realm(text: &str) -> Result<RealmId, String> {
    text.parse()
        .map_err(|error| format!("{text:?} is not a realm's name: {error}"))
}

fn group(text: &str) -> Result<GroupName, String> {
    text.parse()
        .map_err(|error| format!("{text:?} is not a group's name: {error}"))
}

fn position(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a position; write a whole number"))
}

/// A session id in front, as the command table has it.
fn take_session(text: &str) -> (Option<SessionId>, &str) {
    let text = text.trim_start();
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match first.parse() {
        Ok(id) => (Some(id), rest),
        Err(_) => (None, text),
    }
}

fn usage(name: &str) -> String {
    match COMMANDS.iter().find(|(known, ..)| *known == name) {
        Some((name, arguments, _)) => format!("it is written: {name} {arguments}"),
        None => format!("there is no command {name:?}; `help` lists them"),
    }
}

/// The line as the history may keep it: without its password.
pub fn for_history(text: &str) -> String {
    let text = text.trim();
    match parse(text) {
        Ok((_, Line::Auth(username, Some(_)))) => format!("auth {username}"),
        Ok((
            _,
            Line::Register {
                name,
                country,
                username,
                password: Some(_),
            },
        )) => format!("register \"{name}\" \"{country}\" {username}"),
        Ok((_, Line::AddGroup(name, Some(_)))) => format!("addgroup {name}"),
        Ok((_, Line::JoinGroup(name, Some(_)))) => format!("joingroup {name}"),
        // What cannot be understood may have a password anywhere.
        Err(_) if WITH_PASSWORD.iter().any(|name| text.starts_with(name)) => String::new(),
        _ => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        parse(text).unwrap().1
    }

    #[test]
    fn the_command_tables_syntax_holds_with_and_without_the_session() {
        let id = SessionId([7; 16]);
        for text in [
            "send bob hello  there",
            &format!("send {id} bob hello  there"),
        ] {
            let (session, line) = parse(text).unwrap();
            assert_eq!(
                line,
                Line::Send("bob".parse().unwrap(), "hello  there".into())
            );
            assert_eq!(session.is_some(), text.contains(&id.to_string()));
        }
        assert_eq!(
            parse(&format!("inbox {id}")).unwrap(),
            (Some(id), Line::Inbox(Mailbox::Private, None))
        );
        assert_eq!(line("inbox 12"), Line::Inbox(Mailbox::Private, Some(12)));
        assert_eq!(line("  "), Line::Nothing);
    }

    #[test]
    fn quotes_hold_words_together_and_a_message_needs_none() {
        assert_eq!(
            line("register \"Ann Example\" id ann correct horse"),
            Line::Register {
                name: "Ann Example".into(),
                country: "id".into(),
                username: "ann".parse().unwrap(),
                password: Some("correct horse".into()),
            }
        );
        let message = |text| match line(text) {
            Line::Send(_, message) => message,
            other => panic!("{other:?}"),
        };
        assert_eq!(message("send bob it's \"quoted\""), "it's \"quoted\"");
        assert_eq!(message("send bob \"all of it\""), "all of it");
        assert_eq!(message("send bob \"so\" he said"), "\"so\" he said");
        assert!(parse("register \"Ann").unwrap_err().contains("not closed"));
    }

    #[test]
    fn what_is_wrong_is_explained() {
        assert!(parse("sned bob hi").unwrap_err().contains("help"));
        assert!(parse("send bob").unwrap_err().contains("<message>"));
        assert!(parse("send b!b hi").unwrap_err().contains("username"));
        for text in [
            "sendrealm - - beta ann bob hi there",
            "sendrealm beta bob hi there",
        ] {
            let Line::SendRealm { to, message, .. } = line(text) else {
                panic!("{text}")
            };
            assert_eq!(
                (to.0.as_str(), to.1.as_str(), &*message),
                ("beta", "bob", "hi there")
            );
        }
        assert!(parse("kick cats").unwrap_err().contains("<username>"));
        assert!(parse("role cats bob king").unwrap_err().contains("<role>"));
        assert!(matches!(line("role cats bob owner"), Line::Other(_)));
        assert!(parse("inbox many").unwrap_err().contains("whole number"));
    }

    #[test]
    fn the_history_keeps_no_password() {
        for (text, kept) in [
            ("auth ann correct horse", "auth ann"),
            (
                "register \"A B\" id ann secret",
                "register \"A B\" \"id\" ann",
            ),
            ("register \"A B id ann secret", ""),
            ("auth a!n secret", ""),
            ("joingroup cats meow", "joingroup cats"),
            ("addgroup c!ts meow", ""),
            ("send bob hi", "send bob hi"),
            ("auth ann", "auth ann"),
        ] {
            assert_eq!(for_history(text), kept);
        }
    }
}
