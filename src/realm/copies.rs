//! Groups that live in other realms (PEER-8 … PEER-11): users here join them there; this realm keeps a copy
//! of their messages, so that its users read them while the other realm is away.

use super::{
    Caller, Failure, Moment, Outcome, Realm, Work,
    carrying::Carried,
    ended::put_ending,
    hosting::PAGE_ENTRIES,
    network::GroupWork,
    peers::Peer,
    posts::Vouchers,
    records::{self, ChangedRecord, CopyMemberRecord, CopyRecord, Ending, Place, Record as _},
    storing::{Notes, Unnoted},
};
use crate::{
    store::{Batch, Store},
    wire::{
        Answer, CONTENT_GONE, Command, Entry, ErrorCode, GroupName, Options, PeerRequest, Position,
        RealmId, Refusal, SessionRef, Username, emit_varint, is_of_realm, parse_varint,
    },
};

/// The content type of what claims one that it may not have: nobody knows it.
const CONTENT_OTHER: u8 = 0x7f;

/// The longest entry of another realm's group that is copied, in bytes: more than a realm may be set to take.
const ENTRY_BYTES_MAX: u64 = 17 << 20;

/// True for what a realm says of entries that it does not keep any more, as any realm writes it (READ-11).
fn says_gone(entry: &Entry) -> bool {
    let is_count = matches!(parse_varint(&entry.body), Ok((rest, _)) if rest.is_empty());
    entry.content == CONTENT_GONE && is_count
}

/// This realm's copy of a group.
#[derive(Debug)]
pub struct Copy {
    record: CopyRecord,
}

impl Copy {
    /// True when its home realm has said that it has ended: it is read only.
    pub(super) const fn has_ended(&self) -> bool {
        self.record.ended
    }

    /// What is kept of it.
    pub(super) const fn record(&self) -> &CopyRecord {
        &self.record
    }

    /// Where its messages are.
    pub(super) fn place(&self, realm: RealmId, group: GroupName) -> Place {
        Place::copy(realm, group, &self.record)
    }
}

/// The next entries of a group.
enum WholePage {
    Read {
        entries: Vec<Entry>,
        more: bool,
    },
    /// The peer is silent.
    Silent,
    /// The peer says nothing to go on with.
    Unread,
    /// The group has ended.
    Gone,
}

/// What came of reading a group from where it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The copy has all there is.
    Equal,
    /// There is nothing to be read any more.
    Gone,
    /// The other realm does not answer.
    Silent,
    /// It says nothing to go on with now, or this realm cannot keep it now.
    Unread,
}

impl<S: Store> Realm<S> {
    pub(super) async fn find_copy(
        &self,
        notes: &mut impl Notes,
        realm: RealmId,
        group: GroupName,
    ) -> Result<Option<Copy>, Failure> {
        let found = self.noted(notes, &records::copy(realm, group)).await?;
        Ok(found.map(|(record, _)| Copy { record }))
    }

    /// The copy of a group that `user` is in.
    pub(super) async fn copy_for(
        &self,
        notes: &mut impl Notes,
        (realm, group): (RealmId, GroupName),
        user: Username,
    ) -> Result<Copy, Failure> {
        let copy = self.find_copy(notes, realm, group).await?;
        // Whether the group exists is for its own realm to say.
        let copy = copy.ok_or(ErrorCode::NotAMember)?;
        let key = records::copy_member(realm, group, user);
        let member = self.noted::<CopyMemberRecord>(notes, &key).await?;
        // Whoever was in a group that has ended is not in the one made after it.
        member
            .filter(|(member, _)| member.is_of(&copy.record))
            .ok_or(ErrorCode::NotAMember)?;
        Ok(copy)
    }

