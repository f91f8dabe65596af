//! The `merpati` program.

fn main() {}
