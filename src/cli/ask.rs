//! The commands that talk to a realm, each of them once.

use std::{
    io::{self, IsTerminal as _, Read as _},
    time::Duration,
};

use merpati::{
    client::{Client, Kind, Message, Options, Profile, Silence, Traits, default_home, system_rng},
    crypto::ConnectionString,
    wire::{self, Handle, Mailbox, RegistrationCode, SessionId, Username},
};
use serde_json::json;

use super::{
    args::{Global, Inbox},
    output::{Failure, Output},
};

/// When no answer has come for so long, a person is told that the trying goes on.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest message that is read from standard input; no realm takes one nearly as long.
const STDIN_BYTES_MAX: u64 = 64 << 20;

/// A client for the profile that the options name.
pub fn client(global: &Global, session: Option<SessionId>) -> Result<Client, Failure> {
    open(global, session, None)
}

/// A client that is to watch.
pub fn watching_client(global: &Global, keepalive: Option<Duration>) -> Result<Client, Failure> {
    open(global, None, keepalive)
}

fn open(
    global: &Global,
    session: Option<SessionId>,
    keepalive: Option<Duration>,
) -> Result<Client, Failure> {
    let known = global.link.map_or_else(Traits::default, Kind::traits);
    let traits = Traits {
        max_datagram: global.max_datagram.unwrap_or(known.max_datagram),
        rate: global.max_bitrate.or(known.rate),
        keepalive: keepalive.map_or(known.keepalive, Silence::fixed),
        redundancy: global.redundancy.unwrap_or(known.redundancy),
        ..known
    };
    let options = Options {
        server: global.server.clone(),
        trust: global.trust,
        plain: global.plain,
        deadline: global.deadline,
        session: session.or(global.session),
        early_data: !global.no_early_data,
        traits,
        meter: global.meter.clone(),
        ..Options::default()
    };
    Ok(Client::open(profile(global)?, options)?)
}

/// The profile that the options name.
pub fn profile(global: &Global) -> Result<Profile, Failure> {
    let home = match &global.home {
        Some(home) => home.clone(),
        None => default_home()?,
    };
    Ok(Profile::open(&home, &global.profile, &mut system_rng()?)?)
}

/// Waits for a call, telling a person who waits long that it is still being tried.
pub async fn patiently<T, E: Into<Failure>>(
    client: &Client,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    tokio::pin!(call);
    let outcome = tokio::select! {
        outcome = &mut call => outcome,
        () = tokio::time::sleep(PATIENCE), if io::stderr().is_terminal() => {
            let notices = client.take_notices();
            notices.iter().for_each(Output::notice);
            if notices.is_empty() {
                Output::aside("no answer yet; still trying. Ctrl-C stops it, and nothing is done twice");
            }
            call.await
        }
    };
    client.take_notices().iter().for_each(Output::notice);
    outcome.map_err(Into::into)
}

pub async fn register(
    client: &Client,
    output: Output,
    code: Option<RegistrationCode>,
    (name, country, username): (&str, &str, Username),
    password: &str,
) -> Result<(), Failure> {
    let call = client.register_with(code, (name, country), username, password.as_bytes());
    let session = patiently(client, call).await?;
    output.result(
        &json!({ "session": session.to_string() }),
        &format!("session {session}"),
    )
}

pub async fn auth(
    client: &Client,
    output: Output,
    username: Username,
    password: &str,
) -> Result<(), Failure> {
    let session = patiently(client, client.auth(username, password.as_bytes())).await?;
    output.result(
        &json!({ "session": session.to_string() }),
        &format!("session {session}"),
    )
}

pub async fn logout(client: &Client, output: Output) -> Result<(), Failure> {
    patiently(client, client.logout()).await?;
    output.result(&json!({}), "logged out")
}

pub async fn send(
    client: &Client,
    output: Output,
    to: Username,
    message: Message<'_>,
) -> Result<(), Failure> {
    let sent = patiently(client, client.send(to, message)).await?;
    output.result(&json!({ "state": sent.name() }), sent.name())
}

/// The message as given, or from standard input when it is `-`.
pub fn message(given: &str) -> Result<String, Failure> {
    if given != "-" {
        return Ok(given.into());
    }
    let mut text = String::new();
    let mut input = io::stdin().lock().take(STDIN_BYTES_MAX);
    match input.read_to_string(&mut text) {
        Ok(_) if text.ends_with('\n') => {
            text.pop();
            Ok(text)
        }
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(Failure::usage(
            "the message on standard input is not UTF-8 text",
        )),
        Err(error) => Err(error.into()),
    }
}

pub async fn inbox(
    client: &Client,
    output: Output,
    mailbox: Mailbox,
    args: &Inbox,
) -> Result<(), Failure> {
    let reading = client.reading(&mailbox)?;
    let options = wire::Options {
        after: args.after.or(reading.after),
        offset: args
            .offset
            .or(reading.offset.filter(|_| args.after.is_none())),
        limit: args.limit,
        bytes: args.bytes,
        ..wire::Options::NONE
    };
    let piecewise = args.bytes.is_some() || args.offset.is_some();
    let (entries, more) = if piecewise {
        let page = patiently(client, client.read(mailbox, options)).await?;
        (page.entries, page.more)
    } else {
        let limit = args.limit.and_then(|n| usize::try_from(n).ok());
        let call = client.read_whole(mailbox, options.after, limit.unwrap_or(usize::MAX));
        (patiently(client, call).await?, false)
    };
    for entry in &entries {
        output.entry(entry)?;
        // Only what has been printed counts as read.
        client.shown(&mailbox, entry)?;
    }
    if more && !output.json {
        Output::aside("more follow; run it again");
    }
    if entries.is_empty() && !output.json && io::stdout().is_terminal() {
        Output::aside("nothing new; --after 0 shows everything");
    }
    Ok(())
}

pub async fn whoami(client: &Client, output: Output) -> Result<(), Failure> {
    let account = patiently(client, client.whoami()).await?;
    output.account(&account)
}

pub async fn sessions(client: &Client, output: Output) -> Result<(), Failure> {
    let sessions = patiently(client, client.sessions()).await?;
    sessions
        .iter()
        .try_for_each(|session| output.session(session))
}

pub async fn revoke(client: &Client, output: Output, handle: Handle) -> Result<(), Failure> {
    patiently(client, client.revoke(handle)).await?;
    output.result(&json!({}), "revoked")
}

pub async fn passwd(client: &Client, output: Output, old: &str, new: &str) -> Result<(), Failure> {
    patiently(client, client.passwd(old.as_bytes(), new.as_bytes())).await?;
    output.result(
        &json!({}),
        "password changed; all other sessions have ended",
    )
}

/// Shows what two people compare to be sure of each other.
pub fn fingerprint(global: &Global, output: Output) -> Result<(), Failure> {
    let profile = profile(global)?;
    let state = profile.load()?;
    let server = global.server.clone().or_else(|| state.connection_string());
    let realm = server.and_then(|server: ConnectionString| server.key);
    let device = profile.key().public();
    let object = json!({
        "device": device.fingerprint(),
        "device_key": device.to_string(),
        "realm": realm.map(|key| key.fingerprint()),
        "realm_key": realm.map(|key| key.to_string()),
    });
    let realm = realm.map_or_else(|| "not known yet".into(), |key| key.fingerprint());
    output.result(
        &object,
        &format!("device  {}\nrealm   {realm}", device.fingerprint()),
    )
}
