//! Exports of the federation machine for the tests of the realm.

pub use super::{
    queue::{Refusals, Turn, Verdict, turn, verdict},
    reader::{Reader, Reading},
};
