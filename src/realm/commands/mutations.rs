//! Commands that change something. Each reads, decides, and commits once, with the values that the
//! decision relied on as expectations (EXACT-13). On a conflict it is decided again.

use crate::realm::{
    ATTEMPTS_MAX, Caller, Realm,
    commands::{
        asking::Decided,
        reply::{Follows, Outcome, Reply},
        work::Work,
    },
    failure::Failure,
    idempotency::{FormerAnswer, NumberState, fingerprint},
    network::GroupWork,
    records::RecordedAnswer,
    sessions::SessionLookup,
    storage,
};
use crate::{
    store::{Batch, Position, Store, StoreError},
    wire::{
        Refusal, Request,
        command::{Answered, Change},
    },
};

impl<S: Store> Realm<S> {
    /// Executes a command that changes something. If it was executed before, returns the answer
    /// that it had then.
    pub(in crate::realm) async fn change(
        &self,
        caller: &Caller,
        request: &Request<'_>,
        change: Change<'_, '_>,
    ) -> Result<Reply<'static>, Failure> {
        let number = change.operation().number;
        let owner = self.sessions.owner(caller, request.command.session());
        let fingerprint = fingerprint(request);
        let mut work = Work::new(caller, request, change);
        let mut operation = None;
        for _ in 0..ATTEMPTS_MAX {
            let fresh = operation.take();
            operation = match owner {
                None => None,
                Some(_) if fresh.is_some() => fresh,
                Some(owner) => match self
                    .idempotency
                    .look_up_command(owner, number, fingerprint)
                    .await?
                {
                    NumberState::New(operation) => Some(operation),
                    NumberState::Done(answer) => {
                        let reply = self.recall(&work, answer)?;
                        if let Outcome::Queued = reply.outcome {
                            let wait = self.queues.join_receipt(&owner, number.0);
                            return Box::pin(self.receipt(&work, owner, wait, reply)).await;
                        }
                        return Ok(reply);
                    }
                },
            };
            work.begin();
            let reply = match self.decide(&mut work).await {
                Ok(Decided::Answer(reply)) => reply,
                Ok(Decided::Ask(question)) => {
                    Box::pin(self.ask_first(&mut work, question)).await;
                    continue;
                }
                Err(Failure::Refused(refusal)) => {
                    let is_remembered = self.is_remembered(&work, refusal).await?;
                    work.forget();
                    if !is_remembered {
                        if self.is_outdated(&mut work, refusal).await? {
                            work.forget_answers();
                            continue;
                        }
                        return Err(refusal.into());
                    }
                    let command = request.command.name();
                    self.storage
                        .log_failure_of(caller, command, &refusal.into());
                    Reply::refused(refusal)
                }
                Err(failure) => return Err(failure),
            };
            if let Some(operation) = operation.as_ref().filter(|_| !work.is_unrecorded) {
                operation.record(recorded(&reply), &mut work.batch)?;
            }
            let is_queued = matches!(reply.outcome, Outcome::Queued);
            let waits = owner.filter(|_| is_queued);
            let wait = waits.map(|owner| (owner, self.queues.expect_receipt(&owner, number.0)));
            // On a conflict the values that the decision relied on have changed: it is decided
            // again.
            let batch = core::mem::take(&mut work.batch);
            let stored = batch.bytes();
            let placed = match &mut operation {
                Some(operation) => self.idempotency.commit_operation(operation, batch).await?,
                None => self.storage.commit_placed(batch).await?,
            };
            if let Some(positions) = placed {
                if let Some(user) = work.adds_for {
                    self.limiter.stored(caller, &user, stored);
                }
                self.begin_effects(&mut work, &positions);
                return match wait {
                    Some((owner, wait)) => {
                        Box::pin(self.receipt(&work, owner, Some(wait), reply)).await
                    }
                    None => Ok(reply),
                };
            }
            work.forget_answers();
        }
        Err(Failure::contended())
    }

    /// Starts what follows from a command that is durable now: wakes watches and tasks, and queues
    /// the work with other realms.
    fn begin_effects(&self, work: &mut Work<'_>, positions: &[Position]) {
        if let (Some((realm, queued, _)), Some(position)) = (work.queued.take(), positions.first())
        {
            self.queues.note_queued(realm, position.0, &queued);
        }
        if let Some(user) = work.affected.take() {
            self.mailboxes.notify_watches(user);
        }
        if work.ends {
            self.chores.notify_one();
        }
        for (realm, group) in work.hints.drain(..) {
            self.network.add_work(realm, GroupWork::Tell(group));
        }
        if let Some((realm, group)) = work.replica.take() {
            self.network.add_work(realm, GroupWork::Read(group));
        }
        self.decided(work);
    }

    /// Decides a command that changes something. Returns the answer, with the changes in the batch,
    /// or the question that another realm must be asked first.
    async fn decide(&self, work: &mut Work<'_>) -> Result<Decided<Reply<'static>>, Failure> {
        let reply = match work.change {
            Change::Send(command) => done(command, self.send(work, command).await),
            Change::SendGroup(command) => done(command, self.sendgroup(work, command).await),
            // The others are rare and have large futures. They are boxed, so that messages do not
            // carry their size.
            Change::JoinGroupRealm(command) => {
                let decided = Box::pin(self.joingrouprealm(work, command)).await?;
                return Ok(decided.map(|content| Reply::new(command, content)));
            }
            Change::LeaveGroupRealm(command) => {
                let decided = Box::pin(self.leavegrouprealm(work, command)).await?;
                return Ok(decided.map(|content| Reply::new(command, content)));
            }
            Change::AddRealm(command) => {
                let decided = Box::pin(self.addrealm(work, command)).await?;
                return Ok(decided.map(|content| Reply::new(command, content)));
            }
            Change::SendRealm(command) => {
                let sent = Box::pin(self.sendrealm(work, command)).await;
                sent.map(|sent| Reply::sent(command, sent))
            }
            Change::SendGroupRealm(command) => {
                let sent = Box::pin(self.sendgrouprealm(work, command)).await;
                sent.map(|sent| Reply::sent(command, sent))
            }
            Change::Register(command) => {
                let opened = Box::pin(self.register(work, command)).await;
                opened.map(|id| Reply::opened(command, id))
            }
            Change::Auth(command) => {
                let opened = Box::pin(self.auth(work, command)).await;
                opened.map(|id| Reply::opened(command, id))
            }
            Change::Logout(command) => {
                let ended = Box::pin(self.logout(work, command)).await;
                ended.map(|ended| Reply::new(command, ended).with(Outcome::SessionEnded))
            }
            Change::RemoveRealm(command) => {
                done(command, Box::pin(self.removerealm(work, command)).await)
            }
            Change::Revoke(command) => done(command, Box::pin(self.revoke(work, command)).await),
            Change::Passwd(command) => done(command, Box::pin(self.passwd(work, command)).await),
            Change::Claim(command) => done(command, Box::pin(self.claim(work, command)).await),
            Change::Void(command) => done(command, Box::pin(self.void(work, command)).await),
            Change::Block(command) => done(command, Box::pin(self.block(work, command)).await),
            Change::Unblock(command) => done(command, Box::pin(self.unblock(work, command)).await),
            Change::AddGroup(command) => {
                done(command, Box::pin(self.addgroup(work, command)).await)
            }
            Change::JoinGroup(command) => {
                done(command, Box::pin(self.joingroup(work, command)).await)
            }
            Change::LeaveGroup(command) => {
                done(command, Box::pin(self.leavegroup(work, command)).await)
            }
            Change::Kick(command) => done(command, Box::pin(self.kick(work, command)).await),
            Change::Ban(command) => done(command, Box::pin(self.ban(work, command)).await),
            Change::Unban(command) => done(command, Box::pin(self.unban(work, command)).await),
            Change::SetRole(command) => done(command, Box::pin(self.set_role(work, command)).await),
            Change::GroupPasswd(command) => {
                done(command, Box::pin(self.grouppasswd(work, command)).await)
            }
            Change::DelGroup(command) => {
                done(command, Box::pin(self.delgroup(work, command)).await)
            }
        };
        reply.map(Decided::Answer)
    }

    /// Returns the answer to a repeated command.
    fn recall(&self, work: &Work<'_>, answer: FormerAnswer) -> Result<Reply<'static>, Failure> {
        match (answer, Follows::from(work.change)) {
            (FormerAnswer::Bytes(bytes), _) => Ok(Reply::recorded(work.change, bytes)),
            (FormerAnswer::Session, Follows::SessionOpens(user)) => {
                let id = self.sessions.session_id(work.caller, work.number(), user);
                Ok(Reply::reopened(id))
            }
            // The record is of the same command, and this one opens no session.
            (FormerAnswer::Session, Follows::SessionEnds | Follows::Receipt | Follows::Nothing) => {
                Err(StoreError::Damaged("the answer to a command".into()).into())
            }
        }
    }

    /// True if a value that a refusal depends on has changed.
    ///
    /// If the decision read some values before a change and others after it, then neither order of
    /// the two commands would have refused.
    async fn is_outdated(&self, work: &mut Work<'_>, refusal: Refusal) -> Result<bool, Failure> {
        let batch = core::mem::take(&mut work.batch);
        if refusal.is_transient() || batch == Batch::new() {
            return Ok(false);
        }
        match self.storage.commit(batch).await {
            Ok(storage::Outcome::Conflict) => Ok(true),
            // The batch writes nothing, so a full disk does not matter to a refusal.
            Ok(storage::Outcome::Durable) | Err(Failure::Refused(_)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// EXACT-6: true if a refusal is recorded like an effect.
    ///
    /// The command may have travelled as early data, and then anybody can send it again. If its
    /// sender was told that it would not happen, it must not happen later. Nothing is recorded for
    /// a caller without a session: its numbers end with the next session that it opens.
    async fn is_remembered(&self, work: &Work<'_>, refusal: Refusal) -> Result<bool, Failure> {
        let command = &work.request.command;
        match command.session() {
            Some(session) if refusal.is_final() && !command.carries_password() => {
                let number = Some(work.number());
                let found = self
                    .sessions
                    .find_session(work.caller, session, number)
                    .await?;
                Ok(matches!(found, SessionLookup::Open(_)))
            }
            Some(_) | None => Ok(false),
        }
    }
}

/// Returns the reply to a command from whose answer nothing follows.
fn done<'a, C: Answered<'a>>(
    command: &C,
    decided: Result<C::Answer, Failure>,
) -> Result<Reply<'static>, Failure> {
    decided.map(|content| Reply::new(command, content))
}

/// Returns what is recorded of a reply. The id of a session is not: it is derived again.
fn recorded(reply: &Reply<'_>) -> RecordedAnswer {
    match reply.outcome {
        Outcome::SessionOpened(_) => RecordedAnswer::Session,
        Outcome::Refused
        | Outcome::Done
        | Outcome::SessionEnded
        | Outcome::Queued
        | Outcome::Watch(_)
        | Outcome::Unwatch => RecordedAnswer::Bytes(reply.bytes.clone()),
    }
}
