//! What was said to the people of a run, and whether it was true.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::wire::{CONTENT_GONE, CONTENT_NOTICE, Entry, ErrorCode, Mailbox};

/// Where a message is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum To {
    /// A person, by number.
    SimulatedUser(usize),
    /// A group, by the number of the realm that it is in.
    Group(usize),
}

/// What the sender was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing, yet.
    Nothing,
    /// It is kept for good.
    Kept,
    /// It has had no effect.
    Refused(ErrorCode),
}

/// A message.
#[derive(Clone, Debug)]
pub struct Message {
    pub from: usize,
    pub to: To,
    /// Those of one sender and one turn were under way together.
    pub turn: u32,
    pub said: Said,
    /// It need not have left: it was worth something for a while only, or its outbox is lost.
    pub may_be_lost: bool,
    /// It was in the outbox of an old copy of a profile when that was copied again: where its number was used otherwise, each
    /// copy gives it another (EXACT-10).
    pub doubles: usize,
    /// It was queued, maybe, and may come back.
    pub to_other_realm: bool,
    /// It is kept where it is to end, as its sender was told.
    pub has_arrived: bool,
    /// A realm had it, maybe, and was restored from a copy without it.
    pub is_forgotten: bool,
    /// It was given back, maybe, by a realm that was restored from a copy in which it waits: then it comes after what has gone before it meanwhile.
    pub may_come_late: bool,
    pub body: Vec<u8>,
}

impl Message {
    /// As [`is_worth_a_while`].
    pub const fn is_worth_a_while(&self, id: MessageId) -> bool {
        is_worth_a_while(id, self.from)
    }

    /// True when a notice is about this message.
    fn is_quoted_in(&self, notice: &str) -> bool {
        let text = String::from_utf8_lossy(&self.body);
        let mut words = text.split(' ').take(3);
        let (name, verb, id) = (words.next(), words.next(), words.next());
        let name = [name, verb, id].map(Option::unwrap_or_default).join(" ");
        notice.contains(&format!("): {name} "))
    }
}

/// True when it is worth delivering for a while only: every fifth is.
pub const fn is_worth_a_while(id: MessageId, from: usize) -> bool {
    (id + from).is_multiple_of(5)
}

/// Names a message.
pub type MessageId = usize;

/// An entry as it was shown: position and text.
type Shown = (u64, Vec<u8>);

/// How much of each mailbox had been shown when a profile was restored.
#[derive(Debug)]
struct Restore {
    shown: BTreeMap<String, usize>,
}

#[derive(Debug, Default)]
struct Told {
    /// People who have been told that they have an account.
    registered: BTreeSet<usize>,
    /// People who are in all groups.
    in_groups: BTreeSet<usize>,
    /// Who may be shown a mailbox from an earlier place on once: their realm was restored.
    begin_anew: BTreeSet<usize>,
    /// People whose profile has been copied.
    copied: BTreeSet<usize>,
    restores: Vec<(usize, Restore)>,
    messages: Vec<Message>,
    /// What each device was shown of each mailbox, in order.
    shown: BTreeMap<(usize, String), Vec<Shown>>,
    /// Where a realm's own word was shown: to whom, in which mailbox and at which place.
    notices: BTreeSet<(usize, String, u64)>,
    /// For how many messages of each person a later run of theirs was told that they are kept.
    finished: BTreeMap<usize, usize>,
}

impl Told {
    /// Where a person has been shown what, in one mailbox after another.
    fn shown_to(&self, person: usize) -> impl Iterator<Item = &[Shown]> {
        let theirs = self
            .shown
            .iter()
            .filter(move |((who, _), _)| *who == person);
        theirs.map(|(_, shown)| shown.as_slice())
    }

    /// How often a text stood in the mailbox of a person in which it stood most often.
    fn times_shown(&self, person: usize, text: &[u8]) -> usize {
        let in_each = self.shown_to(person).map(|shown| {
            let places = shown.iter().filter(|(_, shown)| shown == text);
            places.map(|(at, _)| at).collect::<BTreeSet<_>>().len()
        });
        in_each.max().unwrap_or_default()
    }

