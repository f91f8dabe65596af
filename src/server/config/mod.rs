//! The configuration of a realm (`config.toml`). Every setting has a default. The realm refuses
//! unknown settings and impossible values, and names the line and what to write instead.

mod limits;
mod retention;

use std::{
    fmt::Display,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Deserializer, de};

pub use limits::LimitsConfig;
pub use retention::RetentionConfig;

pub use super::host_port::{HostPort, InvalidHost};

use super::{
    builder::ConfiguredPeer,
    units::{Rate, Size, Span},
};
use crate::{
    crypto::{DEFAULT_PORT, PublicKey},
    endpoint::LINK_LIFETIME,
    link::{DATAGRAM_MIN, LinkParameters, LinkProfile, Redundancy},
    realm,
    store::{RESERVE_BYTES, SCRUB},
    wire::RealmId,
};

/// The largest datagram that may be configured, in bytes. Paths on the internet carry far less.
const DATAGRAM_MAX: u64 = 9000;
/// The shortest duration that may be configured.
const SPAN_MIN: Duration = Duration::from_secs(1);

/// The reason why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// The file has an unknown setting or an impossible value.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, what is wrong there, and what to write instead.
        reason: String,
    },
}

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Config {
    /// `[realm]`
    pub realm: RealmConfig,
    /// `[[listen]]`. If there is none, the realm listens on the default address.
    pub listen: Vec<ListenConfig>,
    /// `[[peer]]`
    pub peer: Vec<PeerConfig>,
    /// `[store]`
    pub store: StoreConfig,
    /// `[retention]`
    pub retention: RetentionConfig,
    /// `[link]`
    pub link: LinkConfig,
    /// `[limits]`
    pub limits: LimitsConfig,
    /// `[log]`
    pub log: LogConfig,
}

/// `[realm]`: the realm's name, and what it lets others do.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RealmConfig {
    /// The name by which the realm introduces itself. Default: `r-` and the first characters of the
    /// realm's first key.
    #[serde(deserialize_with = "realm_id")]
    pub id: Option<RealmId>,
    /// Which realms may become peers of this realm by introducing themselves.
    pub peering: PeeringConfig,
    /// Who may create an account.
    pub registration: RegistrationConfig,
    /// Whether the realm tells its key to anybody who asks.
    pub hello: bool,
    /// How long a session may stay unused. The realm then ends it.
    #[serde(deserialize_with = "lasting")]
    pub session_ttl: Span,
    /// Whether a join of a group that does not exist is answered only with "wrong password".
    pub hide_groups: bool,
}

/// `[[listen]]`: an address on which the realm listens.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// The UDP address.
    #[serde(deserialize_with = "socket_address")]
    pub address: SocketAddr,
    /// The address that clients and other realms are told to use, as `host` or `host:port`, if it
    /// differs from `address`: for realms that have a name, are behind an address translator, or
    /// listen on all addresses.
    #[serde(default, deserialize_with = "advertised")]
    pub advertise: Option<String>,
    /// How links are protected.
    #[serde(default)]
    pub security: Security,
    /// Whether a plain listener may use an address that other machines can reach.
    #[serde(default)]
    pub plain_beyond_loopback: bool,
}

/// `[[peer]]`: a peer that the realm adds at every start, as `addrealm` does.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// The name by which this realm knows the peer.
    #[serde(deserialize_with = "peer_id")]
    pub realm: RealmId,
    /// The peer's host and port, written as `host` or `host:port`.
    pub address: HostPort,
    /// The peer's public key.
    #[serde(deserialize_with = "key")]
    pub key: PublicKey,
    /// The address of this realm at which the peer is to answer. Default: the first one.
    #[serde(default)]
    pub src: Option<HostPort>,
}

impl PeerConfig {
    /// Returns the peer in the form that `ServerBuilder::add_peers` takes.
    pub(crate) fn configured(&self) -> ConfiguredPeer {
        ConfiguredPeer {
            realm: self.realm,
            key: self.key,
            address: Some(self.address.clone()),
            source: self.src.clone(),
        }
    }
}

