//! What the driver reports of the life of the realm's store, and the state of a profile records.

use crate::wire::Life;

/// What a realm reports of the life of its store when a link is opened (HS-14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LifeTold {
    /// The claimed life.
    pub claimed: Option<Life>,
    /// The current life, unless the realm does not report it.
    pub life: Option<Life>,
    /// The realm does not know the claimed life.
    pub is_unknown: bool,
}
