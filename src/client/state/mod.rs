//! What a profile knows of realms, its accounts there, and the messages shown.
//!
//! ```text
//! n                          the realm that commands are for, and the next realm number
//! r/ realm 4                 a realm's address and key, user and session, the operation counter
//! l/ realm 4                 earlier lives of the realm's current store, 4 bytes each
//! c/ realm 4 user / mailbox  how far a mailbox of an account has been shown
//! s                          the traffic of all runs
//! ```
//!
//! Records belong to a realm's key, and those of an account also to its user. A profile that
//! returns to a realm or a user finds the earlier state, and never mixes the two.

mod realm;
mod shown;
mod spending;

pub use realm::{
    Account, RealmNumber, State, Target, UNNAMED, find_or_add, load, remember, remembered, update,
};
#[cfg(feature = "sqlite")]
pub use shown::set_cursor;
pub use shown::{Cursor, confirm, cursor, cursors, knows_life, learn_life, show};
pub use spending::{save_spending, spending};
