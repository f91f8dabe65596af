//! The commands that talk to a realm, from the command line and from the shell alike.

use std::time::Duration;

use merpati::{client::Client, wire::Mailbox};

use super::{
    args::{Command, Global},
    ask, groups,
    inputs::{self, Given, Typed},
    outbox,
    output::{Failure, Output},
    ping, reading, realms, watch,
};

/// A command that is done stays so long for the next sign that what is in the outbox goes, and so long in all.
const LINGER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// Carries out one command of the command line.
pub async fn once(global: &Global, output: Output, command: Command) -> Result<(), Failure> {
    // First what may be missing, so that wrong usage changes nothing.
    if let Command::Register {
        replace, username, ..
    } = &command
    {
        ask::check_replaced(&ask::client(global, None)?, *username, *replace)?;
    }
    if global.id.is_some() && (!changes(&command) || has_password(&command)) {
        return Err(Failure::usage(
            "--id names a command that changes something and carries no password; leave it out here",
        ));
    }
    inputs::tell_password_rules(&command);
    let given = Given::read(&command, Typed::Once)?;
    let client = match &command {
        Command::Watch { keepalive, .. } => ask::watching_client(global, *keepalive)?,
        _ => ask::client(global, None)?,
    };
    let is_watch = matches!(command, Command::Watch { .. });
    let interrupted = told_when_interrupted(&command, !global.no_keep);
    tokio::select! {
        // The first, so that it is listened to before anything is done. A watch ends by itself, once it has confirmed what was taken.
        biased;
        stopped = tokio::signal::ctrl_c(), if !is_watch => {
            stopped?;
            return Err(Failure::interrupted(interrupted));
        }
        outcome = execute(&client, output, command, given) => outcome?,
    }
    if is_watch {
        client.leave().await;
    }
    // What was left over from before has the time to go, while it goes.
    let rtt = client.link_status().await.rtt.unwrap_or_default();
    client.drain(LINGER.0.max(rtt * 3), LINGER.1).await?;
    client.take_notices().iter().for_each(Output::notice);
    Ok(())
}

/// Carries out a command with what was [`Given`] for it.
pub async fn execute(
    client: &Client,
    output: Output,
    command: Command,
    given: Given,
) -> Result<(), Failure> {
    match command {
        Command::Register {
            name,
            country,
            username,
            ..
        } => {
            let who = (name.as_str(), country.as_str(), username);
            ask::register(client, output, given.code, who, &given.password).await
        }
        Command::Auth { username, .. } => {
            ask::auth(client, output, username, &given.password).await
        }
        Command::Logout => ask::logout(client, output).await,
        Command::Send {
            username_to: to,
            message,
        } => {
            let message = message.with(&given.text);
            match to.realm {
                None => ask::send(client, output, to.user, message).await,
                Some(realm) => {
                    let from = realms::own_name(client)?;
                    realms::sendrealm(client, output, None, from, (realm, to.user), message).await
                }
            }
        }
        Command::Inbox(args) => reading::inbox(client, output, Mailbox::Private, &args).await,
        Command::Watch { count, ack, .. } => watch::watch(client, output, count, ack).await,
        Command::Unread => watch::unread(client, output).await,
        Command::Outbox { action } => outbox::outbox(client, output, action).await,
        Command::Ping { count } => ping::ping(client, output, count).await,
        Command::Whoami => ask::whoami(client, output).await,
        Command::Sessions => ask::sessions(client, output).await,
        Command::Revoke { handle } => ask::revoke(client, output, handle).await,
        Command::Passwd { .. } => {
            ask::passwd(client, output, &given.password, &given.new_password).await
        }
        command if groups::is_of_groups(&command) => {
            groups::once(client, output, command, &given).await
        }
        command => realms::once(client, output, command, &given).await,
    }
}

/// True for commands that change something in the realm, false for those that only read.
pub const fn changes(command: &Command) -> bool {
    !matches!(
        command,
        Command::Inbox(_)
            | Command::Inboxgroup { .. }
            | Command::Inboxrealm { .. }
            | Command::Inboxgrouprealm { .. }
            | Command::Watch { .. }
            | Command::Unread
            | Command::Outbox { .. }
            | Command::Ping { .. }
            | Command::Whoami
            | Command::Sessions
            | Command::Groups
            | Command::Members { .. }
            | Command::Realms { .. }
    )
}

/// True for commands that carry a password or a code, which is never kept.
pub const fn has_password(command: &Command) -> bool {
    matches!(
        command,
        Command::Register { .. }
            | Command::Auth { .. }
            | Command::Passwd { .. }
            | Command::Addgroup { .. }
            | Command::Joingroup { .. }
            | Command::Joingrouprealm { .. }
            | Command::Grouppasswd { .. }
            | Command::Claim { .. }
    )
}

/// True for commands that read acknowledgements from standard input.
pub const fn wants_acks(command: &Command) -> bool {
    match command {
        Command::Inbox(inbox)
        | Command::Inboxgroup { inbox, .. }
        | Command::Inboxrealm { inbox, .. }
        | Command::Inboxgrouprealm { inbox, .. } => inbox.ack,
        Command::Watch { ack, .. } => *ack,
        _ => false,
    }
}

/// What has become of a command that Ctrl-C ends.
pub const fn told_when_interrupted(command: &Command, keep: bool) -> &'static str {
    if !changes(command) {
        "interrupted"
    } else if has_password(command) {
        "interrupted: whether the command took effect is not known; commands with passwords are not kept"
    } else if !keep {
        "interrupted: whether the command took effect is not known; with --no-keep it is not kept"
    } else {
        "interrupted: the command is kept and goes on; `outbox` shows it"
    }
}
