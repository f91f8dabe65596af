//! A socket that is tied to one address: it sends there, takes in what comes from there, and is told what the network says of
//! what was sent. IP fragments nothing of it, so that what is lost for its size shows what a path carries (LINK-15).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::net::UdpSocket;

use crate::subnet::Subnet;

/// A socket that is tied to one address.
#[derive(Debug)]
pub enum Socket {
    /// The kernel's.
    Real(UdpSocket),
    /// One on a simulated network.
    #[cfg(all(test, feature = "client", feature = "embedded"))]
    Simulated(crate::simulation::Socket),
}

/// One of the kernel's sockets, tied to `address`.
pub async fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    // Without it a message is as safe, and takes longer where routers drop fragments.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = forbid_fragments(&socket, address.is_ipv6());
    Ok(socket)
}

/// Neither this machine nor a router fragments what leaves; and what a router has said of the path stops nothing here: anyone can
/// say it, and the path may be another by now.
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

/// True when a datagram was not sent because it is longer than this machine's network or, as a router says, the path carries. It
/// is as good as lost on the way.
pub fn is_too_long(error: &io::Error) -> bool {
    #[cfg(unix)]
    const TOO_LONG: i32 = rustix::io::Errno::MSGSIZE.raw_os_error();
    // WSAEMSGSIZE
    #[cfg(not(unix))]
    const TOO_LONG: i32 = 10_040;

    error.raw_os_error() == Some(TOO_LONG)
}

impl Socket {
    /// Waits until something may have arrived; or gives what the network says of what was sent.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Real(socket) => super::readable(socket).await,
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => socket.readable().await,
        }
    }

    /// The network that this machine is in on the way to the other side.
    pub fn network(&self) -> Option<Subnet> {
        match self {
            Self::Real(socket) => socket.local_addr().ok().map(Subnet::from),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            Self::Simulated(socket) => Some(socket.address().into()),
        }
    }

    /// This machine's address on the way to the other side.
    pub fn local_ip(&self) -> Option<IpAddr> {
        match self {
            Self::Real(socket) => socket.local_addr().ok().map(|address| address.ip()),
            #[cfg(all(test, feature = "client", feature = "embedded"))]
            // Each has the address that a translator has given it, which a machine does not see.
            Self::Simulated(_) => None,
        }
    }

    /// Takes in a datagram and where it came from; `WouldBlock` when nothing has arrived.
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
