//! A bot. It confirms each private message of a user of its realm exactly once, however often it
//! is killed and started again.
//!
//! ```text
//! bot <home> <connection string> <username> <password>      the first time: it makes its account
//! bot <home>                                                from then on
//! ```

use std::{env, error::Error, path::Path, process::ExitCode};

use merpati::{
    client::{CallError, Client, Delivery, Options, Profile, Sending, system_rng},
    wire::{CONTENT_TEXT, Mailbox},
};

/// An answer begins with this. A message that does gets none, or two bots would go on for ever.
const ANSWER: &str = "Confirmed: your message ";

async fn answer(client: &Client, message: &Delivery) -> Result<(), Box<dyn Error>> {
    // The token names the message. If the bot dies before `shown`, the message comes again, and the
    // call below is the same command: it takes effect once.
    let token = Some(format!("answer-{}-{}", message.position, message.time).parse()?);
    let answers = client.with(Sending { keep: true, token });
    let text = format!("{ANSWER}{}", message.position);
    match answers.send(message.from.user, text.as_str()).await {
        // A kept answer is in the outbox on disk, and is sent as soon as the realm is reachable.
        Ok(_) | Err(CallError::Kept { .. }) => {}
        Err(CallError::Refused(why)) => eprintln!("bot: no answer to {}: {why}", message.from),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let (home, account) = words
        .split_first()
        .ok_or("usage: bot <home> [<connection string> <username> <password>]")?;
    let options = Options {
        server: account.first().map(|text| text.parse()).transpose()?,
        ..Options::default()
    };
    let profile = Profile::open(Path::new(home), "bot", &mut system_rng()?)?;
    let client = Client::open(profile, options)?;
    if let [_, name, password] = account {
        let (user, password) = (name.parse()?, password.as_bytes());
        client.register(name, "-", user, password).await?;
    }
    let mut messages = client.watch().await?;
    loop {
        let message = messages.next().await?;
        // A long message comes in fragments, and is answered with the first.
        let is_first = message.fragment.is_none_or(|fragment| fragment.offset == 0);
        let is_private = message.mailbox == Mailbox::Private && message.from.realm.is_none();
        let is_text = message.content == CONTENT_TEXT;
        if is_first && is_private && is_text && !message.body.starts_with(ANSWER.as_bytes()) {
            answer(&client, &message).await?;
        }
        client.shown(&message)?;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Err(error) = run().await else {
        return ExitCode::SUCCESS;
    };
    eprintln!("bot: {error}");
    ExitCode::FAILURE
}
