//! `[retention]`: how long, and how much of, each mailbox is kept.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de};

use crate::{
    realm::Retention,
    server::units::{parse_size, parse_span, whole},
};

/// The value that means no bound.
const OFF: &str = "off";
/// The shortest time for which messages are kept, in milliseconds.
const AGE_MIN_MS: u128 = 1000;

/// A setting of a bound: `None` if it is not set, `Some(None)` if it is "off".
type Bound<T> = Option<Option<T>>;

/// `[retention]`: how long, and how much of, each mailbox is kept. If any bound is set, those that
/// are not set have the values of [`Retention::DEFAULT`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RetentionConfig {
    /// How long messages that have been read are kept.
    #[serde(deserialize_with = "age")]
    pub age: Bound<Duration>,
    /// How long messages that have not been read are kept.
    #[serde(deserialize_with = "age")]
    pub unread_age: Bound<Duration>,
    /// The largest number of messages of one mailbox.
    #[serde(deserialize_with = "entries")]
    pub entries: Bound<u64>,
    /// The largest size of one mailbox's messages, in bytes.
    #[serde(deserialize_with = "bytes")]
    pub bytes: Bound<u64>,
}

impl RetentionConfig {
    /// Returns the configured retention, or `None` if no bound is set.
    pub fn configured(&self) -> Option<Retention> {
        let default = Retention::DEFAULT;
        let age = self.age.unwrap_or(default.age);
        // Unread messages are never dropped before read ones.
        let unread_age = default
            .unread_age
            .zip(age)
            .map(|(unread, age)| unread.max(age));
        (*self != Self::default()).then(|| Retention {
            age,
            unread_age: self.unread_age.unwrap_or(unread_age),
            entries: self.entries.unwrap_or(default.entries),
            bytes: self.bytes.unwrap_or(default.bytes),
        })
    }

    /// Refuses bounds that contradict each other.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.configured() {
            Some(Retention {
                age: Some(age),
                unread_age: Some(unread),
                ..
            }) if unread < age => Err(format!(
                "in [retention] unread_age is {} and age is {}: what has not been read is not dropped before what has; make unread_age as \
                 long at least, or leave it out, or set a shorter age",
                whole(unread),
                whole(age)
            )),
            Some(Retention {
                age: None,
                unread_age: Some(_),
                ..
            }) if self.unread_age.is_some() => Err(
                "in [retention] unread_age is set and age is \"off\": what has been read would be kept for longer than what has not; set both, \
                 or unread_age = \"off\""
                    .into(),
            ),
            _ => Ok(()),
        }
    }
}

fn text<'de, D: Deserializer<'de>>(
    deserializer: D,
    expecting: &'static str,
) -> Result<String, D::Error> {
    struct Text(&'static str);

    impl de::Visitor<'_> for Text {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.into())
        }
    }

    deserializer.deserialize_str(Text(expecting))
}

fn age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bound<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == OFF {
        return Ok(Some(None));
    }
    let span = parse_span(&text).map_err(de::Error::custom)?;
    if span.as_millis() < AGE_MIN_MS {
        return Err(de::Error::custom(format!(
            "{text} is too short: write at least \"1s\", or \"off\" to keep everything"
        )));
    }
    Ok(Some(Some(span)))
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bound<u64>, D::Error> {
    let text = text(
        deserializer,
        "a size with its unit in quotes, as in \"64MiB\", or \"off\"",
    )?;
    if text == OFF {
        return Ok(Some(None));
    }
    let size = parse_size(&text).map_err(de::Error::custom)?;
    if size < BYTES_MIN {
        return Err(de::Error::custom(format!(
            "{text} is too little for a mailbox: write at least \"1MiB\", or \"off\" for no bound"
        )));
    }
    Ok(Some(Some(size)))
}

/// The smallest size bound of a mailbox, in bytes. It holds some messages of the longest default
/// length.
const BYTES_MIN: u64 = 1 << 20;

fn entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bound<u64>, D::Error> {
    struct Entries;

    impl de::Visitor<'_> for Entries {
        type Value = Option<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("how many messages a mailbox keeps, at least 1, or \"off\" for no bound")
        }

        fn visit_i64<E: de::Error>(self, count: i64) -> Result<Self::Value, E> {
            let count = u64::try_from(count).ok().filter(|count| *count > 0);
            count.map(Some).ok_or_else(|| {
                E::custom(
                    "write how many messages a mailbox keeps, at least 1, or \"off\" for no bound",
                )
            })
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            match text {
                OFF => Ok(None),
                _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
            }
        }
    }

    deserializer.deserialize_any(Entries).map(Some)
}
