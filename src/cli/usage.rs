//! What a wrong command line is answered with.

use std::{io, process::ExitCode};

use super::{
    names::about_message,
    output::{Failure, Output, READER_GONE, USAGE, shown},
};

/// Answers what clap stopped at: help and version were asked for, anything else is explained.
pub fn explain(error: &clap::Error) -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let output = Output {
        json: arguments.iter().any(|argument| argument == "--json"),
    };
    let hint = about_message(error.kind(), &arguments);
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
        // With colours; nobody is left to be told when this fails.
        let _ = error.print();
    }
    ExitCode::from(USAGE)
}

/// What clap says, without its own prefix.
fn text(error: &clap::Error) -> String {
    let text = error.render().to_string();
    text.trim_start_matches("error: ").trim_end().to_owned()
}
