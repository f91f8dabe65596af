//! The accounts of a load, one for each connection. The first run makes them, and later runs use
//! them again.

use std::path::Path;

use indicatif::ProgressBar;
use merpati::{
    client::{CallError, Client, Options, Profile, system_rng},
    crypto::{ConnectionString, SecretKey},
    wire::{ErrorCode, GroupName, OperationNumber, Username},
};
use rand::Rng as _;
use tokio::task::JoinSet;

use super::{Failure, Plan, local_realm::LIMITS};

/// Accounts that are made at once, because a realm hashes few passwords at a time.
const AT_ONCE: usize = 16;

/// The only device of a user.
#[derive(Clone, Debug)]
pub struct Device {
    pub user: Username,
    pub group: GroupName,
    pub key: SecretKey,
    /// The highest operation number that the device has used.
    pub highest: OperationNumber,
}

/// Returns a device for each connection.
pub async fn gather(
    realm: &ConnectionString,
    home: &Path,
    plan: Plan,
    bar: &ProgressBar,
) -> Result<Vec<Device>, Failure> {
    let mut devices = Vec::with_capacity(plan.connections);
    let mut making = JoinSet::new();
    // The first user makes the group that the others join.
    devices.push(device(realm.clone(), home.into(), plan, 0).await?);
    bar.inc(1);
    for n in 1..plan.connections {
        while making.len() >= AT_ONCE {
            devices.extend(next(&mut making, bar).await?);
        }
        making.spawn_local(device(realm.clone(), home.into(), plan, n));
    }
    while let Some(device) = next(&mut making, bar).await? {
        devices.push(device);
    }
    Ok(devices)
}

async fn next(
    making: &mut JoinSet<Result<Device, Failure>>,
    bar: &ProgressBar,
) -> Result<Option<Device>, Failure> {
    let Some(made) = making.join_next().await else {
        return Ok(None);
    };
    bar.inc(1);
    made.map_err(Failure::local)?.map(Some)
}

async fn device(
    realm: ConnectionString,
    home: std::path::PathBuf,
    plan: Plan,
    n: usize,
) -> Result<Device, Failure> {
    let mut rng = system_rng()?;
    let profile = Profile::open(&home, &n.to_string(), &mut rng)?;
    let key = profile.key().clone();
    let is_plain = realm.key.is_none();
    let options = Options {
        server: Some(realm),
        plain: is_plain,
        ..Options::default()
    };
    let client = Client::open(profile, options)?;
    let mut state = client.state()?;
    if !state.is_logged_in() {
        let user = format!("b{:08x}", rng.next_u32());
        let user = user.parse().map_err(Failure::local)?;
        // The password is not kept, because the device's key is enough.
        let password = format!("{:032x}", rng.next_u64());
        client
            .register("Merpati bench", "none", user, password.as_bytes())
            .await
            .map_err(explain)?;
        state = client.state()?;
    }
    let user = state.username().ok_or_else(|| no_account(&home, n))?;
    let user: Username = user.parse().map_err(Failure::local)?;
    // All clients share one group, which has the name of the first user.
    let group = first(&home, n, user)?;
    if plan.mix.needs_group() {
        let taken = |error: &CallError| matches!(error, CallError::Refused(refusal) if refusal.code == ErrorCode::GroupExists);
        let outcome = if n == 0 {
            client.addgroup(group, b"").await
        } else {
            client.joingroup(group, b"").await
        };
        match outcome {
            Err(error) if !taken(&error) => return Err(explain(error)),
            _ => {}
        }
    }
    let highest = client.state()?.highest();
    Ok(Device {
        user,
        group,
        key,
        highest,
    })
}

/// Returns the name of the group, which is that of the first user.
fn first(home: &Path, n: usize, user: Username) -> Result<GroupName, Failure> {
    let name = if n == 0 {
        Some(user.as_str().to_owned())
    } else {
        let state = Profile::open(home, "0", &mut system_rng()?)?.load()?;
        state.username().map(String::from)
    };
    let name = name.ok_or_else(|| no_account(home, 0))?;
    name.parse().map_err(Failure::local)
}

fn no_account(home: &Path, n: usize) -> Failure {
    let home = home.display();
    Failure::local(format!(
        "the profile {n} in {home} has a session and no user name; remove {home} and run the bench again"
    ))
}

/// Records the operation numbers that were used.
pub fn remember(
    home: &Path,
    devices: &[Device],
    highest: &[OperationNumber],
) -> Result<(), Failure> {
    for (n, (_, highest)) in devices.iter().zip(highest).enumerate() {
        let profile = Profile::open(home, &n.to_string(), &mut system_rng()?)?;
        profile.note_highest(*highest)?;
    }
    Ok(())
}

/// Returns the advice for limits that restrict a load.
pub fn raise() -> String {
    let limits = LIMITS.join(", ");
    format!(
        "a load comes from one subnet: raise what bounds that in the realm's [limits] ({limits}), or ask for fewer --connections"
    )
}

fn explain(error: CallError) -> Failure {
    let is_limit =
        matches!(&error, CallError::Refused(refusal) if refusal.code == ErrorCode::RateLimited);
    let mut failure = Failure::from(error);
    if is_limit {
        failure.message.push_str("; ");
        failure.message.push_str(&raise());
    }
    failure
}
