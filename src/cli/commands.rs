//! The commands that talk to a realm, from the command line and from the shell.

use std::time::Duration;

use merpati::{
    client::{Client, Registration},
    wire::Mailbox,
};

use super::{
    args::Global,
    ask, groups,
    inputs::{self, Given, Typed},
    outbox,
    output::{Failure, Output},
    peerings, ping, reading, realms,
    remote_args::{Doing, RemoteCommand, UserCommand},
    watch,
};

/// After a command, the program stays for at most the first time without progress of the outbox,
/// and for at most the second in all.
const LINGER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// Executes one command of the command line.
pub async fn once(global: &Global, output: Output, command: RemoteCommand) -> Result<(), Failure> {
    // Options and input are checked first, so that wrong usage changes nothing.
    if let RemoteCommand::User(UserCommand::Register {
        replace, username, ..
    }) = &command
    {
        ask::check_replaced(&ask::client(global, None)?, *username, *replace)?;
    }
    if global.id.is_some() && command.doing() != Doing::Changes {
        return Err(Failure::usage(
            "--id is for commands that change something and carry no password; leave it out here",
        ));
    }
    inputs::tell_password_rules(&command);
    let given = Given::read(&command, Typed::Once)?;
    let is_watch = command.is_watch();
    let client = if let RemoteCommand::User(UserCommand::Watch { keepalive, .. }) = &command {
        ask::watching_client(global, *keepalive)?
    } else {
        ask::client(global, None)?
    };
    let interrupted = told_when_interrupted(&command, !global.no_keep);
    tokio::select! {
        // This branch is first, so that Ctrl-C is handled before anything is done. A watch ends by
        // itself, after it has confirmed what was taken.
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
    // Older entries of the outbox are sent now, as long as there is progress.
    let rtt = client.link_status().await.rtt.unwrap_or_default();
    client.drain(LINGER.0.max(rtt * 3), LINGER.1).await?;
    client.take_notices().iter().for_each(Output::notice);
    Ok(())
}

/// Executes a command with the input that was read for it.
pub async fn execute(
    client: &Client,
    output: Output,
    command: RemoteCommand,
    given: Given,
) -> Result<(), Failure> {
    match command {
        RemoteCommand::User(command) => user(client, output, command, given).await,
        RemoteCommand::Group(command) => groups::once(client, output, command, &given).await,
        RemoteCommand::Realm(command) => realms::once(client, output, command, &given).await,
        RemoteCommand::Peering(command) => peerings::once(client, output, command).await,
    }
}

async fn user(
    client: &Client,
    output: Output,
    command: UserCommand,
    given: Given,
) -> Result<(), Failure> {
    match command {
        UserCommand::Register {
            name,
            country,
            username,
            ..
        } => {
            let registration = Registration {
                full_name: &name,
                country: &country,
                username,
                password: given.password.as_bytes(),
                code: given.code,
            };
            ask::register(client, output, registration).await
        }
        UserCommand::Auth { username, .. } => {
            ask::auth(client, output, username, &given.password).await
        }
        UserCommand::Logout => ask::logout(client, output).await,
        UserCommand::Send {
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
        UserCommand::Inbox(args) => reading::inbox(client, output, Mailbox::Private, &args).await,
        UserCommand::Watch { count, ack, .. } => watch::watch(client, output, count, ack).await,
        UserCommand::Unread => watch::unread(client, output).await,
        UserCommand::Block { username } => ask::block(client, output, username).await,
        UserCommand::Unblock { username } => ask::unblock(client, output, username).await,
        UserCommand::Blocks => ask::blocks(client, output).await,
        UserCommand::Outbox { action } => outbox::outbox(client, output, action).await,
        UserCommand::Ping { count } => ping::ping(client, output, count).await,
        UserCommand::Whoami => ask::whoami(client, output).await,
        UserCommand::Sessions => ask::sessions(client, output).await,
        UserCommand::Revoke { handle } => ask::revoke(client, output, handle).await,
        UserCommand::Passwd { .. } => {
            ask::passwd(client, output, &given.password, &given.new_password).await
        }
    }
}

/// Returns the message for a command that Ctrl-C ends, which tells its state.
pub const fn told_when_interrupted(command: &RemoteCommand, keep: bool) -> &'static str {
    match command.doing() {
        Doing::Reads => "interrupted",
        Doing::ChangesWithPassword => {
            "interrupted: the command may have been done or not; commands with passwords are not kept"
        }
        Doing::Changes if !keep => {
            "interrupted: the command may have been done or not; with --no-keep it is not kept"
        }
        Doing::Changes => {
            "interrupted: the command is kept, and sent again whenever merpati runs; `outbox` shows it"
        }
    }
}
