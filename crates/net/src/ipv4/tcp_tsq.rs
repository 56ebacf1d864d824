//! TCP small queues: a sender keeps little in its device's queue and goes on when some of it has left.
//!
//! Interface: [`tcp_small_queue_check`], [`tcp_throttle`], [`tcp_throttled`], [`tcp_wfree`], [`tcp_tasklet_init`].
//! Linux counterpart: `tcp_small_queue_check`, `tcp_wfree`, `tcp_tasklet_func` in `net/ipv4/tcp_output.c`.
//! Locks and context: `tcp_wfree` runs wherever a packet is freed and takes no socket lock; the rest is softirq `Hi`.

use super::tcp_pacing::{TCP_PACING_SHIFT, tcp_pacing_rate};
use super::tcp_sock::{TcpOps, TcpSock};
use crate::core::net_namespace::Registries;
use crate::core::skbuff::{SKB_OVERHEAD, Skb};
use crate::core::sock::Sock;
use kernel::kernel::raise_softirq;
use kernel::{PerCpu, Softirq, SpinLock};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};

/// `TSQ_THROTTLED`: the sender stopped for its device.
const TSQF_THROTTLED: u16 = 1;
/// `TSQ_QUEUED`: it is on a CPU's list.
const TSQF_QUEUED: u16 = 2;

/// Sockets to be looked at, by CPU (`struct tsq_tasklet`). Each is on one list at most.
struct TsqTasklet {
    lists: PerCpu<SpinLock<Vec<Arc<Sock>>>>,
}

/// Opens the softirq (`tcp_tasklet_init`). Once a kernel.
pub fn tcp_tasklet_init(reg: &Arc<Registries>, ops: &'static TcpOps) {
    let tasklet = Arc::new(TsqTasklet { lists: PerCpu::default() });
    if reg.tsq.set(Box::new(tasklet.clone())).is_err() {
        return;
    }
    reg.kernel.open_softirq(Softirq::Hi, move || {
        let list = std::mem::take(&mut *tasklet.lists.this().lock_bh());
        for sk in list {
            sk.tsq_flags.fetch_and(!TSQF_QUEUED, AcqRel);
            (ops.tsq)(&sk);
        }
    });
}

/// Whether the sender has enough below it for now; then it is noted to be called again (`tcp_small_queue_check`).
pub fn tcp_small_queue_check(sk: &Sock, tp: &TcpSock, truesize: u32) -> bool {
    // As a packet it weighs more than as a piece.
    let mut limit = (2 * (truesize + SKB_OVERHEAD + 512) as u64).max(tcp_pacing_rate(sk, tp) >> TCP_PACING_SHIFT);
    if tp.rare.pacing.is_none() {
        limit = limit.min(sk.net.sysctl.tcp_limit_output_bytes.get() as u64);
    }
    let limit = limit.min(usize::MAX as u64) as usize;
    if sk.wmem_alloc.load(Relaxed) <= limit || tp.tx.rtx_is_empty() {
        return false;
    }
    tcp_throttle(sk, limit)
}

/// Whether the sender is to be called when a packet leaves.
pub fn tcp_throttled(sk: &Sock) -> bool {
    sk.tsq_flags.load(Acquire) & TSQF_THROTTLED != 0
}

/// Notes the sender to be called when a packet leaves; `false` if by now no more than `limit` bytes are below it.
pub fn tcp_throttle(sk: &Sock, limit: usize) -> bool {
    sk.tsq_flags.fetch_or(TSQF_THROTTLED, SeqCst);
    // A packet may have left between the look and the flag.
    sk.wmem_alloc.load(SeqCst) > limit
}

/// A packet of a sender has left its device (`tcp_wfree`).
pub fn tcp_wfree(skb: &mut Skb) {
    let Some(sk) = skb.sk.take() else { return };
    sk.wmem_alloc.fetch_sub(skb.truesize as usize, SeqCst);
    if sk.tsq_flags.load(Acquire) & TSQF_THROTTLED == 0 {
        return;
    }
    let old = sk.tsq_flags.fetch_and(!TSQF_THROTTLED, AcqRel);
    if old & TSQF_THROTTLED == 0 || sk.tsq_flags.fetch_or(TSQF_QUEUED, AcqRel) & TSQF_QUEUED != 0 {
        return;
    }
    let reg = sk.net.reg.clone();
    let Some(tasklet) = reg.tsq.get().and_then(|t| t.downcast_ref::<Arc<TsqTasklet>>()) else { return };
    tasklet.lists.this().lock_bh().push(sk);
    raise_softirq(Softirq::Hi);
}
