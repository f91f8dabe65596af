//! What is to be done for the message whose turn it is in a peer's queue, and what comes of it (PEER-5, PEER-6, PEER-7, PEER-14, PEER-17).

use crate::{
    faults::{Fault, is_planted},
    realm::{Moment, NextOutgoing, Outgoing, Peer, Settling, refusal_of_peer},
    wire::{Answer, ErrorCode, Sent},
};

/// How often a peer may fail to take a message before the message makes way for others.
const REFUSED_MAX: u32 = 4;

/// What is to be done for the message whose turn it is.
#[derive(Debug)]
pub enum Turn {
    /// Nobody needs to be asked.
    Settle(Settling),
    /// The peer is asked; why, and with what.
    Ask(Asked, Vec<u8>),
    /// Nothing can be asked: what is kept of it makes no sense.
    Nothing,
}

/// Why a peer is asked about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is to deliver it.
    Deliver,
    /// It is not to deliver it any more: its time is over.
    Withdraw,
    /// The same, because others wait behind it.
    MakeWay,
}

/// What has come of asking.
#[derive(Debug)]
pub enum Verdict {
    /// It is known what becomes of it.
    Settle(Settling),
    /// The peer takes nothing now.
    Busy,
    /// The peer does not take this one.
    Refused,
    /// The peer does not know this realm, and not what has become of the message.
    Unknown,
    /// The peer does not answer.
    Silent,
}

/// What becomes of a message that its peer need not be asked about, also one that has not accepted the peering.
pub fn without_peer(next: &NextOutgoing, now: Moment) -> Option<Settling> {
    let outgoing: &Outgoing = &next.outgoing;
    if next.is_returned {
        return Some(Settling::Returned);
    }
    if !outgoing.is_expired(now) {
        return None;
    }
    Some(if outgoing.is_word() {
        Settling::Back
    } else {
        Settling::Told(Answer::Refused(ErrorCode::RealmUnreachable.into()))
    })
}

/// How often a message has not been taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Refusals {
    /// Which message.
    position: u64,
    /// How often the peer would not take it.
    times: u32,
    /// It has been withdrawn, perhaps: the peer would deliver it no more.
    is_withdrawn: bool,
}

impl Refusals {
    /// Of a message that was refused so many times.
    #[cfg(test)]
    pub const fn sample(times: u32) -> Self {
        Self {
            position: 0,
            times,
            is_withdrawn: false,
        }
    }

    /// It is that message's turn.
    pub fn turn_to(&mut self, position: u64) {
        if self.position != position {
            *self = Self {
                position,
                ..Self::default()
            };
        }
    }

    /// True when it is of interest whether others wait.
    pub const fn are_any(&self) -> bool {
        self.times > 0
    }

    /// The message was not taken.
    pub const fn add(&mut self) {
        self.times += 1;
    }

    /// The peer is asked.
    pub fn asks(&mut self, asked: Asked) {
        self.is_withdrawn |= asked != Asked::Deliver;
    }
}

/// What is to be done for a message that its peer has `refused` so often.
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
        // It may have been delivered: only the peer can say.
        Turn::Ask(Asked::Withdraw, outgoing.withdraw_request(peer))
    } else if refused.is_withdrawn || refused.times >= patience && next.has_more {
        Turn::Ask(Asked::MakeWay, outgoing.withdraw_request(peer))
    } else {
        match outgoing.deliver_request(peer) {
            Some(bytes) => Turn::Ask(Asked::Deliver, bytes),
            None => Turn::Nothing,
        }
    }
}

/// What comes of the peer's answer, or of none, where it was asked about a message, or word of memberships.
pub fn verdict((asked, is_word): (Asked, bool), answer: Option<&[u8]>) -> Verdict {
    let Some(answer) = answer else {
        return if is_planted(Fault::TakeSilenceForDelivery) {
            Verdict::Settle(Settling::Told(Answer::Sent(Sent::Delivered)))
        } else {
            Verdict::Silent
        };
    };
    match (Answer::parse(answer), asked) {
        // What makes no sense is as good as nothing.
        (Err(_), _) => Verdict::Silent,
        (Ok(Answer::Refused(refusal)), _) if refusal.is_transient() => Verdict::Busy,
        (Ok(Answer::Refused(refusal)), _)
            if refusal.is_unknown() || refusal.code == ErrorCode::Internal =>
        {
            Verdict::Refused
        }
        // It was withdrawn, in a life that this realm's store does not know: what became of it then is not known either.
        // Word of memberships may come twice, and must come once.
        // Or it is a number of so long ago that the peer does not remember how it was answered: a backup of this realm's store names it.
        (Ok(Answer::Refused(refusal)), Asked::Deliver)
            if matches!(refusal.code, ErrorCode::Expired | ErrorCode::AlreadyDone) =>
        {
            let perhaps = Answer::Refused(ErrorCode::RealmUnreachable.into());
            Verdict::Settle(if is_word {
                Settling::Anew
            } else {
                Settling::Told(perhaps)
            })
        }
        (Ok(Answer::Refused(refusal)), _) if refusal.code == ErrorCode::PeerRefused => {
            Verdict::Unknown
        }
        (Ok(Answer::Done), Asked::MakeWay) => Verdict::Settle(Settling::Aside),
        (Ok(Answer::Done), Asked::Withdraw) => {
            let expired = Answer::Refused(ErrorCode::Expired.into());
            Verdict::Settle(Settling::Told(expired))
        }
        // It says nothing of a message that was brought.
        (Ok(Answer::Done), Asked::Deliver) => Verdict::Refused,
        // Its number means another message there: this realm's memory is older than the peer's, or the peer lies.
        (Ok(Answer::Refused(refusal)), _) if refusal.code == ErrorCode::NumberReused => {
            Verdict::Settle(Settling::Anew)
        }
        (Ok(answer @ Answer::Sent(Sent::Stored | Sent::Delivered)), _) => {
            Verdict::Settle(Settling::Told(answer))
        }
        (Ok(Answer::Refused(refusal)), _) => match refusal_of_peer(refusal) {
            Some(refusal) => Verdict::Settle(Settling::Told(Answer::Refused(refusal))),
            None => Verdict::Refused,
        },
        // What says neither that it was delivered nor that it is refused says nothing of it.
        (Ok(_), _) => Verdict::Refused,
    }
}
