//! What earlier connections have learned about a destination.
//!
//! Interface: [`TcpMetrics`] (a namespace's cache, `tcp_hashinfo(net).metrics`), [`TcpMetric`].
//! Linux counterpart: `net/ipv4/tcp_metrics.c`.
//! Locks and context: any; a spinlock for each bucket, taken with bottom halves off.
//!
//! The cache is bounded: a bucket that is full gives up its oldest entry (`TCP_METRICS_RECLAIM_DEPTH`).

use crate::core::dst_metrics::{DstMetrics, Rtax};
use crate::core::jhash::{jhash_3words, jhash_ip};
use crate::core::net_namespace::Net;
use crate::ipv4::tcp_fastopen_cookie::FastopenCookie;
use kernel::SpinLock;
use std::net::IpAddr;

const BUCKETS: usize = 256;
const TCP_METRICS_RECLAIM_DEPTH: usize = 5;

/// What is known of a pair of addresses (`struct tcp_metrics_block`).
pub struct TcpMetric {
    saddr: IpAddr,
    daddr: IpAddr,
    /// When it was last used, jiffies.
    stamp: u64,
    pub fastopen: TcpFastopenMetrics,
    pub path: TcpPathMetrics,
}

/// What connections have learned of the path; 0: nothing.
#[derive(Clone, Copy, Default, Debug)]
pub struct TcpPathMetrics {
    /// Smoothed, microseconds times 8.
    pub rtt_us: u32,
    /// Segments, all three.
    pub ssthresh: u32,
    pub reordering: u32,
    /// The route has been asked: what it says comes before anything is learned.
    pub asked: bool,
}

impl TcpPathMetrics {
    /// Begins with what the route says (`tcpm_suck_dst`).
    pub fn ask(&mut self, route: Option<&DstMetrics>) {
        if std::mem::replace(&mut self.asked, true) {
            return;
        }
        if let Some(r) = route {
            self.rtt_us = r.get(Rtax::Rtt).saturating_mul(1000);
            self.ssthresh = r.get(Rtax::Ssthresh);
            self.reordering = r.get(Rtax::Reordering);
        }
    }
}

/// What is known of a path for longer than this, in milliseconds, is known no more.
const TCP_METRICS_TIMEOUT: u64 = 3_600_000;

/// Fast Open's part (`struct tcp_fastopen_metrics`).
#[derive(Clone, Copy, Default, Debug)]
pub struct TcpFastopenMetrics {
    /// The MSS of the last SYN-ACK; 0: unknown.
    pub mss: u16,
    /// SYNs with data that were lost one after the other, and when the last one was, jiffies.
    pub syn_loss: u16,
    pub last_syn_loss: u64,
    /// 1: the next request goes by the experimental option; 2: that was tried too.
    pub try_exp: u8,
    pub cookie: FastopenCookie,
}

/// A namespace's cache (`tcp_metrics_hash`).
pub struct TcpMetrics(Box<[SpinLock<Vec<TcpMetric>>]>);

impl Default for TcpMetrics {
    fn default() -> Self {
        TcpMetrics((0..BUCKETS).map(|_| SpinLock::default()).collect())
    }
}

impl TcpMetrics {
    /// Runs `f` on what is known of the two addresses, making an entry if there is none and `create` says so. `None`: there
    /// is none.
    pub fn with<R>(
        &self,
        net: &Net,
        saddr: IpAddr,
        daddr: IpAddr,
        create: bool,
        f: impl FnOnce(&mut TcpMetric) -> R,
    ) -> Option<R> {
        let mut bucket = self.0[bucket(net, saddr, daddr)].lock_bh();
        // With the lock held: no stamp is later than now.
        let now = net.kernel().jiffies_coarse();
        let at = match bucket.iter().position(|m| m.saddr == saddr && m.daddr == daddr) {
            Some(i) => i,
            None if !create => return None,
            None => {
                if bucket.len() >= TCP_METRICS_RECLAIM_DEPTH
                    && let Some(oldest) = (0..bucket.len()).min_by_key(|&i| bucket[i].stamp)
                {
                    bucket.swap_remove(oldest);
                }
                let (fastopen, path) = (TcpFastopenMetrics::default(), TcpPathMetrics::default());
                bucket.push(TcpMetric { saddr, daddr, stamp: now, fastopen, path });
                bucket.len() - 1
            }
        };
        if now.saturating_sub(bucket[at].stamp) > TCP_METRICS_TIMEOUT {
            bucket[at].path = TcpPathMetrics::default();
        }
        bucket[at].stamp = now;
        Some(f(&mut bucket[at]))
    }

    /// Forgets everything (`ip tcp_metrics flush all`).
    pub fn flush(&self) {
        self.0.iter().for_each(|b| b.lock_bh().clear());
    }
}

fn bucket(net: &Net, saddr: IpAddr, daddr: IpAddr) -> usize {
    let secret = net.hash_rnd();
    jhash_3words(jhash_ip(saddr, secret), jhash_ip(daddr, secret), SALT, secret) as usize % BUCKETS
}

/// Keeps the cache's hash apart from the others of the namespace.
const SALT: u32 = 0x6d74_7263;