    pub(super) async fn joingrouprealm(&self, work: &mut Work<'_>) -> Result<Answer, Failure> {
        let Command::JoinGroupRealm {
            session,
            src_address,
            src_port,
            realm,
            group,
            password,
            ..
        } = work.request.command
        else {
            return Err(ErrorCode::Internal.into());
        };
        let current = self.session_noted(work, session).await?;
        let peer = self.peer(&mut work.batch, realm).await?;
        let peer = peer.asked_by(self.named_source(src_address, src_port)?);
        let user = current.user;
        // Noted before it is asked: what it tells of the group meanwhile may be younger than its answer.
        let batch = &mut work.batch;
        self.noted::<ChangedRecord>(batch, &records::words(realm, group))
            .await?;
        let member_key = records::copy_member(realm, group, user);
        let found = self.noted::<CopyMemberRecord>(batch, &member_key).await?;
        if found.is_none() {
            self.check_room(user, batch).await?;
        }
        let request = PeerRequest::Join {
            group,
            user,
            password,
        };
        let (epoch, membership, known_as) = match self.ask_peer(&peer, &request).await? {
            Answer::Joined {
                epoch,
                membership,
                known_as,
            } => (epoch, membership, known_as),
            Answer::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(ErrorCode::Internal.into()),
        };
        let member = CopyMemberRecord {
            joined: work.caller.now.wall,
            epoch: Some(epoch),
            membership,
        };
        let key = records::copy(realm, group);
        let copy = self.find_copy(&mut work.batch, realm, group).await?;
        let known_as = known_as.as_str().into();
        let record = match &copy {
            Some(copy) if copy.record.epoch == epoch => CopyRecord {
                known_as,
                // One that has ended and is there again: its realm was restored from a backup.
                ended: false,
                ..copy.record.clone()
            },
            // Made again there: it is read from its beginning, behind what the former one left here (READ-6).
            Some(copy) => {
                let log = copy.place(realm, group).log;
                let floor = self.store.last(&log).await?.0;
                work.batch.trim(log, Position(floor + 1));
                let former = (copy.record.epoch, copy.record.log);
                let (which, batch) = ((Some(realm), group), &mut work.batch);
                if !copy.has_ended() {
                    put_ending(Ending::Tell, which, former, batch)?;
                }
                put_ending(Ending::ForgetCopy, which, former, batch)?;
                work.ends = true;
                CopyRecord {
                    epoch,
                    known_as,
                    position: 0,
                    log: copy.record.log,
                    floor,
                    ended: false,
                }
            }
            None => CopyRecord {
                epoch,
                known_as,
                position: 0,
                log: epoch,
                floor: 0,
                ended: false,
            },
        };
        work.batch
            .put(key, record.to_value()?)
            .put(member_key, member.to_value()?)
            .put(
                records::copied_group(user, realm, group),
                ChangedRecord {}.to_value()?,
            );
        work.affected = Some(user);
        Ok(Answer::Done)
    }

    pub(super) async fn leavegrouprealm(
        &self,
        work: &mut Work<'_>,
        session: SessionRef,
        realm: RealmId,
        group: GroupName,
    ) -> Result<Answer, Failure> {
        let current = self.session_noted(work, session).await?;
        let peer = self.peer(&mut work.batch, realm).await?;
        let user = current.user;
        let copy = self.copy_for(&mut work.batch, (realm, group), user).await?;
        // Of one that has ended only this realm knows. Its realm may have another of that name.
        if !copy.has_ended() {
            let gone = [ErrorCode::NoSuchGroup, ErrorCode::NotAMember];
            let key = records::copy_member(realm, group, user);
            let member = self
                .noted::<CopyMemberRecord>(&mut work.batch, &key)
                .await?;
            let leave = PeerRequest::Leave {
                group,
                user,
                membership: member.map_or(0, |(member, _)| member.membership),
            };
            match self.ask_peer(&peer, &leave).await? {
                Answer::Done => {}
                Answer::Refused(refusal) if gone.contains(&refusal.code) => {}
                Answer::Refused(refusal) => return Err(refusal.into()),
                _ => return Err(ErrorCode::Internal.into()),
            }
        }
        work.batch
            .delete(records::copy_member(realm, group, user))
            .delete(records::copied_group(user, realm, group));
        Ok(Answer::Done)
    }

