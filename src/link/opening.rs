//! Opening: the exchange of OPEN and WELCOME, or its replacement by a resumption (HS-18 … HS-21),
//! and what the two sides have agreed on in it.

use alloc::vec::Vec;

use super::{
    DATAGRAM_MIN,
    queue::{Item, Queue},
};
use crate::wire::{Frame, LinkName, Open, Update, Welcome};

/// The progress of the OPEN and WELCOME exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Neither OPEN nor WELCOME has arrived.
    Unheard,
    /// An OPEN has arrived and waits for its WELCOME.
    OpenReceived,
    /// This side has sent the WELCOME, and repeats it if the OPEN arrives again.
    WelcomeSent(Welcome),
    /// The WELCOME has arrived.
    WelcomeReceived,
}

/// The opening of a link.
#[derive(Clone, Debug)]
pub struct Opening {
    progress: Progress,
    /// This side's OPEN: repeated in every packet of a plain link until it is answered.
    open: Option<Open>,
    /// The WELCOME that is sent with the next packet.
    welcome: Option<Welcome>,
    /// The contents of [`Item::Update`].
    update: Update,
    /// This side's limit on datagrams, in bytes.
    max_datagram: usize,
    /// The other side's limit on datagrams, in bytes.
    peer_max_datagram: usize,
    /// True if long messages of the other side are reassembled.
    trusted: bool,
}

impl Opening {
    /// Creates the state of an initiator, which knows the link by `name` if it needs one.
    pub(super) const fn initiate(max_datagram: usize, name: Option<LinkName>) -> Self {
        Self {
            open: Some(Open {
                max_datagram: max_datagram as u64,
                name,
                resumes: false,
            }),
            // The initiator has chosen the other side.
            trusted: true,
            ..Self::respond(max_datagram)
        }
    }

    /// Creates the state of a responder.
    pub(super) const fn respond(max_datagram: usize) -> Self {
        Self {
            progress: Progress::Unheard,
            open: None,
            welcome: None,
            update: Update {
                standing: None,
                life: None,
            },
            max_datagram,
            peer_max_datagram: max_datagram,
            trusted: false,
        }
    }

    /// Restores the state of a dormant link. `sent`: the WELCOME that answers a repeated OPEN.
    pub(super) fn from_dormant(
        sent: Option<Welcome>,
        max_datagram: usize,
        peer_max_datagram: usize,
        trusted: bool,
    ) -> Self {
        Self {
            progress: sent.map_or(Progress::WelcomeReceived, Progress::WelcomeSent),
            peer_max_datagram,
            trusted,
            ..Self::respond(max_datagram)
        }
    }

    /// True if the other side's OPEN waits for its WELCOME.
    pub fn is_asked(&self) -> bool {
        self.progress == Progress::OpenReceived
    }

    /// True if the other side's WELCOME has arrived.
    pub fn is_welcomed(&self) -> bool {
        self.progress == Progress::WelcomeReceived
    }

    /// True if both sides have sent what opens the link.
    pub(super) const fn is_complete(&self) -> bool {
        matches!(
            self.progress,
            Progress::WelcomeSent(_) | Progress::WelcomeReceived
        )
    }

    /// The WELCOME that this side has sent.
    pub(super) const fn sent_welcome(&self) -> Option<Welcome> {
        match self.progress {
            Progress::WelcomeSent(welcome) => Some(welcome),
            Progress::Unheard | Progress::OpenReceived | Progress::WelcomeReceived => None,
        }
    }

    /// True if long messages of the other side are reassembled here, and ours there.
    pub const fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Allows the other side long messages, which are reassembled here (LINK-13).
    pub const fn trust(&mut self) {
        self.trusted = true;
    }

    /// This side's limit on datagrams, in bytes.
    pub(super) const fn max_datagram(&self) -> usize {
        self.max_datagram
    }

    /// The other side's limit on datagrams, as far as it is known, in bytes.
    pub const fn peer_max_datagram(&self) -> usize {
        self.peer_max_datagram
    }

    /// The largest datagram of this link: the smaller of both sides' limits.
    pub(super) fn datagram_max(&self) -> usize {
        self.max_datagram
            .min(self.peer_max_datagram)
            .max(DATAGRAM_MIN)
    }

    /// Announces in OPEN that this side intends to use resumption.
    pub const fn ask_for_ticket(&mut self) {
        if let Some(open) = &mut self.open {
            open.resumes = true;
        }
    }

    /// This side's OPEN, until it is answered.
    pub(super) const fn open(&self) -> Option<Open> {
        self.open
    }

    /// The bytes of its frame.
    pub(super) fn open_len(&self) -> usize {
        let mut frame = Vec::new();
        if let Some(open) = self.open {
            Frame::Open(open).emit(false, &mut frame);
        }
        frame.len()
    }

    /// Notes that the OPEN needs no answer any more: a handshake has carried it.
    pub(super) const fn open_answered(&mut self) {
        self.open = None;
    }

    /// The WELCOME that is sent with the next packet.
    pub(super) const fn welcome_queued(&self) -> Option<Welcome> {
        self.welcome
    }

    /// Notes that the queued WELCOME has been sent.
    pub(super) const fn welcome_left(&mut self) {
        self.welcome = None;
    }

    /// Handles the other side's OPEN. True if it is the first.
    pub(super) fn open_arrived(&mut self, open: Open) -> bool {
        match self.progress {
            Progress::Unheard => {
                self.resume(saturated(open.max_datagram));
                true
            }
            Progress::WelcomeSent(welcome) => {
                self.welcome = Some(welcome);
                false
            }
            Progress::OpenReceived | Progress::WelcomeReceived => false,
        }
    }

    /// Answers the other side's OPEN.
    pub(super) const fn send_welcome(&mut self, welcome: Welcome) {
        self.accept_resumption(welcome);
        self.welcome = Some(welcome);
    }

    /// Handles the WELCOME. True if it is the first.
    pub(super) fn welcome_arrived(&mut self, welcome: Welcome) -> bool {
        let is_first = self.progress == Progress::Unheard;
        if is_first {
            self.resumption_accepted(saturated(welcome.max_datagram));
        }
        is_first
    }

    /// Notes that the other side, whose limit on datagrams is `max_datagram` bytes, resumes the
    /// link.
    pub(super) const fn resume(&mut self, max_datagram: usize) {
        self.progress = Progress::OpenReceived;
        self.peer_max_datagram = max_datagram;
    }

    /// Accepts a resumption. The other side already knows `welcome`.
    pub(super) const fn accept_resumption(&mut self, welcome: Welcome) {
        self.progress = Progress::WelcomeSent(welcome);
        self.trusted |= welcome.known;
    }

    /// Notes that the other side, whose limit on datagrams is `max_datagram` bytes, has accepted
    /// the resumption.
    pub const fn resumption_accepted(&mut self, max_datagram: usize) {
        self.progress = Progress::WelcomeReceived;
        self.open = None;
        self.peer_max_datagram = max_datagram;
    }

    /// Sends the other side an UPDATE until it is acknowledged.
    pub(super) fn send_update(&mut self, queue: &mut Queue, update: Update) {
        self.update = update;
        queue.control(Item::Update);
    }

    /// The contents of [`Item::Update`].
    pub(super) const fn update(&self) -> Update {
        self.update
    }
}

/// Returns a limit on datagrams as a length in memory.
fn saturated(max_datagram: u64) -> usize {
    usize::try_from(max_datagram).unwrap_or(usize::MAX)
}
