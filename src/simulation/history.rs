//! What the users of a run were told, and whether it was true.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::wire::{CONTENT_GONE, CONTENT_HIDDEN, CONTENT_NOTICE, Entry, ErrorCode, Mailbox};

/// The destination of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum To {
    /// A user, by number.
    SimulatedUser(usize),
    /// A group, by the number of its home realm.
    Group(usize),
}

/// The outcome that the sender was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// No outcome yet.
    Nothing,
    /// The message is durable.
    Kept,
    /// The message had no effect.
    Refused(ErrorCode),
}

/// Whether a message is discarded because its recipient blocks its author (BLK-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    /// It is not.
    No,
    /// It was under way when the block began.
    Perhaps,
    /// It was written after the block had been answered.
    Yes,
}

/// A message.
#[derive(Clone, Debug)]
pub struct Message {
    pub from: usize,
    pub to: To,
    /// Messages with the same sender and turn were under way together.
    pub turn: u32,
    pub said: Said,
    /// The message need not have been sent: its lifetime was limited, or its outbox is lost.
    pub may_be_lost: bool,
    /// The number of further copies that may exist. The message was in the outbox of an old copy of
    /// a profile when that was copied again: if its number was used for another command, each copy
    /// gives it a new number (EXACT-10).
    pub doubles: usize,
    /// The message may have waited for another realm, and may be returned.
    pub to_other_realm: bool,
    /// The message is durable at its destination, as its sender was told.
    pub has_arrived: bool,
    /// A realm may have had the message, and was restored from a copy without it.
    pub is_forgotten: bool,
    /// A realm may have returned the message, and was restored from a copy in which it waits. Then
    /// it may come after messages that had overtaken it.
    pub may_come_late: bool,
    pub discarded: Discarded,
    pub body: Vec<u8>,
}

impl Message {
    /// See [`is_worth_a_while`].
    pub const fn is_worth_a_while(&self, id: MessageId) -> bool {
        is_worth_a_while(id, self.from)
    }

    /// True if a notice is about this message.
    fn is_quoted_in(&self, notice: &str) -> bool {
        let text = String::from_utf8_lossy(&self.body);
        let mut words = text.split(' ').take(3);
        let (name, verb, id) = (words.next(), words.next(), words.next());
        let name = [name, verb, id].map(Option::unwrap_or_default).join(" ");
        notice.contains(&format!("): {name} "))
    }
}

/// True if the message has a limited lifetime: every fifth one has.
pub const fn is_worth_a_while(id: MessageId, from: usize) -> bool {
    (id + from).is_multiple_of(5)
}

/// The number of a message.
pub type MessageId = usize;

/// A shown entry: its position and its text.
type Shown = (u64, Vec<u8>);

/// How much of each mailbox had been shown when a profile was restored.
#[derive(Debug)]
struct Restore {
    shown: BTreeMap<String, usize>,
}

#[derive(Debug, Default)]
struct Told {
    /// The users who were told that they have an account.
    registered: BTreeSet<usize>,
    /// The users who are in all groups.
    in_groups: BTreeSet<usize>,
    /// The users whose mailboxes may be shown again from an earlier position, once: their realm was
    /// restored.
    begin_anew: BTreeSet<usize>,
    /// The users whose profile has been copied.
    copied: BTreeSet<usize>,
    restores: Vec<(usize, Restore)>,
    messages: Vec<Message>,
    /// Who blocks whom, and what becomes of messages that are written now.
    blocks: BTreeMap<(usize, usize), Discarded>,
    /// The entries that each device was shown of each mailbox, in order.
    shown: BTreeMap<(usize, String), Vec<Shown>>,
    /// The notices of a realm that were shown: to which user, in which mailbox, at which position.
    notices: BTreeSet<(usize, String, u64)>,
    /// For each user, the number of messages that a later process was told to be durable.
    finished: BTreeMap<usize, usize>,
}

