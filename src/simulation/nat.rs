//! Address translators and stateful firewalls. A realm behind a translator opens links to others, which see it at an address that is
//! forgotten after a silence. Behind a firewall it keeps its own address, at which those are let in to whom it has sent lately. The users
//! of the realm are behind it, too, and reach it as before.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

/// Who is spoken to from where, and as what.
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
    /// It translates no addresses.
    is_firewall: bool,
    mappings: Vec<Mapping>,
}

/// All translators, by the machines behind them.
#[derive(Debug, Default)]
pub struct Nats {
    of: BTreeMap<String, Nat>,
    given: u32,
}

/// Realms, and whoever seems to be one, are in these nets; clients are elsewhere.
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

    /// The translator of a machine has begun anew.
    pub fn forget_all(&mut self, machine: &str) {
        if let Some(nat) = self.of.get_mut(machine) {
            nat.mappings.clear();
        }
    }

    /// From where a datagram seems to come that leaves the machine.
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

    /// Where a datagram goes that is sent to an address of a translator, if that still knows whose it is.
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

    /// True when nothing that another realm sends to the machine's own address comes there.
    pub fn shuts_out(&self, machine: &str, from: SocketAddr) -> bool {
        is_realm(from) && self.of.contains_key(machine)
    }
}
