//! Answers to strangers, and Resets, that wait to be sent: datagrams that belong to no link.

use std::collections::VecDeque;

use super::{limits::ANSWERS_MAX, path::Path};
use crate::link::trace::trace_answer;

/// Datagrams that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<(Path, Vec<u8>)>,
    /// True if the last datagram sent came from here.
    was_last: bool,
}

impl Outbox {
    /// Queues a stateless answer to a datagram. When the queue is full the answer is dropped, and
    /// the sender asks again.
    pub fn answer(&mut self, path: Path, datagram: Vec<u8>) {
        if self.waiting.len() < ANSWERS_MAX {
            self.send(path, datagram);
        }
    }

    /// Queues a datagram that this side sends of its own accord. Their number is bounded by that of
    /// links.
    pub fn send(&mut self, path: Path, datagram: Vec<u8>) {
        self.waiting.push_back((path, datagram));
    }

    /// Writes the next datagram into `out`, unless it is the turn of links: the two alternate, so
    /// that links send however many answers wait.
    pub fn poll_in_turn(&mut self, out: &mut Vec<u8>) -> Option<Path> {
        if core::mem::replace(&mut self.was_last, false) {
            return None;
        }
        let path = self.poll(out)?;
        self.was_last = true;
        Some(path)
    }

    /// Writes the next datagram into `out`.
    pub fn poll(&mut self, out: &mut Vec<u8>) -> Option<Path> {
        let (path, datagram) = self.waiting.pop_front()?;
        out.clear();
        out.extend_from_slice(&datagram);
        trace_answer(&path.remote, out);
        Some(path)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}
