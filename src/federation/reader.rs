//! Reads a group from where it lives, page by page, until the last entry read is whole (PEER-10).

use crate::wire::{
    Answer, CONTENT_GONE, Entry, ErrorCode, GroupName, Life, PeerRequest, Position, emit_varint,
};

/// The longest entry of another realm's group that is copied, in bytes: more than a realm may be set to take.
const ENTRY_BYTES_MAX: u64 = 17 << 20;
/// Entries of another realm's group that are read before they are written down.
const ENTRIES_MAX: usize = 100;

/// Entries of a group as far as they have been read.
#[derive(Debug)]
pub struct Reader {
    group: GroupName,
    epoch: u64,
    life: Option<Life>,
    /// The copy has all up to here.
    position: u64,
    entries: Vec<Entry>,
    after: u64,
    offset: u64,
}

/// What comes of an answer.
#[derive(Debug)]
pub enum Reading {
    /// More is to be read first: the next question.
    Ask(Vec<u8>),
    /// Whole entries, and whether there are more.
    Entries(Vec<Entry>, bool),
    /// The peer does not answer.
    Silent,
    /// The peer says nothing to go on with.
    Unread,
    /// The peer takes nothing now.
    Busy,
    /// The peer does not know this realm.
    Unknown,
    /// The group has ended.
    Gone,
}

impl Reader {
    /// Reads what a group has behind `position`, in that life of its realm's store (PEER-29): positions that are given out in another, of which
    /// this side has not noted that it has begun, would be taken for those of a copy from before it.
    pub const fn new(group: GroupName, epoch: u64, position: u64, life: Option<Life>) -> Self {
        Self {
            group,
            epoch,
            life,
            position,
            entries: Vec::new(),
            after: position,
            offset: 0,
        }
    }

    /// Which group.
    pub const fn group(&self) -> GroupName {
        self.group
    }

    /// How much is held of entries until they are whole, in bytes.
    pub fn held(&self) -> usize {
        self.entries.iter().map(|entry| entry.body.capacity()).sum()
    }

    /// The next question.
    pub fn request(&self) -> Vec<u8> {
        let read = PeerRequest::Read {
            group: self.group,
            epoch: self.epoch,
            after: Position(self.after),
            offset: self.offset,
            life: self.life,
        };
        read.to_bytes()
    }

    /// Takes in the answer to it.
    pub fn take(&mut self, answer: Option<&[u8]>) -> Reading {
        let Some(answer) = answer else {
            return Reading::Silent;
        };
        let page = match Answer::parse(answer) {
            Ok(Answer::Page(page)) => page,
            Ok(Answer::Refused(refusal)) if refusal.code == ErrorCode::NoSuchGroup => {
                return Reading::Gone;
            }
            Ok(Answer::Refused(refusal)) if refusal.code == ErrorCode::PeerRefused => {
                return Reading::Unknown;
            }
            // Nobody here is in it any more: the copy stays as it is.
            Ok(Answer::Refused(refusal)) if refusal.is_final() => {
                return Reading::Entries(Vec::new(), false);
            }
            Ok(Answer::Refused(refusal)) if refusal.is_transient() => return Reading::Busy,
            _ => return Reading::Unread,
        };
        for piece in page.entries {
            if !self.add(piece) {
                return Reading::Unread;
            }
        }
        self.so_far(page.more)
    }

    /// Adds an entry, or a part of one. False when it does not follow.
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
                // It has gone meanwhile, and another one stands in its place (READ-11), which is read from its beginning.
                *last = piece;
                offset == 0
            }
            // Positions rise (READ-1): what does not would be read for ever.
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
            // Longer than any message that a realm may be set to take: that there was one is all that is kept of it.
            (last.content, last.fragment) = (CONTENT_GONE, None);
            last.body.clear();
            emit_varint(1, &mut last.body);
            return Reading::Entries(std::mem::take(&mut self.entries), true);
        }
        if last.fragment.is_some() && have <= self.offset {
            // The rest should have come; it is asked for again later.
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
