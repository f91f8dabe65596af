//! An attacker with a socket: a stranger, or an intruder who has a device's key and follows no
//! rule.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use merpati::{
    client::system_rng,
    crypto::{ConnectionString, Initiator, PublicKey, SecretKey, SessionKeys, mac1},
    wire::{
        ConnectionId, Frame, Frames, HandshakeId, Hello, Init, Open, Packet, PacketNumber,
        Protection, link_header,
    },
};
use rand::Rng as _;

use crate::support::Realm;

/// An answer that has not come within this time never will.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stranger's socket. Each address of 127.0.0.0/8 stands for another machine.
pub struct Stranger {
    socket: UdpSocket,
    asked: u64,
    /// Bytes sent, and bytes received, without the probes of [`Stranger::answers`].
    pub sent: usize,
    pub came: usize,
}

impl Stranger {
    pub fn at(address: Ipv4Addr, realm: &Realm) -> Self {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket.connect(realm.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            asked: 0,
            sent: 0,
            came: 0,
        }
    }

    pub fn send(&mut self, datagram: &[u8]) {
        self.sent += datagram.len();
        self.socket.send(datagram).unwrap();
    }

    pub fn receive(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 65_535];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(len) => return buffer[..len].to_vec(),
                // The realm is restarting.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => panic!("the realm does not answer: {error}"),
            }
        }
    }

    /// Returns the realm's answers to everything sent so far: the realm answers a Hello after them.
    /// A second Hello follows, because a datagram that leaves together with the first `HelloReply`
    /// may leave behind it.
    pub fn answers(&mut self) -> Vec<Vec<u8>> {
        let mut answers = self.answers_until_told();
        answers.append(&mut self.answers_until_told());
        answers
    }

    fn answers_until_told(&mut self) -> Vec<Vec<u8>> {
        self.asked += 1;
        let nonce = (self.asked ^ 0x6d65_7270_6174_6900).to_be_bytes();
        let mut hello = Vec::new();
        Hello { nonce }.emit(&mut hello);
        self.socket.send(&hello).unwrap();
        let mut answers = Vec::new();
        loop {
            let answer = self.receive();
            if matches!(Packet::parse(&answer), Ok(Packet::HelloReply(reply)) if reply.nonce == nonce)
            {
                return answers;
            }
            self.came += answer.len();
            answers.push(answer);
        }
    }
}

/// An attacker with a device's key, who makes arbitrary frames.
pub struct Intruder {
    pub stranger: Stranger,
    keys: SessionKeys,
    connection: ConnectionId,
    number: u64,
    largest: Option<PacketNumber>,
}

/// Returns an Init of a new device, and the state that completes its handshake.
pub fn init(realm: &PublicKey, frames: &[Frame<'_>]) -> (Initiator, Vec<u8>) {
    init_of(
        &SecretKey::generate(&mut system_rng().unwrap()),
        realm,
        frames,
    )
}

/// Returns an Init of this device.
fn init_of(device: &SecretKey, realm: &PublicKey, frames: &[Frame<'_>]) -> (Initiator, Vec<u8>) {
    let mut rng = system_rng().unwrap();
    let mut payload = Vec::new();
    Frames::emit(frames, &mut payload);
    let (initiator, noise) = Initiator::start(&mut rng, device, realm, &payload).unwrap();
    let mut init = Vec::new();
    Init::emit_without_cookie(HandshakeId(rng.next_u32()), &noise, &mut init);
    let mac = mac1(realm, &init);
    init.extend_from_slice(&mac);
    (initiator, init)
}

/// Returns the key in a realm's connection string.
pub fn key(realm: &Realm) -> PublicKey {
    let string: ConnectionString = realm.connect.parse().unwrap();
    string.key.unwrap()
}

pub const OPEN: Frame<'_> = Frame::Open(Open {
    max_datagram: 1200,
    name: None,
    resumes: false,
});

impl Intruder {
    /// Opens a link of a new device.
    pub fn to(realm: &Realm) -> Self {
        let device = SecretKey::generate(&mut system_rng().unwrap());
        Self::of(&device, Ipv4Addr::LOCALHOST, realm)
    }

    /// Opens a link of this device from `address`.
    pub fn of(device: &SecretKey, address: Ipv4Addr, realm: &Realm) -> Self {
        let mut stranger = Stranger::at(address, realm);
        let padding = [Frame::Padding; 8];
        let frames = [&[OPEN], &padding[..]].concat();
        let (mut initiator, init) = init_of(device, &key(realm), &frames);
        stranger.send(&init);
        let accept = stranger.receive();
        let Ok(Packet::Accept { noise, .. }) = Packet::parse(&accept) else {
            panic!("no Accept: {accept:?}")
        };
        let (keys, payload) = initiator.finish(noise).unwrap();
        let (connection, _) = payload.split_first_chunk().unwrap();
        Self {
            stranger,
            keys,
            connection: ConnectionId(u32::from_be_bytes(*connection)),
            number: 0,
            largest: None,
        }
    }

    /// Sends an authentic packet with these bytes as frames.
    pub fn send_bytes(&mut self, frames: &[u8]) {
        let mut packet = Vec::new();
        let connection = Some(self.connection);
        let number = PacketNumber(self.number);
        link_header(Protection::Sealed, connection, number, None, &mut packet);
        let header_len = packet.len();
        packet.extend_from_slice(frames);
        self.keys.seal.seal(self.number, header_len, &mut packet);
        self.number += 1;
        self.stranger.send(&packet);
    }

    pub fn send(&mut self, frames: &[Frame<'_>]) {
        let mut bytes = Vec::new();
        Frames::emit(frames, &mut bytes);
        self.send_bytes(&bytes);
    }

    /// Returns the frames of each packet that the realm has answered with.
    pub fn answers(&mut self) -> Vec<Vec<u8>> {
        let datagrams = self.stranger.answers();
        datagrams.iter().filter_map(|one| self.open(one)).collect()
    }

    /// Opens a packet of the link and returns its frames.
    pub fn open(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let Ok(Packet::Link(packet)) = Packet::parse(datagram) else {
            return None;
        };
        let number = packet.number(self.largest);
        let mut body = packet.body.to_vec();
        let opened = self.keys.open.open(number.0, packet.header, &mut body);
        let payload = opened.ok()?.to_vec();
        self.largest = self.largest.max(Some(number));
        Some(payload)
    }
}

/// Parses the frames of a payload.
pub fn frames(payload: &[u8]) -> Vec<Frame<'_>> {
    Frames::checked(payload).unwrap().collect()
}
