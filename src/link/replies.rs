//! The other side's requests, and our replies: a request being worked on is not started twice, and a
//! reply that was lost is sent again from memory (LINK-9).

use alloc::{
    collections::{BTreeSet, VecDeque},
    vec::Vec,
};

/// Replies kept to be sent again.
pub const REPLIES_KEPT: usize = 32;
/// Replies longer than this are not kept: they come from reads, which may as well be done again.
pub const REPLY_KEPT_BYTES: usize = 64;
/// Requests of one link worked on at once; further ones are left for the sender to repeat.
pub const WORKING_MAX: usize = 64;

#[derive(Clone, Debug)]
struct Reply {
    number: u64,
    bytes: Vec<u8>,
    queued: bool,
}

/// The other side's requests and our replies to them.
#[derive(Clone, Debug, Default)]
pub struct Replies {
    working: BTreeSet<u64>,
    replies: VecDeque<Reply>,
}

/// What to do with a request that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is new: do it.
    New,
    /// It is being worked on, or its reply is queued again.
    Known,
    /// Too many are being worked on: it counts as lost.
    Refused,
}

impl Replies {
    /// A request has arrived.
    pub fn arrive(&mut self, number: u64) -> Arrival {
        if self.working.contains(&number) {
            return Arrival::Known;
        }
        if let Some(reply) = self.replies.iter_mut().find(|reply| reply.number == number) {
            reply.queued = true;
            return Arrival::Known;
        }
        if self.working.len() >= WORKING_MAX {
            return Arrival::Refused;
        }
        self.working.insert(number);
        Arrival::New
    }

    /// The reply to a request that is being worked on. False when no such request is.
    pub fn reply(&mut self, number: u64, bytes: Vec<u8>) -> bool {
        if !self.working.remove(&number) {
            return false;
        }
        // The oldest that has left makes room; one that still has to leave is never dropped, and
        // there are at most as many of those as requests in work.
        if self.replies.len() >= REPLIES_KEPT
            && let Some(at) = self.replies.iter().position(|reply| !reply.queued)
        {
            self.replies.remove(at);
        }
        self.replies.push_back(Reply {
            number,
            bytes,
            queued: true,
        });
        true
    }

    /// True when requests are being worked on.
    pub fn is_working(&self) -> bool {
        !self.working.is_empty()
    }

    /// True when a reply should leave.
    pub fn has_queued(&self) -> bool {
        self.replies.iter().any(|reply| reply.queued)
    }

    /// The replies that should leave, oldest first.
    pub fn queued(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.replies
            .iter()
            .filter(|reply| reply.queued)
            .map(|reply| (reply.number, reply.bytes.as_slice()))
    }

    /// Notes that `numbers` have left.
    pub fn sent(&mut self, numbers: &[u64]) {
        self.replies.retain_mut(|reply| {
            if numbers.contains(&reply.number) {
                reply.queued = false;
                reply.bytes.len() <= REPLY_KEPT_BYTES
            } else {
                true
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    /// LINK-9
    #[test]
    fn a_request_is_worked_on_once_and_its_reply_sent_again() {
        let mut replies = Replies::default();
        assert_eq!(replies.arrive(7), Arrival::New);
        assert_eq!(replies.arrive(7), Arrival::Known);
        assert!(replies.reply(7, vec![1]));
        assert!(!replies.reply(7, vec![2]));
        replies.sent(&[7]);
        assert!(!replies.has_queued());
        assert_eq!(replies.arrive(7), Arrival::Known);
        assert_eq!(replies.queued().collect::<Vec<_>>(), [(7, &[1][..])]);
    }

    #[test]
    fn memory_has_an_end() {
        let mut replies = Replies::default();
        for number in 0..100 {
            replies.arrive(number);
            replies.reply(number, vec![0]);
            replies.sent(&[number]);
        }
        assert_eq!(replies.replies.len(), REPLIES_KEPT);
        for number in 1000..1100 {
            replies.arrive(number);
        }
        assert_eq!(replies.working.len(), WORKING_MAX);
        assert_eq!(replies.arrive(5000), Arrival::Refused);
    }

    #[test]
    fn long_replies_are_not_kept() {
        let mut replies = Replies::default();
        replies.arrive(1);
        replies.reply(1, vec![0; REPLY_KEPT_BYTES + 1]);
        replies.sent(&[1]);
        assert_eq!(replies.arrive(1), Arrival::New);
    }
}
