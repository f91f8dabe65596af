//! The fuzz targets. The fuzzer (`fuzz/campaign`) generates inputs; `tests/fuzz.rs` repeats those
//! in `fuzz/corpus`.

use std::{fmt::Debug, sync::LazyLock};

use arbitrary::{Arbitrary, Unstructured};

pub mod endpoint;
pub mod frames;
pub mod handshake;
pub mod link;
pub mod text;
pub mod wire;

/// A function that tests one input.
pub type Target = fn(&[u8]);

/// The targets, by the names of their corpora.
pub const TARGETS: &[(&str, Target)] = &[
    ("packet", wire::packet),
    ("frames", wire::frames),
    ("command", wire::command),
    ("answer", wire::answer),
    ("event", wire::event),
    ("peer", wire::peer),
    ("handshake", handshake::handshake),
    ("link", link::link),
    ("endpoint_sealed", endpoint::sealed),
    ("endpoint_plain", endpoint::plain),
    ("line", text::line),
    ("config", text::config),
];

/// True if `MERPATI_TRACE` is set. Then each step of a sequence is printed.
static IS_TRACED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("MERPATI_TRACE").is_some());

/// Calls `take` for each step that `input` encodes, at most `most` times.
fn steps<'a, Step: Arbitrary<'a> + Debug>(
    input: &mut Unstructured<'a>,
    most: usize,
    mut take: impl FnMut(Step),
) {
    for _ in 0..most {
        let Ok(step) = input.arbitrary() else { return };
        if *IS_TRACED {
            eprintln!("{step:?}");
        }
        take(step);
        if input.is_empty() {
            return;
        }
    }
}
