//! Output: text for people on a terminal, or one JSON object a line for programs.

use std::{
    fmt,
    io::{self, IsTerminal, Write as _},
};

use merpati::{
    client::{CallError, Effect, End, Notice, Receipt},
    wire::{Account, Answer, DeviceSession, ErrorCode, Refusal},
};
use serde_json::{Value, json};

use super::realm_at::RealmAt;

/// The format of the results.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub json: bool,
}

/// An error that ends a command, with its exit code.
#[derive(Debug)]
pub struct Failure {
    /// The name of the error, for scripts.
    pub error: &'static str,
    /// The message for people.
    pub message: String,
    /// A further field of the JSON object, for scripts.
    pub detail: Option<(&'static str, u64)>,
    /// With [`KEPT_OR_UNKNOWN`]: `kept` or `unknown`.
    pub state: Option<&'static str>,
    /// The number of the command's entry in the outbox.
    pub id: Option<u64>,
    /// The line of a script that failed.
    pub line: Option<u64>,
    pub code: u8,
}

/// The version of the JSON output, which `docs/json.md` describes.
const SCHEMA: u64 = 1;

/// Exit code: the realm refused the command.
pub const REFUSED: u8 = 1;
/// Exit code: wrong usage.
pub const USAGE: u8 = 2;
/// Exit code: the command had no effect and is not kept.
pub const NOT_DONE: u8 = 3;
/// Exit code: the command is kept, or its outcome is unknown. The state tells which.
pub const KEPT_OR_UNKNOWN: u8 = 4;
/// Exit code: an error on this machine.
pub const LOCAL: u8 = 5;
/// Exit code: the reader of standard output has gone. It is that of a program that SIGPIPE ends
/// (128 + 13).
pub const READER_GONE: u8 = 141;

/// Exit code: Ctrl-C ended the command. It is that of a program that SIGINT ends (128 + 2).
const INTERRUPTED: u8 = 130;

impl Failure {
    /// Returns a failure with an exit code.
    pub fn new(error: &'static str, message: impl Into<String>, code: u8) -> Self {
        Self {
            error,
            message: message.into(),
            detail: None,
            state: None,
            id: None,
            line: None,
            code,
        }
    }

    /// Returns the failure of a command that Ctrl-C ended.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self::new("interrupted", message.into(), INTERRUPTED)
    }

