//! Planted faults: deliberate faults that show that the tests see such faults. Outside of tests no
//! fault can be planted, and the compiler removes the checks.

/// A planted fault.
#[cfg_attr(
    not(feature = "embedded"),
    allow(dead_code, reason = "each feature has some of them")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A command is answered while its commit is still under way.
    AnswerBeforeCommit,
    /// The answer to a numbered command is not recorded.
    ForgetAnswer,
    /// A commit that met a conflict counts as durable.
    IgnoreConflict,
    /// A command takes effect as decided, even if the values that it was decided on have changed.
    RelyOnNothing,
    /// A commit that failed because the disk is full counts as durable.
    IgnoreFullDisk,
    /// A packet number is sometimes used twice.
    ReusePacketNumber,
    /// All fragments of a message but the first are acknowledged and dropped.
    DropParts,
    /// A request is never retransmitted.
    NeverRepeat,
    /// The address of a closed link stays in the table of addresses.
    KeepAddress,
    /// Private messages of a user whom the recipient has blocked enter the mailbox.
    DeliverBlocked,
    /// Entries of a user whom the reader has blocked are shown.
    ShowBlocked,
    /// A watch skips the first entry of a page that has several.
    SkipEntry,
    /// A message to a silent peer counts as delivered.
    TakeSilenceForDelivery,
    /// If several messages wait for a peer, the second one is sent first.
    QueueOutOfOrder,
    /// A peer is not called back if the call-back would have to wait because of a recent link.
    LeaveOutCallBack,
    /// A peer that opens a link soon after this realm sent to it counts as one that can open a link
    /// at any time.
    BelieveAnyCall,
    /// A peer that has not answered is not tried again.
    GiveUpPeer,
    /// A command that was interrupted is repeated as another operation, with a fresh salt.
    FinishUnderFreshNumber,
    /// All operations have the same salt.
    NoSalt,
    /// A command is not kept in the outbox once its caller stops waiting.
    KeepNothing,
    /// The outbox sends its entries in no order.
    OutboxInNoOrder,
    /// The outbox sends one user's entries as whichever user is logged in.
    OutboxOfAnybody,
    /// Entries that were written before it was known who is logged in are never assigned to a user.
    OutboxOfNobody,
    /// A number that a login has made useless is replaced by a number of the next user's.
    NumbersOverLogin,
    /// A read names the device's session, whichever user that session belongs to.
    ReadAsBound,
    /// A profile sends several of its first numbers at once, and draws no conclusion from a refused
    /// one.
    TrustFirstNumber,
    /// An outbox entry is cancelled without asking the realm whether it took effect.
    CancelWithoutVoid,
    /// A number is assigned however far above the lowest number in use it is.
    NumbersWithoutWindow,
    /// The lifetime of a message counts from when it is sent.
    LifetimeFromDeparture,
    /// A token has no effect.
    IgnoreToken,
    /// The next page of a mailbox confirms the page before.
    ConfirmUnshown,
    /// An entry that was read counts as shown.
    ReadMeansShown,
    /// `unread` counts without the cursors that only the client knows.
    UnreadWithoutCursors,
    /// A value of a profile is accepted although its checksum is wrong.
    BelieveDamage,
    /// Only the first address of a name is tried.
    FirstAddressOnly,
    /// A name is resolved only once.
    LookUpOnce,
    /// A client does not try again if it has no network.
    NeedNetworkAtOnce,
    /// A group that is made again begins at the positions of the former one.
    ReusePositions,
    /// A cursor is accepted from any life of the store.
    BelieveOldCursors,
    /// A device is not shown what another device has read.
    ShareCursors,
    /// A commit with an unknown outcome counts as refused.
    RefuseInDoubt,
    /// An unusable number is refused without naming the highest number.
    ForgetHighest,
    /// The sender of a returned message learns of it by a notice, and also by the answer to a
    /// repeat.
    TellTwice,
    /// The look-ups of a list are not counted.
    ListsUncharged,
    /// Links of strangers are not evicted before others.
    StrangersStay,
    /// Links of accounts are not evicted for newcomers.
    AccountsStay,
    /// The login throttle for password guesses also delays the known devices of the account's
    /// owner.
    LockOwnerOut,
    /// Each endpoint behind an address counts by itself.
    CountPerWorker,
    /// The subnets of a network do not share a quota.
    ForgetNetworks,
    /// A message may have any content type.
    LetUsersForge,
    /// A watch does not notice that its session has ended.
    WatchOutlivesSession,
    /// Other realms are not told that a group has ended.
    EndUnsaid,
    /// Peer links are recorded only at the first worker.
    AskAtFirstOnly,
    /// A link to a peer that cannot open one itself is closed when it is idle.
    LetLinksIdleOut,
    /// An Init to an unconfirmed address is retransmitted without end.
    DialWithoutEnd,
    /// A realm introduces itself with the address that it had when the peering was made.
    IntroduceOldAddress,
    /// Commands that undo something are accepted as early data.
    TakeAllEarly,
    /// A peer can change its key to one that it does not possess.
    TakeAnyKey,
    /// A restored realm continues peerings in which the peer remembers what its store does not.
    ForgetLives,
    /// A request to a claimed address replaces the link that is there.
    TrialTakesLink,
    /// Messages that the peer does not take make way for each other without a wait.
    MakeWayAtOnce,
    /// A restored realm executes early requests that were recorded before.
    TakeAllEarlyOnceRestored,
    /// A key that a removed peer had replaced names a peer again.
    TakeGivenUpKey,
    /// Users get every refusal of a peer as their own realm's refusal.
    PassRefusalsOn,
    /// An uninvited peer that changed its key leaves no record by which its messages are
    /// recognised.
    ForgetFirstKey,
    /// A realm does not learn from an introduction by which of its keys the peer knows it.
    TrustKnownKey,
    /// A message whose number the peer finds used is sent again without a wait.
    AskUsedAtOnce,
    /// What was agreed with a removed peer is not deleted.
    LeaveRemains,
    /// Messages are numbered in the same epoch after each start.
    OneEpoch,
    /// Requests stay on a link that the peer has forgotten.
    WaitOnDeadLink,
    /// A realm tells a peer the unspecified address as its own.
    TellUnspecified,
    /// The address of a peer is not tried anew by name, however long the peer is silent there.
    BelieveForever,
    /// A user whom a group's home realm does not know as a member stays a member here.
    KeepStaleMembership,
    /// A message is settled although it was settled before.
    SettleTwice,
    /// It is checked only once whether the caller is a peer.
    ForgetRemoval,
    /// A claimed address replaces the confirmed one without a trial.
    BelieveClaims,
    /// An answer over any link confirms the address that a peer claims.
    BelieveAnyLink,
    /// Uninvited peers can take all places for peers.
    UnaskedWithoutEnd,
    /// A former peering goes on in the next one.
    KeepFormerPeering,
    /// An account or peer can store as much as it likes.
    StoreWithoutShare,
    /// One account can take all memory for watches.
    WatchWithoutShare,
    /// A peer can begin any number of epochs.
    EpochsWithoutEnd,
    /// A watch keeps everything that it has read ahead.
    ReadAheadWithoutEnd,
    /// Old entries leave the store, even if they are unread.
    DropUnread,
    /// Nothing leaves the store because of its age.
    KeepForever,
    /// After a start, a returned message is returned again.
    GiveBackTwice,
    /// One account can fill the queue to a peer.
    QueueWithoutShare,
    /// A group's home realm can attribute any message to users of this realm.
    BelieveCopies,
    /// A membership report without a number ends a membership that has a number.
    OldReportsEnd,
    /// The engine's files are not examined before they are opened.
    SkipExamine,
    /// The durable mark is not compared with the store.
    IgnoreMark,
    /// The store goes on reading and writing after a write has failed.
    TrustAfterFailedSync,
    /// An unreadable value counts as absent.
    ServeDamageAsNothing,
    /// A ticket never expires.
    TicketsWithoutEnd,
    /// The answer to a Resume has no nonce of its own.
    AnswerUnderKnownNonce,
    /// Any source address of a Resume counts as the validated address of its ticket.
    AnyPlaceIsKnown,
    /// Links that were resumed share their link slots with links that did a handshake.
    PushOutOthers,
    /// The path memory is not used.
    ForgetPath,
    /// An old copy of a profile takes itself for the original until the realm says otherwise.
    TakeCopyForOriginal,
}

#[cfg(all(test, feature = "std"))]
mod planted {
    use std::{cell::Cell, sync::OnceLock};

    use super::Fault;

    /// The environment variable that plants a fault in the whole process.
    pub const VARIABLE: &str = "MERPATI_PLANTED";

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Plants a fault on this thread, or removes it.
    pub fn plant(fault: Option<Fault>) {
        PLANTED.set(fault);
    }

    /// True if the fault is planted on this thread or in the whole process.
    pub fn is_planted(fault: Fault) -> bool {
        static EVERYWHERE: OnceLock<Option<String>> = OnceLock::new();
        let everywhere = EVERYWHERE.get_or_init(|| std::env::var(VARIABLE).ok());
        let is_everywhere = || {
            everywhere
                .as_ref()
                .is_some_and(|name| *name == format!("{fault:?}"))
        };
        PLANTED.get() == Some(fault) || is_everywhere()
    }
}

#[cfg(all(test, feature = "std"))]
pub use planted::{VARIABLE, is_planted, plant};

/// Returns false.
#[cfg(not(all(test, feature = "std")))]
pub const fn is_planted(_: Fault) -> bool {
    false
}
