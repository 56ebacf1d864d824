//! Congestion control and pacing over a path with a bottleneck.
//!
//! Interface: tests.
//! Linux counterpart: `net/ipv4/tcp_bbr.c`, `tcp_dctcp.c`, `tcp_cubic.c`, `tcp_pacing_check`.
//! Locks and context: a manual clock; losses come from seeds.

use super::*;
use crate::core::sock_options::SO_MAX_PACING_RATE;
use crate::core::sysctl_text::sysctl_set;
use crate::ipv4::tcp_sock::tcp_sk;

const MBIT: u64 = 1_000_000 / 8;
const CA: &str = "net.ipv4.tcp_congestion_control";

/// Both ends use `ca`; 100 ms of round trip, `rate` bytes a second from A to B.
fn world(ca: &str, to_b: NetemParams) -> World {
    let w = World::with(NetemParams { delay_ns: 50_000_000, limit: 1_000_000, ..NetemParams::default() });
    [&w.a, &w.b].iter().for_each(|n| sysctl_set(n, CA, ca).unwrap());
    w.netem[0].set(NetemParams { delay_ns: 50_000_000, limit: 1_000_000, ..to_b });
    w
}

/// Sends for `ms` milliseconds; the bytes that arrived.
fn stream(w: &World, c: &Socket, s: &Socket, ms: u64) -> u64 {
    let chunk = vec![0x5a; 400_000];
    let mut got = 0;
    for _ in 0..ms {
        // Who tries without asking fills up what pacing has left of the last packet, past the send buffer, as on Linux.
        while c.poll().contains(PollMask::OUT) && send(c, &chunk).is_ok() {}
        w.run(1);
        while let Ok(b) = recv(s, 4_000_000, 0) {
            got += b.len() as u64;
        }
    }
    got
}

fn cc_info(s: &Socket) -> Vec<u32> {
    let b = s.getsockopt(6, TCP_CC_INFO, 64).unwrap();
    b.chunks(4).map(|w| u32::from_ne_bytes(w.try_into().unwrap())).collect()
}

fn backlog(w: &World) -> u64 {
    w.netem[0].stats.backlog_max.swap(0, SeqCst)
}

#[test]
fn bbr_fills_a_path_that_loses_one_in_a_hundred() {
    let p = NetemParams { rate: 100 * MBIT, loss: 0.01, buffer: 10_000_000, ..NetemParams::default() };
    let w = world("bbr", p);
    let (c, s) = w.connect();
    stream(&w, &c, &s, 3_000);
    backlog(&w);
    let got = stream(&w, &c, &s, 5_000);
    // 100 Mbit/s less headers, less the hundredth that is lost; BBR probes and drains around the rate.
    let share = got as f64 / (5.0 * 100.0 * MBIT as f64);
    assert!(share > 0.85, "{share:.3} of the path: {}", w.mibs());
    let bdp = 100 * MBIT / 10;
    let most = backlog(&w);
    assert!(most < bdp * 12 / 10, "{most} bytes waited, the path holds {bdp}");
    let i = cc_info(&c);
    assert_eq!(i.len(), 5);
    assert!((100_000..115_000).contains(&i[2]), "least round-trip time {} us", i[2]);
    let bw = (i[1] as u64) << 32 | i[0] as u64;
    assert!((85 * MBIT..105 * MBIT).contains(&bw), "bandwidth {bw}");
    assert!(info(&c).tcpi_pacing_rate < 135 * MBIT);
}

/// The same losses keep Reno far below the path: what BBR is for.
#[test]
fn reno_does_not_fill_it() {
    let p = NetemParams { rate: 100 * MBIT, loss: 0.01, buffer: 10_000_000, ..NetemParams::default() };
    let w = world("reno", p);
    let (c, s) = w.connect();
    stream(&w, &c, &s, 3_000);
    let got = stream(&w, &c, &s, 5_000);
    assert!(got < 5 * 20 * MBIT, "{got}");
}

/// Ten seconds without a lower round-trip time: the window is four segments for 200 ms.
#[test]
fn bbr_looks_for_the_least_round_trip_time_every_ten_seconds() {
    let w = world("bbr", NetemParams { rate: 20 * MBIT, buffer: 10_000_000, ..NetemParams::default() });
    let (c, s) = w.connect();
    stream(&w, &c, &s, 9_000);
    let (mut low, mut gone) = (0, false);
    for _ in 0..3_000 {
        stream(&w, &c, &s, 1);
        let i = info(&c);
        if i.tcpi_snd_cwnd == 4 {
            low += 1;
        } else if low > 0 {
            gone = true;
            break;
        }
    }
    assert!((200..600).contains(&low) && gone, "a window of 4 for {low} ms");
    assert!(info(&c).tcpi_snd_cwnd > 50);
}

#[test]
fn dctcp_keeps_the_queue_at_its_mark() {
    let mark = 60_000;
    let p = NetemParams { rate: 100 * MBIT, buffer: 2_000_000, ce_threshold: mark, ..NetemParams::default() };
    let w = world("dctcp", p);
    [0, 1].iter().for_each(|&i| {
        let p = w.netem[i].params();
        w.netem[i].set(NetemParams { delay_ns: 1_000_000, ..p });
    });
    [&w.a, &w.b].iter().for_each(|n| sysctl_set(n, "net.ipv4.tcp_ecn", "1").unwrap());
    let (c, s) = w.connect();
    stream(&w, &c, &s, 1_000);
    backlog(&w);
    let got = stream(&w, &c, &s, 2_000);
    let share = got as f64 / (2.0 * 100.0 * MBIT as f64);
    let most = backlog(&w);
    assert!(share > 0.85, "{share:.3} of the path, {most} waited: {} {:?}", w.mibs(), cc_info(&c));
    assert!(w.netem[0].stats.marked.load(SeqCst) > 50);
    assert!(most < 3 * mark, "{most} bytes waited");
    assert_eq!(w.a.mib.get(Mib::TcpRetransSegs), 0);
    let i = cc_info(&c);
    assert_eq!((i.len(), i[0] & 0xffff), (4, 1));
    assert!((1..1024).contains(&i[1]), "alpha {}", i[1]);
}

