//! The two addresses between which datagrams travel.

use std::net::{IpAddr, SocketAddr};

/// A network path, as this side sees it. This side's port is always the socket's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The other side's address.
    pub remote: SocketAddr,
    /// The local address that a datagram arrived at, or is to leave from. With `None` the system
    /// chooses one. That is right for the first datagram, and wrong for an answer if the machine
    /// has several addresses: the other side drops datagrams from an address that it did not send
    /// to.
    pub local: Option<IpAddr>,
}

/// Leaves the local address to the system.
impl From<SocketAddr> for Path {
    fn from(remote: SocketAddr) -> Self {
        Self {
            remote,
            local: None,
        }
    }
}
