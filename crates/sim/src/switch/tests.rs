//! Tests of the switch: learning, flooding, groups, queues.

use super::*;
use crate::link::LinkParams;
use net::core::skbuff::Skb;
use std::sync::atomic::{AtomicU64, Ordering::*};

struct Bench {
    switch: Arc<Switch>,
    /// For each port: towards the switch, and away from it.
    ports: Vec<(Arc<Lane>, Arc<Lane>)>,
    alarm: Arc<AtomicU64>,
}

impl Bench {
    fn new(ports: usize, params: LinkParams) -> Bench {
        let alarm = Arc::new(AtomicU64::new(u64::MAX));
        let a = alarm.clone();
        let switch = Switch::new(move |at| {
            a.fetch_min(at, SeqCst);
        });
        let lanes = || Lane::new(params, || panic!("nothing to draw"));
        let ports: Vec<_> = (0..ports).map(|_| (lanes(), lanes())).collect();
        for (to, from) in &ports {
            switch.add_port(to, from);
        }
        Bench { switch, ports, alarm }
    }

    fn send(&self, now: u64, port: usize, from: u8, to: u8) {
        self.ports[port].0.send(now, Skb::from_bytes(0, &frame(from, to)));
    }

    /// Lets the switch work as often as it asks to.
    fn run(&self, until: u64) {
        loop {
            let at = self.alarm.swap(u64::MAX, SeqCst);
            if at > until {
                self.alarm.store(at, SeqCst);
                return;
            }
            self.switch.serve(at);
        }
    }

    /// The senders of what has arrived at each port by `now`.
    fn received(&self, now: u64) -> Vec<Vec<u8>> {
        let take = |l: &Arc<Lane>| std::iter::from_fn(|| l.take(now)).map(|f| f.skb.data()[11]).collect();
        self.ports.iter().map(|(_, from)| take(from)).collect()
    }
}

/// A frame from station `from` to station `to`; 255 is everybody.
fn frame(from: u8, to: u8) -> Vec<u8> {
    let dest = if to == 255 { [255; 6] } else { [2, 0, 0, 0, 0, to] };
    [&dest[..], &[2, 0, 0, 0, 0, from], &[0x88, 0xb5], &[0; 50]].concat()
}

#[test]
fn learns_where_stations_are() {
    let b = Bench::new(3, LinkParams { delay: 10, ..LinkParams::default() });
    b.send(0, 0, 1, 2);
    b.run(100);
    assert_eq!(b.received(19), [vec![], vec![], vec![]] as [Vec<u8>; 3], "there and on: twice the delay");
    assert_eq!(b.received(20), [vec![], vec![1], vec![1]], "nobody knows 2");
    b.send(100, 1, 2, 1);
    b.send(101, 0, 1, 2);
    b.run(200);
    assert_eq!(b.received(200), [vec![2], vec![1], vec![]]);
    // It moves.
    b.send(200, 2, 2, 1);
    b.send(201, 0, 1, 2);
    b.run(300);
    assert_eq!(b.received(300), [vec![2], vec![], vec![1]]);
    b.send(300, 0, 1, 255);
    // To a station on the port it comes from, and from nobody a sender can be.
    b.send(301, 0, 7, 1);
    b.ports[0].0.send(302, Skb::from_bytes(0, &[0; 10]));
    b.run(400);
    assert_eq!(b.received(400), [vec![], vec![1], vec![1]]);
    assert_eq!(b.switch.stats(), SwitchStats { received: 8, forwarded: 4, flooded: 2, dropped: 2, fcs_errors: 0 });
}

#[test]
fn groups_do_not_hear_each_other() {
    let b = Bench::new(4, LinkParams::default());
    (0..4).for_each(|n| b.send(0, n, n as u8, 255));
    b.run(0);
    assert_eq!(b.received(0).iter().map(Vec::len).collect::<Vec<_>>(), [3; 4]);
    (2..4).for_each(|n| b.switch.set_group(n, 1));
    b.send(1, 0, 0, 255);
    b.send(1, 1, 1, 3);
    b.send(1, 3, 3, 2);
    b.run(1);
    assert_eq!(b.received(1), [vec![], vec![0], vec![3], vec![]]);
    (2..4).for_each(|n| b.switch.set_group(n, 0));
    b.send(2, 1, 1, 3);
    b.run(2);
    assert_eq!(b.received(2), [vec![], vec![], vec![], vec![1]]);
}

#[test]
fn ports_queue_for_themselves_and_drop_what_has_no_room() {
    // A frame of 64 bytes takes 64 microseconds.
    let p = LinkParams { bandwidth: 8_000_000, limit_packets: 4, ..LinkParams::default() };
    let b = Bench::new(4, p);
    b.send(0, 3, 3, 255);
    b.run(1_000_000);
    b.received(1_000_000);
    for n in 0..4 {
        (0..3).for_each(|port| b.send(2_000_000 + n, port, port as u8, 3));
    }
    b.run(10_000_000);
    assert_eq!(b.received(10_000_000)[3], [0, 1, 2, 0, 1, 0, 0]);
    let stats = b.ports[3].1.stats();
    assert_eq!((stats.sent, stats.overflow), (12, 5));
}

#[test]
fn drops_what_was_damaged_on_the_way_in() {
    let corrupt = LinkParams { corrupt: crate::link::Chance::ALWAYS, ..LinkParams::default() };
    let b = Bench::new(2, LinkParams::default());
    let bad = Lane::new(corrupt, || 1 << 40);
    let port = b.switch.add_port(&bad, &Lane::new(LinkParams::default(), || panic!("nothing to draw")));
    assert_eq!(port, 2);
    bad.send(0, Skb::from_bytes(0, &frame(1, 255)));
    b.run(10);
    assert_eq!(b.switch.stats().fcs_errors, 1);
    assert!(b.received(10).iter().all(Vec::is_empty));
}
