//! The state of a link's replacement (LINK-21).

use std::time::Duration;

use super::super::ids::LinkId;
use crate::link::Time;

/// Time until a failed replacement is retried.
const TRIED_AGAIN_AFTER: Duration = Duration::from_hours(1);

/// The state of a link's replacement. Takes no memory until it begins, because most links are never
/// replaced.
#[derive(Debug, Default)]
pub(in crate::endpoint) struct Rekey(Option<Box<Replacement>>);

#[derive(Debug, Default)]
struct Replacement {
    /// The link that this one is to replace.
    replaces: Option<LinkId>,
    /// The link that is to replace this one.
    replaced_by: Option<LinkId>,
    /// When the last replacement began.
    begun: Option<Time>,
}

impl Rekey {
    /// Returns the state of a link that is to replace `old`.
    pub fn of_replacement(old: LinkId) -> Self {
        Self(Some(Box::new(Replacement {
            replaces: Some(old),
            ..Replacement::default()
        })))
    }

    /// Returns the link that this one is to replace.
    pub fn replaces(&self) -> Option<LinkId> {
        self.0.as_deref()?.replaces
    }

    /// Returns the link that is to replace this one.
    pub fn replaced_by(&self) -> Option<LinkId> {
        self.0.as_deref()?.replaced_by
    }

    /// True if a replacement may begin: none is going on, and none has failed lately.
    pub fn may_begin(&self, now: Time) -> bool {
        self.0.as_deref().is_none_or(|state| {
            let has_waited = |begun| now - begun >= TRIED_AGAIN_AFTER;
            state.begun.is_none_or(has_waited)
                && state.replaced_by.is_none()
                && state.replaces.is_none()
        })
    }

    /// Records that `new` is to replace this link.
    pub fn begin(&mut self, now: Time, new: LinkId) {
        let state = self.0.get_or_insert_default();
        state.replaced_by = Some(new);
        state.begun = Some(now);
    }

    /// Records that the link that this one is to replace has ended. Returns it.
    pub fn predecessor_ended(&mut self) -> Option<LinkId> {
        self.0.as_deref_mut()?.replaces.take()
    }

    /// Records that no link is to replace this one any more.
    pub fn replacement_ended(&mut self) {
        if let Some(state) = self.0.as_deref_mut() {
            state.replaced_by = None;
        }
    }

    /// Returns the state, and forgets it here.
    pub fn take(&mut self) -> Self {
        core::mem::take(self)
    }
}
