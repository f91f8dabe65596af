//! Reading mailboxes and recording what was shown. A cursor belongs to an account: if another user
//! logs in from another process, messages shown are still recorded for the account whose they are.

use std::ops::Deref;

use tokio::time::Instant;

use super::{
    CallError, Client, Shared,
    answer::{CommandKind, accepted, content},
    cursors,
    state::{self, Account},
};
use crate::{
    faults::{Fault, is_planted},
    wire::{
        Answer, Answered, Command, Entry, FromAnswer, Life, Mailbox, Options, Page, Position,
        Request, SessionRef, Unread, command,
    },
};

/// The number of entries requested per page.
const PAGE_ENTRIES: u64 = 100;

/// An entry of a mailbox, or a fragment of one, as delivered to its reader. It dereferences to the
/// entry. A watch brings a long entry as fragments ([`Entry::fragment`]), in order;
/// [`Client::unread`] puts them together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The mailbox.
    pub mailbox: Mailbox,
    /// The entry or fragment.
    pub entry: Entry,
    /// The account of the mailbox, even if another user logs in meanwhile.
    pub(super) account: Account,
    /// The life of the realm's store in which the entry has its position.
    pub(super) life: Option<Life>,
}

/// One page of a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryPage {
    /// The entries, in the order of their positions.
    pub entries: Vec<Delivery>,
    /// More entries follow.
    pub more: bool,
}

impl Deref for Delivery {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

fn deliveries(
    entries: Vec<Entry>,
    mailbox: Mailbox,
    account: &Account,
    life: Option<Life>,
) -> Vec<Delivery> {
    let of = |entry| Delivery {
        mailbox,
        entry,
        account: account.clone(),
        life,
    };
    entries.into_iter().map(of).collect()
}

impl Client {
    /// Sends a read request. `life` is the life of the realm's store to which its positions belong.
    pub(super) fn call_reading<'a, C: Answered<'a>>(
        &self,
        command: C,
        life: Option<Life>,
        deadline: Instant,
    ) -> impl Future<Output = Result<C::Answer, CallError>> {
        self.call_reading_as(Request::from(command.into()), life, deadline)
    }

    async fn call_reading_as<A: FromAnswer>(
        &self,
        request: Request<'_>,
        life: Option<Life>,
        deadline: Instant,
    ) -> Result<A, CallError> {
        self.shared.check_target()?;
        self.start_carrier();
        content(
            self.read_patiently(&request, deadline, life).await?,
            CommandKind::Read,
        )
    }

    pub(super) async fn read_patiently(
        &self,
        request: &Request<'_>,
        deadline: Instant,
        life: Option<Life>,
    ) -> Result<Answer, CallError> {
        let early = self.shared.early_data(request)?;
        let answer = self.shared.ask_patiently(request, early, deadline, life);
        accepted(answer.await?)
    }

    /// Reads one page of a mailbox with `options`. `after` confirms everything up to that position,
    /// unless there is an `offset`, which continues a long entry in its middle. `limit` and `bytes`
    /// limit the page (READ-3, READ-4). Without `after`, the page begins after the last message
    /// passed to [`Client::shown`].
    ///
    /// # Errors
    /// [`CallError::AnotherUser`] if another process of the profile logs in another user meanwhile.
    pub async fn read(
        &self,
        mailbox: Mailbox,
        options: Options,
    ) -> Result<DeliveryPage, CallError> {
        let account = self.reading_account().await?;
        let mut options = options;
        loop {
            let began = self.life()?;
            let mut from = options;
            if options.after.is_none() {
                let shown = self.cursor(&account, &mailbox)?;
                (from.after, from.offset) = (shown.after, options.offset.or(shown.offset));
            }
            let page = self.read_page(&account, mailbox, from, began).await?;
            if let Some((page, life)) = page {
                let entries = deliveries(page.entries, mailbox, &account, life);
                return Ok(DeliveryPage {
                    entries,
                    more: page.more,
                });
            }
            // No position can be believed (READ-9).
            options.after = options.after.filter(|after| *after == 0);
            options.offset = None;
        }
    }

