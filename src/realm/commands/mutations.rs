//! Commands that change something. Each reads, decides, and commits once, with the values that the
//! decision relied on as expectations (EXACT-13). On a conflict it is decided again.

use crate::realm::{
    ATTEMPTS_MAX, Caller, Realm,
    commands::{asking::Decided, work::Work},
    failure::Failure,
    idempotency::{FormerAnswer, NumberState, fingerprint},
    network::GroupWork,
    queues::is_queued,
    records::RecordedAnswer,
    sessions::SessionLookup,
    storage::Outcome,
};
use crate::{
    store::{Batch, Position, Store, StoreError},
    wire::{
        Answer, Refusal, Request,
        command::{self, Change},
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
    ) -> Result<Vec<u8>, Failure> {
        let number = change.operation().number;
        let owner = self.sessions.owner(caller, request.command.session());
        let fingerprint = fingerprint(request);
        let caller = &Caller {
            operation: number,
            ..*caller
        };
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
                        let answer = self.recall(&work, answer)?;
                        if is_queued(change, &answer) {
                            let wait = self.queues.join_receipt(&owner, number.0);
                            return Box::pin(self.receipt(&work, owner, wait, answer)).await;
                        }
                        return Ok(answer);
                    }
                },
            };
            work.begin();
            let answer = match self.decide(&mut work).await {
                Ok(Decided::Answer(answer)) => answer,
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
                    Answer::Refused(refusal)
                }
                Err(failure) => return Err(failure),
            };
            let bytes = answer.to_bytes();
            debug_assert!(request.command.is_answered_by(&bytes));
            if let Some(operation) = operation.as_ref().filter(|_| !work.is_unrecorded) {
                let recorded = match answer {
                    Answer::Session(_) => RecordedAnswer::Session,
                    _ => RecordedAnswer::Bytes(bytes.clone()),
                };
                operation.record(recorded, &mut work.batch)?;
            }
            let is_queued = is_queued(change, &bytes);
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
                        Box::pin(self.receipt(&work, owner, Some(wait), bytes)).await
                    }
                    None => Ok(bytes),
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
    async fn decide(&self, work: &mut Work<'_>) -> Result<Decided, Failure> {
        let answer = match work.change {
            Change::Send(command) => self.send(work, command).await,
            Change::SendGroup(command) => self.sendgroup(work, command).await,
            // The others are rare and have large futures. They are boxed, so that messages do not
            // carry their size.
            Change::JoinGroupRealm(command) => {
                return Box::pin(self.joingrouprealm(work, command)).await;
            }
            Change::LeaveGroupRealm(command) => {
                return Box::pin(self.leavegrouprealm(work, command)).await;
            }
            Change::AddRealm(command) => return Box::pin(self.addrealm(work, command)).await,
            Change::SendRealm(command) => Box::pin(self.sendrealm(work, command)).await,
            Change::SendGroupRealm(command) => Box::pin(self.sendgrouprealm(work, command)).await,
            Change::RemoveRealm(command) => Box::pin(self.removerealm(work, command)).await,
            Change::Register(command) => Box::pin(self.register(work, command)).await,
            Change::Auth(command) => Box::pin(self.auth(work, command)).await,
            Change::Logout(command) => Box::pin(self.logout(work, command)).await,
            Change::Revoke(command) => Box::pin(self.revoke(work, command)).await,
            Change::Passwd(command) => Box::pin(self.passwd(work, command)).await,
            Change::Claim(command) => Box::pin(self.claim(work, command)).await,
            Change::Void(command) => Box::pin(self.void(work, command)).await,
            Change::Block(command) => Box::pin(self.block(work, command)).await,
            Change::Unblock(command) => Box::pin(self.unblock(work, command)).await,
            Change::AddGroup(command) => Box::pin(self.addgroup(work, command)).await,
            Change::JoinGroup(command) => Box::pin(self.joingroup(work, command)).await,
            Change::LeaveGroup(command) => Box::pin(self.leavegroup(work, command)).await,
            Change::Kick(command) => Box::pin(self.kick(work, command)).await,
            Change::Ban(command) => Box::pin(self.ban(work, command)).await,
            Change::Unban(command) => Box::pin(self.unban(work, command)).await,
            Change::SetRole(command) => Box::pin(self.set_role(work, command)).await,
            Change::GroupPasswd(command) => Box::pin(self.grouppasswd(work, command)).await,
            Change::DelGroup(command) => Box::pin(self.delgroup(work, command)).await,
        };
        answer.map(Decided::Answer)
    }

    /// Returns the answer to a repeated command.
    fn recall(&self, work: &Work<'_>, answer: FormerAnswer) -> Result<Vec<u8>, Failure> {
        match answer {
            FormerAnswer::Bytes(bytes) => Ok(bytes),
            FormerAnswer::Session => {
                // The record is of the same command, and only these two open a session.
                let (Change::Register(command::Register { username, .. })
                | Change::Auth(command::Auth { username, .. })) = work.change
                else {
                    let what = "the answer to a command";
                    return Err(StoreError::Damaged(what.into()).into());
                };
                let id = self.sessions.session_id(work.caller, *username);
                Ok(Answer::Session(id).to_bytes())
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
            Ok(Outcome::Conflict) => Ok(true),
            // The batch writes nothing, so a full disk does not matter to a refusal.
            Ok(Outcome::Durable) | Err(Failure::Refused(_)) => Ok(false),
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
                let found = self.sessions.find_session(work.caller, session).await?;
                Ok(matches!(found, SessionLookup::Open(_)))
            }
            _ => Ok(false),
        }
    }
}
