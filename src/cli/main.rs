//! The `merpati` program: `serve`, the commands once each, and a shell to type them in.

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
mod realms;
mod remote_args;
mod serve;
mod shell;
mod trace;
mod usage;
mod watch;
mod workload;

use std::{ffi::OsStr, fmt::Write as _, process::ExitCode};

use args::{Cli, Command};
use clap::{ArgMatches, FromArgMatches as _, parser::ValueSource};
use mimalloc::MiMalloc;
use output::{Failure, Output};
use zeroizing_alloc::ZeroAlloc;

/// All memory is wiped when it is given back: passwords and keys pass through buffers of others, too. What one thread
/// took and another gives back is the usual case in a realm, and what this allocator is good at.
#[global_allocator]
static WIPING: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    leave_no_core();
    outlive_file_limits();
    let parsed = args::definition().try_get_matches().and_then(|matches| {
        let name = matches.subcommand_name().unwrap_or_default().to_owned();
        let mut cli = Cli::from_arg_matches(&matches)?;
        let given = matches
            .subcommand()
            .map(|(_, given)| given.value_source("server"));
        cli.global.is_server_typed = given.flatten() == Some(ValueSource::CommandLine);
        cli.global.typed = typed(&matches);
        Ok((cli, name))
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

/// The options by which the profile was named on the command line: whoever does as a message says has to name it again.
fn typed(matches: &ArgMatches) -> String {
    let Some((_, given)) = matches.subcommand() else {
        return String::new();
    };
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

/// Lets no core dump be written of this process: it would hold all its secrets.
fn leave_no_core() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // Where that is not possible there is nothing else to do.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// What would grow beyond the size that files may have here fails as a full disk does; else the system ends the process without a word.
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
            // Once it is listened to, it stays so for the whole process. Where that is not possible there is nothing else to do.
            let _ = signal(exceeded);
        }
    }
}

fn run(cli: Cli, output: Output) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    // `serve` has a log beside it.
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
