//! Tests of the wire: exact times, and fates that follow the draws.

use super::*;

const MS: u64 = 1_000_000;

/// SplitMix64.
fn draws(seed: u64) -> impl FnMut() -> u64 {
    let mut x = seed;
    move || {
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = x;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// For wires that have nothing to draw.
fn none() -> impl FnMut() -> u64 {
    || panic!("a draw for nothing")
}

fn arrivals(w: &mut Wire, now: u64, len: usize, draw: Draw<'_>) -> Vec<u64> {
    w.send(now, len, draw).arrivals.iter().map(|a| a.at).collect()
}

#[test]
fn a_perfect_wire_takes_no_time_and_draws_nothing() {
    let mut w = Wire::new(LinkParams::default());
    assert_eq!(arrivals(&mut w, 7, 1500, &mut none()), [7]);
    assert_eq!(w.backlog(7), (0, 0));
}

#[test]
fn serialisation_is_exact_over_any_number_of_packets() {
    // 1,000 bits at 3 Mbit/s take 333,333 ns and a third.
    let mut w = Wire::new(LinkParams { bandwidth: 3_000_000, delay: 5 * MS, ..LinkParams::default() });
    let got: Vec<u64> = (0..6).map(|_| w.send(0, 125, &mut none()).arrivals[0].at - 5 * MS).collect();
    assert_eq!(got, [333_333, 666_666, 1_000_000, 1_333_333, 1_666_666, 2_000_000]);
    let last = (6..3_000_000).map(|_| w.send(0, 125, &mut none()).done).last();
    assert_eq!(last, Some(1_000_000 * MS));
    // Idle in between: nothing is carried over.
    assert_eq!(w.send(2_000_000 * MS, 125, &mut none()).done, 2_000_000 * MS + 333_333);
}

#[test]
fn the_queue_is_bounded_in_packets_and_bytes() {
    let p = LinkParams { bandwidth: 8_000_000, limit_packets: 3, limit_bytes: 2500, ..LinkParams::default() };
    let mut w = Wire::new(p);
    let sent = |w: &mut Wire, now, len| !w.send(now, len, &mut none()).arrivals.is_empty();
    assert!(sent(&mut w, 0, 1000) && sent(&mut w, 0, 1000));
    assert!(!sent(&mut w, 0, 1000), "2,500 bytes");
    assert!(sent(&mut w, 0, 500));
    assert!(!sent(&mut w, 0, 1), "three packets");
    assert_eq!((w.stats.overflow, w.backlog(0)), (2, (3, 2500)));
    // A byte takes a microsecond.
    assert_eq!([w.drained_at(2), w.drained_at(0), w.drained_at(3)], [MS, 2 * MS + MS / 2, 0]);
    assert_eq!(w.backlog(999_999), (3, 2500));
    assert_eq!(w.backlog(MS), (2, 1500));
    assert!(sent(&mut w, MS, 1000));
    assert_eq!(w.backlog(10 * MS), (0, 0));
    let mut short = Wire::new(LinkParams { max_frame: 1514, ..LinkParams::default() });
    assert!(sent(&mut short, 0, 1514) && !sent(&mut short, 0, 1515));
    assert_eq!(short.stats.oversize, 1);
}

#[test]
fn cuts_come_and_go_by_schedule_and_by_hand() {
    let mut w = Wire::default();
    w.cut(10, 20);
    w.cut(15, 30);
    w.cut(40, 40);
    w.cut(50, 60);
    let through: Vec<u64> = (0..70).filter(|&t| !arrivals(&mut w, t, 1, &mut none()).is_empty()).collect();
    let want: Vec<u64> = (0..10).chain(30..50).chain(60..70).collect();
    assert_eq!(through, want);
    w.plug(false);
    assert!(arrivals(&mut w, 70, 1, &mut none()).is_empty());
    w.plug(true);
    assert_eq!(arrivals(&mut w, 71, 1, &mut none()), [71]);
    assert_eq!(w.stats.cut, 31);
}

#[test]
fn losses_come_as_often_as_they_are_asked_for() {
    let mut w = Wire::new(LinkParams { loss: Chance::ppm(10_000), ..LinkParams::default() });
    let mut draw = draws(1);
    (0..100_000).for_each(|t| drop(w.send(t, 100, &mut draw)));
    assert!((850..1150).contains(&w.stats.lost), "{}", w.stats.lost);
    assert_eq!(w.stats.delivered, 100_000 - w.stats.lost);
}

#[test]
fn bursts_have_the_length_of_the_bad_state() {
    let burst = GilbertElliott {
        to_bad: Chance::ppm(10_000),
        to_good: Chance::ppm(250_000),
        loss_in_good: Chance::NEVER,
        loss_in_bad: Chance::ALWAYS,
    };
    let mut w = Wire::new(LinkParams { burst, ..LinkParams::default() });
    let mut draw = draws(2);
    let lost: Vec<bool> = (0..200_000).map(|t| w.send(t, 100, &mut draw).arrivals.is_empty()).collect();
    let bursts = lost.windows(2).filter(|w| !w[0] && w[1]).count() as u64;
    // Four packets on average, in one of 26 states.
    let mean_by_100 = 100 * w.stats.lost / bursts;
    assert!((370..430).contains(&mean_by_100), "{mean_by_100}");
    assert!((7000..8400).contains(&w.stats.lost), "{}", w.stats.lost);
}

#[test]
fn jitter_strays_to_both_sides_and_keeps_order_if_told_to() {
    let p = LinkParams { delay: 10 * MS, jitter: 3 * MS, keep_order: false, ..LinkParams::default() };
    let run = |p: LinkParams| {
        let (mut w, mut draw) = (Wire::new(p), draws(3));
        (0..10_000).map(|t| arrivals(&mut w, t * 1000, 100, &mut draw)[0]).collect::<Vec<u64>>()
    };
    let free = run(p);
    assert!(!free.is_sorted());
    let stray: Vec<u64> = free.iter().zip(0u64..).map(|(at, t)| at - t * 1000).collect();
    assert!(stray.iter().all(|d| (7 * MS..=13 * MS).contains(d)));
    let mean = stray.iter().sum::<u64>() / stray.len() as u64;
    assert!((9_900_000..10_100_000).contains(&mean), "{mean}");
    assert!(run(LinkParams { keep_order: true, ..p }).is_sorted());
    // More jitter than delay: nothing arrives before it was sent.
    let wild = run(LinkParams { delay: 0, ..p });
    assert!(wild.iter().zip(0u64..).all(|(at, t)| *at >= t * 1000));
}

#[test]
fn held_back_packets_are_overtaken() {
    let p = LinkParams { delay: MS, reorder: Chance::ppm(100_000), reorder_by: 5000, ..LinkParams::default() };
    let (mut w, mut draw) = (Wire::new(p), draws(4));
    let at: Vec<u64> = (0..1000).map(|t| arrivals(&mut w, t * 1000, 100, &mut draw)[0]).collect();
    let late = at.iter().zip(0u64..).filter(|(at, t)| **at == t * 1000 + MS + 5000).count() as u64;
    assert!(late == w.stats.held_back && (60..150).contains(&late), "{late}");
    assert!(!at.is_sorted());
}

#[test]
fn duplicates_have_fates_of_their_own() {
    let p = LinkParams {
        delay: MS,
        jitter: 1000,
        keep_order: false,
        duplicate: Chance::ALWAYS,
        corrupt: Chance::ppm(500_000),
        ..LinkParams::default()
    };
    let (mut w, mut draw) = (Wire::new(p), draws(5));
    let fates: Vec<Fate> = (0..100).map(|t| w.send(t, 100, &mut draw)).collect();
    assert!(fates.iter().all(|f| f.arrivals.len() == 2));
    assert!(fates.iter().any(|f| f.arrivals[0].at != f.arrivals[1].at));
    assert!(fates.iter().any(|f| f.arrivals[0].flipped.is_some() != f.arrivals[1].flipped.is_some()));
    assert!(fates.iter().flat_map(|f| &f.arrivals).filter_map(|a| a.flipped).all(|bit| bit < 800));
    assert_eq!((w.stats.duplicated, w.stats.delivered), (100, 200));
}

#[test]
fn the_same_draws_give_the_same_fates_everywhere() {
    let p = LinkParams {
        bandwidth: 10_000_000,
        delay: 20 * MS,
        jitter: 2 * MS,
        keep_order: false,
        loss: Chance::ppm(20_000),
        burst: GilbertElliott {
            to_bad: Chance::ppm(5_000),
            to_good: Chance::ppm(300_000),
            loss_in_good: Chance::NEVER,
            loss_in_bad: Chance::ppm(800_000),
        },
        reorder: Chance::ppm(10_000),
        reorder_by: MS,
        duplicate: Chance::ppm(10_000),
        corrupt: Chance::ppm(10_000),
        limit_packets: 50,
        ..LinkParams::default()
    };
    let (mut w, mut draw) = (Wire::new(p), draws(6));
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut mix = |x: u64| hash = (hash ^ x).wrapping_mul(0x0000_0100_0000_01b3);
    for t in 0..20_000 {
        let f = w.send(t * 500_000, 60 + (t as usize * 7) % 1400, &mut draw);
        mix(f.done);
        f.arrivals.iter().for_each(|a| {
            mix(a.at);
            mix(a.flipped.map_or(0, |b| b as u64 + 1));
        });
    }
    // Not to change unless the model does: recorded failures are replayed by it.
    assert_eq!(hash, 10_111_262_324_947_089_376, "{:?}", w.stats);
}
