//! Checks for the worlds in which a realm's name was given to another realm (`taken`).

use std::collections::BTreeMap;

use super::{
    name_takeover::{ANN, Actor, FIRST, GAMMA, SECOND, crew, sent},
    world::World,
};
use crate::{
    client::{CallError, Client, Delivery, Receipt},
    wire::{CONTENT_NOTICE, CONTENT_TEXT, Mailbox, Position, Sender},
};

/// What the sender of a message was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Arrived,
    Queued,
    Refused,
    Unknown,
}

#[derive(Debug)]
struct Message {
    from: usize,
    to_group: bool,
    /// The name that the sender's realm has for the destination realm.
    named: String,
    /// The phase in which it was sent: 0 until the first realm is removed, 1 until the second one
    /// has its name, 2 after that, 3 once the first one is added again.
    phase: u8,
    said: Sent,
    text: String,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub struct Story {
    messages: Vec<Message>,
    pub phase: u8,
    /// Messages that waited for the first realm were dropped.
    pub drops: bool,
    pub second_joined: bool,
    pub comes_again: bool,
    wrong: Vec<String>,
}

impl Story {
    pub fn note(&mut self, wrong: String) {
        self.wrong.push(wrong);
    }

    /// Records that a user is about to send a message. Returns its number and text.
    pub fn begin(&mut self, from: usize, to_group: bool, named: &str) -> (usize, String) {
        let id = self.messages.len();
        let text = format!("message {id} of {from} ");
        self.messages.push(Message {
            from,
            to_group,
            named: named.into(),
            phase: self.phase,
            said: Sent::Unknown,
            text: text.clone(),
        });
        (id, text)
    }

    pub fn end(&mut self, id: usize, outcome: &Result<Receipt, CallError>) {
        self.messages[id].said = sent(outcome);
    }

    /// Checks that the group's members from other realms are of exactly these realms.
    pub async fn check_members(&mut self, client: &Client, realms: &[&str]) {
        match client.members(crew()).await {
            Ok(members) => {
                let realms_of = members.iter().filter_map(|member| member.who.realm);
                let mut found: Vec<String> = realms_of.map(|realm| realm.to_string()).collect();
                found.sort();
                let mut wanted: Vec<String> = realms.iter().map(ToString::to_string).collect();
                wanted.sort();
                if found != wanted {
                    self.note(format!(
                        "in the group are users of {found:?}, not {wanted:?}"
                    ));
                }
            }
            Err(error) => self.note(format!("members: {error}")),
        }
    }
}

/// The content of a mailbox: texts and notices.
#[derive(Default)]
struct View {
    texts: Vec<(String, Sender)>,
    notices: Vec<String>,
}

impl View {
    fn new(entries: &[Delivery]) -> Self {
        let text = |entry: &Delivery| String::from_utf8_lossy(&entry.body).into_owned();
        let of = |content: u8| entries.iter().filter(move |entry| entry.content == content);
        Self {
            texts: of(CONTENT_TEXT)
                .map(|entry| (text(entry), entry.from))
                .collect(),
            notices: of(CONTENT_NOTICE).map(text).collect(),
        }
    }

    fn count(&self, text: &str) -> usize {
        self.texts.iter().filter(|(own, _)| own == text).count()
    }

    fn notices_of(&self, text: &str) -> usize {
        self.notices.iter().filter(|own| own.contains(text)).count()
    }
}

/// All mailboxes at the end.
struct Views {
    /// The private mailboxes, and the group as each user sees it.
    private: Vec<View>,
    group: Vec<View>,
}

impl World {
    async fn views(&self, actors: &[Actor], story: &Story) -> Result<Views, CallError> {
        let alpha = self.sites[0].0.id;
        let (mut private, mut group) = (Vec::new(), Vec::new());
        for (who, actor) in actors.iter().enumerate() {
            let read = |mailbox| {
                actor
                    .client
                    .read_whole(mailbox, Some(Position(0)), usize::MAX)
            };
            private.push(View::new(&read(Mailbox::Private).await?));
            let is_in = who != FIRST || story.comes_again;
            let mailbox = if who == ANN {
                Mailbox::Group(crew())
            } else {
                Mailbox::RealmGroup(alpha, crew())
            };
            group.push(if is_in {
                View::new(&read(mailbox).await?)
            } else {
                View::default()
            });
        }
        Ok(Views { private, group })
    }

