//! Address translators and stateful firewalls. A realm behind a translator opens links to others,
//! which see an outside address that is forgotten after a time without traffic. A realm behind a
//! firewall keeps its own address, and receives there only from parties that it has sent to lately.
//! The users of the realm are behind it, too, and reach the realm as before.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

/// A mapping of an inside to an outside address, for one remote address.
#[derive(Debug)]
struct Mapping {
    inside: SocketAddr,
    outside: SocketAddr,
    remote: SocketAddr,
    used: Instant,
}

#[derive(Debug)]
struct Nat {
    forgets: Duration,
    /// The translator is a firewall, which keeps addresses as they are.
    is_firewall: bool,
    mappings: Vec<Mapping>,
}

/// All translators, by the machine behind them.
#[derive(Debug, Default)]
pub struct Nats {
    of: BTreeMap<String, Nat>,
    given: u32,
}

/// True for an address in the networks of realms and of translators. Clients are in other networks.
pub const fn is_realm(address: SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V4(ip) if matches!(ip.octets()[0], 10 | 172))
}

impl Nats {
    pub fn begin(&mut self, machine: &str, forgets: Duration, is_firewall: bool) {
        let nat = Nat {
            forgets,
            is_firewall,
            mappings: Vec::new(),
        };
        self.of.insert(machine.into(), nat);
    }

    /// Restarts the translator of a machine.
    pub fn forget_all(&mut self, machine: &str) {
        if let Some(nat) = self.of.get_mut(machine) {
            nat.mappings.clear();
        }
    }

    /// Returns the source address of a datagram after translation.
    pub fn leave(&mut self, machine: &str, inside: SocketAddr, remote: SocketAddr) -> SocketAddr {
        let Some(nat) = self.of.get_mut(machine).filter(|_| is_realm(remote)) else {
            return inside;
        };
        let now = Instant::now();
        let (forgets, is_firewall) = (nat.forgets, nat.is_firewall);
        nat.mappings
            .retain(|mapping| now.duration_since(mapping.used) < forgets);
        let mut known = nat.mappings.iter_mut();
        if let Some(mapping) = known.find(|m| m.inside == inside && m.remote == remote) {
            mapping.used = now;
            return mapping.outside;
        }
        let outside = if is_firewall {
            inside
        } else {
            self.given += 1;
            let [_, b, c, d] = self.given.to_be_bytes();
            SocketAddr::from((Ipv4Addr::new(172, b, c, d), 20_000))
        };
        nat.mappings.push(Mapping {
            inside,
            outside,
            remote,
            used: now,
        });
        outside
    }

    /// Returns the inside address for a datagram to an outside address, if the translator remembers
    /// the mapping.
    pub fn enter(&mut self, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let now = Instant::now();
        let mut nats = self.of.values_mut();
        nats.find_map(|nat| {
            let mut known = nat.mappings.iter_mut();
            let mapping = known.find(|mapping| mapping.outside == to && mapping.remote == from)?;
            if now.duration_since(mapping.used) >= nat.forgets {
                return None;
            }
            mapping.used = now;
            Some(mapping.inside)
        })
    }

    /// True if datagrams from another realm to the machine's own address are dropped.
    pub fn shuts_out(&self, machine: &str, from: SocketAddr) -> bool {
        is_realm(from) && self.of.contains_key(machine)
    }
}
