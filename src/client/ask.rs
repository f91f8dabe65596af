//! What a client asks of its [`super::driver::Driver`], and what the driver says.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::paths::Paths;
use crate::{
    crypto::PublicKey,
    endpoint::Ticket,
    link::PathMemory,
    subnet::Subnet,
    wire::{Life, OperationNumber},
};

/// A question.
pub struct Ask {
    pub bytes: Vec<u8>,
    pub deadline: Instant,
    pub early: bool,
    /// It carries a password, which only a link with forward secrecy may carry.
    pub secret: bool,
    /// It changes something: once nobody waits for it any more, it must not leave late.
    pub changes: bool,
    pub answer: oneshot::Sender<Result<Vec<u8>, AskError>>,
    /// The life of the realm's store in which the positions were given out that it names.
    pub life: Option<Life>,
    /// It may have left this machine.
    pub left: bool,
}

/// What there is to do.
pub enum Job {
    /// Ask something.
    Ask(Ask),
    /// Tell what is pushed.
    Tell(mpsc::Sender<Told>),
    /// Say when what there is to send has left, if nobody watches any more that the link is closed.
    Leave(oneshot::Sender<()>),
}

/// What is told to who watches.
#[derive(Debug)]
pub enum Told {
    /// The realm has pushed this, on a link to this life of its store.
    Pushed(Vec<u8>, Option<Life>),
    /// The link is a new one: what was asked of the realm for the one before is to be asked again.
    Opened,
    /// The realm is out of reach: a keepalive has not been answered, or the link does not open.
    Silent,
    /// The realm is back.
    Heard,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskError {
    /// Its deadline is over.
    Expired {
        /// Something was heard from the realm.
        heard: bool,
        /// The machine there says that nothing listens on the port.
        refused: bool,
        /// False only if it is certain that no byte of the question has left this machine.
        left: bool,
    },
    /// Its deadline is over, and there was no address to send to: for this reason.
    NoRoute(String),
    /// Whoever answers has another key.
    KeyChanged(PublicKey),
    /// Whoever answers speaks these versions of the protocol, and none of this side's.
    OtherVersion(Vec<u8>),
}

/// What is known of the link to a realm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The highest operation number that the realm has seen from this device.
    pub highest: OperationNumber,
    /// The round-trip time.
    pub rtt: Option<Duration>,
    /// The realm goes by this key now; the one it was known by has vouched for it.
    pub successor: Option<PublicKey>,
    /// What the realm has said of the life of its store when a link was opened last.
    pub life: Option<LifeTold>,
    /// The address in use.
    pub address: Option<SocketAddr>,
    /// The link is open.
    pub open: bool,
    /// How many links have been opened so far,
    pub opened: u64,
    /// and whether the last was resumed (HS-18), or began with a handshake.
    pub is_resumed: bool,
}

/// What a realm says of the life of its store when a link is opened (HS-14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LifeTold {
    /// The one that was claimed.
    pub claimed: Option<Life>,
    /// The current one, unless the realm does not say.
    pub life: Option<Life>,
    /// The realm does not know the one that was claimed.
    pub is_unknown: bool,
}

/// Whom to talk to.
#[derive(Clone, Debug)]
pub struct Target {
    /// None for a plain link.
    pub key: Option<PublicKey>,
    /// What is remembered of the path, or said of its kind.
    pub rtt: Option<Duration>,
    /// What is remembered of it from each network, and the time of day.
    pub paths: (Paths, Duration),
    /// The life of the realm's store that is remembered.
    pub life: Option<Life>,
    /// What to come back with.
    pub ticket: Option<Ticket>,
    /// Where to put what is to be remembered.
    pub news: Arc<Mutex<ToRemember>>,
}

/// What the latest handshake has changed in what there is to come back with.
#[derive(Debug)]
pub enum TicketNews {
    /// This, since then.
    Fresh(Ticket, Instant),
    /// There is nothing any more.
    Gone,
}

/// What a profile is to remember, until it is written down.
#[derive(Debug, Default)]
pub struct ToRemember {
    pub ticket: Option<TicketNews>,
    /// What the link has found out of the path from that network.
    pub path: Option<(Subnet, PathMemory)>,
}