    async fn ask_peer(&self, peer: &Peer, request: &PeerRequest<'_>) -> Result<Answer, Failure> {
        let answer = self.network.ask(peer, request.to_bytes()).await;
        let answer = answer.ok_or(ErrorCode::RealmUnreachable)?;
        self.network.reached(peer.realm);
        let answer = Answer::parse(&answer).map_err(|_| ErrorCode::Internal)?;
        Ok(match answer {
            // Of numbers a client is told only by its own realm: these would be taken for its own.
            Answer::Refused(Refusal {
                code: ErrorCode::AlreadyDone | ErrorCode::NumberReused | ErrorCode::Unknown,
                ..
            }) => Answer::Refused(ErrorCode::Internal.into()),
            answer => answer,
        })
    }

    pub(super) async fn inboxgrouprealm(
        &self,
        caller: &Caller,
        (session, realm, group): (SessionRef, RealmId, GroupName),
        options: &Options,
    ) -> Result<Answer, Failure> {
        let current = self.session(caller, session).await?;
        self.peer(&mut Unnoted, realm).await?;
        let which = (realm, group);
        let copy = self.copy_for(&mut Unnoted, which, current.user).await?;
        let place = copy.place(realm, group);
        self.read_page(caller, &current, &place, options).await
    }

    /// All groups of a peer that are copied here are to be read: it may have grown them unheard.
    ///
    /// # Errors
    /// They cannot be listed, or not all of them.
    pub async fn read_all_copies(&self, realm: RealmId) -> Result<(), Failure> {
        let prefix = records::copies(realm);
        let mut after = None;
        while let Some(keys) = self
            .next_keys(&prefix, &mut after)
            .await
            .inspect_err(|failure| self.note("copies", failure))?
        {
            for group in keys.iter().filter_map(|key| records::name_in(key, &prefix)) {
                self.network.add_work(realm, GroupWork::Read(group));
            }
        }
        Ok(())
    }

    /// Tells a peer that a group here has grown. False when it does not answer, or could not hear it.
    pub async fn tell_grown(&self, peer: &Peer, group: GroupName) -> Carried {
        let request = PeerRequest::Grown { group };
        let answer = self.network.ask_patiently(peer, request.to_bytes()).await;
        let Some(answer) = answer else {
            return Carried::Silent;
        };
        match Answer::parse(&answer) {
            Ok(Answer::Refused(refusal)) if refusal.is_final() => Carried::Settled,
            Ok(Answer::Done) => Carried::Settled,
            _ => Carried::Busy,
        }
    }

    /// Reads a group from where it lives until the copy has all there is, or the peer has had as much kept as it may (PEER-20).
    pub async fn read_copy(&self, peer: &Peer, group: GroupName, now: Moment) -> ReadOutcome {
        loop {
            match self.read_copy_once(peer, group, now).await {
                Ok(None) => {}
                Ok(Some(outcome)) => return outcome,
                Err(failure) => {
                    self.note("copy", &failure);
                    return ReadOutcome::Unread;
                }
            }
        }
    }

    /// Reads one page, and writes it down with how far it goes.
    async fn read_copy_once(
        &self,
        peer: &Peer,
        group: GroupName,
        now: Moment,
    ) -> Result<Option<ReadOutcome>, Failure> {
        self.limiter.may_store_from(now, peer.realm)?;
        let mut batch = Batch::new();
        self.rely_on_peer(&mut batch, peer).await?;
        let copy = self.find_copy(&mut batch, peer.realm, group).await?;
        let Some(copy) = copy.filter(|copy| !copy.has_ended()) else {
            return Ok(Some(ReadOutcome::Gone));
        };
        let (entries, more) = match self.read_whole_page(peer, group, &copy.record).await? {
            WholePage::Read { entries, more } => (entries, more),
            WholePage::Silent => return Ok(Some(ReadOutcome::Silent)),
            WholePage::Unread => return Ok(Some(ReadOutcome::Unread)),
            WholePage::Gone => {
                // Whatever became of the word that it has ended.
                let which = (peer.realm, group);
                self.copy_is_gone(which, copy.record.epoch).await?;
                return Ok(Some(ReadOutcome::Gone));
            }
        };
        let Some(last) = entries.last().map(|entry| entry.position.0) else {
            return Ok(Some(ReadOutcome::Equal));
        };
        let place = copy.place(peer.realm, group);
        let mut vouchers = Vouchers::default();
        for entry in entries {
            let mut entry = entry;
            // What means something to programs is this realm's own to say; but what is not kept there any more it cannot know.
            if is_of_realm(entry.content) && !says_gone(&entry) {
                entry.content = CONTENT_OTHER;
            }
            let (which, copy) = ((peer.realm, group), &copy.record);
            let kept = self.copied_entry(which, copy, entry, &mut vouchers);
            let record = kept.await?;
            batch.append(place.log.clone(), record.to_value()?);
        }
        vouchers.spend((peer.realm, group), &mut batch)?;
        let key = records::copy(peer.realm, group);
        let record = CopyRecord {
            position: last,
            ..copy.record
        };
        // Nobody else reads this group; should it have been joined anew meanwhile, it is read anew.
        batch.put(key, record.to_value()?);
        self.limiter.stored_from(now, peer.realm, batch.bytes());
        match self.commit(batch).await? {
            Outcome::Durable if !more => Ok(Some(ReadOutcome::Equal)),
            Outcome::Durable | Outcome::Conflict => Ok(None),
        }
    }

