//! Limits on work that is costly for a realm (ACC-5 … ACC-7).

use std::net::IpAddr;

use super::*;
use crate::{rate_limit::RateLimit, subnet::Subnet};

const CODE: RegistrationCode = RegistrationCode([7; 10]);

impl Fixture {
    fn with(change: impl FnOnce(&mut RealmIdentity, &mut Limits)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            realm: open_with(&directory, change),
            directory,
            now: MOMENT,
        }
    }

    /// Sends a command from the `n`th subnet.
    async fn ask_from(
        &self,
        n: u8,
        device: Option<PublicKey>,
        request: impl Into<Request<'_>>,
    ) -> Answer {
        let caller = Caller {
            subnet: subnet(n),
            ..self.caller(device)
        };
        let bytes = request.into().to_bytes();
        Answer::parse(&self.realm.answer(&caller, &bytes).await).unwrap()
    }
}

fn subnet(n: u8) -> Subnet {
    IpAddr::from([198, 51, n, 1]).into()
}

/// Returns how long the answer asks the client to wait, in seconds.
fn wait(answer: &Answer) -> Option<u64> {
    match answer {
        Answer::Refused(refusal) if refusal.code == ErrorCode::RateLimited => {
            refusal.detail.map(|millis| millis.div_ceil(1000))
        }
        _ => None,
    }
}

/// ACC-5: after wrong passwords for an account the delay grows up to 15 minutes, whatever devices
/// and subnets the tries come from.
#[tokio::test]
async fn password_guess_delay_grows_across_devices_and_subnets() {
    let mut fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    let wrong = refused(ErrorCode::BadCredentials);
    let mut waits = vec![];
    for n in 0..9 {
        // Each try comes from another device and another subnet.
        let guess = fixture.ask_from(n, device(50 + n), auth(1, "ann", "battery staple"));
        let answer = guess.await;
        if let Some(wait) = wait(&answer) {
            waits.push(wait);
            fixture.now = later(fixture.now, u32::try_from(wait).unwrap());
            let again = fixture.ask_from(n, device(50 + n), auth(1, "ann", "battery staple"));
            assert_eq!(again.await, wrong);
        } else {
            assert_eq!(answer, wrong);
        }
    }
    assert_eq!(waits, [60, 120, 240, 480, 900, 900]);
    // The right password waits too, but not for ever. A logged-in device is not affected.
    let right = fixture.ask_from(90, device(9), auth(1, "ann", "correct horse"));
    assert_eq!(wait(&right.await), Some(900));
    let send = fixture.ask(device(1), send(2, "ann", "still here")).await;
    assert_eq!(send, STORED);
    fixture.now = later(fixture.now, 900);
    let right = fixture.ask_from(90, device(9), auth(1, "ann", "correct horse"));
    session_in(&right.await);
}

/// ACC-5: a guesser who comes back as soon as that is allowed does not delay devices and networks
/// that the user has logged in from before.
#[tokio::test]
async fn password_guess_delay_spares_known_devices_and_subnets() {
    let mut fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    assert_eq!(fixture.ask(device(1), logout(2)).await, Answer::Done);
    let guess = async |fixture: &Fixture| {
        let guess = fixture.ask_from(77, device(66), auth(1, "ann", "battery staple"));
        wait(&guess.await)
    };
    for round in 0..20_u8 {
        while guess(&fixture).await.is_none() {}
        // The user's own device elsewhere, and a new device in a known subnet.
        let number = 10 + 2 * u64::from(round);
        let own = fixture.ask_from(90 + round, device(1), auth(number, "ann", "correct horse"));
        session_in(&own.await);
        let new = fixture.ask(device(100 + round), auth(1, "ann", "correct horse"));
        session_in(&new.await);
        let passwd = Command::Passwd(command::Passwd {
            operation: op(number + 1),
            session: SessionRef::Bound,
            old: Password(b"correct horse"),
            new: Password(b"correct horse"),
        });
        assert_eq!(fixture.ask(device(1), passwd).await, Answer::Done);
        // A new device in a new subnet waits with the guesser.
        let elsewhere = fixture.ask_from(200, device(200), auth(1, "ann", "correct horse"));
        assert!(wait(&elsewhere.await).is_some());
        fixture.now = later(fixture.now, 901);
    }
    // The records of known devices and networks are bounded.
    for kind in [b'd', b'n'] {
        let prefix = records::known_of_kind("ann".parse().unwrap(), kind);
        let store = &fixture.realm.store();
        let known = store.list(&prefix, None, 100).await.unwrap();
        assert_eq!(known.len(), 16);
    }
}

