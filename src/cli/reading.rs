//! `inbox` and its relatives: they show messages and confirm them once the reader of the output has
//! taken them.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _},
};

use merpati::{
    client::{Client, Delivery},
    wire::{self, Mailbox, Position},
};

use super::{
    acks::{Ack, Acks, Wanted},
    ask::patiently,
    entries,
    handover::Handover,
    output::{Failure, Output},
    shared_args::Inbox,
};

/// Messages that a program may leave unacknowledged before it gets no more.
const UNACKED_MAX: usize = 1024;

/// A writer of messages, which confirms those that the reader has taken.
#[derive(Debug)]
pub struct Shower<'a> {
    client: &'a Client,
    output: Output,
    names_group: bool,
    handover: Handover,
    /// Messages that are written and not known to be taken.
    waiting: VecDeque<Delivery>,
}

impl<'a> Shower<'a> {
    /// Returns a writer for messages as they come. It also works if nobody takes them.
    pub fn watching(client: &'a Client, output: Output) -> Result<Self, Failure> {
        Ok(Self {
            handover: Handover::to_stdout_or_nowhere()?,
            client,
            output,
            names_group: true,
            waiting: VecDeque::new(),
        })
    }

    /// Returns a writer for messages. Fails if standard output is closed.
    pub fn new(client: &'a Client, output: Output, names_group: bool) -> Result<Self, Failure> {
        Ok(Self {
            // This is checked before the realm is asked: a message that cannot be shown is not
            // read.
            handover: Handover::to_stdout()?,
            client,
            output,
            names_group,
            waiting: VecDeque::new(),
        })
    }

    /// Writes a message. When a batch is full, it waits until the reader has taken all of it.
    pub async fn show(&mut self, delivery: Delivery) -> Result<(), Failure> {
        if self.handover.is_nowhere() {
            return Ok(());
        }
        let Delivery { mailbox, entry, .. } = &delivery;
        let line = entries::line(self.output, mailbox, entry, self.names_group)?;
        self.waiting.push_back(delivery);
        let written = self.handover.write(&line).await;
        match written {
            Ok(()) if self.handover.is_batch_full() => self.settle().await,
            Ok(()) => Ok(()),
            Err(failure) => self.confirm().and(Err(failure)),
        }
    }

    /// Waits until the reader has taken everything, and confirms what it has taken. This also holds
    /// if the reader has gone.
    pub async fn settle(&mut self) -> Result<(), Failure> {
        let settled = self.handover.settle().await;
        self.confirm()?;
        settled
    }

    /// Confirms what the reader has taken by now.
    pub fn confirm(&mut self) -> Result<(), Failure> {
        let taken = self.handover.taken()?;
        for delivery in self.waiting.drain(..taken.min(self.waiting.len())) {
            self.client.shown(&delivery)?;
        }
        Ok(())
    }
}

/// Messages that were written and that a program has not acknowledged yet, in the order of writing.
#[derive(Debug, Default)]
struct Unacked(Vec<Delivery>);

impl Unacked {
    /// Confirms the message that `ack` names and all before it in the same mailbox. If the realm
    /// was restored from a backup, several messages may have the same position. Then `ack` names
    /// the first of them, because the program may not have seen the others yet.
    fn take(&mut self, client: &Client, ack: Ack) -> Result<(), String> {
        let Ack { mailbox, position } = ack;
        let is_named = |one: &Delivery| mailbox.is_none_or(|mailbox| mailbox == one.mailbox);
        let is_it = |one: &Delivery| is_named(one) && one.position.0 == position;
        let Some(at) = self.0.iter().position(is_it) else {
            let mailbox = mailbox.map_or_else(String::new, |mailbox| format!(" of {mailbox}"));
            return Err(format!(
                "position {position}{mailbox} does not wait to be confirmed; write the position of an entry that was \
                 printed here"
            ));
        };
        let rest = self.0.split_off(at + 1);
        if let Some(delivery) = self.0.last() {
            client.shown(delivery).map_err(|error| error.to_string())?;
        }
        self.0.retain(|one| !is_named(one));
        self.0.extend(rest);
        Ok(())
    }
}

