//! What a configuration may say, and what it is told otherwise.

use super::*;

#[test]
fn config_empty_file_is_default() {
    assert_eq!(Config::parse("").unwrap(), Config::default());
    assert_eq!(Config::default().listeners().len(), 1);
}

#[test]
fn config_file_of_repository_states_defaults() {
    let text = include_str!("../../../config.toml");
    let mut config = Config::parse(text).unwrap();
    assert_eq!(config.listeners(), Config::default().listeners());
    config.listen.clear();
    config.peer.clear();
    assert_eq!(config, Config::default());
    // What stands there as a comment is valid too.
    let is_setting = |text: &str| {
        text.starts_with("[[") || (text.contains(" = ") && !text.starts_with(char::is_uppercase))
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
fn config_invalid_setting_is_refused_with_line_and_advice() {
    for (text, wanted) in [
        (
            "[realm]\nidd = \"x\"",
            &["line 2", "idd", "expected one of"][..],
        ),
        ("[relm]", &["line 1", "relm", "expected one of"]),
        ("[realm]\nid = \"A B\"", &["line 2", "a-z"]),
        (
            "[realm]\nsession_ttl = \"0s\"",
            &["line 2", "at least a second"],
        ),
        (
            "[retention]\nage = \"10ms\"",
            &["line 2", "at least \"1s\"", "off"],
        ),
        ("[retention]\nentries = 0", &["line 2", "at least 1", "off"]),
        (
            "[retention]\nage = \"400d\"\nunread_age = \"365d\"",
            &["unread_age is 365d", "age is 400d", "leave it out"],
        ),
        (
            "[retention]\nage = \"off\"\nunread_age = \"9d\"",
            &["unread_age", "set both"],
        ),
        (
            "[retention]\nbytes = \"1KiB\"",
            &["line 2", "at least \"1MiB\"", "off"],
        ),
        (
            "[limits]\nstored_per_account = \"1KiB/d\"",
            &["line 2", "1MiB", "64MiB/d", "unlimited"],
        ),
        ("[link]\nidle = \"10ms\"", &["line 2", "at least a second"]),
        (
            "[link]\nlifetime = \"0d\"",
            &["line 2", "at least a second"],
        ),
        (
            "[limits]\nhandshakes = \"0/s\"",
            &["line 2", "at least 1", "unlimited"],
        ),
        (
            "[limits]\nlogins_per_subnet = \"0/m\"",
            &["line 2", "at least 1"],
        ),
        ("[store]\npath = \"\"", &["line 2", "a directory"]),
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
            &["line 2", "socket address", "0.0.0.0:6377"],
        ),
        (
            "[[listen]]\naddress = \"0.0.0.0:1\"\nadvertise = \"my host\"",
            &["line 3", "\"my host\"", "host:port"],
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
fn config_file_missing_is_named() {
    let error = Config::load(Path::new("/nonexistent/config.toml")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/config.toml"));
}

/// What has not been read is never dropped before what has, also where only one of the two is said.
#[test]
fn retention_set_in_part_never_drops_unread_before_read() {
    let configured = |text: &str| {
        let config = Config::parse(&format!("[retention]\n{text}")).unwrap();
        config.retention.configured().unwrap()
    };
    let days = |days: u64| Some(Duration::from_hours(days * 24));
    let long = configured("age = \"400d\"");
    assert_eq!((long.age, long.unread_age), (days(400), days(400)));
    let short = configured("age = \"30d\"");
    assert_eq!((short.age, short.unread_age), (days(30), days(365)));
    let off = configured("age = \"off\"\nbytes = \"off\"");
    assert_eq!(off, realm::Retention::FOREVER);
    assert_eq!(configured("entries = 5").age, days(90));
}
