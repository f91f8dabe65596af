//! Clients and profiles for the commands that talk to a realm, and common functions of these.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    time::Duration,
};

use merpati::{
    client::{
        CallError, Client, LinkParameters, LinkProfile, Message, Options, Profile, Registration,
        Sending, Silence, default_home, system_rng,
    },
    crypto::ConnectionString,
    wire::{Handle, RealmId, Sender, SessionId, Username},
};
use serde_json::json;

use super::{
    args::Global,
    output::{Failure, Output, READ_INPUT},
    realm_at::RealmAt,
};

/// After this time without an answer, a person is told that the command is still tried.
const PATIENCE: Duration = Duration::from_secs(3);

/// Returns a client for the profile that the options name.
pub fn client(global: &Global, session: Option<SessionId>) -> Result<Client, Failure> {
    open(global, session, None)
}

/// Returns a client for a watch.
pub fn watching_client(global: &Global, keepalive: Option<Duration>) -> Result<Client, Failure> {
    open(global, None, keepalive)
}

fn open(
    global: &Global,
    session: Option<SessionId>,
    keepalive: Option<Duration>,
) -> Result<Client, Failure> {
    let known = global
        .link
        .map_or_else(LinkParameters::default, LinkProfile::traits);
    let link = LinkParameters {
        max_datagram: global.max_datagram.unwrap_or(known.max_datagram),
        rate: global.max_bitrate.or(known.rate),
        keepalive: keepalive.map_or(known.keepalive, Silence::fixed),
        redundancy: global.redundancy.unwrap_or(known.redundancy),
        ..known
    };
    let options = Options {
        server: global.server.clone(),
        remember: global.is_server_typed,
        trust: global.trust,
        plain: global.plain,
        deadline: global.deadline,
        session: session.or(global.session),
        early_data: !global.no_early_data,
        link,
        meter: global.meter.clone(),
        ..Options::default()
    };
    let sending = Sending {
        keep: !global.no_keep,
        token: global.id.clone(),
    };
    Ok(Client::open(profile(global)?, options)?.with(sending))
}

/// Opens the profile that the options name.
pub fn profile(global: &Global) -> Result<Profile, Failure> {
    let home = match &global.home {
        Some(home) => home.clone(),
        None => default_home()?,
    };
    Ok(Profile::open(&home, &global.profile, &mut system_rng()?)?)
}

/// Waits for a call. A person who waits long is told that it is still tried.
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
                Output::aside("no answer yet; still trying. Ctrl-C stops the wait, and says whether the command is kept");
            }
            call.await
        }
    };
    client.take_notices().iter().for_each(Output::notice);
    outcome.map_err(Into::into)
}

/// Asks a person for confirmation before a new account replaces the profile's account at the same
/// realm. Accounts at other realms stay.
///
/// The same name is not another account: a realm that has lost an account gets it again.
pub fn check_replaced(client: &Client, username: Username, replace: bool) -> Result<(), Failure> {
    let is_other = |user: &String| user != username.as_str();
    let known = match client.state() {
        Ok(state) => state.username().map(String::from),
        // A profile that knows no realm has no account at it.
        Err(CallError::NoServer | CallError::NoKey) => None,
        Err(error) => return Err(error.into()),
    };
    let Some(user) = known.filter(|user| !replace && is_other(user)) else {
        return Ok(());
    };
    let refusal = format!(
        "this profile has the account {user} already; pass --profile NAME to create another one beside it, or --replace \
         to forget {user} here"
    );
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(refusal));
    }
    Output::aside(&format!(
        "this profile has the account {user}. A new account replaces it here; {user} itself stays in the realm, and \
         `--profile NAME` creates one beside it."
    ));
    let _ = write!(io::stderr(), "Replace {user} in this profile? [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.map_err(Failure::cannot(READ_INPUT))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::usage(format!(
            "nothing was done; this profile still has the account {user}"
        ))),
    }
}

pub async fn register(
    client: &Client,
    output: Output,
    registration: Registration<'_>,
) -> Result<(), Failure> {
    let username = registration.username;
    let session = patiently(client, client.register_with(registration)).await?;
    let mut realm = RealmAt::of(client.profile())?;
    realm.object["username"] = username.as_str().into();
    realm.object["session"] = session.to_string().into();
    let text = format!("registered as {username}{realm}\nsession {session}");
    output.result(&realm.object, &text)
}

pub async fn auth(
    client: &Client,
    output: Output,
    username: Username,
    password: &str,
) -> Result<(), Failure> {
    let session = patiently(client, client.auth(username, password.as_bytes())).await?;
    let mut realm = RealmAt::of(client.profile())?;
    realm.object["username"] = username.as_str().into();
    realm.object["session"] = session.to_string().into();
    let text = format!("logged in as {username}{realm}\nsession {session}");
    output.result(&realm.object, &text)
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
    output.receipt(sent)
}

pub async fn whoami(client: &Client, output: Output) -> Result<(), Failure> {
    let account = patiently(client, client.whoami()).await?;
    output.account(&account, RealmAt::of(client.profile())?)
}

pub async fn sessions(client: &Client, output: Output) -> Result<(), Failure> {
    let sessions = patiently(client, client.sessions()).await?;
    sessions
        .iter()
        .try_for_each(|session| output.session(session))
}

pub async fn revoke(client: &Client, output: Output, handle: Handle) -> Result<(), Failure> {
    let revoked = patiently(client, client.revoke(handle)).await;
    revoked.map_err(|failure| match failure.error {
        "no-session" => Failure {
            message: format!(
                "there is no session with the handle {handle}, or you are not logged in; `sessions` lists yours"
            ),
            ..failure
        },
        _ => failure,
    })?;
    output.result(&json!({}), "revoked")
}

pub async fn block(client: &Client, output: Output, user: Sender) -> Result<(), Failure> {
    if user.realm.is_none() && client.state()?.username() == Some(user.user.as_str()) {
        return Err(Failure::usage(format!(
            "{user} is you: name another user to block"
        )));
    }
    patiently(client, client.block(user)).await?;
    output.result(&json!({}), "blocked; they do not find out")
}

pub async fn unblock(client: &Client, output: Output, user: Sender) -> Result<(), Failure> {
    patiently(client, client.unblock(user)).await?;
    output.result(&json!({}), "no longer blocked")
}

pub async fn blocks(client: &Client, output: Output) -> Result<(), Failure> {
    let blocked = patiently(client, client.blocks()).await?;
    if blocked.is_empty() {
        Output::aside("you block nobody");
    }
    for user in blocked {
        let object = json!({
            "user": user.user.as_str(),
            "realm": user.realm.as_ref().map(RealmId::as_str),
        });
        output.item(&object, &user.to_string())?;
    }
    Ok(())
}

pub async fn passwd(client: &Client, output: Output, old: &str, new: &str) -> Result<(), Failure> {
    patiently(client, client.passwd(old.as_bytes(), new.as_bytes())).await?;
    output.result(
        &json!({}),
        "password changed; all other sessions have ended",
    )
}

/// Prints the fingerprints of the device and the realm, which people compare to verify the keys.
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
