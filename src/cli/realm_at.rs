//! Where the realm of a profile is.

use merpati::client::{Profile, ProfileError};
use serde_json::{Value, json};

/// The realm of a profile, by its connection string.
#[derive(Debug)]
pub struct RealmAt {
    /// `server` and `fingerprint`, for programs.
    pub object: Value,
    address: Option<String>,
    fingerprint: Option<String>,
}

impl RealmAt {
    pub fn of(profile: &Profile) -> Result<Self, ProfileError> {
        let server = profile.load()?.connection_string();
        let address = server.as_ref().map(|server| match server.host.as_str() {
            host if host.contains(':') => format!("[{host}]:{}", server.port),
            host => format!("{host}:{}", server.port),
        });
        let key = server.and_then(|server| server.key);
        let fingerprint = key.map(|key| key.fingerprint());
        Ok(Self {
            object: json!({ "server": address, "fingerprint": fingerprint }),
            address,
            fingerprint,
        })
    }
}

impl std::fmt::Display for RealmAt {
    /// Writes ` at host:port` and the realm's fingerprint, as far as they are known.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(address) = &self.address {
            write!(f, " at {address}")?;
        }
        match &self.fingerprint {
            Some(fingerprint) => write!(f, "\nrealm fingerprint {fingerprint}"),
            None => Ok(()),
        }
    }
}