    /// Returns the failure for wrong usage.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new("usage", message.into(), USAGE)
    }

    /// Returns the failure as one of a line of a script.
    pub fn of_line(mut self, number: u64) -> Self {
        self.message = format!(
            "line {number}: {}; nothing after that line was executed",
            self.message.trim_end_matches('.')
        );
        self.line = Some(number);
        self
    }

    /// Returns the failure with the options `typed`, which named the profile, in the commands that
    /// its message suggests. A user who types them then reaches the same profile.
    pub fn for_profile(mut self, typed: &str) -> Self {
        let named = format!("`merpati{typed} outbox");
        self.message = self.message.replace("`merpati outbox", &named);
        self
    }

    /// Returns the failure when the reader of standard output has gone. No message is printed for
    /// it, because nobody would read it.
    pub fn reader_gone() -> Self {
        Self::new(
            "reader-gone",
            "the reader of the output has gone",
            READER_GONE,
        )
    }

    /// Returns a function that makes a failure of a system error. `what` names what this machine
    /// cannot do, as in "write to standard output".
    pub fn cannot<'a>(what: impl fmt::Display + 'a) -> impl Fn(io::Error) -> Self + 'a {
        move |error: io::Error| match error.kind() {
            io::ErrorKind::BrokenPipe => Self::reader_gone(),
            _ => Self::local(format!("cannot {what}: {error}")),
        }
    }

    /// Returns the failure of a command that has taken effect and must not be repeated: only its
    /// output could not be written.
    fn after_success(mut self, text: &str) -> Self {
        if self.code == LOCAL {
            let done = if text.is_empty() { "done" } else { text };
            self.message = format!(
                "{done}; do not repeat it, only its output is missing: {}",
                self.message
            );
        }
        self
    }

    /// Returns the failure for an error on this machine.
    #[expect(clippy::needless_pass_by_value, reason = "so that it fits `map_err`")]
    pub fn local(error: impl ToString) -> Self {
        Self::new("local", error.to_string(), LOCAL)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let (name, code) = match &error {
            CallError::Refused(refusal) => (refusal.code.name(), REFUSED),
            CallError::NotLoggedIn => ("no-session", REFUSED),
            CallError::Misunderstood { may_be_done, .. } => {
                let code = if *may_be_done {
                    KEPT_OR_UNKNOWN
                } else {
                    REFUSED
                };
                ("misunderstood", code)
            }
            CallError::NoKey => ("no-key", USAGE),
            CallError::NoServer => ("no-server", USAGE),
            CallError::Unreachable { .. }
            | CallError::Resolve { .. }
            | CallError::Behind { .. }
            | CallError::NotDone { .. } => ("unreachable", NOT_DONE),
            CallError::NoAnswer { .. } => ("no-answer", NOT_DONE),
            CallError::AnotherUser => ("another-user", NOT_DONE),
            CallError::KeyChanged { .. } => ("key-changed", NOT_DONE),
            CallError::OtherVersion(_) => ("other-version", NOT_DONE),
            CallError::Cancelled => ("cancelled", NOT_DONE),
            CallError::Busy(refusal) => (refusal.code.name(), KEPT_OR_UNKNOWN),
            CallError::Kept { is_unknown, .. } => (
                if *is_unknown { "unknown" } else { "kept" },
                KEPT_OR_UNKNOWN,
            ),
            CallError::OutcomeUnknown { .. } => ("unknown", KEPT_OR_UNKNOWN),
            CallError::TokenReused => ("id-reused", USAGE),
            CallError::TokensFull | CallError::OutboxFull { .. } => ("outbox-full", LOCAL),
            CallError::NotWritten(_) | CallError::Profile(_) | CallError::System(_) => {
                ("local", LOCAL)
            }
            // An error of a later version of the library.
            other => match other.effect() {
                Effect::None => ("not-done", NOT_DONE),
                Effect::Kept(_) => ("kept", KEPT_OR_UNKNOWN),
                Effect::Unknown => ("unknown", KEPT_OR_UNKNOWN),
            },
        };
        let detail = match &error {
            CallError::Refused(refusal) | CallError::Busy(refusal) => detail(*refusal),
            _ => None,
        };
        let (state, id) = match &error {
            CallError::Kept { id, is_unknown, .. } => (
                Some(if *is_unknown { "unknown" } else { "kept" }),
                Some(id.0),
            ),
            CallError::OutcomeUnknown { .. }
            | CallError::Busy(_)
            | CallError::Misunderstood {
                may_be_done: true, ..
            } => (Some("unknown"), None),
            _ => (None, None),
        };
        Self {
            error: name,
            message: error.to_string(),
            detail,
            state,
            id,
            line: None,
            code,
        }
    }
}

impl From<merpati::client::ProfileError> for Failure {
    fn from(error: merpati::client::ProfileError) -> Self {
        match error {
            merpati::client::ProfileError::Name(..) => Self::usage(error.to_string()),
            error => Self::local(error),
        }
    }
}

/// For sockets, threads, signals and randomness. Where a file or a stream is read or written,
/// [`Failure::cannot`] names it.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::reader_gone(),
            _ => Self::local(format!(
                "the system refused a socket, a thread, a signal or randomness: {error}"
            )),
        }
    }
}

