//! Memory of all sockets of a transport together, in pages.
//!
//! Interface: [`ProtoMem`], [`SK_MEM_QUANTUM`].
//! Linux counterpart: `proto->memory_allocated`, `memory_pressure` and `per_cpu_fw_alloc` in `net/core/sock.c`.
//! Locks and context: any; atomics. A CPU keeps what it added or gave back to itself until it is worth telling.

use kernel::PerCpu;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Bytes of a page: what sockets' memory is counted in.
pub const SK_MEM_QUANTUM: usize = 4096;
/// Pages a CPU may keep to itself (`SK_MEMORY_PCPU_RESERVE`): 1 MiB.
const PCPU_RESERVE: i64 = 256;

/// What the sockets of one transport hold, and whether that is too much.
#[derive(Default)]
pub struct ProtoMem {
    allocated: AtomicI64,
    local: PerCpu<AtomicI64>,
    /// When pressure began, in milliseconds of the monotonic clock plus one; 0: there is none.
    pressure: AtomicU64,
}

impl ProtoMem {
    /// Adds pages, or takes them off. `low` is the first of the three limits: the smaller it is the less is kept back.
    pub fn add(&self, pages: i64, low: i64) {
        let local = self.local.this();
        let mine = local.fetch_add(pages, Relaxed) + pages;
        if mine.abs() > (low >> 8).clamp(0, PCPU_RESERVE) {
            self.allocated.fetch_add(local.swap(0, Relaxed), Relaxed);
        }
    }

    /// Pages in use, but for what CPUs have not told yet.
    pub fn allocated(&self) -> i64 {
        self.allocated.load(Relaxed).max(0)
    }

    /// The same, exactly (`proto_memory_allocated` read for `/proc/net/sockstat`).
    pub fn allocated_exact(&self) -> i64 {
        self.local.iter().fold(self.allocated.load(Relaxed), |sum, l| sum + l.load(Relaxed))
    }

    #[inline]
    pub fn under_pressure(&self) -> bool {
        self.pressure.load(Relaxed) != 0
    }

    /// Pressure begins; `true` if there was none (`tcp_enter_memory_pressure`).
    pub fn enter_pressure(&self, now_ms: u64) -> bool {
        self.pressure.compare_exchange(0, now_ms + 1, Relaxed, Relaxed).is_ok()
    }

    /// Pressure is over; for how many milliseconds there was some (`tcp_leave_memory_pressure`).
    pub fn leave_pressure(&self, now_ms: u64) -> Option<u64> {
        if !self.under_pressure() {
            return None;
        }
        match self.pressure.swap(0, Relaxed) {
            0 => None,
            since => Some((now_ms + 1).saturating_sub(since)),
        }
    }
}
