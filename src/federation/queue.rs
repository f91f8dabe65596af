//! Decides what to do with the message at the head of a peer's queue, and evaluates the peer's
//! answer (PEER-5, PEER-6, PEER-7, PEER-14, PEER-17).

use crate::{
    faults::{Fault, is_planted},
    realm::{Moment, NextOutgoing, Outgoing, Peer, Settling, refusal_of_peer},
    wire::{
        AnswerError, AnsweredByPeer as _, Delivered, ErrorCode, Refusal, Withdrawal,
        peer::{Deliver, Withdraw},
    },
};

/// How often a peer may fail to take a message before the message makes way for others.
const REFUSED_MAX: u32 = 4;

/// The next action for the message at the head of the queue.
#[derive(Debug)]
pub enum Turn {
    /// Settle the message without asking the peer.
    Settle(Settling),
    /// Send this request to the peer, for this reason.
    Ask(Purpose, Vec<u8>),
    /// No request is possible: the stored message is malformed.
    Nothing,
}

/// The reason for a request about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The peer should deliver the message.
    Deliver,
    /// The peer should no longer deliver the message: it has expired.
    Withdraw,
    /// The peer should no longer deliver the message: others wait behind it.
    MakeWay,
}

/// What the entry of a queue says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A message of a user.
    Message,
    /// A membership report: it may arrive twice and must arrive once.
    MembershipReport,
}

impl Content {
    /// Returns what this entry says.
    pub const fn of(outgoing: &Outgoing) -> Self {
        if outgoing.is_membership_report() {
            Self::MembershipReport
        } else {
            Self::Message
        }
    }
}

/// The evaluation of an answer.
#[derive(Debug)]
pub enum Verdict {
    /// The outcome of the message is known.
    Settle(Settling),
    /// The peer takes no messages now.
    Busy,
    /// The peer does not take this message.
    Refused,
    /// The peer does not know this realm, nor the outcome of the message.
    Unknown,
    /// The peer does not answer.
    Silent,
}

/// Returns the outcome of a message if it is known without the peer. Also works for a peer that has
/// not accepted the peering.
pub fn without_peer(next: &NextOutgoing, now: Moment) -> Option<Settling> {
    let outgoing: &Outgoing = &next.outgoing;
    if next.is_returned {
        return Some(Settling::Returned);
    }
    if !outgoing.is_expired(now) {
        return None;
    }
    Some(match Content::of(outgoing) {
        Content::MembershipReport => Settling::Back,
        Content::Message => Settling::Told(Err(ErrorCode::RealmUnreachable.into())),
    })
}

/// What follows after the outcome of a message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterOutcome {
    /// The message was taken or given up: the next message has its turn.
    GoOn,
    /// The message made way for the next one, which may fail, too.
    MadeWay,
    /// The peer has not taken the message: it is retried after a wait.
    Wait,
}

impl AfterOutcome {
    /// Returns what follows after this outcome of a request about that message.
    pub fn of(outcome: &Settling, outgoing: &Outgoing) -> Self {
        // A peer that always reports a used number would otherwise make this realm ask without
        // pause.
        let is_again = *outcome == Settling::Anew && outgoing.has_own_epoch();
        match outcome {
            _ if is_again && !is_planted(Fault::AskUsedAtOnce) => Self::Wait,
            Settling::Aside if !is_planted(Fault::MakeWayAtOnce) => Self::MadeWay,
            Settling::Told(_)
            | Settling::Aside
            | Settling::Back
            | Settling::Anew
            | Settling::Returned => Self::GoOn,
        }
    }
}

/// Counts how often the peer has not taken the message at the head of the queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Refusals {
    /// The position of the message.
    position: u64,
    /// How often the peer has not taken it.
    times: u32,
    /// A withdrawal was sent. If it arrived, the peer no longer delivers the message.
    is_withdrawn: bool,
}

impl Refusals {
    /// Returns the state for a message that was refused `times` times.
    #[cfg(test)]
    pub const fn sample(times: u32) -> Self {
        Self {
            position: 0,
            times,
            is_withdrawn: false,
        }
    }

    /// Starts to count for the message at `position`.
    pub fn turn_to(&mut self, position: u64) {
        if self.position != position {
            *self = Self {
                position,
                ..Self::default()
            };
        }
    }

    /// True if the caller needs to know whether other messages wait.
    pub const fn are_any(&self) -> bool {
        self.times > 0
    }