/// Which realms may become peers of this realm by introducing themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PeeringConfig {
    /// Any realm.
    Open,
    /// The realms that the operator of this realm has added, here or with `addrealm`.
    #[default]
    Listed,
    /// None. This realm adds its peers itself.
    Closed,
}

impl From<PeeringConfig> for realm::Peering {
    fn from(config: PeeringConfig) -> Self {
        match config {
            PeeringConfig::Open => Self::Open,
            PeeringConfig::Listed => Self::Listed,
            PeeringConfig::Closed => Self::Closed,
        }
    }
}

/// Who may create an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RegistrationConfig {
    /// Anybody.
    #[default]
    Open,
    /// Anybody who has the code in the file `registration-code` of the data directory.
    Code,
    /// Nobody.
    Closed,
}

/// How links are protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Encrypted and authenticated.
    #[default]
    Sealed,
    /// Not protected, for networks that protect the traffic themselves, and for loopback.
    Plain,
}

/// `[store]`: the storage engine and its settings.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct StoreConfig {
    /// The storage engine.
    pub engine: Engine,
    /// The store's directory. The realm creates it if it is missing.
    #[serde(deserialize_with = "path")]
    pub path: PathBuf,
    /// Free disk space that the store leaves. When less is free, the realm refuses writes.
    pub reserve: Size,
    /// The interval between two scrubs, which read all of the store to find damaged data.
    #[serde(deserialize_with = "lasting")]
    pub scrub: Span,
}

/// A storage engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Engine {
    /// The embedded engine, in a directory of this machine.
    #[default]
    Embedded,
}

/// `[link]`: how links behave.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct LinkConfig {
    /// The link profile. The settings below override it.
    #[serde(deserialize_with = "named")]
    pub kind: Option<LinkProfile>,
    /// The largest datagram that the realm accepts and sends.
    #[serde(deserialize_with = "datagram")]
    pub max_datagram: Option<Size>,
    /// The highest bitrate of each link.
    pub max_bitrate: Option<Rate>,
    /// Whether small packets are sent twice (redundant copies).
    #[serde(deserialize_with = "named")]
    pub redundancy: Option<Redundancy>,
    /// Whether the realm accepts early data: commands in the first message of a handshake.
    pub early_data: bool,
    /// The lifetime of a link to another realm. An older link in use is replaced by a fresh one
    /// with fresh keys (rekey).
    #[serde(deserialize_with = "lasting")]
    pub lifetime: Span,
    /// How long a link may be silent. The realm then forgets it, and its client opens it again
    /// without being asked.
    #[serde(deserialize_with = "lasting")]
    pub idle: Span,
    /// How long a link to another realm may be silent. The side that opened it then closes it.
    #[serde(deserialize_with = "lasting")]
    pub peer_idle: Span,
}

/// `[log]`: what is written to standard error.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct LogConfig {
    /// The least important level that is written: error, warn, info, debug, trace.
    pub level: Level,
    /// The format of the log.
    pub format: LogFormat,
}

/// The importance of a line of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the levels are those of every log")]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl Level {
    /// Returns the level's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}

impl Default for RealmConfig {
    fn default() -> Self {
        Self {
            id: None,
            peering: PeeringConfig::Listed,
            registration: RegistrationConfig::Open,
            hello: true,
            session_ttl: Span(realm::Limits::default().session_ttl),
            hide_groups: false,
        }
    }
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)),
            advertise: None,
            security: Security::Sealed,
            plain_beyond_loopback: false,
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            engine: Engine::Embedded,
            path: "data".into(),
            reserve: Size(RESERVE_BYTES),
            scrub: Span(SCRUB),
        }
    }
}

