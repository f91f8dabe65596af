//! Cookies (HS-12): proof of an address that an initiator has to show under load. A cookie costs
//! this side a hash and no memory.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rand_core::CryptoRng;

use crate::{
    crypto::{MacKey, SecretKey, same},
    link::Time,
    wire::{Cookie, HandshakeId},
};

/// How long a secret makes cookies. Its cookies stay valid for as long again.
const SECRET_LIFETIME: Duration = Duration::from_mins(2);

/// Makes cookies and checks them.
#[derive(Debug)]
pub(super) struct Cookies {
    /// The current secret and the one before.
    secrets: [MacKey; 2],
    renewed: Time,
}

impl Cookies {
    pub fn new(rng: &mut impl CryptoRng) -> Self {
        let mut secret = || MacKey::derive(&SecretKey::generate(rng), "cookies");
        Self {
            secrets: [secret(), secret()],
            renewed: Time(0),
        }
    }

    /// True if `cookie` was made for this handshake from `source`, and has not expired.
    pub fn is_valid(
        &self,
        now: Time,
        source: SocketAddr,
        handshake: HandshakeId,
        cookie: &Cookie,
    ) -> bool {
        let [current, before] = &self.secrets;
        let age = now - self.renewed;
        let is_good = |secret: &MacKey| same(&made(secret, source, handshake), cookie);
        (age < SECRET_LIFETIME * 2 && is_good(current))
            || (age < SECRET_LIFETIME && is_good(before))
    }

    /// Returns the cookie that `source` has to return before its handshake begins.
    pub fn make(
        &mut self,
        now: Time,
        source: SocketAddr,
        handshake: HandshakeId,
        rng: &mut impl CryptoRng,
    ) -> Cookie {
        if now - self.renewed >= SECRET_LIFETIME {
            let fresh = MacKey::derive(&SecretKey::generate(rng), "cookies");
            let [current, before] = &mut self.secrets;
            *before = core::mem::replace(current, fresh);
            self.renewed = now;
        }
        let [current, _] = &self.secrets;
        made(current, source, handshake)
    }
}

fn made(secret: &MacKey, source: SocketAddr, handshake: HandshakeId) -> Cookie {
    // The MAC's inputs have a fixed length: an IPv4 address is mapped to IPv6.
    let ip = match source.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let port = source.port().to_be_bytes();
    secret.mac16(&[&ip.octets(), &port, &handshake.0.to_be_bytes()])
}
