//! What kinds of locks there are, and how they are taken.
//!
//! Interface: [`Kind`], [`How`].
//! Linux counterpart: the arguments of `lock_acquire`.
//! Locks and context: plain values.

/// What kind of lock it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    Spin,
    /// Waiters sleep: not for atomic context.
    Sleeping,
    /// Several readers or one writer, spinning. Readers may nest.
    ReadWrite,
    /// Waiters sleep, several may hold it, and another may give it back than took it. Only the last holder is remembered.
    Semaphore,
}

impl Kind {
    /// The type's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Spin => "SpinLock",
            Kind::Sleeping => "Mutex",
            Kind::ReadWrite => "RwLock",
            Kind::Semaphore => "Semaphore",
        }
    }
}

/// How a lock is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct How {
    /// Fails instead of waiting, so it can close no circle.
    pub trylock: bool,
    /// Shared with other readers.
    pub read: bool,
    /// Told apart from other locks of the class, as in `spin_lock_nested`.
    pub subclass: u8,
    /// One of many of its class that are taken in the order of their addresses, as `spin_lock_nest_lock` has it.
    pub ordered: bool,
    /// By a poll: it belongs to a task, which may go on in another thread and let it go there.
    pub by_poll: bool,
}

impl How {
    pub const LOCK: How = How { trylock: false, read: false, subclass: 0, ordered: false, by_poll: false };
    pub const TRY: How = How { trylock: true, read: false, subclass: 0, ordered: false, by_poll: false };
    pub const POLL: How = How { trylock: true, read: false, subclass: 0, ordered: false, by_poll: true };
    pub const POLL_READ: How = How { trylock: true, read: true, subclass: 0, ordered: false, by_poll: true };
    pub const ORDERED: How = How { trylock: false, read: false, subclass: 0, ordered: true, by_poll: false };
    pub const READ: How = How { trylock: false, read: true, subclass: 0, ordered: false, by_poll: false };
}
