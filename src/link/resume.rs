//! Links that are resumed (HS-18 … HS-21): the two sides have introduced themselves to each other before.

use super::{Event, Item, Keys, Link, Opening, State};
use crate::{
    crypto::ResumptionSecret,
    wire::{Update, Welcome},
};

impl Link {
    /// Says in OPEN that this side means to come back by resumption.
    pub const fn ask_for_ticket(&mut self) {
        if let Some(open) = &mut self.controls.open {
            open.resumes = true;
        }
    }

    /// What the initiator of the link comes back with, once the link has keys.
    pub fn initiators_secret(&self) -> Option<ResumptionSecret> {
        match &self.state {
            State::Open(Keys::Sealed(keys)) => Some(keys.initiators_secret()),
            State::Open(Keys::Plain) | State::Opening | State::Closed => None,
        }
    }

    /// The same, as the responder makes it.
    pub fn responders_secret(&self) -> Option<ResumptionSecret> {
        match &self.state {
            State::Open(Keys::Sealed(keys)) => Some(keys.responders_secret()),
            State::Open(Keys::Plain) | State::Opening | State::Closed => None,
        }
    }

    /// The other side's limit on datagrams, as far as it is known, in bytes.
    pub const fn peer_max_datagram(&self) -> usize {
        self.peer_max_datagram
    }

    /// The other side, whose limit on datagrams is this, wants in again; answer with [`Link::let_in_again`].
    pub fn is_resumed_by(&mut self, max_datagram: usize) {
        self.opening = Opening::Asked;
        self.peer_max_datagram = max_datagram;
        self.events.push_back(Event::Opened {
            name: None,
            resumes: false,
        });
    }

    /// Lets in who was in before: it has been told what `welcome` says, but for `news`.
    pub fn let_in_again(&mut self, welcome: Welcome, news: Option<Update>) {
        self.opening = Opening::Given(welcome);
        self.trusted |= welcome.known;
        if let Some(news) = news {
            self.tell_update(news);
        }
    }

    /// Tells the other side news, until it has them.
    pub fn tell_update(&mut self, news: Update) {
        self.controls.update = news;
        self.queue.control(Item::Update);
    }

    /// The other side, whose limit on datagrams is this, has let this one in again.
    pub fn is_let_in_again(&mut self, max_datagram: usize) {
        self.opening = Opening::Welcomed;
        self.controls.open = None;
        self.peer_max_datagram = max_datagram;
    }

    /// What came with the answer to a resumption.
    pub fn take_update(&mut self) -> Option<Update> {
        let is_update = |event: &Event| matches!(event, Event::Update(_));
        let at = self.events.iter().position(is_update)?;
        match self.events.remove(at) {
            Some(Event::Update(update)) => Some(update),
            _ => None,
        }
    }
}