impl LinkConfig {
    /// Returns the initial parameters of links: those of the link profile, overridden by the other
    /// settings.
    pub fn parameters(&self) -> LinkParameters {
        let known = self
            .kind
            .map_or_else(LinkParameters::default, LinkProfile::traits);
        let max_datagram = self
            .max_datagram
            .and_then(|size| usize::try_from(size.0).ok());
        LinkParameters {
            max_datagram: max_datagram.unwrap_or(known.max_datagram),
            rate: self.max_bitrate.map(|rate| rate.0).or(known.rate),
            redundancy: self.redundancy.unwrap_or(known.redundancy),
            ..known
        }
    }
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            kind: None,
            max_datagram: None,
            max_bitrate: None,
            redundancy: None,
            early_data: true,
            lifetime: Span(LINK_LIFETIME),
            idle: Span(Duration::from_hours(24)),
            peer_idle: Span(Duration::from_mins(10)),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: Level::Info,
            format: LogFormat::Text,
        }
    }
}

impl Config {
    /// Reads the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Io {
            path: path.into(),
            source,
        })?;
        Self::parse(&text).map_err(|reason| ConfigError::Invalid {
            path: path.into(),
            reason,
        })
    }

    /// Reads settings from `text`. The error names the line, what is wrong there, and what to write
    /// instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check()?;
        Ok(config)
    }

    /// Refuses settings that contradict each other.
    pub fn check(&self) -> Result<(), String> {
        for listen in &self.listen {
            let exposed = !listen.address.ip().is_loopback();
            if listen.security == Security::Plain && exposed && !listen.plain_beyond_loopback {
                return Err(format!(
                    "the plain listener on {} would let everyone on the way read and forge \
                     everything; write security = \"sealed\", or, if the network itself protects \
                     the traffic, add plain_beyond_loopback = true",
                    listen.address
                ));
            }
        }
        self.retention.check()
    }

    /// Returns the configured listeners, or one on the default address if there are none.
    pub fn listeners(&self) -> Vec<ListenConfig> {
        if self.listen.is_empty() {
            vec![ListenConfig::default()]
        } else {
            self.listen.clone()
        }
    }

    /// Returns the limits of the realm.
    pub fn realm_limits(&self) -> realm::Limits {
        let default = realm::Limits::default();
        realm::Limits {
            max_message: usize::try_from(self.limits.max_message.0).unwrap_or(usize::MAX),
            session_ttl: self.realm.session_ttl.0,
            sessions_max: self.limits.sessions,
            hide_groups: self.realm.hide_groups,
            watch_memory: usize::try_from(self.limits.watch_memory.0).unwrap_or(usize::MAX),
            rates: self.limits.rates(),
            password_threads: match self.limits.password_threads {
                0 => default.password_threads,
                threads => threads,
            },
        }
    }
}

fn realm_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RealmId>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(de::Error::custom)
}

fn peer_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RealmId, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}

fn key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}

fn advertised<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.parse::<HostPort>() {
        Ok(_) => Ok(Some(text)),
        Err(error) => Err(de::Error::custom(error)),
    }
}

/// Reads the address of a listener.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "{text:?} is not a socket address: write an IP address and a port, as in \"0.0.0.0:6377\"; a name that \
             clients are to use goes into advertise"
        )
    })
}

fn socket_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    listen_address(&text).map_err(de::Error::custom)
}

/// Reads a duration of at least [`SPAN_MIN`]. With less, a session or link would end before it can
/// be used.
fn lasting<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
    let span = Span::deserialize(deserializer)?;
    if span.0 < SPAN_MIN {
        return Err(de::Error::custom(
            "write a duration of at least a second, as in \"30s\"",
        ));
    }
    Ok(span)
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if path.as_os_str().is_empty() {
        return Err(de::Error::custom("write a directory, as in \"data\""));
    }
    Ok(path)
}

fn datagram<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Size>, D::Error> {
    let size = Size::deserialize(deserializer)?;
    between(size, DATAGRAM_MIN as u64, DATAGRAM_MAX).map(Some)
}

fn named<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: FromStr<Err: Display>,
    D: Deserializer<'de>,
{
    let name = String::deserialize(deserializer)?;
    name.parse().map(Some).map_err(de::Error::custom)
}

fn between<E: de::Error>(size: Size, min: u64, max: u64) -> Result<Size, E> {
    if (min..=max).contains(&size.0) {
        Ok(size)
    } else {
        Err(E::custom(format!(
            "write a size from \"{min}B\" to \"{max}B\""
        )))
    }
}

#[cfg(test)]
mod tests;
