//! What is done with each input. The fuzzer (`fuzz/campaign`) makes inputs up; `tests/fuzz.rs` repeats those that are
//! kept in `fuzz/corpus`.

use std::{fmt::Debug, sync::LazyLock};

use arbitrary::{Arbitrary, Unstructured};

pub mod endpoint;
pub mod frames;
pub mod handshake;
pub mod link;
pub mod text;
pub mod wire;

/// Does whatever its target does with an input.
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

/// With `MERPATI_TRACE=1` each step of a sequence is told.
static IS_TRACED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("MERPATI_TRACE").is_some());

/// Hands out the steps that `input` stands for, so many at most.
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
