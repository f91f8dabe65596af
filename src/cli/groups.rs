//! The commands about groups.

use merpati::{
    client::{Client, Message},
    wire::{GroupName, Mailbox},
};
use serde_json::json;

use super::{
    args::Command,
    ask::{self, patiently},
    output::{Failure, Output},
    passwords::{self, Secret},
};

/// The password that a command about groups needs; asked for before anything is sent.
pub fn password(command: &Command) -> Result<Secret, Failure> {
    match command {
        Command::Addgroup { password, .. }
        | Command::Joingroup { password, .. }
        | Command::Grouppasswd { password, .. } => {
            passwords::group_password(password, "The group's password")
        }
        _ => Ok(Secret::default()),
    }
}

/// A command about groups, with the password that [`password`] gave.
pub async fn once(
    client: &Client,
    output: Output,
    command: Command,
    password: &str,
) -> Result<(), Failure> {
    match command {
        Command::Addgroup { groupname, .. } => addgroup(client, output, groupname, password).await,
        Command::Joingroup { groupname, .. } => {
            joingroup(client, output, groupname, password).await
        }
        Command::Sendgroup { groupname, message } => {
            let text = ask::message(message.given())?;
            sendgroup(client, output, groupname, message.with(&text)).await
        }
        Command::Inboxgroup { groupname, inbox } => {
            ask::inbox(client, output, Mailbox::Group(groupname), &inbox).await
        }
        Command::Leavegroup { groupname } => leavegroup(client, output, groupname).await,
        Command::Groups => groups(client, output).await,
        Command::Members { groupname } => members(client, output, groupname).await,
        Command::Kick {
            groupname,
            username,
        } => {
            patiently(client, client.kick(groupname, username)).await?;
            output.result(&json!({}), "removed")
        }
        Command::Ban {
            groupname,
            username,
        } => {
            patiently(client, client.ban(groupname, username)).await?;
            output.result(&json!({}), "banned")
        }
        Command::Unban {
            groupname,
            username,
        } => {
            patiently(client, client.unban(groupname, username)).await?;
            output.result(&json!({}), "may join again")
        }
        Command::Role {
            groupname,
            username,
            role,
        } => {
            patiently(client, client.set_role(groupname, username, role)).await?;
            output.result(&json!({}), role.name())
        }
        Command::Grouppasswd { groupname, .. } => {
            let call = client.grouppasswd(groupname, password.as_bytes());
            patiently(client, call).await?;
            output.result(&json!({}), "the group's password is changed")
        }
        Command::Delgroup { groupname } => {
            patiently(client, client.delgroup(groupname)).await?;
            output.result(&json!({}), "deleted")
        }
        _ => Err(Failure::usage("this command is not about groups")),
    }
}

pub async fn addgroup(
    client: &Client,
    output: Output,
    group: GroupName,
    password: &str,
) -> Result<(), Failure> {
    patiently(client, client.addgroup(group, password.as_bytes())).await?;
    output.result(&json!({}), "made, and you are its owner")
}

pub async fn joingroup(
    client: &Client,
    output: Output,
    group: GroupName,
    password: &str,
) -> Result<(), Failure> {
    patiently(client, client.joingroup(group, password.as_bytes())).await?;
    output.result(&json!({}), "joined")
}

pub async fn sendgroup(
    client: &Client,
    output: Output,
    group: GroupName,
    message: Message<'_>,
) -> Result<(), Failure> {
    let sent = patiently(client, client.sendgroup(group, message)).await?;
    output.result(&json!({ "state": sent.name() }), sent.name())
}

pub async fn leavegroup(client: &Client, output: Output, group: GroupName) -> Result<(), Failure> {
    patiently(client, client.leavegroup(group)).await?;
    output.result(&json!({}), "left")
}

pub async fn groups(client: &Client, output: Output) -> Result<(), Failure> {
    for name in patiently(client, client.groups()).await? {
        output.item(&json!({ "group": name }), &name)?;
    }
    Ok(())
}

pub async fn members(client: &Client, output: Output, group: GroupName) -> Result<(), Failure> {
    for member in patiently(client, client.members(group)).await? {
        let object = json!({
            "user": member.who.user.as_str(),
            "realm": member.who.realm.as_ref().map(merpati::wire::RealmId::as_str),
            "role": member.role.name(),
        });
        output.item(&object, &format!("{}  {}", member.who, member.role.name()))?;
    }
    Ok(())
}
