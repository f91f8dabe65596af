//! What a user writes: a content type, with a body that matches it. Whatever becomes an entry of a
//! user's mailbox or waits for a peer is checked here first, also what a peer delivers.

use crate::{
    faults::{Fault, is_planted},
    wire::{Body, CONTENT_TEXT, ErrorCode, Refusal, is_of_realm},
};

/// The highest content type.
const CONTENT_MAX: u8 = 0x7f;

/// The content of a message. A content type that only realms use, and text that is not UTF-8, are
/// not possible.
#[derive(Clone, Copy)]
pub(super) struct MessageContent<'a> {
    content_type: u8,
    body: &'a [u8],
}

impl<'a> MessageContent<'a> {
    /// Checks a message of at most `max` bytes. Without a content type it is text.
    ///
    /// Refuses it if it is too long, or if its content type is none of a user's or does not match
    /// its body (ACC-8).
    pub fn new(content_type: Option<u8>, body: Body<'a>, max: usize) -> Result<Self, Refusal> {
        let Body(body) = body;
        if body.len() > max {
            return Err(Refusal::too_large(max as u64));
        }
        let content_type = content_type.unwrap_or(CONTENT_TEXT);
        let is_of_user = content_type <= CONTENT_MAX
            && (!is_of_realm(content_type) || is_planted(Fault::LetUsersForge));
        let is_malformed = content_type == CONTENT_TEXT && core::str::from_utf8(body).is_err();
        if !is_of_user || is_malformed {
            return Err(ErrorCode::BadRequest.into());
        }
        Ok(Self { content_type, body })
    }

    /// Returns the content type: [`CONTENT_TEXT`], or one that this version does not know.
    pub const fn content_type(self) -> u8 {
        self.content_type
    }

    /// Returns the body.
    pub const fn body(self) -> &'a [u8] {
        self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ACC-8: users have the content types 0 and 16 to 127, and text is UTF-8.
    #[test]
    fn message_content_is_of_user_and_matches_its_type() {
        let refusal = |content_type, body, max| {
            let content = MessageContent::new(content_type, Body(body), max);
            content.err()
        };
        let bad = Some(ErrorCode::BadRequest.into());
        for (content_type, body, expected) in [
            (None, "hello".as_bytes(), None),
            (Some(0), b"hello", None),
            (None, b"\xff", bad),
            (Some(0), b"\xff", bad),
            (Some(1), b"hello", bad),
            (Some(15), b"hello", bad),
            (Some(16), b"\xff", None),
            (Some(127), b"\xff", None),
            (Some(128), b"hello", bad),
        ] {
            let found = refusal(content_type, body, 5);
            assert_eq!(found, expected, "{content_type:?}");
        }
        assert_eq!(refusal(None, b"hello!", 5), Some(Refusal::too_large(5)));
    }
}
