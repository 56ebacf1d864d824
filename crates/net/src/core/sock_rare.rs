//! What a connection at its defaults does without: the socket options that few programs set, a listener's counts, the queue
//! of protocols that keep message boundaries.
//!
//! Interface: [`SockRare`], [`Rare`].
//! Linux counterpart: the same fields of `struct sock`.
//! Locks and context: atomics, any context; what a transport keeps here says itself.

use crate::core::skb_queue::SkbQueue;
use kernel::SpinLock;
use once_cell::race::OnceBox;
use std::any::Any;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// Waits for ever.
pub const NO_TIMEOUT: u64 = u64::MAX;

/// The part of a socket that is allocated when it is first written to, and reads as its defaults until then.
#[derive(Default)]
pub struct SockRare(OnceBox<Rare>);

pub struct Rare {
    /// Nanoseconds; [`NO_TIMEOUT`] waits for ever.
    pub rcvtimeo: AtomicU64,
    pub sndtimeo: AtomicU64,
    /// Nanoseconds, with `SO_LINGER`.
    pub lingertime: AtomicU64,
    /// Bytes a second.
    pub max_pacing_rate: AtomicU64,
    pub priority: AtomicU32,
    pub mark: AtomicU32,
    pub drops: AtomicU32,
    pub max_ack_backlog: AtomicU32,
    pub ack_backlog: AtomicU32,
    /// Packets for the process, of protocols that keep message boundaries. TCP keeps its own, under the socket lock.
    pub receive_queue: SpinLock<SkbQueue>,
    /// What a transport keeps outside the socket lock; TCP: a listener's accept queue.
    pub ext: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Default for Rare {
    fn default() -> Rare {
        Rare {
            rcvtimeo: AtomicU64::new(NO_TIMEOUT),
            sndtimeo: AtomicU64::new(NO_TIMEOUT),
            lingertime: AtomicU64::new(0),
            max_pacing_rate: AtomicU64::new(u64::MAX),
            priority: AtomicU32::new(0),
            mark: AtomicU32::new(0),
            drops: AtomicU32::new(0),
            max_ack_backlog: AtomicU32::new(0),
            ack_backlog: AtomicU32::new(0),
            receive_queue: SpinLock::default(),
            ext: OnceLock::new(),
        }
    }
}

impl SockRare {
    /// To be written to.
    #[inline]
    pub fn make(&self) -> &Rare {
        self.0.get_or_init(Box::default)
    }

    /// What is there, if something is.
    #[inline]
    pub fn get(&self) -> Option<&Rare> {
        self.0.get()
    }

    #[inline]
    fn read32(&self, field: impl FnOnce(&Rare) -> &AtomicU32) -> u32 {
        self.get().map_or(0, |r| field(r).load(Acquire))
    }

    /// `SO_RCVTIMEO`, nanoseconds or [`NO_TIMEOUT`].
    pub fn rcvtimeo(&self) -> u64 {
        self.get().map_or(NO_TIMEOUT, |r| r.rcvtimeo.load(Relaxed))
    }

    /// `SO_SNDTIMEO`, nanoseconds or [`NO_TIMEOUT`].
    pub fn sndtimeo(&self) -> u64 {
        self.get().map_or(NO_TIMEOUT, |r| r.sndtimeo.load(Relaxed))
    }

    /// The time of `SO_LINGER`, nanoseconds.
    pub fn lingertime(&self) -> u64 {
        self.get().map_or(0, |r| r.lingertime.load(Relaxed))
    }

    /// `SO_MAX_PACING_RATE`, bytes a second; `u64::MAX`: no limit.
    #[inline]
    pub fn max_pacing_rate(&self) -> u64 {
        self.get().map_or(u64::MAX, |r| r.max_pacing_rate.load(Relaxed))
    }

    #[inline]
    pub fn priority(&self) -> u32 {
        self.read32(|r| &r.priority)
    }

    #[inline]
    pub fn mark(&self) -> u32 {
        self.read32(|r| &r.mark)
    }

    pub fn drops(&self) -> u32 {
        self.read32(|r| &r.drops)
    }

    /// Connections that may wait for `accept(2)`, and that do.
    pub fn max_ack_backlog(&self) -> u32 {
        self.read32(|r| &r.max_ack_backlog)
    }

    pub fn ack_backlog(&self) -> u32 {
        self.read32(|r| &r.ack_backlog)
    }

    /// `SO_PRIORITY`.
    pub fn set_priority(&self, v: u32) {
        if v != self.priority() {
            self.make().priority.store(v, Relaxed);
        }
    }

    /// `SO_MARK`.
    pub fn set_mark(&self, v: u32) {
        if v != self.mark() {
            self.make().mark.store(v, Relaxed);
        }
    }

    /// What the transport keeps here, if it does.
    #[inline]
    pub fn ext<T: 'static>(&self) -> Option<&T> {
        self.get()?.ext.get()?.downcast_ref()
    }

    /// The options that a child has from its listener.
    pub fn inherit(&self, from: &SockRare) {
        let Some(from) = from.get() else { return };
        let of = |r: &Rare| {
            let long = [&r.rcvtimeo, &r.sndtimeo, &r.lingertime, &r.max_pacing_rate].map(|v| v.load(Relaxed));
            (long, r.priority.load(Relaxed))
        };
        let wanted = of(from);
        if wanted == of(&Rare::default()) {
            return;
        }
        let ([rcvtimeo, sndtimeo, lingertime, max_pacing_rate], priority) = wanted;
        let own = self.make();
        own.rcvtimeo.store(rcvtimeo, Relaxed);
        own.sndtimeo.store(sndtimeo, Relaxed);
        own.lingertime.store(lingertime, Relaxed);
        own.max_pacing_rate.store(max_pacing_rate, Relaxed);
        own.priority.store(priority, Relaxed);
    }
}
