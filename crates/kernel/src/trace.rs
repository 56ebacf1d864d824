//! Static tracepoints: each named function on a packet's way says that it was entered, with what.
//!
//! Interface: [`Traceable`], [`set_mode`], [`Tracer`] (the per-CPU rings of a kernel), [`Event`].
//! Linux counterpart: `include/linux/tracepoint.h`, the function-graph tracer.
//! Locks and context: any context. Off, a tracepoint is one load and a predictable branch.

use crate::percpu::PerCpu;
use crate::spinlock::SpinLock;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// What is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    Off = 0,
    /// Only what concerns a packet or socket that is marked.
    Marked = 1,
    All = 2,
}

/// The static key. One a process, as code is: the records themselves belong to a kernel.
static MODE: AtomicU8 = AtomicU8::new(0);

/// Switches recording.
pub fn set_mode(m: Mode) {
    MODE.store(m as u8, Ordering::Relaxed);
}

static MARKS: AtomicU32 = AtomicU32::new(0);

/// While one lives, marked subjects are recorded, if nothing more is recorded anyway.
pub struct MarkGuard(());

impl MarkGuard {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        MARKS.fetch_add(1, Ordering::SeqCst);
        let _ = MODE.compare_exchange(Mode::Off as u8, Mode::Marked as u8, Ordering::SeqCst, Ordering::SeqCst);
        MarkGuard(())
    }
}

impl Drop for MarkGuard {
    fn drop(&mut self) {
        if MARKS.fetch_sub(1, Ordering::SeqCst) == 1 {
            let _ = MODE.compare_exchange(Mode::Marked as u8, Mode::Off as u8, Ordering::SeqCst, Ordering::SeqCst);
            // Somebody may have begun in between.
            if MARKS.load(Ordering::SeqCst) != 0 {
                let _ = MODE.compare_exchange(Mode::Off as u8, Mode::Marked as u8, Ordering::SeqCst, Ordering::SeqCst);
            }
        }
    }
}

/// Whether only what concerns something marked is recorded.
pub(crate) fn only_marked() -> bool {
    MODE.load(Ordering::Relaxed) == Mode::Marked as u8
}

/// Whether any tracepoint may record.
#[inline(always)]
pub fn enabled() -> bool {
    MODE.load(Ordering::Relaxed) != 0
}

/// What a tracepoint is about.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The packet's identity, kept by its clones; 0 for none.
    pub skb: u64,
    /// The socket's cookie; 0 for none.
    pub sk: u64,
    /// Bytes, for a function that moves some.
    pub len: usize,
    pub marked: bool,
}

/// Something with an identity that a tracepoint can record.
pub trait Traceable {
    fn describe(&self, s: &mut Subject);
}

impl<T: Traceable + ?Sized> Traceable for std::sync::Arc<T> {
    fn describe(&self, s: &mut Subject) {
        (**self).describe(s);
    }
}

/// A number of bytes.
impl Traceable for usize {
    fn describe(&self, s: &mut Subject) {
        s.len = *self;
    }
}

/// One function entered.
#[derive(Clone, Debug)]
pub struct Event {
    /// Nanoseconds, in the arch's monotonic time.
    pub time: u64,
    /// Nanoseconds inside; 0 while it has not returned.
    pub duration: u64,
    /// Total order over all CPUs.
    pub seq: u64,
    pub name: &'static str,
    pub cpu: usize,
    pub context: &'static str,
    /// How many traced functions it is nested in.
    pub depth: u32,
    pub subject: Subject,
}

const RING: usize = 1 << 14;

/// The rings of a kernel.
#[derive(Default)]
pub struct Tracer {
    rings: PerCpu<SpinLock<VecDeque<Event>>>,
    seq: AtomicU64,
    lost: AtomicU64,
    last_id: AtomicU64,
}

impl Tracer {
    /// An identity for a packet, never 0. The kernel's own, so that what happens in one is the same whatever others do.
    pub fn new_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Has identities start above `n`, where packets of several kernels are to be told apart.
    pub fn number_ids_from(&self, n: u64) {
        self.last_id.store(n, Ordering::Relaxed);
    }

    /// All events at hand with a sequence number of at least `since`, in order.
    pub fn events_since(&self, since: u64) -> Vec<Event> {
        let mut all: Vec<Event> = Vec::new();
        for r in self.rings.iter() {
            all.extend(r.lock_irqsave().iter().filter(|e| e.seq >= since).cloned());
        }
        all.sort_by_key(|e| e.seq);
        all
    }

    /// Everything at hand, removed from the rings.
    pub fn drain(&self) -> Vec<Event> {
        let mut all: Vec<Event> = Vec::new();
        for r in self.rings.iter() {
            all.extend(r.lock_irqsave().drain(..));
        }
        all.sort_by_key(|e| e.seq);
        all
    }

    /// Events overwritten before anybody read them.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(crate) fn record(&self, mut e: Event) -> u64 {
        e.seq = self.seq.fetch_add(1, Ordering::Relaxed) + 1;
        let seq = e.seq;
        let mut ring = self.rings.this().lock_irqsave();
        if ring.len() == RING {
            ring.pop_front();
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        ring.push_back(e);
        seq
    }

    pub(crate) fn finish(&self, cpu: usize, seq: u64, now: u64) {
        let mut ring = self.rings.get(cpu).lock_irqsave();
        if let Ok(at) = ring.binary_search_by_key(&seq, |e| e.seq)
            && let Some(e) = ring.get_mut(at)
        {
            e.duration = now.saturating_sub(e.time);
        }
    }
}