    /// Reads one page of a mailbox of `account`. Returns it with the life of the realm's store in
    /// which its positions are. `None` if the realm has been restored from a copy since the life in
    /// which the read began.
    async fn read_page(
        &self,
        account: &Account,
        mailbox: Mailbox,
        options: Options,
        began: Option<Life>,
    ) -> Result<Option<(Page, Option<Life>)>, CallError> {
        loop {
            if self.reading_account().await? != *account {
                return Err(CallError::AnotherUser);
            }
            // The positions belong to this life too, unless its store is lost.
            let life = self.life()?;
            if !self.knows_life(began)? {
                return Ok(None);
            }
            let (named, session) = (self.session()?, self.reading_session()?);
            let before = self.state()?;
            let request = Request {
                options,
                command: reading(mailbox, session),
            };
            let deadline = self.shared.deadline();
            let answer = self.call_reading_as::<Page>(request, life, deadline).await;
            if self.shared.reader_account()? != *account {
                return Err(CallError::AnotherUser);
            }
            if !self.knows_life(began)? {
                return Ok(None);
            }
            let (now, at) = (self.state()?, self.shared.link_record.life());
            if self.session()? != named
                || (now.names_session && !before.names_session)
                || (answer.is_ok() && !self.knows_life(at)?)
            {
                // Another process has learned a later life, which the page must be compared with.
                // Or this is an old copy, as the realm has reported meanwhile, and the device's
                // session may be another user's.
                continue;
            }
            let page = answer?;
            if let (Some(after), None) = (options.after, options.offset) {
                self.shared.confirmed(account, &mailbox, after)?;
            }
            return Ok(Some((page, at)));
        }
    }

    /// False if the realm has been restored from a copy since `life` of its store.
    pub(super) fn knows_life(&self, life: Option<Life>) -> Result<bool, CallError> {
        let (realm, _) = self.shared.target()?;
        let profile = &self.shared.profile;
        // If no life is known yet, none is lost.
        Ok(life.is_none() || profile.read(|records| state::knows_life(records, realm, life))?)
    }

    /// Returns the life of the realm's store to which the profile's positions belong.
    pub(super) fn life(&self) -> Result<Option<Life>, CallError> {
        Ok(self.state()?.life.map(Life))
    }

    fn cursor(&self, account: &Account, mailbox: &Mailbox) -> Result<Options, CallError> {
        let profile = &self.shared.profile;
        let cursor = profile.read(|records| state::cursor(records, account, mailbox))?;
        Ok(cursor.map_or(Options::NONE, state::Cursor::reading))
    }

    /// Returns all entries of a mailbox after the last one passed to [`Client::shown`], each in
    /// full.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn unread(&self, mailbox: Mailbox) -> Result<Vec<Delivery>, CallError> {
        self.read_whole(mailbox, None, usize::MAX).await
    }

    /// Returns at most `limit` entries of a mailbox after `after`, each in full. Without `after`,
    /// after the last one passed to [`Client::shown`]; after position 0, from the first entry on.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn read_whole(
        &self,
        mailbox: Mailbox,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<Delivery>, CallError> {
        let account = self.reading_account().await?;
        let mut began = self.life()?;
        let mut whole = Whole::new(match after {
            Some(after) => Some(after.0),
            None => self.cursor(&account, &mailbox)?.after,
        });
        loop {
            let next = whole.next(limit);
            let Some((page, life)) = self.read_page(&account, mailbox, next, began).await? else {
                began = self.life()?;
                whole.begin_anew();
                continue;
            };
            began = began.or(life);
            if whole.add(page, limit) {
                let entries = deliveries(whole.entries, mailbox, &account, life);
                if is_planted(Fault::ReadMeansShown) {
                    entries.iter().try_for_each(|entry| self.shown(entry))?;
                }
                return Ok(entries);
            }
        }
    }

    /// Records that an entry, or this fragment of one, has been shown to its reader. The next read
    /// continues after it, and tells the realm that it arrived. If the realm has been restored
    /// without it, nothing is recorded.
    ///
    /// # Errors
    /// [`CallError::Profile`] if that cannot be written.
    pub fn shown(&self, delivery: &Delivery) -> Result<(), CallError> {
        let Delivery {
            mailbox,
            entry,
            account,
            life,
        } = delivery;
        Ok(self
            .shared
            .profile
            .write(|records| state::show(records, account, mailbox, entry, *life))?)
    }

