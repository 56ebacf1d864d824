//! A CPU's share of the network: what waits for its two softirqs.
//!
//! Interface: [`SoftnetData`], [`NapiStruct`], [`NapiStats`], [`softnet_stat`].
//! Linux counterpart: `struct softnet_data`, `struct napi_struct`.
//! Locks and context: the inner lock is irq-safe, as top halves schedule NAPI; it is this CPU's and hardly ever contended.

use crate::core::dev::device::NetDevice;
use crate::core::gro::GroList;
use crate::core::skb_queue::SkbQueue;
use kernel::{HrTimer, PerCpu, SpinLock};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

/// What a NAPI poll does: takes up to `budget` packets from the device and hands them to `napi_gro_receive`; answers
/// how many. Fewer than the budget means the ring is empty, and the poll has called `napi_complete_done` (and, if that
/// answered `true`, re-enabled the device's interrupt).
pub type NapiPoll = Box<dyn Fn(&Arc<NapiStruct>, usize) -> usize + Send + Sync>;

/// `NAPI_STATE_SCHED`: on a poll list or being polled.
pub(super) const NAPI_SCHED: u8 = 1;
/// `NAPI_STATE_MISSED`: scheduled again while it was.
pub(super) const NAPI_MISSED: u8 = 2;
/// `NAPI_STATE_DISABLE`.
pub(super) const NAPI_DISABLE: u8 = 4;
/// The poll runs, and has not completed yet.
pub(super) const NAPI_POLLING: u8 = 8;

/// A device queue being polled (`struct napi_struct`).
pub struct NapiStruct {
    pub dev: Arc<NetDevice>,
    pub weight: usize,
    pub poll: NapiPoll,
    pub stats: NapiStats,
    pub(super) state: AtomicU8,
    /// Taken by the CPU that polls, so never contended.
    pub(super) gro: SpinLock<GroList>,
    /// Polls where the interrupt is left off for a while, or packets wait in GRO (`napi_watchdog`).
    pub(super) watchdog: HrTimer,
    /// Polls that the interrupt may yet be left off for.
    pub(super) defer_count: AtomicU32,
}

/// What a device queue has done.
#[derive(Default)]
pub struct NapiStats {
    /// Interrupts that scheduled it, or found it scheduled.
    pub interrupts: AtomicU64,
    pub polls: AtomicU64,
    pub packets: AtomicU64,
    /// Polls that used their whole weight: the interrupt stayed off, and another poll followed.
    pub exhausted: AtomicU64,
    /// Polls that found the ring empty and switched the interrupt on again.
    pub completed: AtomicU64,
    /// Polls that found the ring empty but were asked for again meanwhile.
    pub missed: AtomicU64,
    /// Polls that found the ring empty and left the interrupt off, for the watchdog to poll (`napi_defer_hard_irqs`).
    pub deferred: AtomicU64,
}

/// [`NapiStats`] at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NapiCounts {
    pub interrupts: u64,
    pub polls: u64,
    pub packets: u64,
    pub exhausted: u64,
    pub completed: u64,
    pub missed: u64,
    pub deferred: u64,
}

impl NapiStats {
    pub fn counts(&self) -> NapiCounts {
        let get = |c: &AtomicU64| c.load(Relaxed);
        NapiCounts {
            interrupts: get(&self.interrupts),
            polls: get(&self.polls),
            packets: get(&self.packets),
            exhausted: get(&self.exhausted),
            completed: get(&self.completed),
            missed: get(&self.missed),
            deferred: get(&self.deferred),
        }
    }
}

impl std::ops::Sub for NapiCounts {
    type Output = NapiCounts;
    /// What has happened since `o`.
    fn sub(self, o: NapiCounts) -> NapiCounts {
        NapiCounts {
            interrupts: self.interrupts.wrapping_sub(o.interrupts),
            polls: self.polls.wrapping_sub(o.polls),
            packets: self.packets.wrapping_sub(o.packets),
            exhausted: self.exhausted.wrapping_sub(o.exhausted),
            completed: self.completed.wrapping_sub(o.completed),
            missed: self.missed.wrapping_sub(o.missed),
            deferred: self.deferred.wrapping_sub(o.deferred),
        }
    }
}

/// What stands on a CPU's poll list.
pub(super) enum Poll {
    /// The input queue that `netif_rx` fills (`softnet_data.backlog`, a NAPI of its own in Linux).
    Backlog,
    Napi(Arc<NapiStruct>),
}

/// A CPU's receive and transmit side (`struct softnet_data`).
#[derive(Default)]
pub struct SoftnetData {
    pub(super) inner: SpinLock<SoftnetInner>,
    /// Packets taken from the input queue.
    pub processed: AtomicU64,
    /// Packets dropped because the input queue was full.
    pub dropped: AtomicU64,
    /// Times `net_rx_action` stopped with work left.
    pub time_squeeze: AtomicU64,
}

#[derive(Default)]
pub(super) struct SoftnetInner {
    pub(super) poll_list: VecDeque<Poll>,
    pub(super) input_pkt_queue: SkbQueue,
    /// [`Poll::Backlog`] is on the poll list or being polled.
    pub(super) backlog_scheduled: bool,
    /// Devices with packets to be sent by `net_tx_action`.
    pub(super) output_queue: VecDeque<Arc<NetDevice>>,
}

/// `/proc/net/softnet_stat`: a line for each CPU that has seen packets, with Linux's first three columns in hexadecimal
/// (packets taken from the input queue, dropped because it was full, times that work was left over) and the CPU's number.
pub fn softnet_stat(softnet: &PerCpu<SoftnetData>) -> String {
    let mut out = String::new();
    for (cpu, s) in softnet.iter_cpus() {
        let columns = [&s.processed, &s.dropped, &s.time_squeeze].map(|c| c.load(Relaxed));
        if columns.iter().any(|&n| n != 0) {
            let hex: Vec<_> = columns.iter().chain([&(cpu as u64)]).map(|n| format!("{n:08x}")).collect();
            out += &hex.join(" ");
            out.push('\n');
        }
    }
    out
}
