//! Connection strings, `merpati://host:port#key`: the data that a client needs to reach a realm and
//! to authenticate it.

use alloc::string::{String, ToString};
use core::{fmt, str::FromStr};

use super::PublicKey;

/// The default port of a realm.
pub const DEFAULT_PORT: u16 = 6377;

const SCHEME: &str = "merpati://";

/// The address and the key of a realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionString {
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    /// The UDP port.
    pub port: u16,
    /// The realm's key. Without it, the client has to trust the key that the realm sends on first
    /// use.
    pub key: Option<PublicKey>,
}

/// Why a text is not a connection string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidConnectionString {
    /// It does not begin with `merpati://`.
    #[error(
        "a connection string begins with merpati://, as in merpati://chat.example.org:6377#key"
    )]
    Scheme,
    /// There is no host.
    #[error("the connection string names no host; write merpati://host:port#key")]
    Host,
    /// The port is invalid.
    #[error("the connection string's port is not a number from 1 to 65535")]
    Port,
    /// The key is invalid.
    #[error("the connection string's key is damaged: {0}")]
    Key(#[from] super::InvalidKey),
}

impl FromStr for ConnectionString {
    type Err = InvalidConnectionString;

    fn from_str(text: &str) -> Result<Self, InvalidConnectionString> {
        let rest = text
            .trim()
            .strip_prefix(SCHEME)
            .ok_or(InvalidConnectionString::Scheme)?;
        let (place, key) = match rest.split_once('#') {
            Some((place, key)) => (place, Some(key.parse()?)),
            None => (rest, None),
        };
        let place = place.strip_suffix('/').unwrap_or(place);
        let (host, port) = split_port(place)?;
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if host.is_empty() || !host.chars().all(valid) {
            return Err(InvalidConnectionString::Host);
        }
        Ok(Self {
            host: host.to_string(),
            port,
            key,
        })
    }
}

fn split_port(place: &str) -> Result<(&str, u16), InvalidConnectionString> {
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(InvalidConnectionString::Host)?;
        (host, after.strip_prefix(':'))
    } else {
        match place.split_once(':') {
            // More than one colon and no brackets: the whole text is an IPv6 address.
            Some((_, rest)) if rest.contains(':') => (place, None),
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    match port.map(str::parse) {
        None => Ok((host, DEFAULT_PORT)),
        Some(Ok(port)) if port != 0 => Ok((host, port)),
        Some(_) => Err(InvalidConnectionString::Port),
    }
}

impl fmt::Display for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "{SCHEME}[{}]:{}", self.host, self.port)?;
        } else {
            write!(f, "{SCHEME}{}:{}", self.host, self.port)?;
        }
        match &self.key {
            Some(key) => write!(f, "#{key}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn connection_string_parses_as_shown() {
        let key = PublicKey([4; 32]);
        for (text, host, port, with_key) in [
            (
                format!("merpati://127.0.0.1:7000#{key}"),
                "127.0.0.1",
                7000,
                true,
            ),
            (
                "merpati://chat.example.org".into(),
                "chat.example.org",
                DEFAULT_PORT,
                false,
            ),
            ("merpati://[::1]:7000".into(), "::1", 7000, false),
            ("merpati://::1".into(), "::1", DEFAULT_PORT, false),
        ] {
            let parsed: ConnectionString = text.parse().unwrap();
            assert_eq!(
                (parsed.host.as_str(), parsed.port, parsed.key.is_some()),
                (host, port, with_key)
            );
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
    }

    #[test]
    fn connection_string_invalid_is_explained() {
        let error = |text: &str| text.parse::<ConnectionString>().unwrap_err();
        assert_eq!(error("http://x"), InvalidConnectionString::Scheme);
        assert_eq!(error("merpati://"), InvalidConnectionString::Host);
        assert_eq!(error("merpati://a b"), InvalidConnectionString::Host);
        assert_eq!(error("merpati://x:0"), InvalidConnectionString::Port);
        assert_eq!(error("merpati://x:99999"), InvalidConnectionString::Port);
        assert!(matches!(
            error("merpati://x#abc"),
            InvalidConnectionString::Key(_)
        ));
    }
}
