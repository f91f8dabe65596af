//! The simulator runs whole realms and clients in a world that one seed determines: the real
//! endpoint, link, realm, server and client code over a simulated network, clock and disk. In the
//! storm, everything that can go wrong does. In the calm after it, everything that was answered
//! `ok` must be where it belongs, once and in order, every queue must be empty, and every link must
//! be closed.
//!
//! ```text
//! 300 seeds, and the planted faults (`planted`):
//!     cargo test --lib simulation
//! More seeds:
//!     MERPATI_SEEDS=1000000 cargo test --profile campaign --lib simulation::campaign::nothing \
//!         -- --nocapture
//! One seed, with its trace:
//!     MERPATI_SEED=42 cargo test --lib simulation::campaign::nothing -- --nocapture
//! All worlds that can be are of this kind (`kinds`: workers, moves, nat, firewall, liar, blocks, replays,
//! restored, taken, away):
//!     MERPATI_KIND=liar …
//! ```

mod accomplice;
mod campaign;
mod disk;
mod greedy;
mod history;
mod judging;
mod kinds;
mod machine;
mod malice;
mod movers;
mod name_takeover;
mod namesakes;
mod nat;
mod network;
mod node;
mod owners;
pub mod path;
mod path_tests;
mod plan;
mod planted;
mod recording;
mod reopening;
mod restoring;
mod routes;
mod single_loss;
mod trace;
mod user;
mod watchers;
mod world;

pub use disk::{Disk, SimulatedStore};
pub use machine::Machine;
pub use network::Socket;

/// The port of realms.
const REALM_PORT: u16 = 6377;
