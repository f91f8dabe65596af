//! The two addresses between which datagrams travel.

use std::net::{IpAddr, SocketAddr};

/// A network path, as this side sees it. The ports of this side are all the same: the socket's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The other side's address.
    pub remote: SocketAddr,
    /// The address of this machine that a datagram came to, or is to leave from. With none the system chooses one, which
    /// is right for whoever sends first, and wrong for an answer where the machine has several: the other side drops what
    /// comes from an address that it has not asked.
    pub local: Option<IpAddr>,
}

/// The system chooses the local address.
impl From<SocketAddr> for Path {
    fn from(remote: SocketAddr) -> Self {
        Self {
            remote,
            local: None,
        }
    }
}
