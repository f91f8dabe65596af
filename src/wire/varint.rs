//! Variable-length integers (RFC 9000 §16): the two high bits of the first byte give the length, 1,
//! 2, 4 or 8 bytes. WIRE-2: the shortest form is written; any form is read.

use bytes::BufMut;
use nom::number::complete::{be_u8, be_u16, be_u32, be_u64};

use super::Parsed;

/// The largest number in a varint: 2^62 − 1.
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// Reads one varint.
///
/// # Errors
/// If the input ends before the number does.
pub fn parse_varint(input: &[u8]) -> Parsed<'_, u64> {
    let (_, first) = be_u8(input)?;
    match first >> 6 {
        0 => be_u8(input).map(|(rest, n)| (rest, u64::from(n))),
        1 => be_u16(input).map(|(rest, n)| (rest, u64::from(n & 0x3fff))),
        2 => be_u32(input).map(|(rest, n)| (rest, u64::from(n & 0x3fff_ffff))),
        _ => be_u64(input).map(|(rest, n)| (rest, n & VARINT_MAX)),
    }
}

/// Writes `n` in its shortest form. Numbers above [`VARINT_MAX`] do not occur, as every counter of
/// the protocol ends earlier; such a number would be written as [`VARINT_MAX`].
#[expect(
    clippy::cast_possible_truncation,
    reason = "each branch has checked that the number fits"
)]
pub fn emit_varint(n: u64, out: &mut impl BufMut) {
    let n = n.min(VARINT_MAX);
    match varint_len(n) {
        1 => out.put_u8(n as u8),
        2 => out.put_u16(n as u16 | 0x4000),
        4 => out.put_u32(n as u32 | 0x8000_0000),
        _ => out.put_u64(n | 0xc000_0000_0000_0000),
    }
}

/// Returns the length of `n` as a varint, in bytes: 1, 2, 4 or 8.
pub const fn varint_len(n: u64) -> usize {
    match n {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// The examples of RFC 9000 appendix A.1.
    #[test]
    fn varint_parses_rfc_9000_examples() {
        for (bytes, n) in [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            assert_eq!(parse_varint(bytes), Ok((&[][..], n)));
        }
    }

    proptest! {
        /// WIRE-2
        #[test]
        fn varint_emitted_then_parsed_is_identical(n in 0..=VARINT_MAX) {
            let mut out = Vec::new();
            emit_varint(n, &mut out);
            prop_assert_eq!(out.len(), varint_len(n));
            prop_assert_eq!(parse_varint(&out), Ok((&[][..], n)));
        }

        #[test]
        fn varint_parse_of_any_bytes_never_panics(bytes: Vec<u8>) {
            let _ = parse_varint(&bytes);
        }
    }
}