/// `SO_MAX_PACING_RATE` holds back whatever congestion control would allow.
#[test]
fn a_process_sets_the_pace() {
    let w = world("cubic", NetemParams { rate: 50 * MBIT, ..NetemParams::default() });
    let (c, s) = w.connect();
    assert!(tcp_sk(&mut *c.sk.lock_sock()).rare.pacing.is_none(), "who does not pace has no timer");
    stream(&w, &c, &s, 2_000);
    c.setsockopt(SOL_SOCKET, SO_MAX_PACING_RATE, &500_000u64.to_ne_bytes()).unwrap();
    stream(&w, &c, &s, 2_000);
    let got = stream(&w, &c, &s, 4_000);
    assert!((1_850_000..2_100_000).contains(&got), "{got} bytes in 4 s at 500,000 a second");
    assert_eq!(info(&c).tcpi_pacing_rate, 500_000);
    assert!(tcp_sk(&mut *c.sk.lock_sock()).rare.pacing.is_some());
}

/// RFC 6928: ten segments, whatever is to be sent; RFC 5681, 4.1: ten again after a timeout's worth of idleness.
#[test]
fn a_window_begins_with_ten_segments_and_after_idleness_again() {
    let w = world("reno", NetemParams { rate: 50 * MBIT, ..NetemParams::default() });
    let (c, s) = w.connect();
    let before = info(&c).tcpi_data_segs_out;
    while send(&c, &[0; 100_000]).is_ok() {}
    assert_eq!(info(&c).tcpi_data_segs_out - before, 10);
    stream(&w, &c, &s, 1_000);
    while recv(&s, 4_000_000, 0).is_ok() {}
    w.run(2_000);
    while recv(&s, 4_000_000, 0).is_ok() {}
    assert!(info(&c).tcpi_snd_cwnd > 100 && info(&c).tcpi_unacked == 0, "{:?}", info(&c));
    w.run(30_000);
    let before = info(&c).tcpi_data_segs_out;
    while send(&c, &[0; 100_000]).is_ok() {}
    assert_eq!(info(&c).tcpi_data_segs_out - before, 10);
    sysctl_set(&w.a, "net.ipv4.tcp_slow_start_after_idle", "0").unwrap();
    w.run(30_000);
    while recv(&s, 4_000_000, 0).is_ok() {}
    w.run(30_000);
    let before = info(&c).tcpi_data_segs_out;
    while send(&c, &[0; 100_000]).is_ok() {}
    assert!(info(&c).tcpi_data_segs_out - before > 10);
}

/// A first slow start into a path of 20 Mbit/s and 100 ms whose buffer has room for twice as much; what was lost, and the window.
fn first_slow_start(detect: i64) -> (u64, u32) {
    let w = world("cubic", NetemParams { rate: 20 * MBIT, buffer: 500_000, ..NetemParams::default() });
    w.a.sysctl.set(HYSTART, detect).unwrap();
    let (c, s) = w.connect();
    stream(&w, &c, &s, 2_000);
    (w.a.mib.get(Mib::TcpRetransSegs), info(&c).tcpi_snd_cwnd)
}

const HYSTART: &str = "net.ipv4.tcp_cubic_hystart_detect";

/// RFC 9406, 4: slow start ends before the queue is full, in the window that the path and part of its buffer hold.
#[test]
fn hystart_and_hystart_plus_plus_keep_slow_start_from_overflowing_the_path() {
    let (overshoot, _) = first_slow_start(0);
    assert!(overshoot > 100, "{overshoot}");
    let full = (20 * MBIT / 10 / 1448) as u32;
    for detect in [1, 2, 3, 4] {
        let (lost, cwnd) = first_slow_start(detect);
        assert!(lost < overshoot / 3, "{detect}: {lost} lost, {overshoot} without");
        assert!((full * 3 / 4..full * 3).contains(&cwnd), "{detect}: {cwnd} of {full}");
    }
}

/// Delay that comes and goes has HyStart++ try the slower start and take it back (RFC 9406, 4.2), where HyStart stops for good.
#[test]
fn jitter_does_not_end_a_slow_start_with_hystart_plus_plus() {
    let run = |detect: i64| {
        let w = world("cubic", NetemParams { rate: 100 * MBIT, ..NetemParams::default() });
        w.a.sysctl.set(HYSTART, detect).unwrap();
        let (c, s) = w.connect();
        // A round in four is 12 ms longer.
        for round in 0..12 {
            let slow = if round % 4 == 3 { 24_000_000 } else { 0 };
            let p = w.netem[0].params();
            w.netem[0].set(NetemParams { delay_ns: 50_000_000 + slow, ..p });
            stream(&w, &c, &s, 100);
        }
        (info(&c), w.a.mib.get(Mib::TcpExtTCPHystartDelayDetect), w.mibs())
    };
    let (i, found, _) = run(2);
    assert_eq!(found, 1);
    assert!(i.tcpi_snd_cwnd < 400, "{}", i.tcpi_snd_cwnd);
    let (i, found, mibs) = run(4);
    assert_eq!((found, i.tcpi_snd_ssthresh), (0, 0x7fff_ffff), "{mibs}");
    assert!(i.tcpi_snd_cwnd > 700, "{}", i.tcpi_snd_cwnd);
}
