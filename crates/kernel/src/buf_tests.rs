//! Tests of packet memory: what is frozen never changes, and a page lives as long as anything in it is in use.
//!
//! Interface: tests. Built with `--cfg verify`, they have the bug that the environment names ([`crate::plant`]).
//! Linux counterpart: none.
//! Locks and context: threads. Small, so that Miri can run them.

use crate::buf::{Frag, PageMut, SIZES};
use std::sync::mpsc;
use std::thread;

fn begin() {
    #[cfg(verify)]
    crate::plant::plant_from_env();
}

fn filled(size: usize, with: u8) -> PageMut {
    let mut p = PageMut::alloc(size);
    p.as_mut_slice().fill(with);
    p
}

#[test]
fn what_is_frozen_stays_while_the_rest_is_written() {
    begin();
    let mut page = filled(SIZES[0], 1);
    let front = page.freeze(100);
    page.as_mut_slice().fill(2);
    let next = page.freeze(50);
    page.as_mut_slice().fill(3);
    assert!(front.iter().all(|&b| b == 1) && next.iter().all(|&b| b == 2));
    assert_eq!(page.len(), SIZES[0] - 150);
    assert!(!page.reset(), "two of its ranges are in use");
    drop((front, next));
    assert!(page.reset());
    assert_eq!(page.len(), SIZES[0]);
}

#[test]
fn a_page_lives_as_long_as_its_last_range() {
    begin();
    for size in [10, SIZES[0], SIZES[1], SIZES[3] + 1] {
        let mut page = filled(size, 7);
        let all = page.freeze(usize::MAX);
        assert!(page.is_empty());
        drop(page);
        let mut part = all.slice(2, 5);
        drop(all);
        part.advance(1);
        part.truncate(3);
        assert_eq!(*part, [7, 7, 7], "size {size}");
    }
}

#[test]
fn neighbours_merge_and_strangers_do_not() {
    begin();
    let mut page = filled(SIZES[0], 1);
    let (mut a, b, c) = (page.freeze(10), page.freeze(10), page.freeze(10));
    assert!(!a.clone().try_merge(&c), "there is a gap between them");
    assert!(a.try_merge(&b) && a.try_merge(&c));
    assert_eq!(a.len(), 30);
    assert!(!a.try_merge(&Frag::copy_of(&[1; 10])), "another page");
    // Bounds that are too large are cut, not followed.
    assert_eq!(a.slice(25, 100).len(), 5);
    assert_eq!(a.slice(100, 1).len(), 0);
}

#[test]
fn ranges_cross_threads() {
    begin();
    let (send, receive) = mpsc::channel::<Frag>();
    let reader =
        thread::spawn(move || receive.iter().map(|f| f.iter().map(|&b| b as usize).sum::<usize>()).sum::<usize>());
    let mut expected = 0;
    for n in 0..20u8 {
        let mut page = PageMut::alloc(SIZES[0]);
        page.as_mut_slice()[..8].fill(n);
        expected += 8 * n as usize;
        let frag = page.freeze(8);
        send.send(frag.slice(0, 4)).unwrap();
        send.send(frag.slice(4, 4)).unwrap();
        page.as_mut_slice().fill(255);
    }
    drop(send);
    assert_eq!(reader.join().unwrap(), expected);
}
