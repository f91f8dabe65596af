//! A message as a line: text for people on a terminal, or a JSON object.

use std::io;

use merpati::wire::{
    CONTENT_GONE, CONTENT_NOTICE, CONTENT_TEXT, Entry, Mailbox, RealmId, parse_varint,
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

/// Returns the number of entries that the realm has deleted, if this entry reports it.
fn gone(entry: &Entry) -> Option<u64> {
    let (_, count) = parse_varint(&entry.body).ok()?;
    (entry.content == CONTENT_GONE).then_some(count)
}

fn object(mailbox: &Mailbox, entry: &Entry) -> Result<String, Failure> {
    let mut object = json!({
        "mailbox": mailbox.to_string(),
        "position": entry.position.0,
    });
    if let Some(group) = group(mailbox) {
        object["group"] = group.into();
    }
    if let Some(count) = gone(entry) {
        object["gone"] = count.into();
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
    if let Some(count) = gone(entry) {
        let (position, group) = (entry.position, group(mailbox).filter(|_| names_group));
        let place = group.map_or_else(String::new, |group| format!(" in {group}"));
        let (noun, verb) = if count == 1 {
            ("message", "is")
        } else {
            ("messages", "are")
        };
        let whole = format!("{position}  ({count} earlier {noun}{place} {verb} not kept any more)");
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
    let mut lines = text.split('\n').enumerate().flat_map(|(at, line)| {
        let options = if at == 0 { &options } else { &further };
        textwrap::wrap(line, options)
    });
    let first = lines.next().unwrap_or_default().into_owned();
    lines.fold(first, |whole, line| whole + "\n" + &line)
}

#[cfg(test)]
mod tests {
    use super::*;

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
