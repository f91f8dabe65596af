//! Resumed links (HS-18 … HS-21): the two sides have exchanged OPEN and WELCOME before.

use super::{Event, Item, Keys, Link, Opening, State};
use crate::{
    crypto::ResumptionSecret,
    wire::{Update, Welcome},
};

impl Link {
    /// Announces in OPEN that this side intends to use resumption.
    pub const fn ask_for_ticket(&mut self) {
        if let Some(open) = &mut self.controls.open {
            open.resumes = true;
        }
    }

    /// Returns the initiator's resumption secret, once the link has keys.
    pub fn initiators_secret(&self) -> Option<ResumptionSecret> {
        match &self.state {
            State::Open(Keys::Sealed(keys)) => Some(ResumptionSecret::of_initiator(keys)),
            State::Open(Keys::Plain) | State::Opening | State::Closed => None,
        }
    }

    /// Returns the initiator's resumption secret, computed as the responder.
    pub fn responders_secret(&self) -> Option<ResumptionSecret> {
        match &self.state {
            State::Open(Keys::Sealed(keys)) => Some(ResumptionSecret::of_responder(keys)),
            State::Open(Keys::Plain) | State::Opening | State::Closed => None,
        }
    }

    /// The other side's limit on datagrams, as far as it is known, in bytes.
    pub const fn peer_max_datagram(&self) -> usize {
        self.peer_max_datagram
    }

    /// Notes that the other side, whose limit on datagrams is `max_datagram` bytes, resumes the
    /// link; answer with [`Link::let_in_again`].
    pub fn is_resumed_by(&mut self, max_datagram: usize) {
        self.opening = Opening::Asked;
        self.peer_max_datagram = max_datagram;
        self.events.push_back(Event::Opened {
            name: None,
            resumes: false,
        });
    }

    /// Accepts a resumption. The other side already knows `welcome`, but not `news`.
    pub fn let_in_again(&mut self, welcome: Welcome, news: Option<Update>) {
        self.opening = Opening::Given(welcome);
        self.trusted |= welcome.known;
        if let Some(news) = news {
            self.tell_update(news);
        }
    }

    /// Sends the other side an UPDATE until it is acknowledged.
    pub fn tell_update(&mut self, news: Update) {
        self.controls.update = news;
        self.queue.control(Item::Update);
    }

    /// Notes that the other side, whose limit on datagrams is `max_datagram` bytes, has accepted
    /// the resumption.
    pub fn is_let_in_again(&mut self, max_datagram: usize) {
        self.opening = Opening::Welcomed;
        self.controls.open = None;
        self.peer_max_datagram = max_datagram;
    }

    /// Removes and returns the UPDATE that came with the answer to a resumption.
    pub fn take_update(&mut self) -> Option<Update> {
        let is_update = |event: &Event| matches!(event, Event::Update(_));
        let at = self.events.iter().position(is_update)?;
        match self.events.remove(at) {
            Some(Event::Update(update)) => Some(update),
            _ => None,
        }
    }
}
