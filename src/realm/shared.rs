//! What several services of a realm use.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{
    identity::RealmIdentity,
    limits::{Limiter, Limits},
    network::Network,
    random::Random,
    storage::Storage,
};

/// The dependencies that several services share. Each service copies those that it needs when it is
/// built.
pub(super) struct Shared<S> {
    pub storage: Arc<Storage<S>>,
    pub random: Arc<Random>,
    pub own: Arc<RealmIdentity>,
    pub limits: Limits,
    pub limiter: Arc<Limiter>,
    pub network: Arc<Network>,
    /// Wakes the work for the members of a group that has ended.
    pub chores: Arc<Notify>,
}
