//! The sockets of a listener. They are bound once, and outlive a failed store.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use super::{Config, ServerError, config::ListenConfig, limits::SOCKET_BUFFER_BYTES};

/// The sockets of a listener, one for each of its workers.
#[derive(Debug)]
pub struct Sockets {
    pub config: ListenConfig,
    pub address: SocketAddr,
    bound: Vec<UdpSocket>,
}

impl Sockets {
    /// Binds the sockets of all listeners.
    pub fn bind_all(config: &Config) -> Result<Vec<Self>, ServerError> {
        let listeners = config.listeners().into_iter();
        listeners.map(|listen| Self::bind(config, listen)).collect()
    }

    /// Binds the sockets of a listener.
    fn bind(config: &Config, listen: ListenConfig) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Bind {
            address: listen.address,
            source,
        };
        let (address, bound) = bind(listen.address, config.limits.workers()).map_err(failed)?;
        Ok(Self {
            config: listen,
            address,
            bound,
        })
    }

    /// Returns clones of the sockets for the current server.
    pub fn each(&self) -> io::Result<Vec<UdpSocket>> {
        self.bound.iter().map(UdpSocket::try_clone).collect()
    }
}

/// Binds `count` sockets to an address. Returns the address, which matters if its port was 0.
fn bind(address: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<UdpSocket>)> {
    // Sockets that share an address do not conflict with others that do. The first bind checks that
    // no other process has the address.
    let first = socket(address, false)?;
    let address = first.local_addr()?;
    let sockets = if count == 1 {
        vec![first]
    } else {
        drop(first);
        let shared = (0..count).map(|_| socket(address, true));
        shared.collect::<Result<_, _>>()?
    };
    Ok((address, sockets))
}

/// Opens a socket at an address. With `shares`, other sockets of this process may use the same
/// address.
fn socket(address: SocketAddr, shares: bool) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    // The kernel may grant less. That costs retransmissions, not messages.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    if address.is_ipv6() {
        // A listener has one address family, whatever the system's default is.
        socket.set_only_v6(true)?;
    }
    if shares {
        share(&socket)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Makes the kernel distribute received datagrams over all sockets of an address.
#[cfg(all(
    unix,
    not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))
))]
fn share(socket: &socket2::Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(all(
    unix,
    not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))
)))]
fn share(_: &socket2::Socket) -> io::Result<()> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this system has no sockets that share an address; set workers = 1",
    ))
}
