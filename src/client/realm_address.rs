//! The address of a realm, in commands about other realms.

use crate::wire::{Port, Text};

/// Where a realm can be reached: a host and a UDP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealmAddress<'a> {
    /// A name or an IP address of 1 to 255 bytes; an IPv6 address without its brackets.
    pub host: &'a str,
    /// The UDP port.
    pub port: u16,
}

impl<'a> RealmAddress<'a> {
    /// Stands for the first of the realm's own addresses, and for none where none is needed.
    pub(super) const OWN: Self = Self { host: "", port: 0 };

    /// Returns the fields of a command that carry the address.
    pub(super) const fn fields(self) -> (Text<'a>, Port) {
        (Text(self.host), Port(self.port))
    }
}