    /// Counts that the message was not taken.
    pub const fn add(&mut self) {
        self.times += 1;
    }

    /// Records that the peer is asked about the message.
    pub fn asks(&mut self, purpose: Purpose) {
        self.is_withdrawn |= purpose != Purpose::Deliver;
    }
}

/// Returns the next action for a message that the peer has `refused` this often.
pub fn turn(peer: &Peer, next: &NextOutgoing, refused: &Refusals, now: Moment) -> Turn {
    if let Some(settling) = without_peer(next, now) {
        return Turn::Settle(settling);
    }
    let outgoing = &next.outgoing;
    let patience = if outgoing.is_set_aside() {
        1
    } else {
        REFUSED_MAX
    };
    if outgoing.is_worthless(now) {
        // It may have been delivered: only the peer knows.
        Turn::Ask(Purpose::Withdraw, outgoing.withdraw_request(peer))
    } else if refused.is_withdrawn || refused.times >= patience && next.has_more {
        Turn::Ask(Purpose::MakeWay, outgoing.withdraw_request(peer))
    } else {
        match outgoing.deliver_request(peer) {
            Some(bytes) => Turn::Ask(Purpose::Deliver, bytes),
            None => Turn::Nothing,
        }
    }
}

/// Evaluates the peer's answer to a request about the entry of a queue. None if the peer is silent.
pub fn verdict(purpose: Purpose, content: Content, answer: Option<&[u8]>) -> Verdict {
    let Some(answer) = answer else {
        return if is_planted(Fault::TakeSilenceForDelivery) {
            Verdict::Settle(Settling::Told(Ok(Delivered)))
        } else {
            Verdict::Silent
        };
    };
    let delivered = Settling::Told(Ok(Delivered));
    let settled = match purpose {
        // Whatever the queue delivers has the same kind of answer.
        Purpose::Deliver => {
            Deliver::read_answer(answer).map(|said| said.map(|Delivered| delivered))
        }
        Purpose::Withdraw => Withdraw::read_answer(answer).map(|said| {
            said.map(|withdrawal| match withdrawal {
                Withdrawal::Withdrawn => Settling::Told(Err(ErrorCode::Expired.into())),
                Withdrawal::Delivered => delivered,
            })
        }),
        Purpose::MakeWay => Withdraw::read_answer(answer).map(|said| {
            said.map(|withdrawal| match withdrawal {
                Withdrawal::Withdrawn => Settling::Aside,
                Withdrawal::Delivered => delivered,
            })
        }),
    };
    match settled {
        Ok(Ok(settling)) => Verdict::Settle(settling),
        Ok(Err(refusal)) => verdict_of_refusal(purpose, content, refusal),
        // A malformed answer counts as no answer.
        Err(AnswerError::Malformed(_)) => Verdict::Silent,
        // The answer says neither delivered nor refused, so the outcome is unknown.
        Err(AnswerError::OtherKind) => Verdict::Refused,
    }
}

/// Evaluates a peer's refusal of a request about the entry of a queue.
fn verdict_of_refusal(purpose: Purpose, content: Content, refusal: Refusal) -> Verdict {
    match refusal.code {
        _ if refusal.is_transient() => Verdict::Busy,
        code if refusal.is_unknown() || code == ErrorCode::Internal => Verdict::Refused,
        // Expired: the message was withdrawn in a life that this realm's store does not know, so
        // its outcome is unknown, too. AlreadyDone: the number is so old that the peer has
        // forgotten its answer. A restored backup of this realm's store can use such a number. A
        // membership report may arrive twice and must arrive once, so it is sent again.
        code if code == ErrorCode::AlreadyDone
            || (code == ErrorCode::Expired && purpose == Purpose::Deliver) =>
        {
            Verdict::Settle(match content {
                Content::MembershipReport => Settling::Anew,
                Content::Message => Settling::Told(Err(ErrorCode::RealmUnreachable.into())),
            })
        }
        ErrorCode::PeerRefused => Verdict::Unknown,
        // The peer knows this number for another message: this realm's store is older than the
        // peer's, or the peer lies.
        ErrorCode::NumberReused => Verdict::Settle(Settling::Anew),
        _ => match refusal_of_peer(refusal) {
            Some(refusal) => Verdict::Settle(Settling::Told(Err(refusal))),
            None => Verdict::Refused,
        },
    }
}