/// Reads a mailbox: the messages that were not shown before, or those that `args` name.
pub async fn inbox(
    client: &Client,
    output: Output,
    mailbox: Mailbox,
    args: &Inbox,
) -> Result<(), Failure> {
    let mut shower = Shower::new(client, output, false)?;
    let options = wire::Options {
        after: args.after,
        offset: args.offset,
        limit: args.limit,
        bytes: args.bytes,
        ..wire::Options::NONE
    };
    let piecewise = args.bytes.is_some() || args.offset.is_some();
    let (entries, more) = if piecewise {
        let page = patiently(client, client.read(mailbox, options)).await?;
        (page.entries, page.more)
    } else {
        let limit = args.limit.and_then(|n| usize::try_from(n).ok());
        let call = client.read_whole(
            mailbox,
            args.after.map(Position),
            limit.unwrap_or(usize::MAX),
        );
        (patiently(client, call).await?, false)
    };
    let is_empty = entries.is_empty();
    if args.ack {
        let mut entries = entries.into_iter();
        let next = async || entries.next();
        acknowledged(client, output, Wanted::Position, next).await?;
    } else {
        for entry in entries {
            shower.show(entry).await?;
        }
        shower.settle().await?;
    }
    if more && !output.json {
        Output::aside(match (args.after, args.offset) {
            (None, None) => "more follow; the same command again shows them",
            _ => "more follow; --after and --offset say where to go on",
        });
    }
    if is_empty && !output.json && io::stdout().is_terminal() {
        Output::aside(match args.after {
            None => "nothing new; --after 0 shows everything",
            Some(0) => "there are no messages",
            Some(_) => "there are no messages after that position",
        });
    }
    Ok(())
}

/// Writes the messages that `next` returns, and confirms those that a program acknowledges on
/// standard input. It ends when there are no more messages and all are acknowledged, or at the end
/// of standard input. The messages of one mailbox are written to their end even after the end of
/// standard input.
pub async fn acknowledged(
    client: &Client,
    output: Output,
    wanted: Wanted,
    mut next: impl AsyncFnMut() -> Option<Delivery>,
) -> Result<(), Failure> {
    let mut handover = Handover::to_stdout()?;
    let mut acks = Acks::of_stdin();
    let mut unacked = Unacked::default();
    let (mut has_more, mut has_acks) = (true, true);
    while has_more || (has_acks && !unacked.0.is_empty()) {
        let may_write = unacked.0.len() < UNACKED_MAX || !has_acks;
        tokio::select! {
            ack = acks.next(wanted), if has_acks => match ack? {
                Some(ack) => unacked.take(client, ack).map_err(|reason| acks.wrong(&reason))?,
                None if wanted == Wanted::Position => has_acks = false,
                None => return Ok(()),
            },
            came = next(), if has_more && may_write => {
                let Some(delivery) = came else {
                    has_more = false;
                    continue;
                };
                let line = entries::line(output, &delivery.mailbox, &delivery, true)?;
                if has_acks {
                    unacked.0.push(delivery);
                }
                let writing = handover.write(&line);
                tokio::pin!(writing);
                // A program may acknowledge messages while the next one waits to be written.
                loop {
                    tokio::select! {
                        written = &mut writing => break written?,
                        ack = acks.next(wanted), if has_acks => match ack? {
                            Some(ack) => unacked.take(client, ack).map_err(|reason| acks.wrong(&reason))?,
                            None if wanted == Wanted::Position => has_acks = false,
                            None => return Ok(()),
                        },
                    }
                }
            }
            gone = Handover::reader_gone() => return Err(gone),
        }
    }
    Ok(())
}