impl Told {
    /// Returns the entries that a user was shown, one mailbox after another.
    fn shown_to(&self, person: usize) -> impl Iterator<Item = &[Shown]> {
        let theirs = self
            .shown
            .iter()
            .filter(move |((who, _), _)| *who == person);
        theirs.map(|(_, shown)| shown.as_slice())
    }

    /// Counts how often a text was shown to a user, in the mailbox that had it most often.
    fn times_shown(&self, person: usize, text: &[u8]) -> usize {
        let in_each = self.shown_to(person).map(|shown| {
            let places = shown.iter().filter(|(_, shown)| shown == text);
            places.map(|(at, _)| at).collect::<BTreeSet<_>>().len()
        });
        in_each.max().unwrap_or_default()
    }

    /// Counts the notices about a message that its sender was shown.
    fn times_quoted(&self, message: &Message) -> usize {
        let theirs = self
            .shown
            .iter()
            .filter(|((who, _), _)| *who == message.from);
        let in_each = theirs.map(|((who, mailbox), shown)| {
            let quoting = |(at, text): &&Shown| {
                // Any user can write a text that looks like a notice.
                let is_notice = self.notices.contains(&(*who, mailbox.clone(), *at));
                is_notice && message.is_quoted_in(&String::from_utf8_lossy(text))
            };
            let places = shown.iter().filter(quoting).map(|(at, _)| at);
            places.collect::<BTreeSet<_>>().len()
        });
        in_each.max().unwrap_or_default()
    }
}

/// What a mailbox says about expired entries.
#[derive(Clone, Copy, Debug)]
pub struct Gone {
    /// The number of expired entries.
    pub count: u64,
    /// The user whose mailbox it is, who was shown all of them. None for a mailbox of several
    /// users.
    pub of: Option<usize>,
}

/// All that the users of a run were told.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<Told>>);

