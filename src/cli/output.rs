//! What is printed: for people on a terminal, one JSON object a line for programs.

use std::io::{self, Write as _};

use merpati::{
    client::{CallError, End, Notice},
    wire::{
        Account, Answer, CONTENT_NOTICE, CONTENT_TEXT, DeviceSession, Entry, ErrorCode, Refusal,
    },
};
use serde_json::{Value, json};

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub json: bool,
}

/// Something that ends a command, with its exit code.
#[derive(Debug)]
pub struct Failure {
    /// The name of the error, for scripts.
    pub error: &'static str,
    /// For people.
    pub message: String,
    /// What a script may need besides.
    pub detail: Option<(&'static str, u64)>,
    pub code: u8,
}

/// The realm refused.
pub const REFUSED: u8 = 1;
/// Wrong usage.
pub const USAGE: u8 = 2;
/// Not done and not kept, for certain.
pub const NOT_DONE: u8 = 3;
/// Kept, or not known: the state says which.
pub const KEPT_OR_UNKNOWN: u8 = 4;
/// Trouble on this machine.
pub const LOCAL: u8 = 5;

impl Failure {
    /// Wrong usage.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            error: "usage",
            message: message.into(),
            detail: None,
            code: USAGE,
        }
    }

    /// Trouble on this machine.
    #[expect(clippy::needless_pass_by_value, reason = "so that it fits `map_err`")]
    pub fn local(error: impl ToString) -> Self {
        Self {
            error: "local",
            message: error.to_string(),
            detail: None,
            code: LOCAL,
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let (name, code) = match &error {
            CallError::Refused(refusal) => (refusal.code.name(), REFUSED),
            CallError::NotLoggedIn => ("no-session", REFUSED),
            CallError::Misunderstood(_) => ("misunderstood", REFUSED),
            CallError::NoKey => ("no-key", USAGE),
            CallError::NoServer => ("no-server", USAGE),
            CallError::Unreachable { .. }
            | CallError::Resolve { .. }
            | CallError::Behind { .. } => ("unreachable", NOT_DONE),
            CallError::KeyChanged { .. } => ("key-changed", NOT_DONE),
            CallError::Cancelled => ("cancelled", NOT_DONE),
            CallError::Busy(refusal) => (refusal.code.name(), KEPT_OR_UNKNOWN),
            CallError::Kept { is_unknown, .. } => (
                if *is_unknown { "unknown" } else { "kept" },
                KEPT_OR_UNKNOWN,
            ),
            CallError::OutcomeUnknown { .. } => ("unknown", KEPT_OR_UNKNOWN),
            CallError::TokenReused => ("id-reused", USAGE),
            CallError::TokensFull | CallError::OutboxFull { .. } => ("outbox-full", LOCAL),
            CallError::Profile(_) | CallError::System(_) => ("local", LOCAL),
        };
        let detail = match &error {
            CallError::Refused(refusal) | CallError::Busy(refusal) => detail(*refusal),
            _ => None,
        };
        Self {
            error: name,
            message: error.to_string(),
            detail,
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

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::local(error)
    }
}

/// What became of a command, for people.
pub fn ended(end: &End) -> String {
    match end {
        End::Done(Answer::Sent(sent)) => sent.name().into(),
        End::Done(Answer::Account(account)) => format!("you are logged in as {}", account.username),
        End::Done(_) => "done".into(),
        End::Refused(refusal) => format!("refused. {refusal}"),
        End::Cancelled => "not done; it was taken back".into(),
        End::Expired => "not done; it could not be delivered in the time that it was worth".into(),
        End::Unknown => {
            "whether it was done is not known, and will not be: look before you repeat it".into()
        }
    }
}

fn detail(refusal: Refusal) -> Option<(&'static str, u64)> {
    let name = match refusal.code {
        _ if refusal.is_transient() => "retry_after_ms",
        ErrorCode::TooLarge => "limit",
        // The highest operation number is the client's business.
        _ => return None,
    };
    refusal.detail.map(|detail| (name, detail))
}

impl Output {
    /// Prints a result: `object` for programs, `text` for people.
    pub fn result(self, object: &Value, text: &str) -> Result<(), Failure> {
        if self.json {
            let mut whole = json!({ "ok": true });
            if let (Some(whole), Some(object)) = (whole.as_object_mut(), object.as_object()) {
                whole.extend(object.clone());
            }
            print_line(&whole.to_string())
        } else if text.is_empty() {
            Ok(())
        } else {
            print_line(text)
        }
    }

    /// Prints one thing of a list: `object` for programs, `text` for people.
    pub fn item(self, object: &Value, text: &str) -> Result<(), Failure> {
        if self.json {
            print_line(&object.to_string())
        } else {
            print_line(text)
        }
    }

    /// Prints what went wrong.
    pub fn failure(self, failure: &Failure) {
        if self.json {
            let mut object = json!({
                "ok": false,
                "error": failure.error,
                "message": failure.message,
            });
            if let Some((name, value)) = failure.detail {
                object[name] = value.into();
            }
            let _ = print_line(&object.to_string());
        } else {
            eprintln!("merpati: {}", shown(&failure.message));
        }
    }

    /// Tells a person something beside the result.
    pub fn aside(text: &str) {
        eprintln!("merpati: {text}");
    }

    /// Tells of what happened beside the answer.
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
            Notice::Finished { what, end, .. } => format!("`{what}` of before: {}", ended(end)),
            Notice::AskedToWait(refusal) => {
                format!("{refusal} It is tried again then; Ctrl-C stops it")
            }
        };
        Self::aside(&text);
    }

    /// Prints a message.
    pub fn entry(self, entry: &Entry) -> Result<(), Failure> {
        self.message(entry, None)
    }

    /// Prints a message of a group.
    pub fn entry_of(self, entry: &Entry, group: &str) -> Result<(), Failure> {
        self.message(entry, Some(group))
    }

    fn message(self, entry: &Entry, group: Option<&str>) -> Result<(), Failure> {
        let time = jiff::Timestamp::from_second(entry.time.into()).map_err(Failure::local)?;
        if self.json {
            let mut object = json!({
                "position": entry.position.0,
                "from": entry.from.user.as_str(),
                "realm": entry.from.realm.as_ref().map(merpati::wire::RealmId::as_str),
                "time": time.to_string(),
            });
            if let Some(group) = group {
                object["group"] = group.into();
            }
            match core::str::from_utf8(&entry.body) {
                Ok(text) if entry.content == CONTENT_TEXT => object["text"] = text.into(),
                Ok(text) if entry.content == CONTENT_NOTICE => {
                    object["text"] = text.into();
                    object["notice"] = true.into();
                }
                _ => {
                    object["content"] = entry.content.into();
                    object["base64"] = data_encoding::BASE64.encode(&entry.body).into();
                }
            }
            if let Some(fragment) = entry.fragment {
                object["offset"] = fragment.offset.into();
                object["total"] = fragment.total.into();
            }
            return print_line(&object.to_string());
        }
        let time = time
            .to_zoned_datetime(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S");
        let body = if matches!(entry.content, CONTENT_TEXT | CONTENT_NOTICE) {
            shown(&String::from_utf8_lossy(&entry.body)).replace('\n', "\n    ")
        } else {
            let len = entry.body.len();
            format!(
                "({len} bytes of content type {}, use --json)",
                entry.content
            )
        };
        let piece = entry.fragment.map_or_else(String::new, |fragment| {
            let end = fragment.offset + entry.body.len() as u64;
            format!(
                " (bytes {} to {end} of {})",
                fragment.offset, fragment.total
            )
        });
        let (position, from) = (entry.position, entry.from);
        let group = group.map_or_else(String::new, |group| format!(" in {group}"));
        print_line(&format!("{position}  {time}  {from}{group}{piece}: {body}"))
    }

    /// Prints who one is.
    pub fn account(self, account: &Account) -> Result<(), Failure> {
        let object = json!({
            "username": account.username.as_str(),
            "name": account.full_name,
            "country": account.country,
            "operator": account.operator,
        });
        let operator = if account.operator { ", operator" } else { "" };
        let (name, country) = (shown(&account.full_name), shown(&account.country));
        let text = format!("{} ({name}, {country}{operator})", account.username);
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

/// Prints a line. A reader that has gone away is no reason to complain.
fn print_line(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Text from elsewhere, fit for a terminal: control characters, with which a message could move the
/// cursor or worse, are replaced; line ends and tabs stay.
pub fn shown(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            // Bidirectional overrides make text read as something else.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_drive_the_terminal() {
        assert_eq!(
            shown("a\x1b[2Jb\nc\td\u{202e}e\r"),
            "a\u{fffd}[2Jb\nc\td\u{fffd}e\u{fffd}"
        );
    }
}
