//! Whole realms and clients in a world of one seed: the real endpoint, link, realm, server and client code over a
//! simulated network, clock and disk. While it storms, everything goes wrong that can; then it is calm, and what
//! was answered `ok` must be where it belongs, once and in order, every queue empty, every link closed.
//!
//! ```text
//! cargo test --lib simulation                       300 seeds, and the planted faults (`planted`)
//! MERPATI_SEEDS=1000000 cargo test --profile campaign --lib simulation::campaign::nothing -- --nocapture
//! MERPATI_SEED=42 cargo test --lib simulation::campaign::nothing -- --nocapture      one seed, with its trace
//! MERPATI_KIND=liar …      all worlds that can be are of this kind: workers, moves, nat, liar, replays,
//!                        restored, taken, away (`kinds`)
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

/// Where realms listen.
const REALM_PORT: u16 = 6377;
