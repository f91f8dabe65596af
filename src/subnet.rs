//! Groups of addresses that are counted as one.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// The first four bytes of the value for an IPv4 subnet. No IPv6 subnet begins with them.
const IPV4: [u8; 4] = [0; 4];

/// The subnet of an address: an IPv4 /24, or an IPv6 /64. The holder of one address can use the
/// others, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subnet([u8; 8]);

/// The network of an address: an IPv4 /24, or an IPv6 /48, in which one holder may have 65,536
/// subnets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network([u8; 8]);

impl Subnet {
    /// Returns the stored form of the subnet. No two subnets have the same.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = self;
        if bytes.starts_with(&IPV4) {
            let [.., a, b, c] = *bytes;
            return write!(f, "{}/24", Ipv4Addr::new(a, b, c, 0));
        }
        let ip = Ipv6Addr::from(u128::from(u64::from_be_bytes(*bytes)) << 64);
        write!(f, "{ip}/64")
    }
}

impl Network {
    /// True if the network contains many subnets, and is not itself one.
    pub fn is_wider(&self) -> bool {
        !self.0.starts_with(&IPV4)
    }
}

impl From<IpAddr> for Subnet {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                Self([0, 0, 0, 0, 1, a, b, c])
            }
            IpAddr::V6(v6) => {
                let octets = v6.octets();
                Self(octets.first_chunk().copied().unwrap_or_default())
            }
        }
    }
}

impl From<SocketAddr> for Subnet {
    fn from(address: SocketAddr) -> Self {
        address.ip().into()
    }
}

impl From<Subnet> for Network {
    fn from(Subnet(bytes): Subnet) -> Self {
        if bytes.starts_with(&IPV4) {
            return Self(bytes);
        }
        let mut network = bytes;
        network[6..].fill(0);
        Self(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnet_and_network_have_specified_prefix_lengths() {
        let subnet = |text: &str| Subnet::from(text.parse::<IpAddr>().unwrap());
        let network = |text| Network::from(subnet(text));
        assert_eq!(subnet("192.0.2.1"), subnet("192.0.2.254"));
        assert_eq!(subnet("192.0.2.1"), subnet("::ffff:192.0.2.9"));
        assert_ne!(network("192.0.2.1"), network("192.0.3.1"));
        assert!(!network("192.0.2.1").is_wider());
        assert_eq!(subnet("192.0.2.7").to_string(), "192.0.2.0/24");
        assert_eq!(subnet("2001:db8:1:2::3").to_string(), "2001:db8:1:2::/64");
        assert_eq!(subnet("2001:db8::1"), subnet("2001:db8::2:0:0:1"));
        assert_ne!(subnet("2001:db8::1"), subnet("2001:db8:0:1::1"));
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:2:2::1"));
        assert!(network("2001:db8:1:2::1").is_wider());
    }
}