    /// Returns how many messages in each mailbox have not been shown on this device. Mailboxes
    /// without such messages are left out.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn unread_counts(&self) -> Result<Vec<Unread>, CallError> {
        let account = self.reading_account().await?;
        let session = self.reading_session()?;
        let life = self.life()?;
        let deadline = self.shared.deadline();
        let mut room = cursors::ROOM;
        loop {
            // Messages shown since the last report to the realm.
            let untold = self
                .shared
                .cursors(&account)?
                .into_iter()
                .filter(|(_, cursor)| cursor.position > cursor.confirmed)
                .filter(|_| !is_planted(Fault::UnreadWithoutCursors))
                .map(|(mailbox, cursor)| (mailbox, Position(cursor.position)));
            let untold: Vec<_> = untold.collect();
            let named = cursors::fitting(untold.iter().copied(), room);
            let command = command::Unread {
                session,
                cursors: named.clone(),
            };
            let counts = match self.call_reading(command, life, deadline).await {
                Ok(_) if self.shared.reader_account()? != account => {
                    return Err(CallError::AnotherUser);
                }
                Ok(counts) => counts,
                Err(error) => match cursors::less_room(&error, &named, room) {
                    Some(less) => {
                        room = less;
                        continue;
                    }
                    None => return Err(error),
                },
            };
            let is_believed = self.knows_life(life)?;
            let is_all = !is_believed || named.0.len() == untold.len() || named.0.is_empty();
            for (mailbox, position) in named.0.into_iter().filter(|_| is_believed) {
                self.shared.confirmed(&account, &mailbox, position.0)?;
            }
            // Another request reports the others. The answer to that one counts.
            if is_all {
                return Ok(counts);
            }
        }
    }
}

/// Returns the command that reads a page of a mailbox.
fn reading<'a>(mailbox: Mailbox, session: SessionRef) -> Command<'a> {
    fn paged<'a>(command: impl Answered<'a, Answer = Page>) -> Command<'a> {
        command.into()
    }
    match mailbox {
        Mailbox::Private => paged(command::Inbox { session }),
        Mailbox::Realm(realm) => paged(command::InboxRealm { session, realm }),
        Mailbox::Group(group) => paged(command::InboxGroup { session, group }),
        Mailbox::RealmGroup(realm, group) => paged(command::InboxGroupRealm {
            session,
            realm,
            group,
        }),
    }
}

/// The entries of a mailbox, read page by page until each is complete.
#[derive(Debug)]
struct Whole {
    /// The position after which reading began.
    from: Option<u64>,
    entries: Vec<Entry>,
    after: Option<u64>,
    offset: Option<u64>,
}

impl Whole {
    const fn new(from: Option<u64>) -> Self {
        Self {
            from,
            entries: Vec::new(),
            after: from,
            offset: None,
        }
    }

    /// Starts over: the realm has become an older copy of itself since the previous page. No
    /// position can be believed, and entries read before do not fit those read from now on
    /// (READ-9).
    fn begin_anew(&mut self) {
        *self = Self::new(self.from.filter(|from| *from == 0));
    }

    /// Returns the options for the next page, with at most `limit` entries in all.
    fn next(&self, limit: usize) -> Options {
        let is_cut = self.offset.is_some_and(|offset| offset > 0);
        let left = limit - self.entries.len().min(limit) + usize::from(is_cut);
        Options {
            after: self.after,
            offset: self.offset,
            limit: Some(u64::try_from(left).unwrap_or(u64::MAX).min(PAGE_ENTRIES)),
            ..Options::NONE
        }
    }

    /// Adds a page. Returns true if reading is complete.
    fn add(&mut self, page: Page, limit: usize) -> bool {
        for piece in page.entries {
            add_piece(&mut self.entries, piece);
        }
        let Some(last) = self.entries.last_mut() else {
            return true;
        };
        let have = last.body.len() as u64;
        let is_cut = last.fragment.is_some_and(|fragment| have < fragment.total);
        if is_cut && self.offset == Some(have) {
            // The rest of the entry no longer exists. Without this it would be requested again and
            // again.
            (self.after, self.offset) = (Some(last.position.0), Some(0));
            self.entries.pop();
            return !page.more;
        }
        // With an offset, the next page does not confirm this one, which has not been shown yet
        // (READ-3).
        (self.after, self.offset) = if is_cut {
            // Independent of the original request: the offset is one in this entry.
            (last.position.0.checked_sub(1), Some(have))
        } else {
            last.fragment = None;
            let looks_on = !is_planted(Fault::ConfirmUnshown);
            (Some(last.position.0), looks_on.then_some(0))
        };
        !is_cut && (!page.more || self.entries.len() >= limit)
    }
}