/// ACC-5: the delay does not show whether a user exists.
#[tokio::test]
async fn password_guess_delay_is_equal_for_unknown_user() {
    let fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    for user in ["ann", "nobody"] {
        let mut answers = vec![];
        for n in 0..5 {
            let guess =
                fixture.ask_from(n, device(2), auth(u64::from(n) + 1, user, "battery staple"));
            answers.push(guess.await);
        }
        let wrong = vec![refused(ErrorCode::BadCredentials); 3];
        assert_eq!(answers[..3], wrong, "{user}");
        assert_eq!(wait(&answers[3]), Some(60), "{user}");
        assert_eq!(answers[3], answers[4], "{user}");
    }
}

/// ACC-5: the holder of a session guesses the old password no faster.
#[tokio::test]
async fn password_guess_delay_applies_to_password_change() {
    let fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    let passwd = |operation| {
        Command::Passwd(command::Passwd {
            operation: op(operation),
            session: SessionRef::Bound,
            old: Password(b"battery staple"),
            new: Password(b"something else"),
        })
    };
    for operation in 2..5 {
        let answer = fixture.ask(device(1), passwd(operation)).await;
        assert_eq!(answer, refused(ErrorCode::WrongPassword));
    }
    assert_eq!(wait(&fixture.ask(device(1), passwd(5)).await), Some(60));
    // Nobody else waits for it.
    let login = fixture.ask_from(9, device(2), auth(1, "ann", "correct horse"));
    session_in(&login.await);
}

/// ACC-5: after a user's wrong passwords for groups the delay grows.
#[tokio::test]
async fn password_guess_delay_applies_to_group_passwords() {
    let fixture = Fixture::new();
    for (n, user) in [(1, "ann"), (2, "bob"), (3, "cat")] {
        fixture.register(device(n), user).await;
    }
    let cats: GroupName = "cats".parse().unwrap();
    let add = Command::AddGroup(command::AddGroup {
        operation: op(2),
        session: SessionRef::Bound,
        group: cats,
        password: Password(b"meow"),
    });
    assert_eq!(fixture.ask(device(1), add).await, Answer::Done);
    let join = |operation, password: &'static str| {
        Command::JoinGroup(command::JoinGroup {
            operation: op(operation),
            session: SessionRef::Bound,
            group: cats,
            password: Password(password.as_bytes()),
        })
    };
    for operation in 2..5 {
        let answer = fixture.ask(device(2), join(operation, "woof")).await;
        assert_eq!(answer, refused(ErrorCode::WrongPassword));
    }
    assert_eq!(
        wait(&fixture.ask(device(2), join(5, "meow")).await),
        Some(60)
    );
    // Other users are not affected.
    assert_eq!(fixture.ask(device(3), join(2, "meow")).await, Answer::Done);
}

/// ACC-7: a subnet has a rate limit for each kind of work.
#[tokio::test]
async fn rate_limit_of_subnet_covers_each_kind_of_work() {
    let once = RateLimit::per_hour(1);
    let fixture = Fixture::with(|_, limits| {
        limits.rates.registrations = once;
        limits.rates.logins = once;
        limits.rates.joins = once;
    });
    let users = ["a", "b", "c", "d", "e"];
    let mut registered = vec![];
    for (n, user) in users.into_iter().enumerate() {
        let who = device(u8::try_from(n).unwrap());
        registered.push(fixture.ask_from(1, who, register(1, user)).await);
    }
    assert_eq!(
        registered.iter().filter_map(wait).collect::<Vec<_>>(),
        [3600]
    );
    // A command that needs no such work is answered at once.
    let taken = fixture.ask_from(1, device(8), register(1, "a")).await;
    assert_eq!(taken, refused(ErrorCode::UsernameTaken));
    session_in(&fixture.ask_from(2, device(8), register(1, "e")).await);
    let mut logged_in = vec![];
    for n in 0..5 {
        let login = auth(1, "a", "correct horse");
        logged_in.push(fixture.ask_from(1, device(20 + n), login).await);
    }
    assert_eq!(
        logged_in.iter().filter_map(wait).collect::<Vec<_>>(),
        [3600]
    );
    let mut made = vec![];
    for n in 0..6_u8 {
        let add = Command::AddGroup(command::AddGroup {
            operation: op(u64::from(n) + 2),
            session: SessionRef::Bound,
            group: format!("group{n}").parse().unwrap(),
            // A group without a password costs nothing.
            password: Password(if n == 0 { b"" } else { b"meow" }),
        });
        made.push(fixture.ask_from(1, device(1), add).await);
    }
    assert_eq!(made[..5], [const { Answer::Done }; 5]);
    assert_eq!(wait(&made[5]), Some(3600));
}

