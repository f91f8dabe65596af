//! Optional fields of a command: type, length, value, ended by a type 0 (WIRE-13). They come before
//! the fixed fields and are announced by the high bit of the opcode. A receiver skips an unknown
//! even type. An unknown odd type makes it refuse the command. So the protocol can grow without a
//! new version.
//!
//! ```text
//! 0x01 after     varint: the position after which a read begins; confirms all up to it
//! 0x03 limit     varint: the maximum number of entries
//! 0x05 bytes     varint: the maximum number of bytes of the answer
//! 0x07 offset    varint: where in the first entry's body a read begins
//! 0x09 ttl       varint: seconds for which a message is worth delivering
//! 0x0b reply_to  varint: the position that a message answers
//! 0x0d key       32 bytes: the peer's public key, for addrealm
//! 0x0f type      1 byte: a message's content type, 0 (text) where absent
//! 0x11 code      10 bytes: the registration code
//! 0x13 behind    sender: the name after which a list continues; a group's in place of a user's
//! 0x15 form      1 byte: another form of the command: see `form.rs`
//! 0x02 urgent    no bytes: before everything else
//! ```

use bytes::BufMut;
use nom::{Parser, multi::length_data, number::complete::be_u8};

use super::{
    Field, Malformed, Parsed, RegistrationCode, Sender, array, emit_varint, parse_varint,
    varint_len,
};

/// The optional fields of one command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The position after which a read begins; all entries up to it are confirmed.
    pub after: Option<u64>,
    /// The maximum number of entries.
    pub limit: Option<u64>,
    /// The maximum number of bytes of the answer.
    pub bytes: Option<u64>,
    /// The offset in the first entry's body at which a read begins.
    pub offset: Option<u64>,
    /// The message's time to live, in seconds.
    pub ttl: Option<u64>,
    /// The position of the entry that the message answers.
    pub reply_to: Option<u64>,
    /// A peer's public key.
    pub key: Option<[u8; 32]>,
    /// The message's content type; text if absent.
    pub content: Option<u8>,
    /// The registration code.
    pub code: Option<RegistrationCode>,
    /// The name after which a list continues: a user's, or a group's in its place.
    pub behind: Option<Sender>,
    /// Another form of the command, whose type the table of commands names.
    pub form: Option<u8>,
    /// True if the message goes before all others.
    pub urgent: bool,
    /// True if an odd type came that this version does not know: the command must be refused.
    pub not_understood: bool,
}

impl Options {
    /// No optional fields.
    pub const NONE: Self = Self {
        after: None,
        limit: None,
        bytes: None,
        offset: None,
        ttl: None,
        reply_to: None,
        key: None,
        content: None,
        code: None,
        behind: None,
        form: None,
        urgent: false,
        not_understood: false,
    };

    /// Reads the fields up to and including the end mark.
    pub(crate) fn parse(mut input: &[u8]) -> Parsed<'_, Self> {
        let mut options = Self::default();
        loop {
            let (rest, kind) = be_u8(input)?;
            if kind == 0 {
                return Ok((rest, options));
            }
            let (rest, value) = length_data(parse_varint).parse(rest)?;
            options.set(kind, value)?;
            input = rest;
        }
    }

    fn set<'a>(&mut self, kind: u8, value: &'a [u8]) -> Result<(), nom::Err<Malformed>> {
        let number = |value: &'a [u8]| match parse_varint(value)? {
            ([], n) => Ok(Some(n)),
            _ => Malformed::error("optional field"),
        };
        match kind {
            0x01 => self.after = number(value)?,
            0x03 => self.limit = number(value)?,
            0x05 => self.bytes = number(value)?,
            0x07 => self.offset = number(value)?,
            0x09 => self.ttl = number(value)?,
            0x0b => self.reply_to = number(value)?,
            0x0d => self.key = Some(array(value)?.1),
            0x0f => self.content = Some(be_u8(value)?.1),
            0x11 => self.code = Some(RegistrationCode(array(value)?.1)),
            0x13 => self.behind = Some(Sender::parse(value)?.1),
            0x15 => self.form = Some(be_u8(value)?.1),
            0x02 => self.urgent = true,
            odd if odd % 2 == 1 => self.not_understood = true,
            // Whoever does not know an even field may skip it.
            _ => {}
        }
        Ok(())
    }

    /// Writes the fields that are present, and the end mark.
    pub(crate) fn emit(&self, out: &mut impl BufMut) {
        let numbers = [
            (0x01, self.after),
            (0x03, self.limit),
            (0x05, self.bytes),
            (0x07, self.offset),
            (0x09, self.ttl),
            (0x0b, self.reply_to),
        ];
        for (kind, value) in numbers {
            if let Some(value) = value {
                out.put_u8(kind);
                emit_varint(varint_len(value) as u64, out);
                emit_varint(value, out);
            }
        }
        if let Some(key) = &self.key {
            out.put_slice(&[0x0d, 32]);
            out.put_slice(key);
        }
        for (kind, value) in [(0x0f, self.content), (0x15, self.form)] {
            if let Some(value) = value {
                out.put_slice(&[kind, 1, value]);
            }
        }
        if let Some(code) = &self.code {
            out.put_slice(&[0x11, 10]);
            out.put_slice(&code.0);
        }
        if let Some(behind) = &self.behind {
            let realm = behind.realm.as_ref();
            let realm = realm.map_or(0, |realm| 1 + realm.len());
            out.put_slice(&[0x13, 1 + behind.user.len() + realm]);
            behind.emit(out);
        }
        if self.urgent {
            out.put_slice(&[0x02, 0]);
        }
        out.put_u8(0);
    }

    /// True if no field is present, so that nothing needs to be written.
    pub fn is_empty(&self) -> bool {
        let Self {
            after,
            limit,
            bytes,
            offset,
            ttl,
            reply_to,
            key,
            content,
            code,
            behind,
            form,
            urgent,
            not_understood,
        } = self;
        let numbers = [after, limit, bytes, offset, ttl, reply_to];
        let is_absent = numbers.iter().all(|number| number.is_none())
            && key.is_none()
            && content.is_none()
            && code.is_none()
            && behind.is_none()
            && form.is_none();
        is_absent && !urgent && !not_understood
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    /// WIRE-13
    #[test]
    fn options_unknown_even_are_skipped_and_odd_are_noted() {
        let (_, even) = Options::parse(&[0x40, 2, 9, 9, 0x01, 1, 5, 0]).unwrap();
        assert_eq!(
            even,
            Options {
                after: Some(5),
                ..Options::NONE
            }
        );
        let (_, odd) = Options::parse(&[0x41, 0, 0]).unwrap();
        assert!(odd.not_understood);
        assert!(Options::parse(&[0x01, 2, 5, 5, 0]).is_err());
        assert!(Options::parse(&[0x01, 1, 5]).is_err());
    }

    #[test]
    fn options_emitted_then_parsed_are_identical() {
        let all = Options {
            after: Some(1),
            limit: Some(2),
            bytes: Some(400),
            offset: Some(70_000),
            ttl: Some(5),
            reply_to: Some(6),
            key: Some([7; 32]),
            content: Some(8),
            code: Some(RegistrationCode([9; 10])),
            behind: Some("bob@beta".parse().unwrap()),
            form: Some(2),
            urgent: true,
            not_understood: false,
        };
        let mut out = Vec::new();
        all.emit(&mut out);
        assert_eq!(Options::parse(&out).unwrap(), (&[][..], all));
    }
}
