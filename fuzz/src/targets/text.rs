//! Texts that people write: a line of the shell, a configuration.

use merpati::{
    crypto::{ConnectionString, PublicKey, SecretKey},
    rate_limit::RateLimit,
    server::{Config, units},
    wire::{RealmId, RegistrationCode, Sender, SessionId, Username},
};

/// Tests a line of the shell, and each kind of word in it.
pub fn line(input: &[u8]) {
    let Ok(text) = core::str::from_utf8(input) else {
        return;
    };
    if let Err(error) = crate::shell_line::parse(text) {
        assert!(!error.is_empty());
    }
    for word in text.split_whitespace() {
        let _ = word.parse::<SessionId>();
        let _ = word.parse::<RegistrationCode>();
        let _ = word.parse::<Sender>();
        let _ = word.parse::<PublicKey>();
        let _ = SecretKey::from_text(word);
        if let Ok(name) = word.parse::<Username>() {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        if let Ok(name) = word.parse::<RealmId>() {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        if let Ok(string) = word.parse::<ConnectionString>() {
            assert_eq!(string.to_string().parse(), Ok(string));
        }
        if let Ok(frequency) = word.parse::<RateLimit>() {
            assert_eq!(frequency.to_string().parse(), Ok(frequency));
        }
        let _ = (
            units::parse_span(word),
            units::parse_size(word),
            units::parse_rate(word),
        );
    }
}

/// Tests a configuration file.
pub fn config(input: &[u8]) {
    let Ok(text) = core::str::from_utf8(input) else {
        return;
    };
    match Config::parse(text) {
        Ok(config) => {
            assert!(!config.listeners().is_empty());
            let _ = (config.realm_limits(), config.link.parameters());
            for peer in &config.peer {
                let _ = (&peer.address, &peer.src);
            }
        }
        Err(error) => assert!(!error.is_empty()),
    }
}
