//! The state of a link's replacement (LINK-21).

use core::ops::{Deref, DerefMut};

use super::super::ids::LinkId;
use crate::link::Time;

/// The state of a link's replacement. Takes no memory until it begins, because most links are never
/// replaced.
#[derive(Debug, Default)]
pub(in crate::endpoint) struct Rekey(Option<Box<Replacement>>);

/// The state of a link's replacement.
#[derive(Debug, Default)]
pub(in crate::endpoint) struct Replacement {
    /// The link that this one is to replace.
    pub replaces: Option<LinkId>,
    /// The link that is to replace this one.
    pub replaced_by: Option<LinkId>,
    /// When the last replacement began.
    pub begun: Option<Time>,
}

impl Deref for Rekey {
    type Target = Replacement;

    fn deref(&self) -> &Replacement {
        const NOTHING: &Replacement = &Replacement {
            replaces: None,
            replaced_by: None,
            begun: None,
        };
        self.0.as_deref().unwrap_or(NOTHING)
    }
}

impl DerefMut for Rekey {
    fn deref_mut(&mut self) -> &mut Replacement {
        self.0.get_or_insert_default()
    }
}
