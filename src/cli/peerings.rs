//! The operator's commands about other realms.

use merpati::{
    client::{CallError, Client, RealmAddress},
    crypto::PublicKey,
    wire::{ErrorCode, PeerDetail, PeeringState, RealmId},
};
use serde_json::{Value, json};

use super::{
    ask::patiently,
    names::KeyShown,
    output::{Failure, Output, REFUSED},
    remote_args::PeeringCommand,
};

/// Executes a command about other realms.
pub async fn once(client: &Client, output: Output, command: PeeringCommand) -> Result<(), Failure> {
    match command {
        PeeringCommand::Removerealm { realm_id, drop } => {
            let (queue, text) = if drop {
                patiently(client, client.droprealm(realm_id)).await?;
                let text = "removed; the messages queued for it are dropped, and their senders are not told";
                ("dropped", text)
            } else {
                patiently(client, client.removerealm(realm_id)).await?;
                (
                    "returned",
                    "removed; the messages queued for it are returned to their senders",
                )
            };
            output.result(&json!({ "queue": queue }), text)
        }
        PeeringCommand::Acceptrealm {
            realm_id,
            key,
            known_as,
        } => {
            let key = pending_key(client, realm_id, &key).await?;
            let name = known_as.unwrap_or(realm_id);
            patiently(client, client.acceptrealm(name, key)).await?;
            let text = format!(
                "{name} is a peer now, with the fingerprint {}",
                key.fingerprint()
            );
            output.result(
                &json!({ "realm": name.as_str(), "key": key.to_string() }),
                &text,
            )
        }
        PeeringCommand::Refuserealm { realm_id, key } => {
            let key = pending_key(client, realm_id, &key).await?;
            patiently(client, client.refuserealm(realm_id, key)).await?;
            output.result(&json!({}), "refused; it is not shown again for a day")
        }
        PeeringCommand::Moverealm {
            realm_id,
            realm_address,
            realm_port,
        } => {
            let address = RealmAddress {
                host: &realm_address,
                port: realm_port,
            };
            patiently(client, client.moverealm(realm_id, address)).await?;
            output.result(
                &json!({}),
                "moved; this realm connects to it there from now on",
            )
        }
        PeeringCommand::Realms { pending: true, .. } => pending(client, output).await,
        PeeringCommand::Realms { details: true, .. } => details(client, output).await,
        PeeringCommand::Realms { .. } => realms(client, output).await,
    }
}

/// Returns the key that `shown` names, if a realm of that name waits with it.
async fn pending_key(
    client: &Client,
    realm: RealmId,
    shown: &KeyShown,
) -> Result<PublicKey, Failure> {
    let pending = patiently(client, client.pending_realms()).await?;
    let keys = pending.iter().filter(|one| one.realm == realm);
    let mut keys = keys.map(|one| PublicKey(one.key));
    keys.find(|key| shown.is_of(key)).ok_or_else(|| {
        Failure::new(
            "no-such-realm",
            format!("no realm that calls itself {realm} waits with that key; `realms --pending` shows those that do"),
            REFUSED,
        )
    })
}

/// The text for people if there are no peers.
const NO_PEERS: &str = "no peers";

async fn realms(client: &Client, output: Output) -> Result<(), Failure> {
    let peers = patiently(client, client.realms()).await?;
    if peers.is_empty() && !output.json {
        return output.item(&json!({}), NO_PEERS);
    }
    for peer in peers {
        let state = match peer.state {
            0 => "idle",
            1 => "open",
            2 => "trying",
            3 => "waiting",
            other => {
                let error = CallError::Misunderstood {
                    what: format!(
                        "it says that the link with {} is in state {other}",
                        peer.realm
                    ),
                    may_be_done: false,
                };
                return Err(error.into());
            }
        };
        if peer.address.is_empty() {
            // The realm tells users no more than this.
            let object = json!({ "realm": peer.realm.as_str(), "state": state });
            output.item(&object, &format!("{}  {state}", peer.realm))?;
            continue;
        }
        let heard = time(peer.heard)?;
        let object = json!({
            "realm": peer.realm.as_str(),
            "address": peer.address,
            "state": state,
            "queued": peer.queued,
            "age": peer.age,
            "heard": heard,
        });
        let text = format!(
            "{}  {}  {state}  {}  {}",
            peer.realm,
            peer.address,
            queued(peer.queued, peer.age),
            said(heard.as_deref(), "heard", "never heard")
        );
        output.item(&object, &text)?;
    }
    Ok(())
}

async fn details(client: &Client, output: Output) -> Result<(), Failure> {
    let peers = patiently(client, client.realm_details()).await?;
    if peers.is_empty() && !output.json {
        return output.item(&json!({}), NO_PEERS);
    }
    for one in peers {
        let (since, next, heard) = (time(one.since)?, time(one.next)?, time(one.heard)?);
        let why = one.why.map(ErrorCode::name);
        let key = (one.state != PeeringState::Departing).then_some(PublicKey(one.key));
        let object = json!({
            "realm": one.realm.as_str(),
            "state": one.state.name(),
            "why": why,
            "since": since,
            "next": next,
            "heard": heard,
            "address": some(&one.address),
            "claimed": some(&one.claimed),
            "key": key.map(|key| key.to_string()),
            "fingerprint": key.map(|key| key.fingerprint()),
            "former_keys": one.former,
            "queued": one.queued,
            "age": one.age,
        });
        output.item(&object, &block(&one, key, [since, next, heard]))?;
    }
    Ok(())
}