    /// The next page of a group, with its last entry made whole.
    async fn read_whole_page(
        &self,
        peer: &Peer,
        group: GroupName,
        record: &CopyRecord,
    ) -> Result<WholePage, Failure> {
        let mut entries: Vec<Entry> = Vec::new();
        let (mut after, mut offset) = (record.position, 0);
        loop {
            let request = PeerRequest::Read {
                group,
                epoch: record.epoch,
                after: Position(after),
                offset,
            };
            let Some(answer) = self.network.ask_patiently(peer, request.to_bytes()).await else {
                return Ok(WholePage::Silent);
            };
            let page = match Answer::parse(&answer) {
                Ok(Answer::Page(page)) => page,
                Ok(Answer::Refused(refusal)) if refusal.code == ErrorCode::NoSuchGroup => {
                    return Ok(WholePage::Gone);
                }
                // Nobody here is in it any more: the copy stays as it is.
                Ok(Answer::Refused(refusal)) if refusal.is_final() => {
                    return Ok(WholePage::Read {
                        entries: Vec::new(),
                        more: false,
                    });
                }
                _ => return Ok(WholePage::Unread),
            };
            for piece in page.entries {
                let is_full = entries.len() > PAGE_ENTRIES;
                let before = entries
                    .last()
                    .map_or(record.position, |last| last.position.0);
                match entries.last_mut() {
                    Some(last) if last.position == piece.position => {
                        let offset = piece.fragment.map_or(0, |fragment| fragment.offset);
                        if offset == last.body.len() as u64 {
                            last.body.extend_from_slice(&piece.body);
                        } else {
                            // It has gone meanwhile, and another one stands in its place (READ-11).
                            *last = piece;
                        }
                    }
                    // Positions rise (READ-1): what does not would be read for ever.
                    _ if piece.position.0 <= before || is_full => {
                        return Ok(WholePage::Unread);
                    }
                    _ => entries.push(piece),
                }
            }
            let Some(last) = entries.last_mut() else {
                return Ok(WholePage::Read {
                    entries,
                    more: false,
                });
            };
            let have = last.body.len() as u64;
            if have.max(last.fragment.map_or(0, |whole| whole.total)) > ENTRY_BYTES_MAX {
                // Longer than any message that a realm may be set to take: that there was one is all that is kept of it.
                (last.content, last.fragment) = (CONTENT_GONE, None);
                last.body.clear();
                emit_varint(1, &mut last.body);
                return Ok(WholePage::Read {
                    entries,
                    more: true,
                });
            }
            if last.fragment.is_some() && have <= offset {
                // The rest should have come; it is asked for again later.
                return Ok(WholePage::Silent);
            }
            if last.fragment.is_none_or(|whole| have >= whole.total) {
                last.fragment = None;
                return Ok(WholePage::Read {
                    entries,
                    more: page.more,
                });
            }
            (after, offset) = (last.position.0.saturating_sub(1), have);
        }
    }
}
