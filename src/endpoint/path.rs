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

/// The subnet of an address: an IPv4 /24, or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SubnetId(u64);

impl SubnetId {
    pub const FIRST: Self = Self(0);
    pub const LAST: Self = Self(u64::MAX);

    pub fn of(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            // No network of IPv6 begins so.
            IpAddr::V4(ip) => Self(0xffff << 32 | u64::from(ip.to_bits() >> 8)),
            IpAddr::V6(ip) => Self(u64::try_from(ip.to_bits() >> 64).unwrap_or(u64::MAX)),
        }
    }
}