/// ACC-7: an account has one rate limit of commands for all its devices.
#[tokio::test]
async fn rate_limit_of_account_covers_all_its_devices() {
    let mut fixture = Fixture::with(|_, limits| {
        limits.rates.commands = RateLimit::per_second(1);
    });
    fixture.register(device(1), "ann").await;
    let login = fixture.ask(device(2), auth(1, "ann", "correct horse"));
    session_in(&login.await);
    let mut answers = vec![];
    for n in 0..5 {
        let from = device(u8::try_from(n % 2).unwrap() + 1);
        answers.push(fixture.ask(from, send(2 + n, "ann", "hello")).await);
    }
    assert_eq!(answers[..4], [STORED; 4]);
    assert_eq!(wait(&answers[4]), Some(1));
    fixture.now = later(fixture.now, 1);
    assert_eq!(
        fixture.ask(device(1), send(6, "ann", "hello")).await,
        STORED
    );
}

/// ACC-6: a realm may require a code for new accounts, or make none.
#[tokio::test]
async fn account_registration_may_need_code_or_be_closed() {
    let register_with = |code| Request {
        options: Options {
            code,
            ..Options::NONE
        },
        command: register(1, "ann"),
    };
    let closed = Fixture::with(|own, _| own.registration = Registration::Closed);
    let answer = closed.ask(device(1), register_with(Some(CODE))).await;
    assert_eq!(answer, refused(ErrorCode::RegistrationClosed));
    let coded = Fixture::with(|own, _| own.registration = Registration::Code(CODE));
    for wrong in [None, Some(RegistrationCode([8; 10]))] {
        let answer = coded.ask(device(1), register_with(wrong)).await;
        assert_eq!(answer, refused(ErrorCode::WrongCode));
    }
    let session = session_in(&coded.ask(device(1), register_with(Some(CODE))).await);
    // A repeat is the same command, whatever code it carries.
    let again = coded.ask(device(1), register_with(None)).await;
    assert_eq!(session_in(&again), session);
    let open = Fixture::new();
    session_in(&open.ask(device(1), register_with(Some(CODE))).await);
}

/// GRP-5, ACC-7: a list costs its user what it has looked up, wherever it continues.
#[tokio::test]
async fn rate_limit_charges_list_for_entries_looked_up() {
    let directory = tempfile::tempdir().unwrap();
    let realm = open_with(&directory, |_, limits| {
        limits.rates.commands = crate::rate_limit::RateLimit::per_second(100);
    });
    let ask = async |micros: u64, request: Request<'_>| {
        let moment = Moment { micros, ..MOMENT };
        let caller = caller(device(1), moment);
        Answer::parse(&realm.answer(&caller, &request.to_bytes()).await).unwrap()
    };
    session_in(&ask(0, register(1, "ann").into()).await);
    for number in 0..200_u64 {
        let group = format!("g{number:03}").parse().unwrap();
        let add = Command::AddGroup(command::AddGroup {
            operation: op(number + 2),
            session: SessionRef::Bound,
            group,
            password: Password(b""),
        });
        assert_eq!(ask(number * 100_000, add.into()).await, Answer::Done);
    }
    let groups = |behind: Option<&str>| Request {
        options: Options {
            behind: behind.map(|behind| behind.parse().unwrap()),
            ..Options::NONE
        },
        command: Command::Groups(command::Groups {
            session: SessionRef::Bound,
        }),
    };
    let mut names = Vec::new();
    let begun = 100_000_000;
    loop {
        let last = names.last().cloned();
        let page = ask(begun, groups(last.as_deref())).await;
        let Answer::Names { more, names: page } = page else {
            panic!("{page:?}")
        };
        names.extend(page);
        if !more {
            break;
        }
    }
    let all: Vec<String> = (0..200).map(|number| format!("g{number:03}")).collect();
    assert_eq!(names, all);
    // 400 commands may come at once. A page of 200 names counts as 13.
    let mut pages = 0;
    while matches!(ask(2 * begun, groups(None)).await, Answer::Names { .. }) {
        pages += 1;
    }
    assert!((25..40).contains(&pages), "{pages}");
    // A list continues behind a name, not after a number of names.
    let offset = Request {
        options: Options {
            offset: Some(1 << 60),
            ..Options::NONE
        },
        command: Command::Groups(command::Groups {
            session: SessionRef::Bound,
        }),
    };
    let refusal = ask(3 * begun, offset).await;
    assert_eq!(refusal, refused(ErrorCode::Unsupported));
}

