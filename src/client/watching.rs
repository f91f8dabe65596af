//! Watching: new messages as they come, for as long as there is somebody to take them (WATCH-1 … WATCH-4).

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use super::{CallError, Client, ask::Told};
use crate::wire::{Answer, Command, Cursors, Entry, Event, Mailbox, Options, Position, Unread};

/// Messages that wait to be taken; then the realm waits too.
const WAITING_MAX: usize = 64;

/// The new messages of all of the user's mailboxes. The watching ends when this is dropped.
#[derive(Debug)]
pub struct Watching<'a> {
    client: &'a Client,
    told: mpsc::Receiver<Told>,
    cursors: BTreeMap<String, (Mailbox, u64)>,
}

/// What a watch sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A message, and its mailbox.
    Message(Mailbox, Entry),
    /// The realm is out of reach: a keepalive was not answered for 10 s, or the link does not open for 5 s. The watch
    /// goes on trying.
    OutOfReach,
    /// The realm is back.
    Back,
}

impl Client {
    /// Watches all of the user's mailboxes: what has not been shown yet, and then what comes.
    ///
    /// # Errors
    /// As any call.
    pub async fn watch(&self) -> Result<Watching<'_>, CallError> {
        let state = self.profile.load()?;
        let cursors = state.shown.iter().filter_map(|(name, shown)| {
            let mailbox = name.parse().ok()?;
            Some((name.clone(), (mailbox, shown.position)))
        });
        let (tell, told) = mpsc::channel(WAITING_MAX);
        let watching = Watching {
            client: self,
            told,
            cursors: cursors.collect(),
        };
        self.tell_pushed(tell).await?;
        watching.ask().await?;
        Ok(watching)
    }

    /// How many messages in each mailbox this device has not confirmed yet; those with none are left out.
    ///
    /// # Errors
    /// As any call.
    pub async fn unread_counts(&self) -> Result<Vec<Unread>, CallError> {
        let session = self.session()?;
        match self
            .call(Options::NONE, Command::Unread { session })
            .await?
        {
            Answer::Unread(counts) => Ok(counts),
            Answer::Refused(refusal) => Err(CallError::Refused(refusal)),
            other => Err(CallError::Misunderstood(format!("{other:?}"))),
        }
    }
}

impl Watching<'_> {
    async fn ask(&self) -> Result<(), CallError> {
        let cursors = self.cursors.values();
        let cursors = cursors.map(|(mailbox, position)| (*mailbox, Position(*position)));
        let command = Command::Watch {
            session: self.client.session()?,
            cursors: Cursors(cursors.collect()),
        };
        match self.client.call(Options::NONE, command).await? {
            Answer::Done => Ok(()),
            Answer::Refused(refusal) => Err(CallError::Refused(refusal)),
            other => Err(CallError::Misunderstood(format!("{other:?}"))),
        }
    }

    /// Asks on a link that was opened anew. A watch that has begun goes on however long its realm is away.
    async fn ask_again(&self) -> Result<(), CallError> {
        loop {
            match self.ask().await {
                Err(
                    CallError::Unreachable { .. }
                    | CallError::OutcomeUnknown { .. }
                    | CallError::Resolve { .. },
                ) => {}
                outcome => return outcome,
            }
        }
    }

    /// The next message, as soon as there is one, and its mailbox. Each comes once, those of one mailbox in their
    /// order, whatever happens to the link meanwhile. To be told to [`Client::shown`] once it is shown.
    ///
    /// # Errors
    /// When the realm refuses, as it does once the session has ended.
    pub async fn next(&mut self) -> Result<(Mailbox, Entry), CallError> {
        loop {
            if let WatchEvent::Message(mailbox, entry) = self.next_event().await? {
                return Ok((mailbox, entry));
            }
        }
    }

    /// The next message as by [`Watching::next`], or that the realm is out of reach or back.
    ///
    /// # Errors
    /// As [`Watching::next`].
    pub async fn next_event(&mut self) -> Result<WatchEvent, CallError> {
        loop {
            match self.told.recv().await {
                Some(Told::Pushed(bytes)) => {
                    let event = Event::parse(&bytes)
                        .map_err(|error| CallError::Misunderstood(error.to_string()))?;
                    let Event { mailbox, entry } = event;
                    let position = entry.position.0;
                    let known = self
                        .cursors
                        .entry(mailbox.to_string())
                        .or_insert((mailbox, 0));
                    if position > known.1 {
                        known.1 = position;
                        return Ok(WatchEvent::Message(mailbox, entry));
                    }
                }
                Some(Told::Silent) => return Ok(WatchEvent::OutOfReach),
                Some(Told::Heard) => return Ok(WatchEvent::Back),
                // The realm knows nothing of what the link before this one was for.
                Some(Told::Opened) => self.ask_again().await?,
                None => {
                    let (tell, told) = mpsc::channel(WAITING_MAX);
                    self.told = told;
                    self.client.tell_pushed(tell).await?;
                    self.ask().await?;
                }
            }
        }
    }
}
