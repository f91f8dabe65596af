//! What a listener asks of other realms: over a link that the other has opened, or over one of its own.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use tokio::sync::oneshot;

use crate::{
    crypto::PublicKey,
    endpoint::{Endpoint, LinkId},
    link::Time,
    wire::{HelloReply, PeerRequest},
};

/// How long one question is asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// A question to another realm.
#[derive(Debug)]
pub enum Call {
    /// Who is at an address?
    Who(SocketAddr, oneshot::Sender<PublicKey>),
    /// A request to the realm with that key.
    Ask {
        /// By which of this realm's keys the other knows it.
        own: PublicKey,
        key: PublicKey,
        address: SocketAddr,
        bytes: Vec<u8>,
        answer: oneshot::Sender<Vec<u8>>,
    },
}

/// The questions on their way. Whoever asked is told nothing when there is no answer: the sender is
/// dropped.
#[derive(Debug, Default)]
pub struct Calls {
    who: Vec<(SocketAddr, oneshot::Sender<PublicKey>)>,
    asked: HashMap<(LinkId, u64), oneshot::Sender<Vec<u8>>>,
}

impl Calls {
    pub fn begin(&mut self, now: Time, endpoint: &mut Endpoint, call: Call) {
        match call {
            Call::Who(address, answer) => {
                if endpoint.ask_hello(now, address) {
                    self.who.push((address, answer));
                }
            }
            Call::Ask {
                own,
                key,
                address,
                bytes,
                answer,
            } => {
                let link = endpoint.link_with(now, &own, key, address);
                let early = !PeerRequest::carries_password(&bytes);
                let deadline = now + PATIENCE;
                if let Some(number) = endpoint.request(now, link, bytes, deadline, early) {
                    self.asked.insert((link, number), answer);
                }
            }
        }
    }

    /// Stops asking for whoever has stopped waiting.
    pub fn tidy(&mut self, endpoint: &mut Endpoint) {
        self.who.retain(|(address, answer)| {
            if answer.is_closed() {
                endpoint.stop_asking(*address);
            }
            !answer.is_closed()
        });
    }

    pub fn answered(&mut self, link: LinkId, number: u64, answer: Vec<u8>) {
        if let Some(waiting) = self.asked.remove(&(link, number)) {
            // Whoever asked may have stopped waiting.
            let _ = waiting.send(answer);
        }
    }

    /// A question waits for its answer on another link now.
    pub fn moved(&mut self, from: (LinkId, u64), to: (LinkId, u64)) {
        if let Some(waiting) = self.asked.remove(&from) {
            self.asked.insert(to, waiting);
        }
    }

    /// No answer has come in time.
    pub fn expired(&mut self, now: Time, endpoint: &mut Endpoint, link: LinkId, number: u64) {
        self.asked.remove(&(link, number));
        endpoint.distrust(now, link);
    }

    pub fn closed(&mut self, link: LinkId) {
        self.asked.retain(|(asked, _), _| *asked != link);
    }

    pub fn introduced(&mut self, address: SocketAddr, reply: &HelloReply) {
        let asked = std::mem::take(&mut self.who);
        for (at, answer) in asked {
            if at == address {
                let _ = answer.send(PublicKey(reply.key));
            } else {
                self.who.push((at, answer));
            }
        }
    }
}
