//! Watching: new messages as they come, for as long as there is somebody to take them (WATCH-1 … WATCH-4).

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::mpsc;

use super::{CallError, Client, Delivery, ask::Told, cursors, state::Account};
use crate::wire::{Answer, Command, Event, Life, Mailbox, Options, Position};

/// Messages that wait to be taken; then the realm waits too.
const WAITING_MAX: usize = 64;
/// A watch whose realm has been too busy for all of a call asks again after so long.
const BUSY_PAUSE: Duration = Duration::from_secs(10);

/// The new messages of all of the user's mailboxes. The watching ends when this is dropped.
#[derive(Debug)]
pub struct Watching<'a> {
    client: &'a Client,
    /// Whose mailboxes these are, whoever logs in meanwhile.
    account: Account,
    told: mpsc::Receiver<Told>,
    /// How far each mailbox has been given out, by positions of the store that had this life.
    given: BTreeMap<Mailbox, u64>,
    life: Option<Life>,
    /// A life that was asked about.
    doubted: Option<Life>,
}

/// What a watch sees.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, and nearly all are messages"
)]
pub enum WatchEvent {
    /// A message.
    Message(Delivery),
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
        let (tell, told) = mpsc::channel(WAITING_MAX);
        let mut watching = Watching {
            account: self.reading_account().await?,
            client: self,
            told,
            given: BTreeMap::new(),
            life: None,
            doubted: None,
        };
        self.shared.tell_pushed(tell).await?;
        watching.ask().await?;
        Ok(watching)
    }
}

impl Watching<'_> {
    /// Asks to be told of everything behind what has been given out here, or shown by another process of the profile.
    async fn ask(&mut self) -> Result<(), CallError> {
        if self.client.shared.reader_account()? != self.account {
            return Err(CallError::AnotherUser);
        }
        // Before the positions: those of a later life are not taken for those of this one.
        let life = self.client.life()?;
        self.forget_lost()?;
        let mut confirmed = BTreeMap::new();
        for (mailbox, cursor) in self.client.shared.cursors(&self.account)? {
            let given = self.given.entry(mailbox).or_default();
            *given = (*given).max(cursor.position);
            confirmed.insert(mailbox, cursor.confirmed);
        }
        let mut all: Vec<_> = self
            .given
            .iter()
            .map(|(at, to)| (*at, Position(*to)))
            .collect();
        // Of what is not named the watch begins behind what has been confirmed: that is left out first.
        all.sort_by_key(|(mailbox, to)| confirmed.get(mailbox).is_some_and(|known| *known >= to.0));
        let mut room = cursors::ROOM;
        let answer = loop {
            let named = cursors::fitting(all.iter().copied(), room);
            let command = Command::Watch {
                session: self.client.reading_session()?,
                cursors: named.clone(),
            };
            let answer = self.client.call_reading(Options::NONE, command, life).await;
            let less = answer.as_ref().err();
            match less.and_then(|error| cursors::less_room(error, &named, room)) {
                Some(less) => room = less,
                None => break answer,
            }
        };
        // The link may have been opened for this, and have told of another life.
        self.forget_lost()?;
        match answer? {
            Answer::Done => Ok(()),
            other => Err(super::commands::unexpected(&other)),
        }
    }

    /// Asks on a link that was opened anew. A watch that has begun goes on however long its realm is away.
    async fn ask_again(&mut self) -> Result<(), CallError> {
        loop {
            match self.ask().await {
                Err(
                    CallError::Unreachable { .. }
                    | CallError::OutcomeUnknown { .. }
                    | CallError::NoAnswer { .. }
                    | CallError::NotDone { .. }
                    | CallError::Resolve { .. },
                ) => {}
                // The call has waited and asked again until its deadline.
                Err(CallError::Busy(_)) => tokio::time::sleep(BUSY_PAUSE).await,
                outcome => return outcome,
            }
        }
    }

    /// The next message, as soon as there is one. Each comes once, those of one mailbox in their order, whatever happens to
    /// the link meanwhile. To be told to [`Client::shown`] once it is shown.
    ///
    /// # Errors
    /// When the realm refuses, as it does once the session has ended.
    pub async fn next(&mut self) -> Result<Delivery, CallError> {
        loop {
            if let WatchEvent::Message(delivery) = self.next_event().await? {
                return Ok(delivery);
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
                Some(Told::Pushed(bytes, life)) => {
                    let event = Event::parse(&bytes).map_err(|error| CallError::Misunderstood {
                        what: error.to_string(),
                        may_be_done: false,
                    })?;
                    let delivery = Delivery {
                        mailbox: event.mailbox,
                        entry: event.entry,
                        account: self.account.clone(),
                        life,
                    };
                    if !self.client.knows_life(life)? {
                        // Of a store that is lost; or another process has been told of a later life, which the next question claims.
                        if std::mem::replace(&mut self.doubted, life) != life {
                            self.ask_again().await?;
                        }
                    }
                    // Before it is known of which life the entry is: what has been given out of another is never compared with it.
                    self.forget_lost()?;
                    // Not dropped where it is known by now: what comes behind it would be taken for all.
                    if self.client.knows_life(life)? && self.is_new(&delivery)? {
                        return Ok(WatchEvent::Message(delivery));
                    }
                }
                Some(Told::Silent) => return Ok(WatchEvent::OutOfReach),
                Some(Told::Heard) => return Ok(WatchEvent::Back),
                // The realm knows nothing of what the link before this one was for.
                Some(Told::Opened) => {
                    self.doubted = None;
                    self.ask_again().await?;
                }
                None => {
                    let (tell, told) = mpsc::channel(WAITING_MAX);
                    self.told = told;
                    self.client.shared.tell_pushed(tell).await?;
                    self.ask().await?;
                }
            }
        }
    }

    /// Once the realm was restored from a backup, what has been given out is known by positions of a lost store (READ-9).
    fn forget_lost(&mut self) -> Result<(), CallError> {
        if !self.client.knows_life(self.life)? {
            self.given.clear();
        }
        self.life = self.client.life()?;
        Ok(())
    }

    /// True when an entry was neither given out here nor shown by another process of the profile.
    fn is_new(&mut self, delivery: &Delivery) -> Result<bool, CallError> {
        let (mailbox, position) = (&delivery.mailbox, delivery.position.0);
        let shared = &self.client.shared;
        let account = &self.account;
        let shown = shared
            .profile
            .read(|records| super::state::cursor(records, account, mailbox))?;
        let given = self.given.entry(*mailbox).or_default();
        let known = shown.map_or(*given, |shown| shown.position.max(*given));
        *given = known.max(position);
        Ok(position > known)
    }
}