/// Returns the text about a peer, in lines of at most 80 characters unless a host name is longer.
fn block(one: &PeerDetail, key: Option<PublicKey>, times: [Option<String>; 3]) -> String {
    let [since, next, heard] = times;
    let why = one.why.map(|why| format!("  ({why})")).unwrap_or_default();
    let mut lines = vec![format!("{}  {}{why}", one.realm, one.state.name())];
    let mut when = Vec::new();
    when.extend(since.map(|since| format!("since {since}")));
    when.extend(next.map(|next| format!("next try {next}")));
    if !when.is_empty() {
        lines.push(format!("  {}", when.join(", ")));
    }
    if let Some(key) = key {
        let address = match one.address.as_str() {
            "" => "only on links that it opens",
            address => address,
        };
        lines.push(format!("  fingerprint {}", key.fingerprint()));
        lines.push(format!("  at {address}"));
    }
    if !one.claimed.is_empty() {
        lines.push(format!("  says that it is at {}", one.claimed));
        lines.push("  it has not answered there; moverealm makes that its address".into());
    }
    if one.former > 0 {
        lines.push(format!("  has had {} other keys before", one.former));
    }
    let heard = said(heard.as_deref(), "heard", "never heard");
    lines.push(format!("  {}", queued(one.queued, one.age)));
    lines.push(format!("  {heard}"));
    lines.join("\n")
}

async fn pending(client: &Client, output: Output) -> Result<(), Failure> {
    let all = patiently(client, client.pending_realms()).await?;
    if all.is_empty() && !output.json {
        return output.item(&json!({}), "no realm waits for a decision");
    }
    for one in all {
        let key = PublicKey(one.key);
        let (first, last) = (time(one.since)?, time(one.heard)?);
        let object = json!({
            "realm": one.realm.as_str(),
            "state": one.state.name(),
            "key": key.to_string(),
            "fingerprint": key.fingerprint(),
            "claimed": some(&one.claimed),
            "first": first,
            "last": last,
            "times": one.times,
        });
        let place = match one.claimed.as_str() {
            "" => "it says that it cannot be reached",
            claimed => &format!("says that it is at {claimed}"),
        };
        let times = match one.times {
            1 => "once".into(),
            times => format!("{times} times"),
        };
        let text = format!(
            "{}  has introduced itself {times}\n  fingerprint {}\n  {place}\n  first {}, last {}",
            one.realm,
            key.fingerprint(),
            first.as_deref().unwrap_or("-"),
            last.as_deref().unwrap_or("-"),
        );
        output.item(&object, &text)?;
    }
    Ok(())
}

fn some(text: &str) -> Value {
    if text.is_empty() {
        Value::Null
    } else {
        text.into()
    }
}

/// Returns a time of the realm; 0 means none.
fn time(seconds: u32) -> Result<Option<String>, Failure> {
    match seconds {
        0 => Ok(None),
        seconds => {
            let time = jiff::Timestamp::from_second(seconds.into()).map_err(Failure::local)?;
            Ok(Some(time.to_string()))
        }
    }
}

fn said(time: Option<&str>, what: &str, never: &str) -> String {
    time.map_or_else(|| never.into(), |time| format!("{what} {time}"))
}

fn queued(count: u64, age: u64) -> String {
    match count {
        0 => "nothing queued".into(),
        count => format!("{count} queued, the oldest for {}", span(age)),
    }
}

/// Returns a span of time in its largest unit.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PEER-28: all details of a peer fit a screen of 80 columns.
    #[test]
    fn peer_details_fit_80_columns() {
        let one = PeerDetail {
            realm: "a-realm-with-the-longest-name-32".parse().unwrap(),
            key: [7; 32],
            address: "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".into(),
            claimed: "[2001:db8:1111:2222:3333:4444:5555:7777]:65535".into(),
            state: PeeringState::Introduced,
            why: Some(ErrorCode::RegistrationClosed),
            since: 1,
            next: 2,
            heard: 3,
            queued: 8191,
            age: 604_800,
            former: 64,
            times: 0,
        };
        let time = || time(1_800_000_000).unwrap();
        let text = block(&one, Some(PublicKey(one.key)), [time(), time(), time()]);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(text.contains("next try") && text.contains("registration-closed"));
    }

    #[test]
    fn peer_key_is_parsed_whole_or_as_fingerprint() {
        let key = PublicKey([7; 32]);
        for text in [
            key.to_string(),
            key.fingerprint(),
            key.fingerprint().to_uppercase(),
        ] {
            let shown: KeyShown = text.parse().unwrap();
            assert!(
                shown.is_of(&key) && !shown.is_of(&PublicKey([8; 32])),
                "{text}"
            );
        }
        let short = &key.fingerprint()[..19];
        assert!(
            short.parse::<KeyShown>().is_err(),
            "a part of it is not enough"
        );
    }
}