/// Returns the outcome of a command, for people.
pub fn ended(end: &End) -> String {
    match end {
        End::Done(Answer::Sent(sent)) => sent.name().into(),
        End::Done(Answer::Account(account)) => format!(
            "it may have been done or not; you are logged in as {}",
            account.username
        ),
        End::Done(_) => "done".into(),
        End::Refused(refusal) => format!("refused. {refusal}"),
        End::Cancelled => "not done; it was cancelled".into(),
        End::Expired => "not done; it was not delivered within its lifetime".into(),
        End::Damaged => {
            "not done; its command cannot be read from the profile, so repeat it".into()
        }
        End::Unknown => {
            "it may have been done or not, and the realm cannot tell: check before you repeat it"
                .into()
        }
    }
}

fn detail(refusal: Refusal) -> Option<(&'static str, u64)> {
    let name = match refusal.code {
        _ if refusal.is_transient() => "retry_after_ms",
        ErrorCode::TooLarge => "limit",
        // The highest operation number is internal to the client.
        _ => return None,
    };
    refusal.detail.map(|detail| (name, detail))
}

impl Output {
    /// Prints the state of a message.
    pub fn receipt(self, receipt: Receipt) -> Result<(), Failure> {
        let object = json!({ "state": receipt.name(), "id": receipt.id.0 });
        self.result(&object, receipt.name())
    }

    /// Prints a result: `object` for programs, `text` for people.
    pub fn result(self, object: &Value, text: &str) -> Result<(), Failure> {
        let printed = if self.json {
            let mut whole = json!({ "ok": true });
            if let (Some(whole), Some(object)) = (whole.as_object_mut(), object.as_object()) {
                whole.extend(object.clone());
            }
            print_line(&whole.to_string())
        } else if text.is_empty() {
            Ok(())
        } else {
            print_line(text)
        };
        printed.map_err(|failure| failure.after_success(text))
    }

    /// Prints one item of a list: `object` for programs, `text` for people.
    pub fn item(self, object: &Value, text: &str) -> Result<(), Failure> {
        if self.json {
            print_line(&object.to_string())
        } else {
            print_line(text)
        }
    }

    /// Prints a failure.
    pub fn failure(self, failure: &Failure) {
        if failure.code == READER_GONE {
            return;
        }
        if self.json {
            let mut object = json!({
                "ok": false,
                "error": failure.error,
                "message": failure.message,
            });
            if let Some((name, value)) = failure.detail {
                object[name] = value.into();
            }
            if let Some(state) = failure.state {
                object["state"] = state.into();
            }
            if let Some(id) = failure.id {
                object["id"] = id.into();
            }
            if let Some(line) = failure.line {
                object["line"] = line.into();
            }
            let _ = print_line(&object.to_string());
        } else {
            Self::aside(&shown(&failure.message));
        }
    }

