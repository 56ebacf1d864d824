//! What was sent is not cut without end: a peer that has it cut ever smaller would have us hold several times the send buffer. The
//! fuzz target `tcp_peer` noticed that nothing forbade it.
//!
//! Interface: tests.
//! Linux counterpart: the limit in `tcp_fragment` (CVE-2019-11478).
//! Locks and context: a manual clock.

use super::*;
use crate::core::snmp::Mib;
use crate::ipv4::tcp_fragment::tcp_fragment;
use crate::ipv4::tcp_sock::tcp_sk;
use std::sync::atomic::Ordering::Relaxed;

#[test]
fn beyond_twice_the_buffer_only_the_ends_are_cut() {
    let w = World::new();
    let (c, s) = w.connect();
    // Until the window takes several large packets.
    let (mut sent, mut got) = (0, 0);
    while got < 3_000_000 {
        sent += send(&c, &vec![7; (3_000_000 - sent).min(100_000)]).unwrap_or(0);
        w.run(1);
        got += recv(&s, 1 << 20, 0).map_or(0, |b| b.len());
    }
    w.run(1000);
    while send(&c, &vec![7; 100_000]).is_ok() {}
    let mut guard = c.sk.lock_sock();
    let tp = tcp_sk(&mut *guard);
    let last = tp.tx.head_index() - 1;
    assert!(last >= 3, "{last} pieces on their way, for the test's sake");
    let mss = tp.mss_cache;
    assert!(tcp_fragment(&c.sk, tp, 1, mss, mss), "within bounds");
    let queued = c.sk.wmem_queued.load(Relaxed);
    assert!(queued > 300_000, "{queued} bytes, for the test's sake");
    c.sk.sndbuf.store(4608, Relaxed);
    let too_big = |c: &Socket| c.sk.net.mib.get(Mib::TcpExtTCPWqueueTooBig);
    assert!(!tcp_fragment(&c.sk, tp, 2, mss, mss));
    assert_eq!(too_big(&c), 1);
    assert!(tcp_fragment(&c.sk, tp, 0, mss, mss), "or nothing could go on");
    let last = tp.tx.head_index() - 1;
    assert!(tp.tx.get(last).is_some_and(|p| p.len <= mss) || tcp_fragment(&c.sk, tp, last, mss, mss));
    assert_eq!(too_big(&c), 1);
}
