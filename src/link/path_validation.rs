//! Path validation: whether the other side has proven its address, and how much may be sent there
//! before (LINK-11, LINK-18).

use super::queue::{Item, Queue};
use crate::wire::Frame;

/// An unproven address may be sent this many times the bytes received from it (RFC 9000 §8.1).
const PATH_CREDIT: usize = 3;

/// The validation of the other side's address.
#[derive(Clone, Debug)]
pub struct PathValidation {
    /// How many more bytes may be sent to an unproven address.
    credit: Option<usize>,
    /// The data that the other side must return.
    challenge: Option<[u8; 8]>,
    /// The data that this side must return.
    response: Option<[u8; 8]>,
    /// The other side appeared at another address, which has not answered a challenge yet.
    has_moved: bool,
}

impl PathValidation {
    /// Creates the state of an address that needs no proof.
    pub const fn proven() -> Self {
        Self {
            credit: None,
            challenge: None,
            response: None,
            has_moved: false,
        }
    }

    /// Creates the state of an address that is not proven and has sent `credit` bytes.
    pub const fn unproven(credit: usize) -> Self {
        Self {
            credit: Some(credit),
            ..Self::proven()
        }
    }

    /// True if the other side has proven that it receives at its address.
    pub const fn is_proven(&self) -> bool {
        self.credit.is_none()
    }

    /// True while the other side is at a new address that is not proven yet.
    pub const fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// How many more bytes may be sent to an unproven address; `None` if there is no limit.
    pub const fn credit(&self) -> Option<usize> {
        self.credit
    }

    /// Adds credit for bytes from an unproven address.
    pub const fn add_credit(&mut self, bytes: usize) {
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_add(bytes);
        }
    }

    /// Takes the bytes of a sent packet off the credit.
    pub const fn spend(&mut self, bytes: usize) {
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_sub(bytes);
        }
    }

    /// Notes that `bytes` bytes came from another address, which only the return of `data` proves.
    pub fn moved(&mut self, queue: &mut Queue, bytes: usize, data: [u8; 8]) {
        self.credit = Some(0);
        self.doubt(queue, data);
        self.heard(queue, bytes);
        queue.moved();
    }

    /// Doubts the other side's address: only the return of `data` proves it.
    pub fn doubt(&mut self, queue: &mut Queue, data: [u8; 8]) {
        self.has_moved = true;
        self.challenge(queue, data);
    }

    /// Makes the other side prove its address by returning `data`.
    pub fn challenge(&mut self, queue: &mut Queue, data: [u8; 8]) {
        self.challenge = Some(data);
        queue.control(Item::Challenge);
    }

    /// Notes more bytes from a new address that is not proven yet.
    pub fn heard(&mut self, queue: &mut Queue, bytes: usize) {
        if self.has_moved {
            self.add_credit(bytes.saturating_mul(PATH_CREDIT));
            queue.control(Item::Challenge);
        }
    }

    /// Handles a sealed packet: its sender has received the Accept.
    pub const fn sealed_packet_arrived(&mut self) {
        if !self.has_moved {
            self.credit = None;
        }
    }

    /// Handles a challenge of the other side: its data is returned.
    pub fn respond(&mut self, queue: &mut Queue, data: [u8; 8]) {
        self.response = Some(data);
        queue.control(Item::Response);
    }

    /// Handles a response. The right one proves the address.
    pub fn response_arrived(&mut self, queue: &mut Queue, data: [u8; 8]) {
        if self.challenge == Some(data) {
            self.prove(queue);
        }
    }

    /// Marks the other side's address as proven.
    pub fn prove(&mut self, queue: &mut Queue) {
        self.has_moved = false;
        self.credit = None;
        queue.remove(Item::Challenge);
    }

    /// The frame of [`Item::Challenge`].
    pub fn challenge_frame(&self) -> Option<Frame<'static>> {
        self.challenge.map(Frame::PathChallenge)
    }

    /// The frame of [`Item::Response`].
    pub fn response_frame(&self) -> Option<Frame<'static>> {
        self.response.map(Frame::PathResponse)
    }
}
