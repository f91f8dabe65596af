use super::*;
use crate::remote_args::{RemoteCommand, UserCommand};

fn typed(text: &str) -> Box<Typed> {
    match parse(text) {
        Ok(Line::Command(typed)) => typed,
        other => panic!("{text}: {other:?}"),
    }
}

/// Parses the same words on the command line.
fn once(words: &[&str]) -> Command {
    let all = [&["merpati"], words].concat();
    Cli::from_arg_matches(&args::definition().try_get_matches_from(all).unwrap())
        .unwrap()
        .command
}

#[test]
fn shell_line_is_parsed_as_command_line() {
    let id = SessionId([7; 16]);
    for (text, words) in [
        ("send bob hi", &["send", "bob", "hi"][..]),
        ("send bob hello  there", &["send", "bob", "hello  there"]),
        ("send bob \"all of it\"", &["send", "bob", "all of it"]),
        (
            "send bob it's \"quoted\"",
            &["send", "bob", "it's \"quoted\""],
        ),
        (
            "send bob don't and won't",
            &["send", "bob", "don't and won't"],
        ),
        (
            "send bob \"so\" he said",
            &["send", "bob", "\"so\" he said"],
        ),
        ("send bob #1 of two", &["send", "bob", "#1 of two"]),
        ("send bob C:\\temp", &["send", "bob", "C:\\temp"]),
        ("send bob -- --help", &["send", "bob", "--", "--help"]),
        ("send bob -- - a list", &["send", "bob", "--", "- a list"]),
        ("send bob wait -- what", &["send", "bob", "wait -- what"]),
        (
            "send --ttl 10m bob hi there",
            &["send", "--ttl", "10m", "bob", "hi there"],
        ),
        ("send bob@beta hi there", &["send", "bob@beta", "hi there"]),
        ("inbox 12", &["inbox", "--after", "12"]),
        ("inbox --after 0", &["inbox", "--after", "0"]),
        ("inboxgroup cats 3", &["inboxgroup", "cats", "--after", "3"]),
        (
            "sendrealm beta bob hi there",
            &["sendrealm", "beta", "bob", "hi there"],
        ),
        (
            "sendrealm - - beta ann bob hi there",
            &["sendrealm", "--from", "ann", "beta", "bob", "hi there"],
        ),
        (
            "sendgrouprealm alpha.example 6377 beta cats hi there",
            &[
                "sendgrouprealm",
                "--src",
                "alpha.example:6377",
                "beta",
                "cats",
                "hi there",
            ],
        ),
        ("role cats bob owner", &["role", "cats", "bob", "owner"]),
    ] {
        assert_eq!(typed(text).command, once(words), "{text}");
        let (name, rest) = text.split_once(' ').unwrap();
        let typed = typed(&format!("{name} {id} {rest}"));
        assert_eq!(typed.command, once(words), "{text}");
        assert_eq!(typed.global.session, Some(id));
        assert!(typed.given.contains(&"session".to_owned()));
    }
    assert!(matches!(parse("  "), Ok(Line::Nothing)));
    assert!(typed("whoami --json").given.contains(&"json".to_owned()));
}

#[test]
fn shell_password_in_line_is_accepted() {
    let Command::Remote(RemoteCommand::User(UserCommand::Register { name, .. })) =
        typed("register \"Ann Example\" id ann correct horse").command
    else {
        panic!()
    };
    assert_eq!(name, "Ann Example");
    for (text, wanted) in [
        (
            "register \"Ann Example\" id ann correct horse",
            Some("correct horse"),
        ),
        ("auth ann secret", Some("secret")),
        ("auth ann -secret word", Some("-secret word")),
        ("auth ann #secret", Some("#secret")),
        ("auth ann \"two words\"", Some("two words")),
        ("auth ann", None),
        ("addgroup cats --no-password", None),
        ("joingrouprealm - - beta cats me ow", Some("me ow")),
    ] {
        let password = typed(text).password;
        assert_eq!(password.as_ref().map(|p| p.as_str()), wanted, "{text}");
    }
}

#[test]
fn shell_wrong_line_is_refused_with_reason() {
    for (text, wanted) in [
        ("sned bob hi", "help"),
        ("send bob", "<message>"),
        ("send b!b hi", "'!' is not allowed"),
        ("send b!b hi there", "'!' is not allowed"),
        ("kick cats", "<username>"),
        ("role cats bob king", "<role>"),
        ("inbox many", "many"),
        ("register \"Ann", "not closed"),
        ("members \"cats", "not closed"),
        ("send bob --help", "-- --help"),
        ("serve", "merpati serve"),
        ("sendrealm - 7 beta ann bob hi", "both"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn shell_help_fits_80_columns_and_names_no_session() {
    // An earlier line has no effect on the help.
    typed("whoami");
    let Ok(Line::Told(help)) = parse("help") else {
        panic!()
    };
    assert_eq!(help.matches("\n  help ").count(), 1, "{help}");
    assert!(help.contains("send <username_to> <message>"), "{help}");
    assert!(help.contains("auth <username> [password]") && !help.contains("session_id"));
    let widest = help
        .lines()
        .max_by_key(|line| line.chars().count())
        .unwrap();
    assert!(widest.chars().count() <= 80, "{widest}");
    assert!(
        matches!(parse("help send"), Ok(Line::Told(text)) if text.contains("--ttl") && !text.contains("--max-bitrate"))
    );
}

#[test]
fn shell_history_keeps_no_password() {
    for (text, kept) in [
        ("auth ann correct horse", "auth ann"),
        (
            "register \"A B\" id ann secret12",
            "register \"A B\" id ann",
        ),
        ("register \"A B id ann secret", ""),
        ("auth a!n secret", ""),
        ("joingroup cats meow", "joingroup cats"),
        ("joingroup cats cats", "joingroup cats"),
        ("addgroup c!ts meow", ""),
        ("claim 1234", "claim"),
        ("passwd old new", ""),
        ("send bob hi", "send bob hi"),
        ("auth ann", "auth ann"),
    ] {
        assert_eq!(for_history(text), kept, "{text}");
    }
}
