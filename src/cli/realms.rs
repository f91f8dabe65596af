//! The commands about other realms, and the operator's commands.

use merpati::{
    client::{CallError, Client, Message, RealmAddress},
    server::config::HostPort,
    wire::{GroupName, Mailbox, Peered, RealmId, Username},
};
use serde_json::json;

use super::{
    ask::patiently,
    inputs::Given,
    output::{Failure, Output},
    reading,
    remote_args::RealmCommand,
};

/// Executes a command about other realms.
pub async fn once(
    client: &Client,
    output: Output,
    command: RealmCommand,
    given: &Given,
) -> Result<(), Failure> {
    match command {
        RealmCommand::Claim { .. } => {
            let claimed = patiently(client, client.claim(given.password.as_bytes())).await;
            claimed.map_err(|failure| match failure.error {
                "wrong-password" => Failure {
                    message: "the operator code is wrong; it is in the file operator-code of the realm's data directory"
                        .into(),
                    ..failure
                },
                _ => failure,
            })?;
            output.result(&json!({}), "you are the realm's operator")
        }
        RealmCommand::Addrealm {
            realm_id,
            realm_address,
            realm_port,
            src_address,
            src_port,
            key,
        } => {
            let source = source(&src_address, &src_port)?;
            let address = RealmAddress {
                host: &realm_address,
                port: realm_port,
            };
            let call = client.addrealm(realm_id, address, address_of(source.as_ref()), key);
            match patiently(client, call).await? {
                Peered::Accepted => output.result(&json!({ "state": "accepted" }), "accepted"),
                Peered::Queued => output.result(
                    &json!({ "state": "waiting" }),
                    "recorded; the other realm has not accepted yet, and is asked again until it does",
                ),
            }
        }
        RealmCommand::Sendrealm {
            realm_id,
            username_to,
            message,
            src,
            from,
        } => {
            let source = named_source(src.as_deref())?;
            let from = from.map_or_else(|| own_name(client), Ok)?;
            let (to, message) = ((realm_id, username_to), message.with(&given.text));
            sendrealm(client, output, source, from, to, message).await
        }
        RealmCommand::Joingrouprealm {
            realm_id,
            groupname,
            src,
            ..
        } => {
            let source = named_source(src.as_deref())?;
            let group = (realm_id, groupname);
            joingrouprealm(client, output, source, group, &given.password).await
        }
        RealmCommand::Sendgrouprealm {
            realm_id,
            groupname,
            message,
            src,
        } => {
            let source = named_source(src.as_deref())?;
            let (to, message) = ((realm_id, groupname), message.with(&given.text));
            sendgrouprealm(client, output, source, to, message).await
        }
        RealmCommand::Inboxgrouprealm {
            realm_id,
            groupname,
            inbox,
        } => {
            let mailbox = Mailbox::RealmGroup(realm_id, groupname);
            reading::inbox(client, output, mailbox, &inbox).await
        }
        RealmCommand::Leavegrouprealm {
            realm_id,
            groupname,
        } => leavegrouprealm(client, output, (realm_id, groupname)).await,
        RealmCommand::Inboxrealm { realm_id, inbox } => {
            reading::inbox(client, output, Mailbox::Realm(realm_id), &inbox).await
        }
    }
}

/// Returns the source address in `--src`.
fn named_source(src: Option<&str>) -> Result<Option<(String, u16)>, Failure> {
    src.map(str::parse::<HostPort>)
        .transpose()
        .map(|named| named.map(Into::into))
        .map_err(|error| Failure::usage(format!("--src: {error}")))
}

/// Returns the source address in two words; `-` for both means none.
fn source(address: &str, port: &str) -> Result<Option<(String, u16)>, Failure> {
    match (address, port, port.parse()) {
        ("-", "-", _) => Ok(None),
        ("-", ..) | (_, "-", _) => Err(Failure::usage(
            "give the source address and its port, or - for both",
        )),
        (_, _, Ok(port)) => Ok(Some((address.into(), port))),
        (_, _, Err(_)) => Err(Failure::usage(format!(
            "{port:?} is not a port; write a number up to 65535"
        ))),
    }
}

fn address_of(source: Option<&(String, u16)>) -> Option<RealmAddress<'_>> {
    source.map(|(host, port)| RealmAddress { host, port: *port })
}

/// Returns the user of the profile's session.
pub fn own_name(client: &Client) -> Result<Username, Failure> {
    let state = client.state()?;
    let name = state.username().ok_or(CallError::NotLoggedIn)?;
    name.parse().map_err(|error| {
        let profile = client.profile().directory().display();
        Failure::local(format!(
            "the profile in {profile} has the user name {name:?}: {error}; log in again with `auth`"
        ))
    })
}

pub async fn sendrealm(
    client: &Client,
    output: Output,
    source: Option<(String, u16)>,
    from: Username,
    (realm, to): (RealmId, Username),
    message: Message<'_>,
) -> Result<(), Failure> {
    let call = client.sendrealm(address_of(source.as_ref()), realm, from, to, message);
    let sent = patiently(client, call).await?;
    output.receipt(sent)
}

pub async fn joingrouprealm(
    client: &Client,
    output: Output,
    source: Option<(String, u16)>,
    (realm, group): (RealmId, GroupName),
    password: &str,
) -> Result<(), Failure> {
    let call = client.joingrouprealm(
        address_of(source.as_ref()),
        realm,
        group,
        password.as_bytes(),
    );
    patiently(client, call).await?;
    output.result(&json!({}), "joined")
}

pub async fn leavegrouprealm(
    client: &Client,
    output: Output,
    (realm, group): (RealmId, GroupName),
) -> Result<(), Failure> {
    patiently(client, client.leavegrouprealm(realm, group)).await?;
    output.result(&json!({}), "left")
}

pub async fn sendgrouprealm(
    client: &Client,
    output: Output,
    source: Option<(String, u16)>,
    (realm, group): (RealmId, GroupName),
    message: Message<'_>,
) -> Result<(), Failure> {
    let call = client.sendgrouprealm(address_of(source.as_ref()), realm, group, message);
    let sent = patiently(client, call).await?;
    output.receipt(sent)
}
