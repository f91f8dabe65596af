//! Merpati: a federated chat server over UDP for constrained networks, and its clients.
//!
//! A datagram passes through the layers in one straight line, and the answer takes the same line
//! back:
//!
//! ```text
//! socket → endpoint → link → wire → realm → store
//! ```
//!
//! Each layer is a module and imports only from those below it; `tests/layering.rs` holds that.
//! The protocol itself is written down in `spec/`, which is normative; the numbers in comments
//! such as `WIRE-3` are its requirements.
//!
//! Without default features the crate is `no_std` (with `alloc`) and holds [`wire`], [`crypto`]
//! and [`link`]: everything a device without an operating system needs to speak the protocol.

#![cfg_attr(not(feature = "std"), no_std)]
// What comes from outside must never bring a process down: nothing here panics by itself.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::get_unwrap,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

extern crate alloc;

#[cfg(feature = "client")]
pub mod client;
pub mod crypto;
#[cfg(feature = "std")]
pub mod endpoint;
mod faults;
#[cfg(feature = "server")]
mod federation;
#[cfg(any(feature = "client", feature = "server"))]
mod host;
pub mod link;
#[cfg(feature = "std")]
pub mod rate_limit;
#[cfg(feature = "server")]
pub mod realm;
#[cfg(feature = "server")]
pub mod server;
#[cfg(all(test, feature = "client", feature = "embedded"))]
mod simulation;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "std")]
pub mod subnet;
pub mod wire;