    /// Prints a remark for people to standard error, apart from the result.
    pub fn aside(text: &str) {
        let text = format!("merpati: {text}");
        let text = match columns(&io::stderr()) {
            Some(columns) => textwrap::fill(&text, columns),
            None => text,
        };
        // A user who has closed standard error does not want the remark.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Prints a notice for people, apart from the result.
    pub fn notice(notice: &Notice) {
        let text = match notice {
            Notice::Trusted(key) => format!(
                "accepted the realm's key on first use; its fingerprint is {}; compare it with what \
                 the realm's operator sees",
                key.fingerprint()
            ),
            Notice::KeyFollowed { from, to } => format!(
                "the realm has a new key, for which the old one ({}) vouches; its fingerprint is {}",
                from.fingerprint(),
                to.fingerprint()
            ),
            Notice::Finished { id, what, end } => {
                format!("entry {} of the outbox, `{what}`: {}", id.0, ended(end))
            }
            Notice::AskedToWait(refusal) => {
                format!("{refusal} The command is sent again then; Ctrl-C stops the wait")
            }
            Notice::Damaged { what } => format!(
                "{what} cannot be read from the profile, and is passed over: it is damaged, or was \
                 written by a newer merpati"
            ),
            // Later versions of the library may notice more.
            _ => return,
        };
        Self::aside(&text);
    }

    /// Prints the version of the program.
    pub fn version(self) -> Result<(), Failure> {
        let version = env!("CARGO_PKG_VERSION");
        let object = json!({ "version": version, "schema": SCHEMA });
        let text = format!("merpati {version}, JSON schema {SCHEMA}");
        self.result(&object, &text)
    }

    /// Prints the account and its realm.
    pub fn account(self, account: &Account, realm: RealmAt) -> Result<(), Failure> {
        let operator = if account.operator { ", operator" } else { "" };
        let (name, country) = (shown(&account.full_name), shown(&account.country));
        let text = format!("{} ({name}, {country}{operator}){realm}", account.username);
        let mut object = realm.object;
        object["username"] = account.username.as_str().into();
        object["name"] = account.full_name.as_str().into();
        object["country"] = account.country.as_str().into();
        object["operator"] = account.operator.into();
        self.result(&object, &text)
    }

    /// Prints a session.
    pub fn session(self, session: &DeviceSession) -> Result<(), Failure> {
        let time =
            |seconds: u32| jiff::Timestamp::from_second(seconds.into()).map_err(Failure::local);
        let (created, used) = (time(session.created)?, time(session.used)?);
        if self.json {
            let object = json!({
                "handle": session.handle.as_str(),
                "created": created.to_string(),
                "used": used.to_string(),
                "current": session.current,
                "device": session.device,
            });
            return print_line(&object.to_string());
        }
        let zone = jiff::tz::TimeZone::system();
        let (created, used) = (
            created.to_zoned_datetime(zone.clone()),
            used.to_zoned_datetime(zone),
        );
        print_line(&format!(
            "{}  opened {}  used {}{}{}",
            session.handle,
            created.strftime("%Y-%m-%d %H:%M"),
            used.strftime("%Y-%m-%d %H:%M"),
            if session.device { "" } else { "  (no device)" },
            if session.current { "  (this one)" } else { "" },
        ))
    }
}

/// What this machine cannot do, for [`Failure::cannot`].
pub const WRITE_OUTPUT: &str = "write to standard output";
/// What this machine cannot do, for [`Failure::cannot`].
pub const READ_INPUT: &str = "read standard input";

/// Prints a line to standard output.
pub fn print_line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(Failure::cannot(WRITE_OUTPUT))
}

/// Returns the number of columns if the stream is a terminal.
pub fn columns(stream: &impl IsTerminal) -> Option<usize> {
    let size = terminal_size::terminal_size().filter(|_| stream.is_terminal());
    size.map(|(terminal_size::Width(columns), _)| columns.into())
}

/// Makes text from others safe for a terminal. Control characters, with which a message could move
/// the cursor or do worse, are replaced. Line ends and tabs stay.
pub fn shown(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            // Bidirectional overrides change how text reads.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WIRE-14: if the answer to a command that changes something cannot be understood, the outcome
    /// of the command is unknown.
    #[test]
    fn answer_misunderstood_leaves_outcome_of_change_unknown() {
        for (may_be_done, code, state) in [
            (true, KEPT_OR_UNKNOWN, Some("unknown")),
            (false, REFUSED, None),
        ] {
            let failure = Failure::from(CallError::Misunderstood {
                what: "a page was not asked for".into(),
                may_be_done,
            });
            assert_eq!(failure.error, "misunderstood");
            assert_eq!((failure.code, failure.state), (code, state));
            assert_eq!(failure.message.contains("may have been done"), may_be_done);
        }
    }

    #[test]
    fn cli_terminal_control_characters_in_texts_are_replaced() {
        assert_eq!(
            shown("a\x1b[2Jb\nc\td\u{202e}e\r"),
            "a\u{fffd}[2Jb\nc\td\u{fffd}e\u{fffd}"
        );
    }
}