/// ACC-9: an account that has used its storage quota is told to wait. It may still read, log out
/// and leave, and other accounts are not affected.
#[tokio::test]
async fn storage_quota_of_account_used_up_delays_writes() {
    let mut fixture = Fixture::with(|_, limits| {
        limits.rates.stored_account = RateLimit::per_day(1 << 14);
    });
    for (n, name) in [(1, "ann"), (2, "bob")] {
        fixture.register(device(n), name).await;
    }
    let group = Command::AddGroup(command::AddGroup {
        operation: op(2),
        session: SessionRef::Bound,
        group: "g".parse().unwrap(),
        password: Password(b""),
    });
    assert_eq!(fixture.ask(device(1), group).await, Answer::Done);
    let text = "x".repeat(900);
    let mut stored = 0;
    let refused = loop {
        let answer = fixture.ask(device(1), send(3 + stored, "bob", &text)).await;
        if answer != STORED {
            break answer;
        }
        stored += 1;
    };
    // Four days' quota at once. Each message takes a little more than its text.
    assert!((50..72).contains(&stored), "{stored}");
    let seconds = wait(&refused).unwrap();
    assert!(seconds > 0 && seconds < u64::from(DAY), "{seconds}");
    assert_eq!(fixture.ask(device(2), send(2, "ann", &text)).await, STORED);
    assert_eq!(fixture.texts(device(1)).await.len(), 1);
    let leave = Command::LeaveGroup(command::LeaveGroup {
        operation: op(500),
        session: SessionRef::Bound,
        group: "g".parse().unwrap(),
    });
    assert_eq!(fixture.ask(device(1), leave).await, Answer::Done);
    fixture.now = later(fixture.now, DAY);
    assert_eq!(
        fixture.ask(device(1), send(501, "bob", &text)).await,
        STORED
    );
    assert_eq!(fixture.ask(device(1), logout(502)).await, Answer::Done);
}

/// ACC-9: the accounts of one subnet share a storage quota. An account that has stored hardly
/// anything does not wait because of others.
#[tokio::test]
async fn storage_quota_of_subnet_is_shared_by_its_accounts() {
    let fixture = Fixture::with(|_, limits| {
        limits.rates.stored_account = RateLimit::per_day(1 << 15);
        limits.rates.stored_subnet = RateLimit::per_day(1 << 13);
    });
    let text = "x".repeat(900);
    let mut stored = Vec::new();
    for n in 1..20 {
        let user = format!("u{n}");
        fixture.ask_from(1, device(n), register(1, &user)).await;
        let mut theirs = 0;
        for number in 2..12 {
            let answer = fixture
                .ask_from(1, device(n), send(number, "u1", &text))
                .await;
            theirs += u32::from(answer == STORED);
        }
        stored.push(theirs);
    }
    // The first accounts use up the subnet's quota. Then each account has a sixteenth of a day's
    // quota, and no more.
    assert_eq!(stored[..2], [10, 10]);
    assert!(
        stored[5..].iter().all(|theirs| (1..4).contains(theirs)),
        "{stored:?}"
    );
    let answer = fixture.ask_from(2, device(1), send(50, "u1", &text)).await;
    assert_eq!(answer, STORED);
}

/// ACC-7, ACC-9: however much somebody has taken, they wait no longer than a rate limit takes to
/// fill up.
#[tokio::test]
async fn rate_limit_wait_is_bounded_after_large_charge() {
    let mut rng = StdRng::seed_from_u64(1);
    let allowances = crate::rate_limit::RateLimiter::new(16, &mut rng);
    let often = RateLimit::per_day(10);
    allowances.charge(0, &"ann", often, 1_000_000);
    let wait = allowances.take(0, &"ann", often).unwrap_err();
    assert!(wait <= std::time::Duration::from_hours(24 * 5), "{wait:?}");
}
