//! A small, complete client in one file. It shows what a client needs on a device.
//!
//! ```text
//! cargo build --profile light --no-default-features --features client --example light
//! light <home> register <connection string> <username> <password>
//! light <home> send <username> <message>
//! light <home> read
//! ```

use std::{env, error::Error, io::Write as _, path::Path, process::ExitCode};

use merpati::{
    client::{Client, Options, Profile, system_rng},
    wire::Mailbox,
};

const USAGE: &str = "usage: light <home> register <connection string> <username> <password>
       light <home> send <username> <message>
       light <home> read";

fn open(home: &str, server: Option<&str>) -> Result<Client, Box<dyn Error>> {
    let profile = Profile::open(Path::new(home), "light", &mut system_rng()?)?;
    let options = Options {
        server: server.map(str::parse).transpose()?,
        ..Options::default()
    };
    Ok(Client::open(profile, options)?)
}

async fn run(words: &[&str]) -> Result<(), Box<dyn Error>> {
    match *words {
        [home, "register", server, username, password] => {
            let client = open(home, Some(server))?;
            let password = password.as_bytes();
            client
                .register(username, "-", username.parse()?, password)
                .await?;
        }
        [home, "send", username, message] => {
            let client = open(home, None)?;
            client.send(username.parse()?, message.as_bytes()).await?;
        }
        [home, "read"] => {
            let client = open(home, None)?;
            let mut out = std::io::stdout().lock();
            for entry in client.unread(Mailbox::Private).await? {
                write!(out, "{}: ", entry.from)?;
                out.write_all(&entry.body)?;
                writeln!(out)?;
                out.flush()?;
                // A message counts as read once it was shown.
                client.shown(&entry)?;
            }
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("light: {error}");
            ExitCode::FAILURE
        }
    }
}
