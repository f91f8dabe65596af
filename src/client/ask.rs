//! The requests of a client to its [`super::driver::Driver`], and the driver's reports.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{life::LifeTold, paths::Paths};
use crate::{
    crypto::PublicKey,
    endpoint::Ticket,
    link::{LinkStats, PathMemory},
    subnet::Subnet,
    wire::{Life, OperationNumber},
};

/// A request.
pub struct Ask {
    pub bytes: Vec<u8>,
    pub begun: Instant,
    pub deadline: Instant,
    pub early: bool,
    /// It carries a password, so it needs a link with forward secrecy.
    pub secret: bool,
    /// It changes something: once its caller stops waiting, it must not be sent late.
    pub changes: bool,
    pub answer: oneshot::Sender<Result<Vec<u8>, AskError>>,
    /// The life of the realm's store to which the positions in the request belong.
    pub life: Option<Life>,
    /// It may have been sent.
    pub left: bool,
}

/// A job for the driver.
pub enum Job {
    /// Send a request.
    Ask(Ask),
    /// Report pushed messages to this sender.
    Tell(mpsc::Sender<Told>),
    /// Report when all frames have been sent, such as the close of the link after the last watch.
    Leave(oneshot::Sender<()>),
    /// Return the statistics of the link, if there is one.
    Stats(oneshot::Sender<Option<LinkStats>>),
}

/// An event for the watcher.
#[derive(Debug)]
pub enum Told {
    /// A push from the realm, on a link to this life of its store.
    Pushed(Vec<u8>, Option<Life>),
    /// A new link is open: requests that belonged to the previous link must be repeated.
    Opened,
    /// The realm is unreachable: a keepalive was not answered, or the link does not open.
    Silent,
    /// The realm is reachable again.
    Heard,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskError {
    /// Its deadline has passed.
    Expired {
        /// The realm was heard since the request began.
        heard: bool,
        /// The host reports that nothing listens on the port.
        refused: bool,
        /// False only if it is certain that no byte of the request was sent.
        left: bool,
    },
    /// Its deadline has passed, and there was no address to send to, for this reason.
    NoRoute(String),
    /// The server at the address has another key.
    KeyChanged(PublicKey),
    /// The server at the address speaks only these protocol versions, none of which this side
    /// speaks.
    OtherVersion(Vec<u8>),
}

/// The state of the link to a realm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The highest operation number that the realm has seen from this device.
    pub highest: OperationNumber,
    /// The realm has reported `highest` on the open link. On a resumed link it does so a little
    /// later (HS-19).
    pub(super) is_highest_told: bool,
    /// The round-trip time, once it was measured.
    pub rtt: Option<Duration>,
    /// The realm's new key, for which the known key has vouched.
    pub successor: Option<PublicKey>,
    /// The life of the realm's store as reported when a link was last opened.
    pub(super) life: Option<LifeTold>,
    /// The address in use.
    pub address: Option<SocketAddr>,
    /// The link is open.
    pub open: bool,
    /// How many links have been opened so far.
    pub opened: u64,
    /// The last link was resumed (HS-18), not opened by a handshake.
    pub is_resumed: bool,
}

/// The realm to connect to, and what is known of it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The realm's key. `None` for a plain link.
    pub key: Option<PublicKey>,
    /// The remembered round-trip time, or that of the link profile.
    pub rtt: Option<Duration>,
    /// The path memory for each network, and the time of day.
    pub paths: (Paths, Duration),
    /// The remembered life of the realm's store.
    pub life: Option<Life>,
    /// The ticket for resumption, and the time of day of its handshake.
    pub ticket: Option<(Ticket, Duration)>,
    /// Receives what the profile is to remember.
    pub news: Arc<Mutex<ToRemember>>,
}

/// The change to the ticket by the latest handshake.
#[derive(Debug)]
pub enum TicketNews {
    /// A new ticket, and the time of day of its handshake.
    Fresh(Ticket, Duration),
    /// The ticket is gone.
    Gone,
}

/// What a profile is to remember, until it is written.
#[derive(Debug, Default)]
pub struct ToRemember {
    pub ticket: Option<TicketNews>,
    /// The path memory of the link, with its network.
    path: Option<KnownPath>,
    /// The path memory as last written.
    written: Option<KnownPath>,
    /// How often something was heard. `again`: how often it has to be before the path memory is
    /// written again.
    heard: u32,
    again: u32,
}

/// A network, and the path memory from there.
pub type KnownPath = (Subnet, PathMemory);

impl ToRemember {
    /// Records the current path memory after something was heard.
    pub const fn learn_path(&mut self, path: KnownPath) {
        self.path = Some(path);
        self.heard = self.heard.saturating_add(1);
    }

    /// Returns the path memory.
    pub const fn path(&self) -> Option<KnownPath> {
        self.path
    }

    /// Returns the path memory and marks it as written.
    pub fn take_path(&mut self) -> Option<KnownPath> {
        self.written = self.path;
        self.again = self.heard.saturating_mul(2);
        self.path
    }

    /// Like [`ToRemember::take_path`], but only if writing is worth a commit: the memory has
    /// changed in a way that matters to the next process, and twice as much was heard as at the
    /// last write, or the process `ends`.
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

    /// LINK-25: a path memory that changes the start of the next process is written, each time
    /// after twice as much was heard, and at the end. Any other change is never written.
    #[test]
    fn path_memory_changed_is_written_ever_less_often() {
        let mut news = ToRemember::default();
        news.learn_path(path(1, 0));
        assert_eq!(news.take_path(), Some(path(1, 0)));
        assert_eq!(news.take_changed_path(true), None, "nothing has changed");
        let mut written = Vec::new();
        for heard in 2..100 {
            // The path alternates between bad and good.
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
