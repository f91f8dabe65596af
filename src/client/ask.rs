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
    link::{LinkStats, PathMemory},
    subnet::Subnet,
    wire::{Life, OperationNumber},
};

/// A question.
pub struct Ask {
    pub bytes: Vec<u8>,
    pub begun: Instant,
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
    /// Say what has happened on the link, if there is one.
    Stats(oneshot::Sender<Option<LinkStats>>),
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
        /// Something was heard from the realm since it began.
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
    /// The highest operation number that the realm has seen from this device,
    pub highest: OperationNumber,
    /// and whether it has said so on the link that is open: one that was resumed is told a little later (HS-19).
    pub is_highest_told: bool,
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
    /// What to come back with, and the time of day of its handshake.
    pub ticket: Option<(Ticket, Duration)>,
    /// Where to put what is to be remembered.
    pub news: Arc<Mutex<ToRemember>>,
}

/// What the latest handshake has changed in what there is to come back with.
#[derive(Debug)]
pub enum TicketNews {
    /// This, since that time of day.
    Fresh(Ticket, Duration),
    /// There is nothing any more.
    Gone,
}

/// What a profile is to remember, until it is written down.
#[derive(Debug, Default)]
pub struct ToRemember {
    pub ticket: Option<TicketNews>,
    /// What the link has found out of the path from that network.
    path: Option<KnownPath>,
    /// The same as it was written down last.
    written: Option<KnownPath>,
    /// How often something was heard, and how often it has to be before the path is written down again.
    heard: u32,
    again: u32,
}

/// A network, and what is known of the path from there.
pub type KnownPath = (Subnet, PathMemory);

impl ToRemember {
    /// Something was heard, and this is known of the path by now.
    pub const fn learn_path(&mut self, path: KnownPath) {
        self.path = Some(path);
        self.heard = self.heard.saturating_add(1);
    }

    /// What is known of the path.
    pub const fn path(&self) -> Option<KnownPath> {
        self.path
    }

    /// The same, which is written down now.
    pub fn take_path(&mut self) -> Option<KnownPath> {
        self.written = self.path;
        self.again = self.heard.saturating_mul(2);
        self.path
    }

    /// The same, if it is worth to be written down again: who comes next would begin otherwise, and twice as much was heard as when it was
    /// written down last, for each time costs a commit; or this process `ends`.
    pub fn take_changed_path(&mut self, ends: bool) -> Option<KnownPath> {
        let (network, memory) = self.path?;
        let is_news = |(of, written): KnownPath| of != network || memory.is_news_to(&written);
        let is_due = ends || self.heard >= self.again;
        let is_taken = is_due && self.written.is_none_or(is_news);
        is_taken.then(|| self.take_path()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::link::Losses;

    fn path(network: u8, lost: u32) -> KnownPath {
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, network, 1));
        let memory = PathMemory {
            rtt: None,
            losses: Losses { lost, of: 32 },
            datagram: 1200,
            unsure: 0,
        };
        (address.into(), memory)
    }

    /// LINK-25: what changes how the next process begins is written down, each time after twice as much was heard, and at the end; what changes nothing never is.
    #[test]
    fn path_is_written_down_again_when_it_has_changed() {
        let mut news = ToRemember::default();
        news.learn_path(path(1, 0));
        assert_eq!(news.take_path(), Some(path(1, 0)));
        assert_eq!(news.take_changed_path(true), None, "nothing has changed");
        let mut written = Vec::new();
        for heard in 2..100 {
            // It is at once a bad path and a good one.
            news.learn_path(path(1, heard % 2 * 16));
            if news.take_changed_path(false).is_some() {
                written.push(heard);
            }
        }
        assert_eq!(written, [3, 6, 13, 26, 53], "a commit each");
        news.learn_path(path(1, 3));
        assert_eq!(news.take_changed_path(true), Some(path(1, 3)));
        news.learn_path(path(1, 0));
        assert_eq!(
            news.take_changed_path(true),
            None,
            "it is as good as before"
        );
        news.learn_path(path(2, 0));
        assert_eq!(
            news.take_changed_path(true),
            Some(path(2, 0)),
            "another network"
        );
    }
}
