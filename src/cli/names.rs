//! Names and texts as people type them. Errors tell which rule is broken, and by which character.

use std::str::FromStr;

use clap::error::ErrorKind;
use merpati::{
    crypto::PublicKey,
    wire::{GroupName, InvalidName, RealmId},
};

/// The commands that end with a message.
const WITH_MESSAGE: [&str; 4] = ["send", "sendgroup", "sendrealm", "sendgrouprealm"];

/// A group: one of this realm, or `group@realm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupAt {
    pub group: GroupName,
    pub realm: Option<RealmId>,
}

impl FromStr for GroupAt {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (group, realm) = match text.split_once('@') {
            Some((group, realm)) => (group, Some(realm.parse()?)),
            None => (text, None),
        };
        let group = group.parse()?;
        Ok(Self { group, realm })
    }
}

/// A key, or its fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyShown {
    Key(PublicKey),
    Fingerprint(String),
}

impl KeyShown {
    /// True if it is this key.
    pub fn is_of(&self, key: &PublicKey) -> bool {
        match self {
            Self::Key(meant) => meant == key,
            Self::Fingerprint(meant) => key.fingerprint() == *meant,
        }
    }
}

impl FromStr for KeyShown {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(key) = text.parse() {
            return Ok(Self::Key(key));
        }
        let text = text.to_ascii_lowercase();
        let groups: Vec<&str> = text.split('-').collect();
        let is_group = |group: &&str| {
            group.len() == 4
                && group
                    .bytes()
                    .all(|c| matches!(c, b'a'..=b'z' | b'2'..=b'7'))
        };
        if groups.len() == 5 && groups.iter().all(is_group) {
            return Ok(Self::Fingerprint(text));
        }
        Err("it is neither a key (43 characters) nor a whole fingerprint (five groups of four); `realms --pending` shows both".into())
    }
}

/// Checks a person's full name or country. The realm refuses empty texts and control characters.
pub fn personal(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it may not be empty: give 1 to 64 bytes of text".into());
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!(
            "it may have no control characters: {} is not allowed",
            InvalidName::describe(c)
        )),
        None => Ok(text.into()),
    }
}

/// Returns a hint if a message that begins with a hyphen was parsed as an option or as a request
/// for help. `program` is what stands before the words `typed`: nothing in the shell.
pub fn about_message(kind: ErrorKind, program: &[&str], typed: &[String]) -> Option<String> {
    let is_mistaken = !matches!(
        kind,
        ErrorKind::UnknownArgument | ErrorKind::ValueValidation
    );
    let at = typed
        .iter()
        .position(|word| WITH_MESSAGE.contains(&word.as_str()))?;
    let after = typed.get(at + 1..)?;
    let has_recipient = !after.first()?.starts_with('-');
    if !is_mistaken || !has_recipient || after.iter().any(|word| word == "--") {
        return None;
    }
    // `merpati send --help` asks for help. After a recipient, `--help` is a message.
    let is_option = |word: &String| word.len() > 1 && word.starts_with('-');
    let first = after.iter().skip(1).position(is_option)?;
    let option = after.get(first + 1)?;
    // The options before the command stay: they may name another profile.
    let before = typed.get(..at + first + 2)?.iter().map(String::as_str);
    let words = program.iter().copied().chain(before);
    let suggested = shlex::try_join(words.chain(["--", option.as_str()])).ok()?;
    Some(format!(
        "{option:?} was taken for an option: a message that begins with - needs -- before it: {suggested}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cli_message_like_option_gets_hint_to_write_dashes() {
        let hint = |line: &str| {
            let words: Vec<String> = line.split(' ').map(ToString::to_string).collect();
            about_message(ErrorKind::DisplayHelp, &["merpati"], &words)
        };
        let suggested = hint("--profile ann's send bob --help").unwrap();
        assert!(
            suggested.ends_with(r#": merpati --profile "ann's" send bob -- --help"#),
            "{suggested}"
        );
        assert!(hint("send bob -h").is_some());
        assert_eq!(hint("send --help"), None);
        assert_eq!(hint("inbox --help"), None);
    }

    #[test]
    fn group_name_with_realm_is_parsed() {
        let devs: GroupAt = "devs@beta".parse().unwrap();
        assert_eq!(devs.group.as_str(), "devs");
        assert_eq!(devs.realm.unwrap().as_str(), "beta");
        assert!("devs@".parse::<GroupAt>().is_err());
        assert_eq!("devs".parse::<GroupAt>().unwrap().realm, None);
    }

    #[test]
    fn cli_control_character_in_name_is_refused() {
        let error = personal("Ann\u{1b}[2J").unwrap_err();
        assert!(error.contains("ESC (U+001B) is not allowed"), "{error}");
        let error = personal("Ann\nB").unwrap_err();
        assert!(error.contains("a line end (U+000A)"), "{error}");
        assert_eq!(personal("Ann Ü"), Ok("Ann Ü".into()));
    }
}
