//! The `merpati` program: `serve`, single commands, and a shell to type them in.

mod acks;
mod args;
mod ask;
mod bench;
mod commands;
mod connection_line;
mod cost;
mod demo;
mod entries;
mod groups;
mod handover;
mod inputs;
mod limits;
mod local_args;
mod names;
mod outbox;
mod output;
mod passwords;
mod peerings;
mod ping;
mod reading;
mod realm_at;
mod realms;
mod remote_args;
mod serve;
mod shared_args;
mod shell;
mod trace;
mod usage;
mod watch;
mod workload;

use std::{ffi::OsStr, fmt::Write as _, process::ExitCode};

use args::{Cli, Command};
use clap::{ArgMatches, FromArgMatches as _, error::ErrorKind, parser::ValueSource};
use mimalloc::MiMalloc;
use output::{Failure, Output};
use zeroizing_alloc::ZeroAlloc;

/// All memory is wiped when it is freed, because passwords and keys also pass through buffers of
/// libraries. In a realm one thread usually frees memory that another has allocated, and this
/// allocator is fast at that.
#[global_allocator]
static WIPING: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    leave_no_core();
    outlive_file_limits();
    let parsed = args::definition().try_get_matches().and_then(|matches| {
        let mut cli = Cli::from_arg_matches(&matches)?;
        let Some((name, given)) = matches.subcommand() else {
            let no_command = "name a command; `merpati --help` lists them";
            return Err(args::definition().error(ErrorKind::MissingSubcommand, no_command));
        };
        cli.global.is_server_typed = given.value_source("server") == Some(ValueSource::CommandLine);
        cli.global.typed = typed(given);
        Ok((cli, name.to_owned()))
    });
    let (cli, name) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return usage::explain(&error),
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
            let code = ExitCode::from(failure.code);
            output.failure(&failure.for_profile(&global.typed));
            code
        }
    }
}

/// Returns the options that named the profile on the command line. The commands that a message
/// suggests need them again.
fn typed(given: &ArgMatches) -> String {
    let mut typed = String::new();
    for option in ["home", "profile"] {
        if given.value_source(option) == Some(ValueSource::CommandLine)
            && let Some(mut values) = given.get_raw(option)
            && let Some(value) = values.next().and_then(OsStr::to_str)
            && let Ok(quoted) = shlex::try_quote(value)
        {
            let _ = write!(typed, " --{option} {quoted}");
        }
    }
    typed
}

/// Prevents core dumps of this process, because they would contain all its secrets.
fn leave_no_core() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // If this fails, nothing else can be done.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// Makes a write beyond the limit on file sizes fail as on a full disk. Else the system ends the
/// process without a message.
fn outlive_file_limits() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use tokio::signal::unix::{SignalKind, signal};

        let exceeded = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build();
        if let Ok(runtime) = runtime {
            let _inside = runtime.enter();
            // The handler stays for the whole process. If this fails, nothing else can be done.
            let _ = signal(exceeded);
        }
    }
}

fn run(cli: Cli, output: Output) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    // `serve` starts the trace together with its log.
    if !matches!(command, Command::Serve(_)) {
        trace::start()?;
    }
    match command {
        Command::Serve(args) => serve::serve(&args, output.json),
        Command::Limits(args) => limits::limits(&args, output.json),
        Command::Rotatekey(args) => serve::rotate_key(&args, output.json),
        Command::Demo(args) => demo::demo(&args),
        Command::Bench(args) => bench::bench(&global, &args, output),
        Command::Cost { reset } => cost::cost(&global, output, reset),
        Command::Shell => shell::shell(&global, output),
        Command::Fingerprint => ask::fingerprint(&global, output),
        Command::Version => output.version(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut args::definition(), "merpati", &mut script);
            output::print_line(String::from_utf8_lossy(&script).trim_end())
        }
        Command::Remote(command) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(commands::once(&global, output, command))
        }
    }
}