    /// Returns what is wrong at the end.
    pub(super) async fn wrong_with_names(&self, actors: &[Actor], story: &Story) -> Vec<String> {
        let mut wrong = story.wrong.clone();
        let views = match self.views(actors, story).await {
            Ok(views) => views,
            Err(error) => {
                wrong.push(format!("somebody cannot read: {error}"));
                return wrong;
            }
        };
        wrong.extend(self.wrong_senders(story, &views));
        for message in &story.messages {
            let found = if message.to_group {
                wrong_with_post(message, &views)
            } else {
                wrong_with_letter(story, message, &views)
            };
            wrong.extend(found.map(|found| format!("{message:?}: {found}")));
        }
        wrong.extend(wrong_copies(story, &views));
        let gamma = GAMMA.parse().expect("a name");
        let [alpha, beta] = [self.sites[0].0.id, self.sites[1].0.id];
        let mut queues = vec![(0, beta), (2, alpha)];
        if story.comes_again {
            queues.extend([(0, gamma), (1, alpha)]);
        }
        for (which, peer) in queues {
            let realm = self.sites[which].0.state.lock().unwrap().realm.clone();
            let Some(realm) = realm else {
                wrong.push(format!("realm {which} does not serve"));
                continue;
            };
            match realm.queues.look(peer, false).await {
                Ok(Some(glance)) if matches!(glance.next, Ok(None)) => {}
                _ => wrong.push(format!("realm {which} has something for {peer}")),
            }
        }
        wrong
    }

    /// Checks the senders that ann sees. Each entry must have the name of its author. Once the
    /// first realm is removed, its entries must not have its former name.
    fn wrong_senders(&self, story: &Story, views: &Views) -> Vec<String> {
        let mut wrong = Vec::new();
        let at_alpha = [&views.private[ANN], &views.group[ANN]];
        for (text, from) in at_alpha.iter().flat_map(|view| &view.texts) {
            let Some(message) = story.messages.iter().find(|own| own.text == *text) else {
                wrong.push(format!("ann has {text:?}, which nobody has said"));
                continue;
            };
            let realm = from.realm.map(|realm| realm.to_string());
            let is_theirs = match (message.from, realm.as_deref()) {
                (ANN, None) | (SECOND, Some("beta")) => true,
                (FIRST, Some("beta")) => message.phase == 0,
                (FIRST, Some(GAMMA)) => story.comes_again,
                _ => false,
            };
            if !is_theirs || from.user != self.population.people[message.from].0 {
                wrong.push(format!("{message:?} stands there as of {from}"));
            }
        }
        wrong
    }
}

/// Checks that a private message reached its destination once, or was returned.
fn wrong_with_letter(story: &Story, message: &Message, views: &Views) -> Option<String> {
    let at = |who: usize| views.private[who].count(&message.text);
    let back = views.private[message.from].notices_of(&message.text);
    // Where the message may be, where it may not be, and whether it must be somewhere.
    let is_acknowledged = matches!(message.said, Sent::Arrived | Sent::Queued);
    let (there, elsewhere, is_due) = match (message.from, message.named.as_str(), message.phase) {
        (ANN, "beta", 0) => (FIRST, SECOND, !story.drops || message.said == Sent::Arrived),
        // No realm has the name.
        (ANN, "beta", 1) => return (at(FIRST) + at(SECOND) > 0).then(|| "is there".into()),
        (ANN, "beta", _) => (SECOND, FIRST, true),
        (ANN, ..) => (FIRST, SECOND, true),
        // The messages that the first realm still has wait for as long as alpha does not know it.
        (FIRST, ..) => (
            ANN,
            SECOND,
            story.comes_again || message.said == Sent::Arrived,
        ),
        _ => (ANN, FIRST, true),
    };
    if at(elsewhere) > 0 {
        return Some("is with another person".into());
    }
    if at(there) > 1 || back > 1 {
        return Some(format!(
            "is there {} times, came back {back} times",
            at(there)
        ));
    }
    // The first message of a queue may have been delivered when its realm is removed, and is
    // returned nevertheless.
    (is_acknowledged && is_due && at(there) + back == 0).then(|| "is lost".into())
}

/// Checks that a post is in the group once, if its author was a member.
fn wrong_with_post(message: &Message, views: &Views) -> Option<String> {
    let count = views.group[ANN].count(&message.text);
    let is_due =
        message.from == ANN && message.said != Sent::Unknown || message.said == Sent::Arrived;
    if count > 1 || message.said == Sent::Refused && count > 0 {
        return Some(format!("is there {count} times"));
    }
    (is_due && message.said != Sent::Refused && count == 0).then(|| "is lost".into())
}

/// Checks that the replicas hold what the group holds, each entry once. A text that their own users
/// posted under a former peering may be attributed to the group's home realm (PEER-26).
fn wrong_copies(story: &Story, views: &Views) -> Vec<String> {
    let mut wrong = Vec::new();
    for who in [FIRST, SECOND] {
        if who == FIRST && !story.comes_again {
            continue;
        }
        let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (text, _) in &views.group[ANN].texts {
            counts.entry(text).or_default().0 += 1;
        }
        for (text, _) in &views.group[who].texts {
            counts.entry(text).or_default().1 += 1;
        }
        for (text, (here, there)) in counts {
            let quoted = usize::from(views.group[who].notices_of(text) > 0);
            if here != there && here != there + quoted {
                wrong.push(format!(
                    "{text:?} is in the group {here} times, and {there} times in the copy of person {who}"
                ));
            }
        }
    }
    wrong
}
