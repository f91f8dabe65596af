//! The record of the traffic of all runs.

use crate::client::{
    ProfileError, Spending,
    store::{self, Records},
};

/// Returns the traffic of all runs. An unreadable record counts as none: nothing else uses it.
pub fn spending(records: &dyn Records) -> Result<Spending, ProfileError> {
    match store::get(records, b"s") {
        Ok(spending) => Ok(spending.unwrap_or_default()),
        Err(ProfileError::Damaged(_)) => Ok(Spending::default()),
        Err(error) => Err(error),
    }
}

/// Records the traffic of all runs.
pub fn save_spending(records: &mut dyn Records, spending: &Spending) -> Result<(), ProfileError> {
    store::put(records, b"s", spending)
}
