//! A listener: an address, with a socket and an endpoint for each of its workers.

use std::{io, net::SocketAddr};

use rand::Rng as _;
use tokio::sync::mpsc;

use super::{
    Config, ServerError,
    config::{ListenConfig, Security},
    host_port::HostPort,
    sockets::Sockets,
};
use crate::{
    endpoint::{self, Identity},
    host::Bound,
    wire::{Protection, RealmId},
};

/// The largest overhead of a command around its message, in bytes.
const AROUND_MESSAGE: usize = 1024;

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    pub address: SocketAddr,
    pub config: ListenConfig,
    /// The host and port that others are told instead of the bound ones.
    advertised: Option<HostPort>,
    /// The socket and endpoint of each worker.
    pub workers: Vec<(Bound, endpoint::Endpoint)>,
}

/// A guard held by each worker of a listener. Its drop reports that the worker has ended, also
/// after a panic. Otherwise nothing would show that the address is no longer served.
#[derive(Debug)]
pub struct Ending {
    address: SocketAddr,
    told: mpsc::UnboundedSender<SocketAddr>,
}

impl Ending {
    /// Creates the guard of a worker of the listener at `address`.
    pub fn new(address: SocketAddr, told: &mpsc::UnboundedSender<SocketAddr>) -> Self {
        let told = told.clone();
        Self { address, told }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // While the server stops, nobody receives this.
        let _ = self.told.send(self.address);
    }
}

impl Listener {
    /// Prepares serving from bound sockets.
    ///
    /// # Errors
    /// Fails if the advertised address is none, or if the system refuses a socket.
    pub fn new(
        config: &Config,
        sockets: &Sockets,
        id: RealmId,
        identity: &Identity,
        rng: &mut rand::rngs::StdRng,
    ) -> Result<Listener, ServerError> {
        let listen = sockets.config.clone();
        let advertised = listen.advertise.as_deref().map(str::parse::<HostPort>);
        let advertised = advertised.transpose()?;
        let bound = sockets.each()?.into_iter().map(Bound::new);
        let bound: Vec<Bound> = bound.collect::<Result<_, _>>()?;
        let count = bound.len();
        let mut workers: Vec<(Bound, endpoint::Endpoint)> = Vec::with_capacity(count);
        for (own, socket) in bound.into_iter().enumerate() {
            let worker = worker_id(own, count)?;
            let config = endpoint_config(config, &listen, id, worker, count);
            let mut seed = [0; 32];
            rng.fill_bytes(&mut seed);
            let mut endpoint = endpoint::Endpoint::new(config, identity, seed);
            if let Some((_, first)) = workers.first() {
                endpoint.count_with(first);
            }
            workers.push((socket, endpoint));
        }
        Ok(Listener {
            address: sockets.address,
            workers,
            config: listen,
            advertised,
        })
    }

    /// Returns the host and port at which clients reach it: the advertised ones if known, which
    /// work from other machines, too.
    pub fn reached_at(&self) -> HostPort {
        self.advertised.clone().unwrap_or_else(|| {
            let ip = reachable(self.address.ip());
            SocketAddr::new(ip, self.address.port()).into()
        })
    }

    /// Returns the advertised host and port, or else the bound ones. A listener on all addresses
    /// (0.0.0.0 or ::) may be reached at an address that only others know.
    pub fn announced(&self) -> HostPort {
        let own = || self.address.into();
        self.advertised.clone().unwrap_or_else(own)
    }
}

/// Returns the number of one of several workers.
fn worker_id(own: usize, of: usize) -> io::Result<endpoint::WorkerId> {
    let id = || {
        let of = u32::try_from(of).ok()?.try_into().ok()?;
        endpoint::WorkerId::new(u32::try_from(own).ok()?, of)
    };
    id().ok_or_else(|| io::Error::other(format!("a listener cannot have a worker {own} of {of}")))
}

/// Returns the endpoint configuration of one of `count` workers of a listener.
fn endpoint_config(
    config: &Config,
    listen: &ListenConfig,
    id: RealmId,
    worker: endpoint::WorkerId,
    count: usize,
) -> endpoint::Config {
    let accept = match listen.security {
        Security::Sealed => Protection::Sealed,
        Security::Plain => Protection::Plain,
    };
    let link = config.link.parameters();
    let memory = usize::try_from(config.limits.link_memory.0).unwrap_or(usize::MAX);
    endpoint::Config {
        accept: Some(accept),
        hello: config.realm.hello.then_some(id),
        early_data: config.link.early_data,
        resumes: false,
        worker,
        max_datagram: link.max_datagram,
        max_message: usize::try_from(config.limits.max_message.0).unwrap_or(usize::MAX)
            + AROUND_MESSAGE,
        rate: link.rate,
        redundancy: link.redundancy,
        lifetime: config.link.lifetime.0,
        links_max: config.limits.links.div_ceil(count),
        memory_max: memory / count,
        handshakes: config.limits.handshakes(),
        idle: config.link.idle.0,
        shared_idle: config.link.peer_idle.0,
    }
}

/// Returns an address that a client on this machine can use for a listener on all addresses.
fn reachable(ip: std::net::IpAddr) -> std::net::IpAddr {
    match ip {
        std::net::IpAddr::V4(v4) if v4.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(v6) if v6.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listener_panic_is_reported() {
        let (ending, mut ended) = mpsc::unbounded_channel();
        let address = SocketAddr::from(([127, 0, 0, 1], 7));
        let ending = Ending::new(address, &ending);
        let thread = std::thread::spawn(move || {
            let _ending = ending;
            panic!("as scripted");
        });
        assert!(thread.join().is_err());
        assert_eq!(ended.try_recv(), Ok(address));
    }
}
