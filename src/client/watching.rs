//! Watches: new messages as they arrive, while the caller takes them (WATCH-1 … WATCH-4).

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::mpsc;

use super::{CallError, Client, Delivery, ask::Told, cursors, state::Account};
use crate::wire::{Event, Life, Mailbox, Position, command};

/// The maximum number of messages that wait to be taken. Then the realm waits too.
const WAITING_MAX: usize = 64;
/// The pause after the realm was busy for a whole call. Then the watch is requested again.
const BUSY_PAUSE: Duration = Duration::from_secs(10);

/// The new messages of all of the user's mailboxes. The watch ends when this is dropped.
#[derive(Debug)]
pub struct Watching<'a> {
    client: &'a Client,
    /// The account of the mailboxes, even if another user logs in meanwhile.
    account: Account,
    told: mpsc::Receiver<Told>,
    /// How far each mailbox has been returned, in positions of the store of the next field's life.
    given: BTreeMap<Mailbox, u64>,
    life: Option<Life>,
    /// A life that the realm was asked about.
    doubted: Option<Life>,
}

/// An event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, and nearly all are messages"
)]
#[non_exhaustive]
pub enum WatchEvent {
    /// A message.
    Message(Delivery),
    /// The realm is unreachable: a keepalive was not answered for 10 s, or the link did not open
    /// for 5 s. The watch keeps trying.
    OutOfReach,
    /// The realm is reachable again.
    Back,
}

impl Client {
    /// Watches all of the user's mailboxes: first the messages not shown yet, then new ones. A
    /// client, with its clones, has one watch at a time: two would take the link from each other.
    ///
    /// # Errors
    /// As [`Client::read`].
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
    /// Subscribes to everything after what was returned here, or shown by another process of the
    /// profile.
    async fn ask(&mut self) -> Result<(), CallError> {
        if self.client.shared.reader_account()? != self.account {
            return Err(CallError::AnotherUser);
        }
        // Read before the positions, so that positions of a later life are not taken for those of
        // this one.
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
        // For a mailbox that is not named, the watch begins after the confirmed position. So
        // mailboxes whose messages are confirmed are left out first.
        all.sort_by_key(|(mailbox, to)| confirmed.get(mailbox).is_some_and(|known| *known >= to.0));
        let mut room = cursors::ROOM;
        let answer = loop {
            let named = cursors::fitting(all.iter().copied(), room);
            let command = command::Watch {
                session: self.client.reading_session()?,
                cursors: named.clone(),
            };
            let deadline = self.client.shared.deadline();
            let answer = self.client.call_reading(command, life, deadline).await;
            let less = answer.as_ref().err();
            match less.and_then(|error| cursors::less_room(error, &named, room)) {
                Some(less) => room = less,
                None => break answer,
            }
        };
        // The link may have been opened for this request, and have reported another life.
        self.forget_lost()?;
        answer
    }

    /// Subscribes on a new link. A watch continues however long its realm is away.
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
                // The call has retried until its deadline.
                Err(CallError::Busy(_)) => tokio::time::sleep(BUSY_PAUSE).await,
                outcome => return outcome,
            }
        }
    }

    /// Returns the next message when there is one. Each message comes once, and those of one
    /// mailbox come in order, whatever happens to the link. Pass it to [`Client::shown`] once it is
    /// shown.
    ///
    /// # Errors
    /// If the realm refuses, as it does once the session has ended.
    pub async fn next(&mut self) -> Result<Delivery, CallError> {
        loop {
            if let WatchEvent::Message(delivery) = self.next_event().await? {
                return Ok(delivery);
            }
        }
    }

    /// Returns the next message like [`Watching::next`], or that the realm is unreachable or back.
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
                        // The entry is of a lost store, or another process has learned a later
                        // life, which the next request claims.
                        if std::mem::replace(&mut self.doubted, life) != life {
                            self.ask_again().await?;
                        }
                    }
                    // Before the life of the entry is checked: positions returned from another life
                    // are never compared with it.
                    self.forget_lost()?;
                    // Not dropped if it is known by now: otherwise later entries would be taken for
                    // all there are.
                    if self.client.knows_life(life)? && self.is_new(&delivery)? {
                        return Ok(WatchEvent::Message(delivery));
                    }
                }
                Some(Told::Silent) => return Ok(WatchEvent::OutOfReach),
                Some(Told::Heard) => return Ok(WatchEvent::Back),
                // The realm does not know what the previous link was for.
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

    /// Forgets positions after the realm was restored from a backup: they belong to a lost store
    /// (READ-9).
    fn forget_lost(&mut self) -> Result<(), CallError> {
        if !self.client.knows_life(self.life)? {
            self.given.clear();
        }
        self.life = self.client.life()?;
        Ok(())
    }

    /// True if an entry was neither returned here nor shown by another process of the profile.
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
