//! A connected socket: it sends to one address, receives from it only, and gets the network's
//! errors for sent datagrams. IP does not fragment them, so that a loss for size shows the path's
//! MTU (LINK-15).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::net::UdpSocket;

use crate::subnet::Subnet;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// A socket of the kernel.
    Real(UdpSocket),
    /// A socket on a simulated network.
    #[cfg(all(test, feature = "client", feature = "embedded"))]
    Simulated(crate::simulation::Socket),
}

/// Returns a socket of the kernel that is connected to `address`.
pub async fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    // Without this option messages are as safe, and take longer where routers drop fragments.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = forbid_fragments(&socket, address.is_ipv6());
    Ok(socket)
}

/// Forbids this machine and routers to fragment datagrams, and ignores what routers report about
/// the path's MTU: anybody can forge such a report, and the path may have changed.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn forbid_fragments(socket: &UdpSocket, is_ipv6: bool) -> io::Result<()> {
    use rustix::net::sockopt::{
        Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
    };

    if is_ipv6 {
        set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE)?;
    } else {
        set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE)?;
    }
    Ok(())
}

/// True if a datagram was not sent because it is longer than this machine's network or, as a router
/// says, the path carries. The caller treats it as lost.
pub fn is_too_long(error: &io::Error) -> bool {
    #[cfg(unix)]
    const TOO_LONG: i32 = rustix::io::Errno::MSGSIZE.raw_os_error();
    // WSAEMSGSIZE
    #[cfg(not(unix))]
    const TOO_LONG: i32 = 10_040;

    error.raw_os_error() == Some(TOO_LONG)
}

impl Socket {
    /// Waits until a datagram may have arrived. Returns the network's error for a sent one.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Real(socket) => super::readable(socket).await,
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => socket.readable().await,
        }
    }

    /// Returns the network of this machine's address on the way to the other side.
    pub fn network(&self) -> Option<Subnet> {
        match self {
            Self::Real(socket) => socket.local_addr().ok().map(Subnet::from),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => Some(socket.address().into()),
        }
    }

    /// Returns this machine's address on the way to the other side.
    pub fn local_ip(&self) -> Option<IpAddr> {
        match self {
            Self::Real(socket) => socket.local_addr().ok().map(|address| address.ip()),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            // In a simulated network a machine does not see the address that its NAT has given it.
            Self::Simulated(_) => None,
        }
    }

    /// Receives a datagram and its source address; `WouldBlock` if none has arrived.
    pub fn try_recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self {
            Self::Real(socket) => socket.try_recv_from(buffer),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => socket.try_recv_from(buffer),
        }
    }

    /// Sends a datagram.
    pub async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match self {
            Self::Real(socket) => socket.send(datagram).await.map(drop),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => socket.send(datagram).await,
        }
    }
}
