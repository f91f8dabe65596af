//! The response to a wrong command line.

use std::{io, process::ExitCode};

use super::{
    names::about_message,
    output::{Failure, Output, READER_GONE, USAGE, shown},
};

/// Handles what clap did not parse: prints help or the version if asked for, else the error.
pub fn explain(error: &clap::Error) -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let output = Output {
        json: arguments.iter().any(|argument| argument == "--json"),
    };
    let hint = about_message(error.kind(), &["merpati"], &arguments);
    if hint.is_none() && !error.use_stderr() {
        return match error.print() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(READER_GONE),
            _ => ExitCode::SUCCESS,
        };
    }
    let rendered = error.render().to_string();
    let is_plain = shown(&rendered) == rendered;
    if output.json || hint.is_some() || !is_plain {
        output.failure(&Failure::usage(hint.unwrap_or_else(|| text(error))));
    } else {
        // Printed with colours. An error cannot be reported anywhere.
        let _ = error.print();
    }
    ExitCode::from(USAGE)
}

/// Returns the message of clap without its prefix.
fn text(error: &clap::Error) -> String {
    let text = error.render().to_string();
    text.trim_start_matches("error: ").trim_end().to_owned()
}
