//! Deliberate faults, for the tests that show that the simulator sees such. In whatever is no test there are none,
//! and the compiler leaves nothing of them.

/// A fault.
#[cfg_attr(
    not(feature = "embedded"),
    allow(dead_code, reason = "each feature has some of them")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A command is answered while its effect is still on its way to the disk.
    AnswerBeforeCommit,
    /// What was answered to a numbered command is not written down.
    ForgetAnswer,
    /// A batch that met a change counts as written.
    IgnoreConflict,
    /// A command is done as decided, whatever has changed since.
    RelyOnNothing,
    /// A batch for which the disk had no room counts as written.
    IgnoreFullDisk,
    /// A packet number is used twice now and then.
    ReusePacketNumber,
    /// The parts of a long message after its first are acknowledged and dropped.
    DropParts,
    /// A request is sent once.
    NeverRepeat,
    /// The address of a link that has ended is kept.
    KeepAddress,
    /// A watch leaves out the first entry of a page that has several.
    SkipEntry,
    /// A message to a peer that is silent counts as delivered.
    TakeSilenceForDelivery,
    /// Of two messages that wait for a peer the second goes first.
    QueueOutOfOrder,
    /// A peer that is to be called back so soon after a call that it has to wait for it is not called back.
    LeaveOutCallBack,
    /// A peer that has opened a link soon after this realm sent to it counts as one that can at any time.
    BelieveAnyCall,
    /// A peer that has not answered is not tried again.
    GiveUpPeer,
    /// A command that was cut off is finished as if it were another one.
    FinishUnderFreshNumber,
    /// All operations have the same salt.
    NoSalt,
    /// Nothing is kept of a command that its caller does not wait for any more.
    KeepNothing,
    /// What is in the outbox goes in no order.
    OutboxInNoOrder,
    /// What one user's outbox holds goes out as whoever is logged in.
    OutboxOfAnybody,
    /// What was typed before it was known who is logged in stays nobody's.
    OutboxOfNobody,
    /// A number that a login has made useless is replaced by one that is the next user's.
    NumbersOverLogin,
    /// A read names the device's session, whoever's that is.
    ReadAsBound,
    /// Of a profile's first numbers several are on their way at once, and one that was used shows nothing.
    TrustFirstNumber,
    /// An entry is taken back without asking the realm whether it was done.
    CancelWithoutVoid,
    /// A number is given out however far below it one is in use.
    NumbersWithoutWindow,
    /// What a message is worth counts from when it leaves.
    LifetimeFromDeparture,
    /// A token stands for nothing.
    IgnoreToken,
    /// The next page of a mailbox confirms the one before.
    ConfirmUnshown,
    /// What was read counts as shown.
    ReadMeansShown,
    /// `unread` counts what the realm knows to be read.
    UnreadWithoutCursors,
    /// A value of a profile is believed whatever it says.
    BelieveDamage,
    /// Of a name only the first address is tried.
    FirstAddressOnly,
    /// A name is looked up once.
    LookUpOnce,
    /// A network that is not there ends what waits for it.
    NeedNetworkAtOnce,
    /// A group made again begins at the positions of the former one.
    ReusePositions,
    /// A cursor is believed whichever life of the store it is from.
    BelieveOldCursors,
    /// What one device has read no other is shown.
    ShareCursors,
    /// A write of which the store does not know counts as refused.
    RefuseInDoubt,
    /// A number that cannot be used is refused without the highest.
    ForgetHighest,
    /// A message that comes back is told by the answer to a repeat, too.
    TellTwice,
    /// What a list looks up counts as one command.
    ListsUncharged,
    /// Links of strangers are as good as others'.
    StrangersStay,
    /// Links of accounts make no room for others.
    AccountsStay,
    /// Whoever guesses keeps the devices of an account's owner waiting too.
    LockOwnerOut,
    /// Each endpoint behind an address counts for itself.
    CountPerWorker,
    /// All subnets of a network have allowances of their own.
    ForgetNetworks,
    /// A message may have any content type.
    LetUsersForge,
    /// A watch does not hear that its session has ended.
    WatchOutlivesSession,
    /// Nobody elsewhere is told that a group has ended.
    EndUnsaid,
    /// Links of peers count only where they have come to the first worker.
    AskAtFirstOnly,
    /// A link to a peer that cannot open one itself ends when it has been idle.
    LetLinksIdleOut,
    /// An Init to an address that nobody vouches for is sent on and on.
    DialWithoutEnd,
    /// A realm introduces itself at the address where it was when the peering was made.
    IntroduceOldAddress,
    /// What undoes something may travel early.
    TakeAllEarly,
    /// A peer may go by anybody's key.
    TakeAnyKey,
    /// A realm that was restored from a copy goes on with peers that remember what it does not.
    ForgetLives,
    /// A peer is asked where it was never found yet, as soon as it says that it is there.
    TrialTakesLink,
    /// Messages that are not taken make way for each other at once.
    MakeWayAtOnce,
    /// A restored realm does what was recorded before.
    TakeAllEarlyOnceRestored,
    /// A key that a removed peer has given up makes a peer of whoever has it.
    TakeGivenUpKey,
    /// Whatever a peer answers is told to users as their own realm's word.
    PassRefusalsOn,
    /// An uninvited peer that has changed its key leaves nothing behind by which its messages are known.
    ForgetFirstKey,
    /// By which key a peer knows this realm is never learnt from how it calls.
    TrustKnownKey,
    /// A message whose number a peer finds used is brought again at once.
    AskUsedAtOnce,
    /// What was agreed with a peer that is removed stays.
    LeaveRemains,
    /// Messages are numbered in the same epoch after each start.
    OneEpoch,
    /// What waits for a peer stays on the link that the peer has forgotten.
    WaitOnDeadLink,
    /// A peer is told an address that stands for all of this machine's.
    TellUnspecified,
    /// A peer is where it was once found, however long it is silent there.
    BelieveForever,
    /// Who is no member of a group where it lives stays one here.
    KeepStaleMembership,
    /// A message leaves its queue although it has left it.
    SettleTwice,
    /// Whether who asks is a peer is looked at once.
    ForgetRemoval,
    /// A peer is at whatever address it says of itself.
    BelieveClaims,
    /// An answer over any link shows that a peer is at the address that it claims.
    BelieveAnyLink,
    /// Realms that nobody has asked for take all places for peers.
    UnaskedWithoutEnd,
    /// What was of a former peering goes on in the next.
    KeepFormerPeering,
    /// Anybody may have kept as much as they like.
    StoreWithoutShare,
    /// One account may hold all that watches may.
    WatchWithoutShare,
    /// A peer may begin any number of epochs.
    EpochsWithoutEnd,
    /// A watch holds whatever it has read.
    ReadAheadWithoutEnd,
    /// What is old leaves the store, read or not.
    DropUnread,
    /// Nothing leaves the store for its age.
    KeepForever,
    /// After a start, what has been given back is given back again.
    GiveBackTwice,
    /// One account may fill the queue to a peer.
    QueueWithoutShare,
    /// Whoever keeps a group may say what users of this realm wrote there.
    BelieveCopies,
    /// Word of a membership that had no number ends one that has.
    OldWordsEnd,
    /// The engine's files are not looked at before it opens them.
    SkipExamine,
    /// How far the store had come is not asked for.
    IgnoreMark,
    /// Writing and reading go on after a write has failed.
    TrustAfterFailedSync,
    /// What cannot be read is taken for what is not there.
    ServeDamageAsNothing,
    /// A ticket is good for ever.
    TicketsWithoutEnd,
    /// The answer to a Resume has no randomness of its own.
    AnswerUnderKnownNonce,
    /// Wherever a Resume comes from is the place of its ticket.
    AnyPlaceIsKnown,
    /// Those who come back count as those who make handshakes.
    PushOutOthers,
    /// What is remembered of a path is of no use.
    ForgetPath,
    /// An old copy of a profile takes itself for the only one until the realm has told it.
    TakeCopyForOriginal,
}

#[cfg(all(test, feature = "std"))]
mod planted {
    use std::{cell::Cell, sync::OnceLock};

    use super::Fault;

    /// Plants a fault in all of a process.
    pub const VARIABLE: &str = "MERPATI_PLANTED";

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Plants a fault on this thread, or takes it away.
    pub fn plant(fault: Option<Fault>) {
        PLANTED.set(fault);
    }

    /// True when the fault is planted on this thread.
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

/// False.
#[cfg(not(all(test, feature = "std")))]
pub const fn is_planted(_: Fault) -> bool {
    false
}
