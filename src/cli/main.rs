//! The `merpati` program: `serve`, the commands once each, and a shell to type them in.

mod args;
mod ask;
mod bench;
mod cost;
mod demo;
mod groups;
mod limits;
mod mix;
mod output;
mod passwords;
mod realms;
mod serve;
mod shell;
mod watch;

use std::process::ExitCode;

use args::{Cli, Command, Global, PasswordSource};
use clap::{CommandFactory as _, FromArgMatches as _};
use merpati::wire::Mailbox;
use mimalloc::MiMalloc;
use output::{Failure, Output, USAGE};
use zeroizing_alloc::ZeroAlloc;

/// All memory is wiped when it is given back: passwords and keys pass through buffers of others, too. What one thread
/// took and another gives back is the usual case in a realm, and what this allocator is good at.
#[global_allocator]
static WIPING: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    leave_no_core();
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        let name = matches.subcommand_name().unwrap_or_default().to_owned();
        Cli::from_arg_matches(&matches).map(|cli| (cli, name))
    });
    let (cli, name) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return wrong_usage(&error),
    };
    let output = Output {
        json: cli.global.json,
    };
    let global = cli.global.clone();
    let outcome = run(cli, output);
    cost::note(&global, &name);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.code)
        }
    }
}

/// Lets no core dump be written of this process: it would hold all its secrets.
fn leave_no_core() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // Where that is not possible there is nothing else to do.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// Help and version are asked for; anything else is explained, to programs in their way.
fn wrong_usage(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|arg| arg == "--json");
    if json && error.use_stderr() {
        let message = error.render().to_string();
        let message = message.trim_start_matches("error: ").trim_end();
        Output { json }.failure(&Failure::usage(message));
    } else {
        // Nobody is left to be told when this fails.
        let _ = error.print();
    }
    if error.use_stderr() {
        ExitCode::from(USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

fn run(cli: Cli, output: Output) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Serve(args) => serve::serve(&args, output.json),
        Command::Limits(args) => limits::limits(&args, output.json),
        Command::Rotatekey(args) => serve::rotate_key(&args, output.json),
        Command::Demo(args) => demo::demo(&args),
        Command::Bench(args) => bench::bench(&global, &args, output),
        Command::Cost { reset } => cost::cost(&global, output, reset),
        Command::Shell => shell::shell(&global, output),
        Command::Fingerprint => ask::fingerprint(&global, output),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "merpati",
                &mut std::io::stdout(),
            );
            Ok(())
        }
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(once(&global, output, command))
        }
    }
}

/// A command that talks to the realm once.
async fn once(global: &Global, output: Output, command: Command) -> Result<(), Failure> {
    match command {
        Command::Register {
            name,
            country,
            username,
            password,
            code_file,
        } => {
            let code = code_file.as_deref().map(passwords::code).transpose()?;
            let password = passwords::new_password(&password, "Password")?;
            let client = ask::client(global, None)?;
            let who = (name.as_str(), country.as_str(), username);
            ask::register(&client, output, code, who, &password).await
        }
        Command::Auth { username, password } => {
            let password = passwords::password(&password, "Password")?;
            let client = ask::client(global, None)?;
            ask::auth(&client, output, username, &password).await
        }
        Command::Logout => ask::logout(&ask::client(global, None)?, output).await,
        Command::Send {
            username_to,
            message,
        } => {
            let text = ask::message(message.given())?;
            let message = message.with(&text);
            ask::send(&ask::client(global, None)?, output, username_to, message).await
        }
        Command::Inbox(args) => {
            let client = ask::client(global, None)?;
            ask::inbox(&client, output, Mailbox::Private, &args).await
        }
        Command::Claim { .. }
        | Command::Addrealm { .. }
        | Command::Removerealm { .. }
        | Command::Realms
        | Command::Sendrealm { .. }
        | Command::Inboxrealm { .. }
        | Command::Joingrouprealm { .. }
        | Command::Sendgrouprealm { .. }
        | Command::Inboxgrouprealm { .. }
        | Command::Leavegrouprealm { .. } => {
            let code = realms::secret(&command)?;
            let client = ask::client(global, None)?;
            realms::once(&client, output, command, &code).await
        }
        Command::Addgroup { .. }
        | Command::Joingroup { .. }
        | Command::Sendgroup { .. }
        | Command::Inboxgroup { .. }
        | Command::Leavegroup { .. }
        | Command::Groups
        | Command::Members { .. }
        | Command::Kick { .. }
        | Command::Ban { .. }
        | Command::Unban { .. }
        | Command::Role { .. }
        | Command::Grouppasswd { .. }
        | Command::Delgroup { .. } => {
            let password = groups::password(&command)?;
            let client = ask::client(global, None)?;
            groups::once(&client, output, command, &password).await
        }
        Command::Watch { count, keepalive } => {
            let client = ask::watching_client(global, keepalive)?;
            watch::watch(&client, output, count).await
        }
        Command::Unread => watch::unread(&ask::client(global, None)?, output).await,
        Command::Whoami => ask::whoami(&ask::client(global, None)?, output).await,
        Command::Sessions => ask::sessions(&ask::client(global, None)?, output).await,
        Command::Revoke { handle } => {
            ask::revoke(&ask::client(global, None)?, output, handle).await
        }
        Command::Passwd {
            password,
            new_password_file,
        } => {
            let old = passwords::password(&password, "Old password")?;
            let new = PasswordSource {
                password_file: new_password_file,
                ..password
            };
            let new = passwords::new_password(&new, "New password")?;
            ask::passwd(&ask::client(global, None)?, output, &old, &new).await
        }
        Command::Serve(_)
        | Command::Demo(_)
        | Command::Bench(_)
        | Command::Cost { .. }
        | Command::Shell
        | Command::Fingerprint
        | Command::Completions { .. }
        | Command::Limits(_)
        | Command::Rotatekey(_) => Err(Failure::usage("this command does not talk to a realm")),
    }
}