/// Adds an entry, or a fragment of one, from a page.
fn add_piece(entries: &mut Vec<Entry>, piece: Entry) {
    let last = entries
        .last_mut()
        .filter(|last| last.position == piece.position);
    let offset = piece.fragment.map_or(0, |fragment| fragment.offset);
    match last {
        // The rest of an entry that began on the previous page.
        Some(last) if offset == last.body.len() as u64 => last.body.extend_from_slice(&piece.body),
        // Another entry by now: the realm has become an older copy of itself since the previous
        // page (READ-9).
        Some(last) => *last = piece,
        None => entries.push(piece),
    }
}

impl Shared {
    pub(super) fn confirmed(
        &self,
        account: &Account,
        mailbox: &Mailbox,
        position: u64,
    ) -> Result<(), CallError> {
        let cursor = self
            .profile
            .read(|records| state::cursor(records, account, mailbox))?;
        if cursor.is_none_or(|cursor| cursor.confirmed >= position) {
            return Ok(());
        }
        Ok(self
            .profile
            .write(|records| state::confirm(records, account, mailbox, position))?)
    }

    /// Returns how far the mailboxes of an account have been shown.
    pub(super) fn cursors(
        &self,
        account: &Account,
    ) -> Result<Vec<(Mailbox, state::Cursor)>, CallError> {
        let cursors = self
            .profile
            .read(|records| state::cursors(records, account))?;
        for what in cursors.unreadable {
            self.note_damage(what);
        }
        Ok(cursors.known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Fragment;

    /// READ-9: the realm is restored between two pages of a long entry, and another entry has its
    /// position.
    #[test]
    fn reading_fragments_of_two_entries_are_not_joined() {
        let piece = |offset: u64, total: u64, body: &[u8]| Entry {
            position: Position(7),
            time: 0,
            content: 0,
            fragment: (total > 0).then_some(Fragment { offset, total }),
            from: "ann".parse().expect("a name"),
            read: false,
            body: body.to_vec(),
        };
        let bodies = |pieces: Vec<Entry>| {
            let mut entries = Vec::new();
            for piece in pieces {
                add_piece(&mut entries, piece);
            }
            let body = |entry: Entry| String::from_utf8(entry.body).expect("a text");
            entries.into_iter().map(body).collect::<Vec<_>>()
        };
        let first = || piece(0, 6, b"one");
        assert_eq!(bodies(vec![first(), piece(3, 6, b"two")]), ["onetwo"]);
        assert_eq!(bodies(vec![first(), piece(0, 0, b"other")]), ["other"]);
        assert_eq!(bodies(vec![first(), piece(0, 9, b"oth")]), ["oth"]);
    }

    /// Returns a page with one fragment of an entry.
    fn piece(position: u64, offset: u64, body: &[u8], total: u64) -> Page {
        let entry = Entry {
            position: Position(position),
            time: 0,
            content: 0,
            fragment: Some(Fragment { offset, total }),
            from: "ann".parse().expect("a name"),
            read: false,
            body: body.to_vec(),
        };
        Page {
            more: true,
            entries: vec![entry],
        }
    }

    /// READ-9: a realm that believes no position starts before the requested one. Reading continues
    /// with that entry, not with the one after it.
    #[test]
    fn reading_from_earlier_position_continues_with_that_entry() {
        let mut whole = Whole::new(Some(1));
        assert!(!whole.add(piece(1, 0, b"one, ", 8), 10));
        let next = whole.next(10);
        assert_eq!((next.after, next.offset), (Some(0), Some(5)));
        assert!(!whole.add(piece(1, 5, b"all", 8), 10));
        assert_eq!(whole.entries[0].body, b"one, all");
    }

    /// READ-11: an entry is not returned if its rest disappears while it is read. The next entry
    /// is.
    #[test]
    fn reading_entry_without_its_rest_is_skipped() {
        for more in [true, false] {
            let mut whole = Whole::new(Some(1));
            assert!(!whole.add(piece(2, 0, b"one, ", 8), 10));
            let nothing = Page {
                more,
                entries: Vec::new(),
            };
            assert_eq!(whole.add(nothing, 10), !more);
            assert!(whole.entries.is_empty());
            assert_eq!(whole.next(10).after, Some(2));
        }
    }

    /// READ-9: an entry is never assembled from what two lives of a store have at one position.
    #[test]
    fn reading_across_restore_starts_again() {
        for (from, anew) in [(Some(6), None), (Some(0), Some(0)), (None, None)] {
            let mut whole = Whole::new(from);
            assert!(!whole.add(piece(7, 0, b"one, ", 8), 10));
            whole.begin_anew();
            assert!(whole.entries.is_empty());
            let next = whole.next(10);
            assert_eq!((next.after, next.offset), (anew, None));
        }
    }
}
