//! The identification of IPv4 packets: who counts, and who needs none. Each figure was seen of the kernel first.
//!
//! Interface: tests.
//! Linux counterpart: `ip_select_ident_segs`.
//! Locks and context: as the module's.

use super::*;
use crate::core::dev::ETH_P_IP;
use crate::core::netfilter::{HookPoint, Verdict};
use crate::core::skbuff::Skb;
use crate::hdr::{IP_DF, IpHdr};
use kernel::SpinLock;

/// Identification and DF of what arrives at B.
fn seen(w: &World) -> Arc<SpinLock<Vec<(u16, bool)>>> {
    let list = Arc::new(SpinLock::new(Vec::new()));
    let to = list.clone();
    let hook = move |_: &Arc<Net>, skb: Box<Skb>| {
        if let Some(h) = IpHdr::read(skb.data()).filter(|_| skb.protocol == ETH_P_IP) {
            to.lock_bh().push((h.id.get(), h.frag_off.get() & IP_DF != 0));
        }
        Verdict::Accept(skb)
    };
    w.b.nf.set(HookPoint::PreRouting, Some(Box::new(hook)));
    list
}

#[test]
fn identifications_of_datagrams() {
    let w = World::new();
    let seen = seen(&w);
    let to = sock_create(&w.b, AF_INET, SOCK_DGRAM, 0).unwrap();
    to.bind(&addr(B, 6667)).unwrap();
    // In the order of IP_MTU_DISCOVER's values: DONT, WANT, DO, PROBE, INTERFACE, OMIT.
    for (mode, df) in [false, true, true, true, false, false].into_iter().enumerate() {
        for connected in [false, true] {
            let s = sock_create(&w.a, AF_INET, SOCK_DGRAM, 0).unwrap();
            set_int(&s, IPPROTO_IP, IP_MTU_DISCOVER, mode as i32);
            if connected {
                assert!(s.connect(&addr(B, 6667), true, &mut wait()).is_ready());
            }
            for _ in 0..3 {
                let mut msg = MsgHdr::new(IovIter::source(b"datagram"));
                msg.name = (!connected).then(|| addr(B, 6667));
                assert_eq!(s.sendmsg(&mut msg, &mut wait()), Poll::Ready(Ok(8)));
            }
            w.run(20);
            s.release();
            let got = std::mem::take(&mut *seen.lock_bh());
            let ids: Vec<u16> = got.iter().map(|g| g.0).collect();
            assert!(got.len() == 3 && got.iter().all(|g| g.1 == df), "{mode} {connected}: {got:?}");
            match mode {
                2 | 3 if !connected => assert_eq!(ids, [0; 3], "{mode}"),
                _ => {
                    let next = |n| ids[0].wrapping_add(n);
                    assert!(ids != [0; 3] && ids == [ids[0], next(1), next(2)], "{mode} {connected}: {ids:?}");
                }
            }
        }
    }
    to.release();
}
