//! Parts of the machine, for the tests of the realm.

pub use super::{
    queue::{Refusals, Turn, Verdict, turn, verdict},
    reader::{Reader, Reading},
};
