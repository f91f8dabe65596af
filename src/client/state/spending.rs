//! The record of the traffic of all runs.

use crate::client::{
    ProfileError, Spending,
    store::{self, Records},
};

/// Returns the traffic of all runs. An unreadable record counts as none: nothing else uses it.
pub fn spending(records: &dyn Records) -> Spending {
    store::get(records, b"s").ok().flatten().unwrap_or_default()
}

/// Records the traffic of all runs.
pub fn save_spending(records: &mut dyn Records, spending: &Spending) -> Result<(), ProfileError> {
    store::put(records, b"s", spending)
}
