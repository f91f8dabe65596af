//! A message as a line: text for people on a terminal, or a JSON object.

use std::io;

use merpati::wire::{
    CONTENT_GONE, CONTENT_HIDDEN, CONTENT_NOTICE, CONTENT_TEXT, Entry, Mailbox, RealmId,
    parse_varint,
};
use serde_json::json;

use super::output::{Failure, Output, columns, shown};

/// The indentation of each further line of a message.
const INDENT: &str = "    ";

/// Returns the line with its line end. `names_group` tells whether the text for people names the
/// group, as it does where messages of several mailboxes mix. JSON always names the mailbox.
pub fn line(
    output: Output,
    mailbox: &Mailbox,
    entry: &Entry,
    names_group: bool,
) -> Result<String, Failure> {
    let mut line = if output.json {
        object(mailbox, entry)?
    } else {
        text(mailbox, entry, names_group)?
    };
    line.push('\n');
    Ok(line)
}

/// Returns a group's name, with its realm if that is another one.
fn group(mailbox: &Mailbox) -> Option<String> {
    match mailbox {
        Mailbox::Private | Mailbox::Realm(_) => None,
        Mailbox::Group(group) => Some(group.to_string()),
        Mailbox::RealmGroup(realm, group) => Some(format!("{group}@{realm}")),
    }
}

fn time(entry: &Entry) -> Result<jiff::Timestamp, Failure> {
    jiff::Timestamp::from_second(entry.time.into()).map_err(Failure::local)
}

/// A realm's message that entries are missing, with their number.
enum Missing {
    /// They are not kept any more.
    Gone(u64),
    /// Their authors are blocked.
    Hidden(u64),
}

impl Missing {
    fn of(entry: &Entry) -> Option<Self> {
        let (_, count) = parse_varint(&entry.body).ok()?;
        match entry.content {
            CONTENT_GONE => Some(Self::Gone(count)),
            CONTENT_HIDDEN => Some(Self::Hidden(count)),
            _ => None,
        }
    }

    fn text(&self, place: &str) -> String {
        let (count, what, why) = match self {
            Self::Gone(count) => (*count, "earlier ", "not kept any more"),
            Self::Hidden(count) => (*count, "", "not shown: you block who wrote"),
        };
        let (noun, verb, whom) = if count == 1 {
            ("message", "is", " it")
        } else {
            ("messages", "are", " them")
        };
        let whom = match self {
            Self::Gone(_) => "",
            Self::Hidden(_) => whom,
        };
        format!("({count} {what}{noun}{place} {verb} {why}{whom})")
    }
}

fn object(mailbox: &Mailbox, entry: &Entry) -> Result<String, Failure> {
    let mut object = json!({
        "mailbox": mailbox.to_string(),
        "position": entry.position.0,
    });
    if let Some(group) = group(mailbox) {
        object["group"] = group.into();
    }
    if let Some(missing) = Missing::of(entry) {
        match missing {
            Missing::Gone(count) => object["gone"] = count.into(),
            Missing::Hidden(count) => object["hidden"] = count.into(),
        }
        return Ok(object.to_string());
    }
    object["from"] = entry.from.user.as_str().into();
    object["realm"] = entry.from.realm.as_ref().map(RealmId::as_str).into();
    object["time"] = time(entry)?.to_string().into();
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
    Ok(object.to_string())
}

fn text(mailbox: &Mailbox, entry: &Entry, names_group: bool) -> Result<String, Failure> {
    let time = time(entry)?
        .to_zoned_datetime(jiff::tz::TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S");
    if let Some(missing) = Missing::of(entry) {
        let (position, group) = (entry.position, group(mailbox).filter(|_| names_group));
        let place = group.map_or_else(String::new, |group| format!(" in {group}"));
        let whole = format!("{position}  {}", missing.text(&place));
        return Ok(indented(&whole, columns(&io::stdout())));
    }
    let body = if matches!(entry.content, CONTENT_TEXT | CONTENT_NOTICE) {
        shown(&String::from_utf8_lossy(&entry.body))
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
    let group = group(mailbox)
        .filter(|_| names_group)
        .map_or_else(String::new, |group| format!(" in {group}"));
    let whole = format!("{position}  {time}  {from}{group}{piece}: {body}");
    Ok(indented(&whole, columns(&io::stdout())))
}

/// Indents all lines but the first, and breaks lines wider than `width` between words.
fn indented(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else {
        return text.replace('\n', &format!("\n{INDENT}"));
    };
    // Words stay whole, because an address that is broken cannot be copied.
    let options = textwrap::Options::new(width)
        .subsequent_indent(INDENT)
        .break_words(false);
    let further = options.clone().initial_indent(INDENT);
    let lines = text.split('\n').enumerate().flat_map(|(at, line)| {
        let options = if at == 0 { &options } else { &further };
        textwrap::wrap(line, options)
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use merpati::wire::Position;

    use super::*;

    /// READ-11, BLK-4: what is missing is said in words, and as a number in JSON.
    #[test]
    fn entry_about_missing_messages_says_how_many_and_why() {
        let devs = Mailbox::Group("devs".parse().unwrap());
        let said = |content, count: u8, json| {
            let entry = Entry {
                position: Position(7),
                time: 0,
                content,
                fragment: None,
                from: "devs".parse().unwrap(),
                read: false,
                body: vec![count],
            };
            let output = Output { json };
            line(output, &devs, &entry, true).unwrap()
        };
        for (content, count, text, json) in [
            (
                CONTENT_GONE,
                1,
                "(1 earlier message in devs is not kept any more)",
                "gone",
            ),
            (
                CONTENT_GONE,
                9,
                "(9 earlier messages in devs are not kept any more)",
                "gone",
            ),
            (
                CONTENT_HIDDEN,
                1,
                "(1 message in devs is not shown: you block who wrote it)",
                "hidden",
            ),
            (
                CONTENT_HIDDEN,
                9,
                "(9 messages in devs are not shown: you block who wrote them)",
                "hidden",
            ),
        ] {
            assert_eq!(said(content, count, false), format!("7  {text}\n"));
            let object: serde_json::Value =
                serde_json::from_str(&said(content, count, true)).unwrap();
            assert_eq!(object[json], count);
            assert_eq!(object["position"], 7);
            assert!(object.get("from").is_none());
        }
    }

    #[test]
    fn entry_with_long_line_wraps_with_indent() {
        let text = "1  ann: one two three four\nfive six";
        assert_eq!(
            indented(text, Some(16)),
            "1  ann: one two\n    three four\n    five six"
        );
        assert_eq!(
            indented(text, None),
            "1  ann: one two three four\n    five six"
        );
        assert_eq!(
            indented("see https://example.org/a/very/long/path", Some(12)),
            "see\n    https://example.org/a/very/long/path"
        );
    }
}
