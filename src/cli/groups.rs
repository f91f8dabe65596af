//! The commands about groups.

use merpati::{
    client::{Client, Message},
    wire::{GroupName, Mailbox},
};
use serde_json::json;

use super::{
    ask::patiently,
    inputs::Given,
    output::{Failure, Output},
    reading, realms,
    remote_args::GroupCommand,
};

/// Executes a command about groups. If it names a group of another realm, it goes to that realm.
pub async fn once(
    client: &Client,
    output: Output,
    command: GroupCommand,
    given: &Given,
) -> Result<(), Failure> {
    let password: &str = &given.password;
    match command {
        GroupCommand::Addgroup { groupname, .. } => {
            addgroup(client, output, groupname, password).await
        }
        GroupCommand::Joingroup { groupname: at, .. } => match at.realm {
            None => joingroup(client, output, at.group, password).await,
            Some(realm) => {
                realms::joingrouprealm(client, output, None, (realm, at.group), password).await
            }
        },
        GroupCommand::Sendgroup {
            groupname: at,
            message,
        } => {
            let message = message.with(&given.text);
            match at.realm {
                None => sendgroup(client, output, at.group, message).await,
                Some(realm) => {
                    realms::sendgrouprealm(client, output, None, (realm, at.group), message).await
                }
            }
        }
        GroupCommand::Inboxgroup {
            groupname: at,
            inbox,
        } => {
            let mailbox = match at.realm {
                None => Mailbox::Group(at.group),
                Some(realm) => Mailbox::RealmGroup(realm, at.group),
            };
            reading::inbox(client, output, mailbox, &inbox).await
        }
        GroupCommand::Leavegroup { groupname: at } => match at.realm {
            None => leavegroup(client, output, at.group).await,
            Some(realm) => realms::leavegrouprealm(client, output, (realm, at.group)).await,
        },
        GroupCommand::Groups => groups(client, output).await,
        GroupCommand::Members { groupname } => members(client, output, groupname).await,
        GroupCommand::Kick {
            groupname,
            username,
        } => {
            patiently(client, client.kick(groupname, username)).await?;
            output.result(&json!({}), "removed")
        }
        GroupCommand::Ban {
            groupname,
            username,
        } => {
            patiently(client, client.ban(groupname, username)).await?;
            output.result(&json!({}), "banned")
        }
        GroupCommand::Unban {
            groupname,
            username,
        } => {
            patiently(client, client.unban(groupname, username)).await?;
            output.result(&json!({}), "may join again")
        }
        GroupCommand::Role {
            groupname,
            username,
            role,
        } => {
            patiently(client, client.set_role(groupname, username, role)).await?;
            output.result(&json!({}), role.name())
        }
        GroupCommand::Grouppasswd { groupname, .. } => {
            let call = client.grouppasswd(groupname, password.as_bytes());
            patiently(client, call).await?;
            output.result(&json!({}), "the group's password is changed")
        }
        GroupCommand::Delgroup { groupname } => {
            patiently(client, client.delgroup(groupname)).await?;
            output.result(&json!({}), "deleted")
        }
    }
}

async fn addgroup(
    client: &Client,
    output: Output,
    group: GroupName,
    password: &str,
) -> Result<(), Failure> {
    patiently(client, client.addgroup(group, password.as_bytes())).await?;
    output.result(&json!({}), "created; you are its owner")
}

async fn joingroup(
    client: &Client,
    output: Output,
    group: GroupName,
    password: &str,
) -> Result<(), Failure> {
    patiently(client, client.joingroup(group, password.as_bytes())).await?;
    output.result(&json!({}), "joined")
}

async fn sendgroup(
    client: &Client,
    output: Output,
    group: GroupName,
    message: Message<'_>,
) -> Result<(), Failure> {
    let sent = patiently(client, client.sendgroup(group, message)).await?;
    output.receipt(sent)
}

async fn leavegroup(client: &Client, output: Output, group: GroupName) -> Result<(), Failure> {
    patiently(client, client.leavegroup(group)).await?;
    output.result(&json!({}), "left")
}

async fn groups(client: &Client, output: Output) -> Result<(), Failure> {
    for name in patiently(client, client.groups()).await? {
        output.item(&json!({ "group": name }), &name)?;
    }
    Ok(())
}

async fn members(client: &Client, output: Output, group: GroupName) -> Result<(), Failure> {
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
