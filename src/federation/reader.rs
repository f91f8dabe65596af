//! Reads a group from its home realm, page by page, until the last entry read is complete
//! (PEER-10).

use crate::wire::{
    AnsweredByPeer as _, CONTENT_GONE, Entry, ErrorCode, GroupName, Life, Offset, PeerRequest,
    Position, emit_varint, peer::Read,
};

/// The longest entry of another realm's group that is copied, in bytes. Larger than any
/// configurable message limit of a realm.
const ENTRY_BYTES_MAX: u64 = 17 << 20;
/// The number of entries of another realm's group that are read before they are stored.
const ENTRIES_MAX: usize = 100;

/// A read of a group's entries in progress.
#[derive(Debug)]
pub struct Reader {
    group: GroupName,
    group_epoch: u64,
    life: Option<Life>,
    /// The replica has all entries up to this position.
    position: u64,
    entries: Vec<Entry>,
    after: u64,
    offset: u64,
}

/// The result of an answer.
#[derive(Debug)]
pub enum Reading {
    /// More has to be read first. Holds the next request.
    Ask(Vec<u8>),
    /// Complete entries, and true if the group has more.
    Entries(Vec<Entry>, bool),
    /// The peer does not answer.
    Silent,
    /// The answer is not usable.
    Unread,
    /// The peer cannot answer now.
    Busy,
    /// The peer does not know this realm.
    Unknown,
    /// The group has ended.
    Gone,
}

impl Reader {
    /// Creates a reader of the entries after `position`, in that life of the home realm's store
    /// (PEER-29). Without the life, positions of a new life that this side has not recorded yet
    /// would be mistaken for those of the replica.
    pub const fn new(
        group: GroupName,
        group_epoch: u64,
        position: u64,
        life: Option<Life>,
    ) -> Self {
        Self {
            group,
            group_epoch,
            life,
            position,
            entries: Vec::new(),
            after: position,
            offset: 0,
        }
    }

    /// Returns the group.
    pub const fn group(&self) -> GroupName {
        self.group
    }

    /// Returns the buffered size of incomplete entries, in bytes.
    pub fn held(&self) -> usize {
        self.entries.iter().map(|entry| entry.body.capacity()).sum()
    }

    /// Returns the next request.
    pub fn request(&self) -> Vec<u8> {
        let read = Read {
            group: self.group,
            group_epoch: self.group_epoch,
            after: Position(self.after),
            offset: Offset(self.offset),
            life: self.life,
        };
        PeerRequest::from(read).to_bytes()
    }

    /// Handles the answer to the request.
    pub fn take(&mut self, answer: Option<&[u8]>) -> Reading {
        let Some(answer) = answer else {
            return Reading::Silent;
        };
        let page = match Read::read_answer(answer) {
            Ok(Ok(page)) => page,
            Ok(Err(refusal)) if refusal.code == ErrorCode::NoSuchGroup => return Reading::Gone,
            Ok(Err(refusal)) if refusal.code == ErrorCode::PeerRefused => return Reading::Unknown,
            // This realm has no members in the group any more: the replica stays as it is.
            Ok(Err(refusal)) if refusal.is_final() => return Reading::Entries(Vec::new(), false),
            Ok(Err(refusal)) if refusal.is_transient() => return Reading::Busy,
            Ok(Err(_)) | Err(_) => return Reading::Unread,
        };
        for piece in page.entries {
            if !self.add(piece) {
                return Reading::Unread;
            }
        }
        self.so_far(page.more)
    }

    /// Adds an entry or a fragment of one. Returns false if it does not follow the last one.
    fn add(&mut self, piece: Entry) -> bool {
        let is_full = self.entries.len() > ENTRIES_MAX;
        let before = self.entries.last();
        let before = before.map_or(self.position, |last| last.position.0);
        match self.entries.last_mut() {
            Some(last) if last.position == piece.position => {
                let offset = piece.fragment.map_or(0, |fragment| fragment.offset);
                let of = |one: &Entry| (one.time, one.from, one.fragment.map(|whole| whole.total));
                if offset == last.body.len() as u64 && of(last) == of(&piece) {
                    last.body.extend_from_slice(&piece.body);
                    return true;
                }
                // The entry was removed in the meantime and another has its position (READ-11). It
                // is read from its beginning.
                *last = piece;
                offset == 0
            }
            // Positions rise (READ-1). Without this check, a position that does not would be read
            // without end.
            _ if piece.position.0 <= before || is_full => false,
            _ => {
                self.entries.push(piece);
                true
            }
        }
    }

    fn so_far(&mut self, more: bool) -> Reading {
        let Some(last) = self.entries.last_mut() else {
            return Reading::Entries(Vec::new(), false);
        };
        let have = last.body.len() as u64;
        if have.max(last.fragment.map_or(0, |whole| whole.total)) > ENTRY_BYTES_MAX {
            // Longer than any message that a realm can be configured to accept: only a placeholder
            // is stored.
            (last.content, last.fragment) = (CONTENT_GONE, None);
            last.body.clear();
            emit_varint(1, &mut last.body);
            return Reading::Entries(std::mem::take(&mut self.entries), true);
        }
        if last.fragment.is_some() && have <= self.offset {
            // The peer sent no further part. It is asked again later.
            return Reading::Silent;
        }
        if last.fragment.is_none_or(|whole| have >= whole.total) {
            last.fragment = None;
            return Reading::Entries(std::mem::take(&mut self.entries), more);
        }
        (self.after, self.offset) = (last.position.0.saturating_sub(1), have);
        Reading::Ask(self.request())
    }
}
