//! A host and a port: where a realm is reached, as the configuration writes it.

use std::{net::SocketAddr, str::FromStr};

use serde::{Deserialize, Deserializer, de};

use crate::{crypto::ConnectionString, realm::HOST_MAX};

/// A host, by its name or IP address, and a UDP port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// The name or IP address.
    pub host: String,
    /// The UDP port.
    pub port: u16,
}

/// A text is neither `host` nor `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the address of a host; write host or host:port, as in \"chat.example.org:6377\", the host with at most \
     {HOST_MAX} bytes"
)]
pub struct InvalidHost(String);

/// Reads `host` or `host:port`. Without a port, it is the default one.
impl FromStr for HostPort {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let parsed: Result<ConnectionString, _> = format!("merpati://{text}").parse();
        match parsed {
            Ok(ConnectionString {
                host,
                port,
                key: None,
            }) if host.len() <= HOST_MAX => Ok(Self { host, port }),
            _ => Err(InvalidHost(text.into())),
        }
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

/// From the pair that a record of the realm has.
impl From<(&str, u16)> for HostPort {
    fn from((host, port): (&str, u16)) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }
}

/// To the pair that the realm takes.
impl From<HostPort> for (String, u16) {
    fn from(HostPort { host, port }: HostPort) -> Self {
        (host, port)
    }
}
