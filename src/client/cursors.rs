//! Limits the cursors in a request to the size that a realm accepts. A user of a thousand groups
//! has more cursors than that.

use super::CallError;
use crate::wire::{CURSORS_MAX, Cursors, ErrorCode, Field as _, Mailbox, Position};

/// The limit for cursors in one request, in bytes, unless the realm accepts less.
pub const ROOM: usize = 8 << 10;
/// The maximum size of the rest of the request, in bytes.
const AROUND: usize = 64;

/// Returns the first of these cursors that fit in `room` bytes.
pub fn fitting(cursors: impl IntoIterator<Item = (Mailbox, Position)>, room: usize) -> Cursors {
    let mut bytes = Vec::new();
    let fits = |cursor: &(Mailbox, Position)| {
        Cursors(vec![*cursor]).emit(&mut bytes);
        bytes.len() <= room
    };
    let cursors = cursors.into_iter().take(CURSORS_MAX);
    Cursors(cursors.take_while(fits).collect())
}

/// Returns the room to use after a request with the cursors `named` was too large. `None` if it
/// failed for another reason.
pub fn less_room(error: &CallError, named: &Cursors, room: usize) -> Option<usize> {
    let CallError::Refused(refusal) = error else {
        return None;
    };
    let is_theirs = refusal.code == ErrorCode::TooLarge && !named.0.is_empty();
    let takes = refusal.detail.and_then(|limit| usize::try_from(limit).ok());
    let room = takes.map_or(room / 2, |takes| takes.saturating_sub(AROUND).min(room / 2));
    is_theirs.then_some(room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Refusal;

    /// WATCH-1: a request is no longer than the realm accepts, and retries end.
    #[test]
    fn cursor_list_too_large_is_shortened_until_it_fits() {
        let all = || (0..3000).map(|n| (Mailbox::Private, Position(n)));
        assert_eq!(fitting(all(), usize::MAX).0.len(), CURSORS_MAX);
        let few = fitting(all(), 100);
        assert!((10..100).contains(&few.0.len()));
        assert!(fitting(all(), 0).0.is_empty());
        let too_large = CallError::Refused(Refusal::too_large(1164));
        assert_eq!(less_room(&too_large, &few, ROOM), Some(1100));
        let mut room = ROOM;
        let mut asked = 0;
        while let Some(less) = less_room(&too_large, &fitting(all(), room), room) {
            (room, asked) = (less, asked + 1);
        }
        assert!(asked < 20 && fitting(all(), room).0.is_empty());
        assert_eq!(less_room(&CallError::NotLoggedIn, &few, ROOM), None);
    }
}
