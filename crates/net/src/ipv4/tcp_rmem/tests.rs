//! Packing of queues: nothing is lost, and nothing grows.

use super::*;
use crate::core::test_arch::bytes;
use crate::ipv4::test_support::{TestNet, bare_sock};
use proptest::prelude::*;
use std::sync::atomic::Ordering::SeqCst;
use uapi::socket::AF_INET;

/// A piece of a stream: how long it is, how much memory it takes beyond that, what its first and last byte's flags are, and the
/// hole before it.
#[derive(Clone, Debug)]
struct Piece {
    len: usize,
    spare: u32,
    paged: bool,
    fin: bool,
    syn: bool,
    hole: u32,
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let len = prop_oneof![4 => 1usize..200, 2 => 1000usize..1500, 1 => 1usize..40_000];
    let spare = prop_oneof![0u32..100, 400u32..1000, 0u32..70_000];
    let mark = || (0u32..20).prop_map(|n| n == 0);
    let hole = prop_oneof![5 => Just(0u32), 1 => 1u32..3000];
    let piece = (len, spare, any::<bool>(), mark(), mark(), hole)
        .prop_map(|(len, spare, paged, fin, syn, hole)| Piece { len, spare, paged, fin, syn, hole });
    prop::collection::vec(piece, 1..60)
}

/// The stream's byte at `seq`.
fn at(seq: u32) -> u8 {
    (seq.wrapping_mul(0x9e37_79b9) >> 24) as u8
}

/// The queue of such pieces from `seq` on.
fn queue(pieces: &[Piece], mut seq: u32) -> Vec<Box<Skb>> {
    let packet = |p: &Piece| {
        seq = seq.wrapping_add(p.hole);
        let first = seq.wrapping_add(p.syn as u32);
        let data: Vec<u8> = (0..p.len as u32).map(|n| at(first.wrapping_add(n))).collect();
        let mut skb = match p.paged {
            false => Skb::from_bytes(0, &data),
            true => {
                let mut skb = Skb::alloc(0);
                assert!(skb.add_frag(kernel::Frag::copy_of(&data)));
                skb
            }
        };
        skb.truesize = p.len as u32 + p.spare;
        let cb = tcp_skb_cb_mut(&mut skb);
        cb.seq = seq;
        cb.end_seq = first.wrapping_add(p.len as u32 + p.fin as u32);
        cb.tcp_flags = if p.syn { tcp_flag::SYN } else { 0 } | if p.fin { tcp_flag::FIN } else { 0 };
        seq = cb.end_seq;
        skb
    };
    pieces.iter().map(packet).collect()
}

fn memory(queue: &[Box<Skb>]) -> usize {
    queue.iter().map(|s| s.truesize as usize).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 5 } else { 2000 }))]

    #[test]
    fn packing_keeps_each_byte_and_takes_no_more_memory(pieces in pieces(), from: u32, ratio: u8) {
        let t = TestNet::new();
        let _inside = t.kernel.enter();
        let sk = bare_sock(&t.net, AF_INET);
        let old = queue(&pieces, from);
        let (before, count) = (memory(&old), old.len());
        let ends = |q: &[Box<Skb>]| (tcp_skb_cb(&q[0]).seq, tcp_skb_cb(&q[q.len() - 1]).end_seq);
        let whole = ends(&old);
        let holes = |q: &[Box<Skb>]| -> Vec<u32> {
            q.windows(2).filter(|w| tcp_skb_cb(&w[0]).end_seq != tcp_skb_cb(&w[1]).seq).map(|w| tcp_skb_cb(&w[1]).seq).collect()
        };
        let had = holes(&old);
        sk.rmem_alloc.store(before, SeqCst);
        let mut kept = Vec::new();
        collapse(&sk, ratio, old, |skb| kept.push(skb));
        prop_assert!(kept.len() <= count);
        prop_assert_eq!(sk.rmem_alloc.load(SeqCst), memory(&kept));
        sk.rmem_alloc.store(0, SeqCst);
        prop_assert!(memory(&kept) <= before, "{} bytes of {}", memory(&kept), before);
        prop_assert_eq!((ends(&kept), holes(&kept)), (whole, had));
        for skb in &kept {
            let cb = tcp_skb_cb(skb);
            let (syn, fin) = (cb.tcp_flags & tcp_flag::SYN != 0, cb.tcp_flags & tcp_flag::FIN != 0);
            prop_assert_eq!(cb.end_seq.wrapping_sub(cb.seq) as usize, skb.len() + syn as usize + fin as usize);
            let first = cb.seq.wrapping_add(syn as u32);
            prop_assert!(bytes(skb).iter().enumerate().all(|(n, &b)| b == at(first.wrapping_add(n as u32))));
        }
    }
}

/// Two thousand bytes in tiny packets once took a page of 32 KiB, more than they had taken before.
#[test]
fn a_little_packed_takes_little() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let sk = bare_sock(&t.net, AF_INET);
    let tiny = Piece { len: 100, spare: 732, paged: false, fin: false, syn: false, hole: 0 };
    let old = queue(&vec![tiny; 21], 1);
    sk.rmem_alloc.store(memory(&old), SeqCst);
    let mut kept = Vec::new();
    collapse(&sk, 128, old, |skb| kept.push(skb));
    assert_eq!((kept.len(), kept[0].len()), (1, 2100));
    assert_eq!(memory(&kept), 1024 + 2 * 2048);
    assert_eq!(sk.rmem_alloc.load(SeqCst), memory(&kept));
    sk.rmem_alloc.store(0, SeqCst);
}
