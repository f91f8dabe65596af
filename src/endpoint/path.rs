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

/// Whatever an IPv4 address stands for, as if it were an IPv6 network. No network of IPv6 begins so.
const IPV4: u64 = 0xffff << 32;

/// The subnet of an address: an IPv4 /24, or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SubnetId(u64);

/// The network of an address: an IPv4 /24, or an IPv6 /48, in which somebody may have 65,536 subnets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Network(u64);

impl From<SocketAddr> for SubnetId {
    fn from(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => Self(IPV4 | u64::from(ip.to_bits() >> 8)),
            IpAddr::V6(ip) => Self(u64::try_from(ip.to_bits() >> 64).unwrap_or(u64::MAX)),
        }
    }
}

impl From<SubnetId> for Network {
    fn from(SubnetId(bits): SubnetId) -> Self {
        let is_ipv4 = bits & IPV4 == IPV4 && bits >> 48 == 0;
        Self(if is_ipv4 { bits } else { bits >> 16 << 16 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_and_networks_are_as_large_as_they_are_said_to_be() {
        let subnet = |text: &str| SubnetId::from(text.parse::<SocketAddr>().unwrap());
        let network = |text| Network::from(subnet(text));
        assert_eq!(subnet("192.0.2.1:1"), subnet("192.0.2.255:9"));
        assert_eq!(subnet("192.0.2.1:1"), subnet("[::ffff:192.0.2.7]:1"));
        assert_ne!(network("192.0.2.1:1"), network("192.0.3.1:1"));
        assert_eq!(
            subnet("[2001:db8:1:2::1]:1"),
            subnet("[2001:db8:1:2:9::]:2")
        );
        assert_ne!(subnet("[2001:db8:1:2::1]:1"), subnet("[2001:db8:1:3::1]:1"));
        assert_eq!(
            network("[2001:db8:1:2::1]:1"),
            network("[2001:db8:1:3::1]:1")
        );
        assert_ne!(
            network("[2001:db8:1:2::1]:1"),
            network("[2001:db8:2:2::1]:1")
        );
    }
}
