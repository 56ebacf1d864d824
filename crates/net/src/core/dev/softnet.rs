//! A CPU's share of the network: what waits for its two softirqs.
//!
//! Interface: [`SoftnetData`], [`NapiStruct`].
//! Linux counterpart: `struct softnet_data`, `struct napi_struct`.
//! Locks and context: the inner lock is irq-safe, as top halves schedule NAPI; it is this CPU's and hardly ever contended.

use crate::core::dev::device::NetDevice;
use crate::core::gro::GroList;
use crate::core::skbuff::SkbQueue;
use kernel::SpinLock;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64};

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

/// A device queue being polled (`struct napi_struct`).
pub struct NapiStruct {
    pub dev: Arc<NetDevice>,
    pub weight: usize,
    pub poll: NapiPoll,
    pub(super) state: AtomicU8,
    /// Taken by the CPU that polls, so never contended.
    pub(super) gro: SpinLock<GroList>,
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