    /// How many notices about a message its sender has been shown.
    fn times_quoted(&self, message: &Message) -> usize {
        let theirs = self
            .shown
            .iter()
            .filter(|((who, _), _)| *who == message.from);
        let in_each = theirs.map(|((who, mailbox), shown)| {
            let quoting = |(at, text): &&Shown| {
                // Anybody may write what looks like one.
                let is_notice = self.notices.contains(&(*who, mailbox.clone(), *at));
                is_notice && message.is_quoted_in(&String::from_utf8_lossy(text))
            };
            let places = shown.iter().filter(quoting).map(|(at, _)| at);
            places.collect::<BTreeSet<_>>().len()
        });
        in_each.max().unwrap_or_default()
    }
}

/// What a mailbox says of entries that it does not keep any more.
#[derive(Clone, Copy, Debug)]
pub struct Gone {
    /// So many are gone.
    pub count: u64,
    /// They were this person's alone, who has been shown all of them.
    pub of: Option<usize>,
}

/// All that was said.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<Told>>);

impl History {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap()
    }

    /// A person is about to send a message of about so many bytes; its body.
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
        // A message to somebody whom the realm does not know is refused, which another process may be told.
        let is_known = match to {
            To::SimulatedUser(person) => told.registered.contains(&person),
            To::Group(_) => true,
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
            body: body.clone(),
        });
        (id, body)
    }

    /// Who wrote a text, if anybody did.
    pub fn author(&self, text: &[u8]) -> Option<usize> {
        let told = self.told();
        let mut messages = told.messages.iter();
        let message = messages.find(|message| message.body == text);
        message.map(|message| message.from)
    }

    /// The same text is typed once more: that is another message.
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

    /// A person has an account.
    pub fn register(&self, person: usize) {
        self.told().registered.insert(person);
    }

    /// A person is in all groups.
    pub fn come_in(&self, person: usize) {
        self.told().in_groups.insert(person);
    }

    /// How many people are in all groups.
    pub fn count_in_groups(&self) -> usize {
        self.told().in_groups.len()
    }

    /// A message is kept where it is to end, as its sender was told.
    pub fn arrive(&self, id: MessageId) {
        self.told().messages[id].has_arrived = true;
    }

    /// All messages, as they are by now.
    pub fn so_far(&self) -> Vec<Message> {
        self.told().messages.clone()
    }

    /// A realm is restored, of which these people are: what they are shown may begin anew. `excuse` says of each message that was
    /// written by now what need not hold of it.
    pub fn restore_realm(
        &self,
        people: impl Iterator<Item = usize>,
        excuse: impl Fn(MessageId, &mut Message),
    ) {
        let mut told = self.told();
        told.begin_anew.extend(people);
        // What was finished may be lost.
        told.finished.clear();
        for (id, message) in told.messages.iter_mut().enumerate() {
            excuse(id, message);
        }
    }

    /// A person's profile is copied.
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

    /// A message need not have left.
    pub fn lose(&self, id: MessageId) {
        self.told().messages[id].may_be_lost = true;
    }

    /// A person's profile is what it was when `since` messages had been written: what was typed after that may be lost, and
    /// what was shown may be shown again.
    pub fn restore(&self, person: usize, since: usize) {
        let mut told = self.told();
        for message in told.messages.iter_mut().skip(since) {
            message.may_be_lost |= message.from == person;
        }
        // What was told may be told again.
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

    /// The sender was told what became of a message.
    pub fn say(&self, id: MessageId, said: Said) {
        self.told().messages[id].said = said;
    }

    /// A message that an earlier run of a person's began is kept, as a later one was told.
    pub fn say_finished(&self, person: usize) {
        *self.told().finished.entry(person).or_default() += 1;
    }

    /// A device has shown an entry.
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

    /// How many entries a person's device has shown.
    pub fn count_shown(&self, person: usize) -> usize {
        let told = self.told();
        let shown = told.shown.iter().filter(|((who, _), _)| *who == person);
        shown.map(|(_, shown)| shown.len()).sum()
    }

    /// How many messages were written.
    pub fn messages(&self) -> usize {
        self.told().messages.len()
    }

    /// What is wrong with refusals: nobody here takes so much that others, who may, would leave them nothing.
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

    /// What is wrong with what the devices were shown: each entry is shown once, in order.
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

    /// What a device has not been shown of a mailbox that holds `entries`.
    pub fn not_shown(&self, person: usize, mailbox: &Mailbox, entries: &[Entry]) -> Vec<String> {
        let told = self.told();
        let none = Vec::new();
        let shown = told.shown.get(&(person, mailbox.to_string()));
        let shown = shown.unwrap_or(&none);
        // What says that others are gone comes when they are.
        let entries = entries.iter().filter(|entry| entry.content != CONTENT_GONE);
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

    /// What is wrong with mailboxes that hold these texts, as their owner reads them: `reach` says which messages
    /// belong there, `returned` what senders were told of those that were queued and could not be delivered.
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
        // How often each text has to be there, and may.
        let mut bounds: BTreeMap<&[u8], (usize, usize, Vec<Said>)> = BTreeMap::new();
        for message in told.messages.iter().filter(|message| reach(message)) {
            let (least, most) = match message.said {
                Said::Kept => (usize::from(!message.is_forgotten), 1),
                Said::Refused(_) => (0, 0),
                // What was typed is in the outbox, and leaves it.
                Said::Nothing => (usize::from(!message.may_be_lost), 1),
            };
            let bound = bounds.entry(&message.body).or_default();
            let most = most + message.doubles;
            (bound.0, bound.1) = (bound.0 + least, bound.1 + most);
            bound.2.push(message.said);
        }
        for message in told.messages.iter().filter(|message| reach(message)) {
            let Some((least, most, said)) = bounds.remove(message.body.as_slice()) else {
                continue;
            };
            let count = texts.iter().filter(|text| **text == message.body).count();
            // What could not be delivered to another realm has come back instead.
            let quoting = returned
                .iter()
                .filter(|notice| message.is_quoted_in(notice))
                .count();
            // The notice may have been read, and gone since.
            let quoting = quoting.max(told.times_quoted(message));
            let came_back = if message.to_other_realm { quoting } else { 0 };
            let found = count + came_back;
            if found < least && gone.count > 0 {
                // What a person had not been shown does not go; who joins a group later has not been shown all of it.
                let shown = gone
                    .of
                    .map(|person| told.times_shown(person, &message.body));
                if shown.is_none_or(|shown| shown > 0) {
                    missing += shown.map_or(0, |shown| shown.min(least - found));
                    continue;
                }
            }
            // What came back from a store that is lost may have been delivered from its copy, or come back from that, too.
            let is_right = (least..=most).contains(&(count + came_back))
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

    /// What is wrong with how much was finished: of the messages of which nothing was said, at least as many are
    /// kept as a later run was told of. `is_kept` says where a message stands.
    pub fn wrong_with_finished(
        &self,
        returned: &[String],
        is_kept: impl Fn(&Message) -> bool,
    ) -> Vec<String> {
        let told = self.told();
        let mut wrong = Vec::new();
        // Of whose realm was restored some may have been told of what was lost then, and heard of it later.
        let finished = told.finished.iter();
        let finished = finished.filter(|(person, _)| !told.begin_anew.contains(person));
        for (person, finished) in finished {
            let unsaid = told
                .messages
                .iter()
                .filter(|message| message.from == *person && message.said == Said::Nothing);
            let is_there = |message: &&Message| {
                message.is_forgotten
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

/// The beginning of a text.
fn quote(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let short: String = text.chars().take(24).collect();
    format!("{short:?}")
}
