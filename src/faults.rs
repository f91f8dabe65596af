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
}

#[cfg(all(test, feature = "std"))]
mod planted {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Plants a fault on this thread, or takes it away.
    pub fn plant(fault: Option<Fault>) {
        PLANTED.set(fault);
    }

    /// True when the fault is planted on this thread.
    pub fn is_planted(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }
}

#[cfg(all(test, feature = "std"))]
pub use planted::{is_planted, plant};

/// False.
#[cfg(not(all(test, feature = "std")))]
pub const fn is_planted(_: Fault) -> bool {
    false
}