impl History {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap()
    }

    /// Records that a user is about to send a message of about this length. Returns its number and
    /// its body.
    pub fn write(
        &self,
        from: (usize, &str),
        (to, to_other_realm): (To, bool),
        turn: u32,
        len: usize,
    ) -> (MessageId, Vec<u8>) {
        let mut told = self.told();
        let id = told.messages.len();
        let mut text = format!("{} writes {id} ", from.1);
        while text.len() < len {
            let _ = write!(text, "{id}.{} ", text.len());
        }
        let body = text.into_bytes();
        // The realm refuses a message to an unknown user, and another process may be told that.
        let is_known = match to {
            To::SimulatedUser(person) => told.registered.contains(&person),
            To::Group(_) => true,
        };
        let discarded = match to {
            To::SimulatedUser(person) => told.blocks.get(&(person, from.0)).copied(),
            To::Group(_) => None,
        };
        told.messages.push(Message {
            from: from.0,
            to,
            turn,
            said: Said::Nothing,
            may_be_lost: !is_known,
            doubles: 0,
            to_other_realm,
            has_arrived: false,
            is_forgotten: false,
            may_come_late: false,
            discarded: discarded.unwrap_or(Discarded::No),
            body: body.clone(),
        });
        (id, body)
    }

    /// Returns the author of a text, if there is one.
    pub fn author(&self, text: &[u8]) -> Option<usize> {
        let told = self.told();
        let mut messages = told.messages.iter();
        let message = messages.find(|message| message.body == text);
        message.map(|message| message.from)
    }

    /// Records that the same text is typed once more, as another message.
    pub fn write_again(&self, id: MessageId) -> MessageId {
        let mut told = self.told();
        let again = Message {
            said: Said::Nothing,
            doubles: 0,
            has_arrived: false,
            is_forgotten: false,
            may_come_late: false,
            ..told.messages[id].clone()
        };
        told.messages.push(again);
        told.messages.len() - 1
    }

    /// Records that a user begins to block another one.
    pub fn begin_block(&self, person: usize, other: usize) {
        let mut told = self.told();
        told.blocks
            .entry((person, other))
            .or_insert(Discarded::Perhaps);
        let theirs = told.messages.iter_mut().filter(|message| {
            message.from == other && message.to == To::SimulatedUser(person) && !message.has_arrived
        });
        for message in theirs.filter(|message| message.discarded == Discarded::No) {
            message.discarded = Discarded::Perhaps;
        }
    }

    /// Records the answer to a block that was begun: whether it is in force.
    pub fn answer_block(&self, pair: (usize, usize), is_in_force: bool) {
        let mut told = self.told();
        if is_in_force {
            told.blocks.insert(pair, Discarded::Yes);
        } else {
            told.blocks.remove(&pair);
        }
    }

    /// True if a user blocks another one.
    pub fn blocks(&self, person: usize, other: usize) -> bool {
        self.told().blocks.contains_key(&(person, other))
    }

    /// Records that a user has an account.
    pub fn register(&self, person: usize) {
        self.told().registered.insert(person);
    }

    /// Records that a user is in all groups.
    pub fn come_in(&self, person: usize) {
        self.told().in_groups.insert(person);
    }

    /// Counts the users who are in all groups.
    pub fn count_in_groups(&self) -> usize {
        self.told().in_groups.len()
    }

    /// Records that a message is durable at its destination, as its sender was told.
    pub fn arrive(&self, id: MessageId) {
        self.told().messages[id].has_arrived = true;
    }

    /// Returns a copy of all messages in their present state.
    pub fn so_far(&self) -> Vec<Message> {
        self.told().messages.clone()
    }

    /// Records that the realm of these users is restored: their mailboxes may be shown again.
    /// `excuse` changes what is expected of each message that exists by now.
    pub fn restore_realm(
        &self,
        people: impl Iterator<Item = usize>,
        excuse: impl Fn(MessageId, &mut Message),
    ) {
        let mut told = self.told();
        told.begin_anew.extend(people);
        // The outcomes that were told may be lost.
        told.finished.clear();
        for (id, message) in told.messages.iter_mut().enumerate() {
            excuse(id, message);
        }
    }

    /// Records that a user's profile is copied.
    pub fn copy(&self, person: usize) {
        let mut told = self.told();
        if told.copied.contains(&person) {
            let waiting = told.messages.iter_mut();
            for message in waiting.filter(|m| m.from == person && m.said == Said::Nothing) {
                message.doubles += 1;
            }
        }
        told.copied.insert(person);
    }

    /// Records that a message need not have been sent.
    pub fn lose(&self, id: MessageId) {
        self.told().messages[id].may_be_lost = true;
    }

    /// Records that a user's profile is restored to the state in which `since` messages had been
    /// written. What was typed later may be lost, and what was shown later may be shown again.
    pub fn restore(&self, person: usize, since: usize) {
        let mut told = self.told();
        for message in told.messages.iter_mut().skip(since) {
            message.may_be_lost |= message.from == person;
        }
        // Outcomes may be told again.
        told.finished.remove(&person);
        told.restores.push((
            person,
            Restore {
                shown: BTreeMap::new(),
            },
        ));
        let shown: BTreeMap<_, _> = told
            .shown
            .iter()
            .filter(|((who, _), _)| *who == person)
            .map(|((_, mailbox), shown)| (mailbox.clone(), shown.len()))
            .collect();
        if let Some((_, restore)) = told.restores.last_mut() {
            restore.shown = shown;
        }
    }

    /// Records the outcome that the sender of a message was told.
    pub fn say(&self, id: MessageId, said: Said) {
        self.told().messages[id].said = said;
    }

    /// Records that a later process was told that a message of an earlier process is durable.
    pub fn say_finished(&self, person: usize) {
        *self.told().finished.entry(person).or_default() += 1;
    }

    /// Records that a device has shown an entry.
    pub fn show(&self, person: usize, mailbox: &Mailbox, entry: &Entry) {
        let key = (person, mailbox.to_string());
        let position = entry.position.0;
        let mut told = self.told();
        if entry.content == CONTENT_NOTICE {
            told.notices.insert((person, key.1.clone(), position));
        }
        let shown = told.shown.entry(key).or_default();
        shown.push((position, entry.body.clone()));
    }

    /// Counts the entries that a user's device has shown.
    pub fn count_shown(&self, person: usize) -> usize {
        let told = self.told();
        let shown = told.shown.iter().filter(|((who, _), _)| *who == person);
        shown.map(|(_, shown)| shown.len()).sum()
    }

    /// Counts the messages that were written.
    pub fn messages(&self) -> usize {
        self.told().messages.len()
    }

    /// Checks the refusals: no user is refused by a rate limit or a full queue. These users take
    /// little, and a party that takes much must leave them their share.
    pub fn wrong_with_refusals(&self) -> Vec<String> {
        let told = self.told();
        let wrong = told
            .messages
            .iter()
            .filter_map(|message| match message.said {
                Said::Refused(code @ (ErrorCode::RateLimited | ErrorCode::QueueFull)) => {
                    Some(format!("{} is refused: {code:?}", quote(&message.body)))
                }
                _ => None,
            });
        wrong.collect()
    }

    /// Checks what the devices were shown: each entry once, in order.
    pub fn wrong_with_shown(&self) -> Vec<String> {
        let told = self.told();
        let mut wrong = Vec::new();
        for ((person, mailbox), shown) in &told.shown {
            let restored = |at: usize| {
                let restores = told.restores.iter().filter(|(who, _)| who == person);
                restores
                    .map(|(_, restore)| restore.shown.get(mailbox).copied())
                    .any(|shown| shown == Some(at))
            };
            let mut may_begin_anew = told.begin_anew.contains(person);
            for (at, pair) in shown.windows(2).enumerate() {
                if let [(before, _), (after, text)] = pair
                    && after <= before
                    && !restored(at + 1)
                    && !std::mem::take(&mut may_begin_anew)
                {
                    let text = quote(text);
                    wrong.push(format!(
                        "person {person} is shown {text} of {mailbox} at {after}, after {before}"
                    ));
                }
            }
        }
        wrong
    }

    /// Checks that a device was shown all `entries` of a mailbox.
    pub fn not_shown(&self, person: usize, mailbox: &Mailbox, entries: &[Entry]) -> Vec<String> {
        let told = self.told();
        let none = Vec::new();
        let shown = told.shown.get(&(person, mailbox.to_string()));
        let shown = shown.unwrap_or(&none);
        // The entries about expired and hidden entries come only once those are gone.
        let entries = entries
            .iter()
            .filter(|entry| !matches!(entry.content, CONTENT_GONE | CONTENT_HIDDEN));
        let lacks = entries.filter(|entry| {
            let is_it =
                |(position, body): &Shown| *position == entry.position.0 && *body == entry.body;
            !shown.iter().any(is_it)
        });
        lacks
            .map(|entry| {
                let text = quote(&entry.body);
                format!("person {person} is never shown {text} of {mailbox}")
            })
            .collect()
    }

    /// Checks a mailbox that holds these texts. `reach` selects the messages that belong there.
    /// `returned` are the notices about messages that could not be delivered.
    pub fn wrong_with(
        &self,
        mailbox: &str,
        texts: &[&[u8]],
        (returned, gone): (&[String], Gone),
        reach: impl Fn(&Message) -> bool,
    ) -> Vec<String> {
        let told = self.told();
        let mut wrong = Vec::new();
        let mut missing = 0;
        let mut turns: BTreeMap<usize, u32> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for text in texts {
            let mut messages = told.messages.iter();
            let author = messages.find(|message| message.body == **text);
            match author.filter(|message| reach(message)) {
                None => wrong.push(format!("{mailbox} has {}, which nobody wrote", quote(text))),
                // Each copy of a profile keeps its own order.
                Some(message) if !seen.insert(*text) && message.doubles > 0 => {}
                Some(message) if message.may_come_late => {}
                Some(message) => {
                    let last = turns.entry(message.from).or_default();
                    if message.turn < *last {
                        wrong.push(format!("{mailbox} has {} too late", quote(text)));
                    }
                    *last = message.turn;
                }
            }
        }
        // The least and the most number of times that each text must be there.
        let mut bounds: BTreeMap<&[u8], (usize, usize, Vec<Said>)> = BTreeMap::new();
        for message in told.messages.iter().filter(|message| reach(message)) {
            let (least, most) = match message.said {
                Said::Kept => (usize::from(!message.is_forgotten), 1),
                Said::Refused(_) => (0, 0),
                // A typed message is in the outbox, and is sent from there.
                Said::Nothing => (usize::from(!message.may_be_lost), 1),
            };
            let (least, most) = match message.discarded {
                Discarded::No => (least, most + message.doubles),
                Discarded::Perhaps => (0, most + message.doubles),
                Discarded::Yes => (0, 0),
            };
            let bound = bounds.entry(&message.body).or_default();
            (bound.0, bound.1) = (bound.0 + least, bound.1 + most);
            bound.2.push(message.said);
        }
        for message in told.messages.iter().filter(|message| reach(message)) {
            let Some((least, most, said)) = bounds.remove(message.body.as_slice()) else {
                continue;
            };
            let count = texts.iter().filter(|text| **text == message.body).count();
            // A message that another realm could not be given was returned instead.
            let quoting = returned
                .iter()
                .filter(|notice| message.is_quoted_in(notice))
                .count();
            // The notice may have been read, and have expired.
            let quoting = quoting.max(told.times_quoted(message));
            let came_back = if message.to_other_realm { quoting } else { 0 };
            let found = count + came_back;
            if found < least && gone.count > 0 {
                // Unread entries of a user do not expire. A user who joins a group later was not
                // shown all of its entries.
                let shown = gone
                    .of
                    .map(|person| told.times_shown(person, &message.body));
                if shown.is_none_or(|shown| shown > 0) {
                    missing += shown.map_or(0, |shown| shown.min(least - found));
                    continue;
                }
            }
            // A message that a lost store had returned may also have been delivered from the
            // store's copy, or have been returned from it too.
            let is_right = (least..=most).contains(&(count + came_back))
                // A discarded message may have come back before it could be.
                || (message.discarded == Discarded::Yes && count == 0)
                || (message.may_come_late && count <= most && count + came_back >= least);
            if !is_right {
                let text = quote(&message.body);
                let notices: Vec<&String> = returned
                    .iter()
                    .filter(|notice| message.is_quoted_in(notice))
                    .collect();
                wrong.push(format!(
                    "{mailbox} has {text} {count} times: {said:?}, came back: {notices:?}"
                ));
            }
        }
        if gone.of.is_some() && missing as u64 > gone.count {
            let count = gone.count;
            wrong.push(format!(
                "{mailbox} lacks {missing} messages and says that {count} are gone"
            ));
        }
        wrong
    }

    /// Checks the outcomes that later processes were told: of the messages without an outcome, at
    /// least that many are durable. `is_kept` is true for a message that is in a mailbox.
    pub fn wrong_with_finished(
        &self,
        returned: &[String],
        is_kept: impl Fn(&Message) -> bool,
    ) -> Vec<String> {
        let told = self.told();
        let mut wrong = Vec::new();
        // Users of a restored realm may have been told of messages that were lost then.
        let finished = told.finished.iter();
        let finished = finished.filter(|(person, _)| !told.begin_anew.contains(person));
        for (person, finished) in finished {
            let unsaid = told
                .messages
                .iter()
                .filter(|message| message.from == *person && message.said == Said::Nothing);
            let is_there = |message: &&Message| {
                message.is_forgotten
                    || message.discarded != Discarded::No
                    || is_kept(message)
                    || returned.iter().any(|notice| message.is_quoted_in(notice))
            };
            let kept = unsaid.filter(is_there).count();
            if kept < *finished {
                wrong.push(format!(
                    "person {person} was told that {finished} messages are kept after all, and {kept} are"
                ));
            }
        }
        wrong
    }
}

/// Returns the beginning of a text.
fn quote(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let short: String = text.chars().take(24).collect();
    format!("{short:?}")
}
