//! Unit tests of the socket buffer: whatever is done to it, it holds the bytes that a plain vector would hold.

use super::*;
use crate::core::skb_queue::SkbQueue;
use crate::core::test_arch::bytes;
use proptest::prelude::*;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

#[derive(Clone, Debug)]
enum Op {
    Push(u8),
    Pull(usize),
    PullAny(usize),
    MayPull(usize),
    Trim(usize),
    Frag(Vec<u8>),
    Clone,
    Share(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        any::<u8>().prop_map(Op::Push),
        (0usize..80).prop_map(Op::Pull),
        (0usize..300).prop_map(Op::PullAny),
        (0usize..400).prop_map(Op::MayPull),
        (0usize..2000).prop_map(Op::Trim),
        prop::collection::vec(any::<u8>(), 0..600).prop_map(Op::Frag),
        Just(Op::Clone),
        (0usize..800, 0usize..800).prop_map(|(a, b)| Op::Share(a, b)),
    ]
}

fn apply(skb: &mut Box<Skb>, model: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Push(n) => {
            skb.push(*n as usize).fill(*n);
            model.splice(0..0, vec![*n; *n as usize]);
        }
        Op::Pull(n) => {
            let could = *n <= skb.headlen();
            assert_eq!(skb.pull(*n), could);
            model.drain(..if could { *n } else { 0 });
        }
        Op::PullAny(n) => {
            skb.pull_any(*n);
            model.drain(..(*n).min(model.len()));
        }
        Op::MayPull(n) => {
            assert_eq!(skb.may_pull(*n), *n <= model.len());
            assert!(*n > model.len() || skb.data()[..*n] == model[..*n]);
        }
        Op::Trim(n) => {
            skb.trim(*n);
            model.truncate(*n);
        }
        Op::Frag(b) => {
            if skb.add_frag(Frag::copy_of(b)) {
                model.extend(b);
            }
        }
        Op::Clone => {
            let copy = skb.clone_skb();
            let before = std::mem::replace(skb, copy);
            assert_eq!(bytes(&before), *model);
        }
        Op::Share(from, len) => {
            let mut out = Skb::alloc(0);
            let whole = skb.share_range(*from, *len, &mut out);
            let want = model.get(*from..).unwrap_or_default();
            let want = &want[..want.len().min(*len)];
            if whole {
                assert_eq!(bytes(&out), want);
            } else {
                assert!(want.len() < *len || out.frags().len() == MAX_SKB_FRAGS);
            }
        }
    }
}

proptest! {
    #[test]
    fn holds_what_a_vector_would(first in prop::collection::vec(any::<u8>(), 0..200), ops in prop::collection::vec(op(), 1..40)) {
        let mut skb = Skb::from_bytes(32, &first);
        let mut model = first;
        for o in &ops {
            apply(&mut skb, &mut model, o);
            prop_assert_eq!(bytes(&skb), &model[..], "after {:?}", o);
            prop_assert_eq!(skb.len(), model.len());
            prop_assert!(skb.frags().len() <= MAX_SKB_FRAGS && skb.frags().iter().all(|f| !f.is_empty()));
            let mut part = [0; 50];
            let n = skb.copy_bits(7, &mut part);
            prop_assert_eq!(&part[..n], &model.get(7..).unwrap_or_default()[..n]);
        }
    }
}

#[test]
fn marks_follow_a_growing_head() {
    let mut skb = Skb::from_bytes(4, &[9; 40]);
    skb.reset_network_header();
    skb.set_transport_header(20);
    skb.set_csum_partial(6);
    skb.push(500).fill(1);
    assert_eq!((skb.network_offset(), skb.transport_offset(), skb.checksum_start_offset()), (500, 520, 520));
    assert_eq!(skb.network_header(), [9; 40]);
    let copy = skb.clone_skb();
    assert_eq!((copy.network_offset(), copy.transport_offset(), copy.checksum_start_offset()), (500, 520, 520));
}

#[test]
fn a_clone_shows_headers_that_were_pulled() {
    let mut skb = Skb::from_bytes(16, &[1, 2, 3, 4, 5, 6]);
    skb.reset_mac_header();
    assert!(skb.pull(2));
    skb.reset_network_header();
    assert!(skb.pull(2));
    let copy = skb.clone_skb();
    assert_eq!(
        (copy.mac_header(), copy.network_header(), copy.data()),
        (&[1, 2, 3, 4, 5, 6][..], &[3, 4, 5, 6][..], &[5, 6][..])
    );
}

#[test]
fn a_socket_is_given_back_what_it_was_charged() {
    static FREED: AtomicUsize = AtomicUsize::new(0);
    let mut skb = Skb::from_bytes(0, &[1; 100]);
    skb.destructor = Some(|s| {
        FREED.fetch_add(s.truesize as usize, SeqCst);
    });
    let charged = skb.truesize as usize;
    skb.push(4000);
    drop(skb.clone_skb());
    assert_eq!(FREED.load(SeqCst), 0, "a clone belongs to nobody");
    drop(skb);
    assert_eq!(FREED.load(SeqCst), charged);
}

#[test]
fn a_queue_counts_its_bytes() {
    let mut q = SkbQueue::default();
    q.push_back(Skb::from_bytes(0, &[2; 20]));
    q.push_front(Skb::from_bytes(0, &[1; 10]));
    assert_eq!((q.len(), q.bytes(), q.front().map(Skb::len)), (2, 30, Some(10)));
    let mut to = SkbQueue::default();
    q.splice_to(&mut to);
    assert_eq!((q.len(), q.bytes(), to.len(), to.bytes()), (0, 0, 2, 30));
    assert_eq!(to.pop_front().map(|s| s.len()), Some(10));
    assert_eq!(to.bytes(), 20);
}
