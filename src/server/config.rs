//! `config.toml`: what an operator decides. Everything has a default; what is unknown or impossible
//! is refused with the line and what to write instead.

use std::{
    fmt::Display,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Deserializer, de};

use super::unit::{Rate, Size, Span};
use crate::{
    crypto::{ConnectionString, DEFAULT_PORT, InvalidConnectionString, PublicKey},
    endpoint::{Handshakes, LINK_LIFETIME},
    link::{DATAGRAM_MIN, Kind, Redundancy, Traits},
    realm,
    wire::RealmId,
};

/// The largest datagram that may be configured: what UDP over IPv4 carries on any path is far less.
const DATAGRAM_MAX: u64 = 9000;
/// The longest message that may be configured, in bytes.
const MESSAGE_MAX: u64 = 16 << 20;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The file says something unknown or impossible.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where, what, and what to write instead.
        reason: String,
    },
}

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[realm]`
    pub realm: RealmConfig,
    /// `[[listen]]`; the default address when there is none.
    pub listen: Vec<ListenConfig>,
    /// `[[peer]]`
    pub peer: Vec<PeerConfig>,
    /// `[store]`
    pub store: StoreConfig,
    /// `[link]`
    pub link: LinkConfig,
    /// `[limits]`
    pub limits: LimitsConfig,
    /// `[log]`
    pub log: LogConfig,
}

/// Who the realm is, and what it lets others do.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RealmConfig {
    /// How it introduces itself; by default `r-` and the first characters of its key.
    #[serde(deserialize_with = "realm_id")]
    pub id: Option<RealmId>,
    /// Which realms may peer with this one unasked.
    pub peering: PeeringConfig,
    /// It tells its key to whoever asks.
    pub hello: bool,
    /// A session unused for so long ends.
    pub session_ttl: Span,
    /// Who would join a group that does not exist is told that the password is wrong.
    pub hide_groups: bool,
}

/// Where the realm listens.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// The UDP address.
    pub address: SocketAddr,
    /// What clients are told to use instead, as `host` or `host:port`; for realms behind a name or
    /// a translated address.
    #[serde(default, deserialize_with = "place")]
    pub advertise: Option<String>,
    /// How links are protected.
    #[serde(default)]
    pub security: Security,
    /// Set to `true`, a plain listener may stand on an address that others can reach.
    #[serde(default)]
    pub plain_beyond_loopback: bool,
}

/// A realm to peer with, at every start.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// The name by which this realm knows it.
    #[serde(deserialize_with = "peer_id")]
    pub realm: RealmId,
    /// Where it is, as `host:port`.
    #[serde(deserialize_with = "place")]
    address: Option<String>,
    /// Its key.
    #[serde(deserialize_with = "key")]
    pub key: PublicKey,
    /// At which of this realm's addresses it is to answer; the first where nothing is said.
    #[serde(default, deserialize_with = "place")]
    src: Option<String>,
}

impl PeerConfig {
    /// Where it is.
    pub fn address(&self) -> (String, u16) {
        // Both were read once, so they can be read again.
        let text = self.address.as_deref().unwrap_or_default();
        host_and_port(text).unwrap_or_default()
    }

    /// At which of this realm's addresses it is to answer.
    pub fn source(&self) -> Option<(String, u16)> {
        host_and_port(self.src.as_deref()?).ok()
    }
}

/// Which realms may peer with this one unasked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeeringConfig {
    /// Any.
    Open,
    /// Those that an operator of this one has added, here or with `addrealm`.
    #[default]
    Listed,
    /// None: this realm seeks its peers itself.
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

/// How links are protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Encrypted and authenticated.
    #[default]
    Sealed,
    /// Not at all: for networks that protect the traffic themselves, and for loopback.
    Plain,
}

/// Where the realm keeps what it must not forget.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Which engine.
    pub engine: Engine,
    /// The directory; made if it is missing.
    pub path: PathBuf,
}

/// The store's engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// In a directory of this machine.
    #[default]
    Embedded,
}

/// How links behave.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkConfig {
    /// What kind of links there are; what follows wins over it.
    #[serde(deserialize_with = "named")]
    pub kind: Option<Kind>,
    /// The largest datagram taken and sent.
    #[serde(deserialize_with = "datagram")]
    pub max_datagram: Option<Size>,
    /// What no link exceeds.
    pub max_bitrate: Option<Rate>,
    /// Whether small packets leave twice.
    #[serde(deserialize_with = "named")]
    pub redundancy: Option<Redundancy>,
    /// Take commands that come in a handshake's first message.
    pub early_data: bool,
    /// A link to another realm that is in use is replaced by a fresh one, with fresh keys, after so long.
    pub lifetime: Span,
    /// A link that has been silent for so long is forgotten. Its client opens it again unasked.
    pub idle: Span,
    /// A link to another realm that has been silent for so long is closed by the side that opened it.
    pub peer_idle: Span,
}

/// What bounds the realm's memory and work.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// The longest message.
    #[serde(deserialize_with = "message")]
    pub max_message: Size,
    /// Sessions a user may have; the one unused for longest makes room for another.
    #[serde(deserialize_with = "positive")]
    pub sessions: usize,
    /// Links of one listener at once.
    #[serde(deserialize_with = "positive")]
    pub links: usize,
    /// Handshakes a second that one listener lets begin without a cookie, in all.
    pub handshakes: u32,
    /// The same from one network: an IPv4 /24, or an IPv6 /64.
    pub handshakes_per_network: u32,
    /// Commands of one listener in work at once; further ones are answered `busy`.
    #[serde(deserialize_with = "positive")]
    pub commands: usize,
    /// Passwords hashed at once, each in 19 MiB; 0 stands for the number of processors.
    pub password_threads: usize,
}

/// What is written to standard error.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// The least important level that is written: error, warn, info, debug, trace.
    pub level: Level,
    /// How it is written.
    pub format: LogFormat,
}

/// How important a line of the log is.
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
    /// The level's name.
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

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line of text an event.
    #[default]
    Text,
    /// A JSON object an event.
    Json,
}

impl Default for RealmConfig {
    fn default() -> Self {
        Self {
            id: None,
            peering: PeeringConfig::Listed,
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
        }
    }
}

impl LinkConfig {
    /// What links begin with: what their kind says, but for what is set.
    pub fn traits(&self) -> Traits {
        let known = self.kind.map_or_else(Traits::default, Kind::traits);
        let max_datagram = self
            .max_datagram
            .and_then(|size| usize::try_from(size.0).ok());
        Traits {
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

impl LimitsConfig {
    /// How many handshakes begin without a cookie.
    pub const fn handshakes(&self) -> Handshakes {
        Handshakes {
            per_second: self.handshakes,
            per_network: self.handshakes_per_network,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let realm = realm::Limits::default();
        Self {
            max_message: Size(realm.max_message as u64),
            sessions: realm.sessions_max,
            links: 100_000,
            handshakes: Handshakes::default().per_second,
            handshakes_per_network: Handshakes::default().per_network,
            commands: 4096,
            password_threads: 0,
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

    /// Reads settings from `text`. The error says where it is, what is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check()?;
        Ok(config)
    }

    /// Refuses settings that are fine one by one and impossible together.
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
        Ok(())
    }

    /// Where the realm listens: as configured, or the default address.
    pub fn listeners(&self) -> Vec<ListenConfig> {
        if self.listen.is_empty() {
            vec![ListenConfig::default()]
        } else {
            self.listen.clone()
        }
    }

    /// The bounds within which the realm works.
    pub fn realm_limits(&self) -> realm::Limits {
        let default = realm::Limits::default();
        realm::Limits {
            max_message: usize::try_from(self.limits.max_message.0).unwrap_or(usize::MAX),
            session_ttl: self.realm.session_ttl.0,
            sessions_max: self.limits.sessions,
            hide_groups: self.realm.hide_groups,
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

fn place<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match host_and_port(&text) {
        Ok(_) => Ok(Some(text)),
        Err(error) => Err(de::Error::custom(error)),
    }
}

/// Reads `host` or `host:port`.
pub fn host_and_port(text: &str) -> Result<(String, u16), InvalidConnectionString> {
    let place: ConnectionString = format!("merpati://{text}").parse()?;
    Ok((place.host, place.port))
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

fn message<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
    between(Size::deserialize(deserializer)?, 1, MESSAGE_MAX)
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

fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        0 => Err(de::Error::custom("write a number of at least 1")),
        n => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        assert_eq!(Config::default().listeners().len(), 1);
    }

    #[test]
    fn the_file_of_the_repository_says_the_defaults() {
        let text = include_str!("../../config.toml");
        let mut config = Config::parse(text).unwrap();
        assert_eq!(config.listeners(), Config::default().listeners());
        config.listen.clear();
        config.peer.clear();
        assert_eq!(config, Config::default());
        // What stands there as a comment is valid too.
        let is_setting = |text: &str| {
            text.starts_with("[[")
                || (text.contains(" = ") && !text.starts_with(char::is_uppercase))
        };
        let uncommented: String = text
            .lines()
            .map(|line| {
                line.strip_prefix("# ")
                    .filter(|rest| is_setting(rest))
                    .unwrap_or(line)
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        assert_ne!(uncommented, text);
        assert_eq!(Config::parse(&uncommented).unwrap().peer.len(), 1);
    }

    #[test]
    fn what_is_unknown_or_impossible_is_refused_with_its_line_and_what_to_write() {
        for (text, wanted) in [
            (
                "[realm]\nidd = \"x\"",
                &["line 2", "idd", "expected one of"][..],
            ),
            ("[relm]", &["line 1", "relm", "expected one of"]),
            ("[realm]\nid = \"A B\"", &["line 2", "a-z"]),
            ("[realm]\n\nsession_ttl = 30", &["line 3", "\"30s\""]),
            ("[realm]\nsession_ttl = \"30\"", &["line 2", "unit", "30s"]),
            ("[link]\nmax_datagram = \"100B\"", &["line 2", "160B"]),
            ("[link]\nkind = \"wifi\"", &["line 2", "nb-iot"]),
            ("[link]\nmax_bitrate = \"9600\"", &["line 2", "9600bps"]),
            ("[limits]\nmax_message = \"1GiB\"", &["line 2", "16KiB"]),
            ("[limits]\nlinks = 0", &["line 2", "at least 1"]),
            ("[realm]\npeering = \"all\"", &["line 2", "listed"]),
            (
                "[[peer]]\nrealm = \"beta\"\naddress = \"x y\"",
                &["line 3", "host"],
            ),
            (
                "[[peer]]\nrealm = \"beta\"\naddress = \"x\"\nkey = \"short\"",
                &["line 4", "43"],
            ),
            (
                "[[listen]]\naddress = \"localhost\"",
                &["line 2", "socket address"],
            ),
            ("[[listen]]\nsecurity = \"sealed\"", &["line 1", "address"]),
            (
                "[[listen]]\naddress = \"1.2.3.4:5\"\nsecurity = \"none\"",
                &["line 3", "sealed", "plain"],
            ),
            (
                "[[listen]]\naddress = \"0.0.0.0:5\"\nsecurity = \"plain\"",
                &["plain_beyond_loopback = true"],
            ),
            ("[store]\nengine = \"paper\"", &["line 2", "embedded"]),
            ("[log]\nlevel = 3", &["line 2"]),
            ("x = ", &["line 1"]),
        ] {
            let error = Config::parse(text).unwrap_err();
            for part in wanted {
                assert!(error.contains(part), "{text}\n{error}\n(no {part:?})");
            }
        }
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let error = Config::load(Path::new("/nonexistent/config.toml")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/config.toml"));
    }
}
