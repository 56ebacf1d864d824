//! Loss recovery: what an ACK costs, counts that stay right, and each rule on its own.
//!
//! Interface: tests.
//! Linux counterpart: `net/ipv4/tcp_recovery.c`, `tcp_input.c`, `tcp_timer.c`.
//! Locks and context: a manual clock. ACKs are written by hand, for a peer that gets nothing.

use super::*;
use crate::hdr::tcp_flag::ACK;
use crate::ipv4::tcp_retransmit::tcp_verify_left_out;
use crate::ipv4::tcp_sock::*;
use crate::ipv4::test_support::timestamp;

/// Bytes of each segment in these tests.
const LEN: u32 = 100;

fn with<R>(c: &Socket, f: impl FnOnce(&mut TcpSock) -> R) -> R {
    let mut guard = c.sk.lock_sock();
    f(tcp_sk(&mut *guard))
}

/// `n` segments of [`LEN`] bytes, each a piece of its own, that the peer never gets; the first byte's number.
fn fill(w: &World, c: &Socket, n: usize) -> u32 {
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    set_int(c, IPPROTO_TCP, TCP_NODELAY, 1);
    c.sk.sndbuf.store(1 << 30, SeqCst);
    let una = with(c, |tp| {
        (tp.snd_wnd, tp.max_window) = (1 << 26, 1 << 26);
        tp.snd_cwnd = tp.packets_out + 2 * n as u32;
        tp.snd_nxt
    });
    for _ in 0..n {
        assert_eq!(send(c, &[7; LEN as usize]), Ok(LEN as usize));
    }
    with(c, |tp| assert_eq!((tp.packets_out, tp.tx.rtx_len()), (n as u32, n)));
    una
}

/// The peer acknowledges `ack` and reports `blocks`, echoing `ecr`.
fn ack(c: &Socket, ack: u32, blocks: &[(u32, u32)], ecr: u32) {
    inject(c, |tp| {
        let mut o = if tp.rx_opt.tstamp_ok { timestamp(tp.rx_opt.ts_recent, ecr) } else { vec![] };
        if !blocks.is_empty() {
            o.extend([1, 1, 5, 2 + 8 * blocks.len() as u8]);
            blocks.iter().for_each(|b| [b.0, b.1].iter().for_each(|n| o.extend(n.to_be_bytes())));
        }
        (tp.rcv_nxt, ack, ACK, o, 0)
    });
}

/// Numbers from a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as u32 % n.max(1)
    }
}

// --- What an ACK costs ---

/// The most pieces that one of `acks` ACKs looks at with `n` in flight: each SACKs one segment more, every `stride`th.
fn most_steps(n: usize, stride: u32, acks: u32) -> u64 {
    let w = World::new();
    let (c, _s) = w.connect();
    let una = fill(&w, &c, n);
    let steps = || with(&c, |tp| tp.tx.steps.swap(0, SeqCst));
    let (mut most, mut blocks) = (0, Vec::new());
    for k in 1..=acks {
        let at = una + k * stride * LEN;
        if stride == 1 {
            blocks = vec![(una + LEN, at + LEN)];
        } else {
            blocks.insert(0, (at, at + LEN));
            blocks.truncate(3);
        }
        w.run(1);
        steps();
        ack(&c, una, &blocks, 0);
        most = most.max(steps());
    }
    assert!(with(&c, |tp| tp.ca_state) == TcpCaState::Recovery);
    most
}

#[test]
fn an_ack_costs_the_same_whatever_is_in_flight() {
    for stride in [1, 2] {
        let (few, many) = (most_steps(10, stride, 4), most_steps(10_000, stride, 400));
        eprintln!("stride {stride}: {few} of 10, {many} of 10000");
        // Only bisections grow: by ten steps each, and there are but a few.
        assert!(many <= few + 150, "stride {stride}: {few} of 10, {many} of 10000");
    }
}

#[test]
fn a_cumulative_ack_costs_as_much_as_it_frees() {
    let w = World::new();
    let (c, _s) = w.connect();
    let una = fill(&w, &c, 8000);
    // In the middle of a recovery with many holes.
    for k in 1..4 {
        ack(&c, una, &[(una + 2 * k * 1000 * LEN, una + (2 * k * 1000 + 500) * LEN)], 0);
        w.run(1);
    }
    with(&c, |tp| tp.tx.steps.swap(0, SeqCst));
    ack(&c, una + 7000 * LEN, &[], 0);
    let steps = with(&c, |tp| tp.tx.steps.load(SeqCst));
    assert!(steps < 7000 * 20, "{steps}");
    // What follows was joined when it was sent again.
    with(&c, |tp| assert_eq!((tp.snd_una, tp.packets_out <= 1000), (una + 7000 * LEN, true)));
}

// --- The counts ---

#[test]
fn no_acks_put_the_scoreboard_out_of_step() {
    for seed in 1..=60u64 {
        let mut d = Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let w = World::new();
        for name in ["sack", "timestamps"] {
            let on = (d.below(4) > 0) as i64;
            w.a.sysctl.set(&format!("net.ipv4.tcp_{name}"), on).unwrap();
        }
        w.a.sysctl.set("net.ipv4.tcp_recovery", [1, 3, 5, 7][d.below(4) as usize]).unwrap();
        let (c, _s) = w.connect();
        fill(&w, &c, 20);
        let mut last = String::new();
        for step in 0..200 {
            if c.sk.state() != TcpState::Established {
                break;
            }
            let (una, nxt) = with(&c, |tp| (tp.snd_una, tp.snd_nxt));
            let flight = nxt.wrapping_sub(una);
            let place = |d: &mut Draw| match d.below(6) {
                0 => una.wrapping_add(d.below(flight + 1)),
                1 => una.wrapping_sub(d.below(1000)),
                _ => una.wrapping_add(d.below(flight / LEN + 1) * LEN),
            };
            last = match d.below(8) {
                0 => {
                    let ms = d.below(400);
                    w.run(ms as u64);
                    format!("{ms} ms")
                }
                1 => {
                    let n = [50, LEN, 5000][d.below(3) as usize];
                    format!("sent {:?}", send(&c, &vec![1; n as usize]))
                }
                kind => {
                    let at = if kind < 4 { place(&mut d) } else { una };
                    let blocks: Vec<(u32, u32)> = (0..d.below(4))
                        .map(|_| {
                            let from = place(&mut d);
                            (from, from.wrapping_add((1 + d.below(4)) * [LEN, 37][(d.below(5) == 0) as usize]))
                        })
                        .collect();
                    let ecr = with(&c, |tp| tp.time_stamp().wrapping_add(tp.tsoffset)).wrapping_sub(d.below(300));
                    ack(&c, at, &blocks, ecr);
                    format!("ack {} {:?}", at.wrapping_sub(una), blocks)
                }
            };
            let checked =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| with(&c, |tp| tcp_verify_left_out(tp))));
            assert!(checked.is_ok(), "seed {seed}, step {step}: {last}");
        }
        assert!(!last.is_empty());
    }
}

// --- One rule each ---

#[test]
fn a_probe_is_no_retransmission() {
    let w = World::new();
    let (c, _s) = w.connect();
    let una = fill(&w, &c, 5);
    w.run(60);
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPLossProbes), 1, "{}", w.mibs());
    with(&c, |tp| assert_eq!((tp.retrans_out, tp.retrans_stamp, tp.rec.tlp_high_seq), (0, 0, tp.snd_nxt)));
    // It arrived, and so had what it repeated (RFC 8985, 7.4.2).
    let cwnd = with(&c, |tp| tp.snd_cwnd);
    let end = una + 5 * LEN;
    ack(&c, end, &[(end - LEN, end)], 0);
    with(&c, |tp| assert_eq!((tp.rec.tlp_high_seq, tp.ca_state), (0, TcpCaState::Open)));
    assert!(with(&c, |tp| tp.snd_cwnd) >= cwnd, "nothing was lost");
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPLossProbeRecovery), 0);
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPDSACKRecvSegs), 1);
}

#[test]
fn a_probe_that_repaired_a_loss_halves_the_window() {
    let w = World::new();
    let (c, _s) = w.connect();
    let una = fill(&w, &c, 5);
    w.run(60);
    let cwnd = with(&c, |tp| tp.snd_cwnd);
    ack(&c, una + 5 * LEN, &[], 0);
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPLossProbeRecovery), 0, "a duplicate would say so only later");
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    send(&c, b"more").unwrap();
    ack(&c, una + 5 * LEN + 4, &[], 0);
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPLossProbeRecovery), 1, "{}", w.mibs());
    assert!(with(&c, |tp| tp.snd_cwnd) < cwnd);
}

#[test]
fn a_lost_retransmission_is_found_by_what_was_sent_after_it() {
    let w = World::new();
    let (c, _s) = w.connect();
    let una = fill(&w, &c, 10);
    w.run(10);
    ack(&c, una, &[(una + LEN, una + 5 * LEN)], 0);
    with(&c, |tp| assert_eq!((tp.ca_state, tp.retrans_out), (TcpCaState::Recovery, 1)));
    w.run(1);
    send(&c, &[1; LEN as usize]).unwrap();
    w.run(12);
    let end = una + 11 * LEN;
    ack(&c, una, &[(end - LEN, end), (una + LEN, una + 5 * LEN)], 0);
    assert!(w.a.mib.get(Mib::TcpExtTCPLostRetransmit) >= 1, "{}", w.mibs());
}

#[test]
fn bits_of_tcp_recovery_count() {
    // Three duplicates prove a loss at once, unless bit 4 says no.
    for (bits, retransmits) in [(1, 1), (5, 0)] {
        let w = World::new();
        w.a.sysctl.set("net.ipv4.tcp_recovery", bits).unwrap();
        let (c, _s) = w.connect();
        let una = fill(&w, &c, 5);
        w.run(10);
        ack(&c, una, &[(una + LEN, una + 4 * LEN)], 0);
        assert_eq!(w.a.mib.get(Mib::TcpRetransSegs), retransmits, "{bits}: {}", w.mibs());
    }
    // Duplicates after reordering widen the window by steps, unless bit 2 says no.
    for (bits, steps) in [(1, 2), (3, 1)] {
        let w = World::new();
        w.a.sysctl.set("net.ipv4.tcp_recovery", bits).unwrap();
        let (c, _s) = w.connect();
        let una = fill(&w, &c, 10);
        w.run(10);
        ack(&c, una, &[(una + LEN, una + 5 * LEN)], 0);
        assert_eq!(w.a.mib.get(Mib::TcpRetransSegs), 1);
        with(&c, |tp| tp.rec.make().reord_seen = 1);
        w.run(1);
        // The original came, and the retransmission as well.
        ack(&c, una + 5 * LEN, &[(una, una + LEN)], 0);
        assert_eq!(w.a.mib.get(Mib::TcpExtTCPDSACKUndo), 1, "{}", w.mibs());
        w.run(1);
        ack(&c, una + 6 * LEN, &[], 0);
        assert_eq!(with(&c, |tp| tp.rec.rack_reo_wnd_steps), steps, "{bits}");
    }
}

#[test]
fn many_duplicates_without_sack_are_reordering() {
    let w = World::new();
    [&w.a, &w.b].iter().for_each(|n| n.sysctl.set("net.ipv4.tcp_sack", 0).unwrap());
    w.a.sysctl.set("net.ipv4.tcp_retrans_collapse", 0).unwrap();
    let (c, _s) = w.connect();
    let una = fill(&w, &c, 4);
    w.run(1);
    (0..8).for_each(|_| ack(&c, una, &[], 0));
    assert!(w.a.mib.get(Mib::TcpExtTCPRenoReorder) > 0, "{}", w.mibs());
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPRenoRecovery), 1);
    with(&c, |tp| assert!(tp.reordering >= 4 && tp.sacked_out < tp.packets_out));
}

#[test]
fn a_peer_that_takes_its_word_back_is_sent_all_again() {
    let w = World::new();
    let (c, _s) = w.connect();
    let una = fill(&w, &c, 10);
    w.run(10);
    ack(&c, una, &[(una + LEN, una + 4 * LEN)], 0);
    // It acknowledges the hole and not what lay behind it (RFC 2018, 8).
    ack(&c, una + LEN, &[], 0);
    w.run(30);
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPSACKReneging), 1, "{}", w.mibs());
    with(&c, |tp| assert_eq!((tp.ca_state, tp.sacked_out), (TcpCaState::Loss, 0)));
}

#[test]
fn small_pieces_are_joined_when_they_are_sent_again() {
    for (on, bytes) in [(1, 6 * LEN), (0, 2 * LEN)] {
        let w = World::new();
        w.a.sysctl.set("net.ipv4.tcp_retrans_collapse", on).unwrap();
        let (c, _s) = w.connect();
        fill(&w, &c, 5);
        while w.a.mib.get(Mib::TcpExtTCPTimeouts) == 0 {
            w.run(1);
        }
        // The probe was the last one alone, the timeout's the first with all that fits.
        assert_eq!(w.a.mib.get(Mib::TcpRetransSegs), 2, "{}", w.mibs());
        assert_eq!(info(&c).tcpi_bytes_retrans, bytes as u64);
    }
}

// --- Timeouts ---

/// Retransmissions of one small segment within `ms`.
fn timeouts(prepare: impl FnOnce(&World, &Socket), ms: u64) -> u64 {
    let w = World::new();
    let (c, s) = w.connect();
    w.transfer(&c, &s, &pattern(20_000));
    w.run(100);
    prepare(&w, &c);
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    send(&c, b"x").unwrap();
    w.run(ms);
    w.a.mib.get(Mib::TcpExtTCPTimeouts)
}

#[test]
fn thin_streams_do_not_back_off_at_once() {
    let usual = timeouts(|_, c| with(c, |tp| tp.snd_ssthresh = 10), 2000);
    let thin = |_: &World, c: &Socket| {
        with(c, |tp| tp.snd_ssthresh = 10);
        set_int(c, IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1);
    };
    let by_sysctl = |w: &World, c: &Socket| {
        with(c, |tp| tp.snd_ssthresh = 10);
        w.a.sysctl.set("net.ipv4.tcp_thin_linear_timeouts", 1).unwrap();
    };
    assert_eq!(usual, 3);
    assert!(timeouts(thin, 2000) >= 6);
    assert!(timeouts(by_sysctl, 2000) >= 6);
}

#[test]
fn the_bounds_of_the_timeout_are_kept() {
    let max = |_: &World, c: &Socket| set_int(c, IPPROTO_TCP, TCP_RTO_MAX_MS, 1000);
    let of_many = timeouts(max, 10_000);
    assert!((10..=12).contains(&of_many), "{of_many}");
    // The sum of `tcp_retries2` of them is shorter, too: 0.2 + 0.4 + 0.8 and thirteen times 1 second.
    let of_all = timeouts(max, 30_000);
    assert!((15..=17).contains(&of_all), "{of_all}");
    // The variation is taken for no less than the minimum, and comes down to it round trip by round trip.
    let rto = |min: Option<i32>| {
        let w = World::new();
        let (c, s) = w.connect();
        min.into_iter().for_each(|us| set_int(&c, IPPROTO_TCP, TCP_RTO_MIN_US, us));
        (0..30).for_each(|_| assert!(w.transfer(&c, &s, &[0; 1000]) > 0));
        info(&c).tcpi_rto
    };
    assert!(rto(None) >= 200_000 && rto(Some(5000)) < 100_000, "{} {}", rto(None), rto(Some(5000)));
}

#[test]
fn the_first_syns_come_without_back_off() {
    let w = World::new();
    let (c, s) = w.connect();
    drop((c, s));
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    let c = w.socket(&w.a);
    let _ = c.connect(&addr(B, 81), true, &mut wait());
    let sent = |ms: u64| {
        w.run(ms);
        w.a.mib.get(Mib::TcpExtTCPSynRetrans)
    };
    assert_eq!([sent(5_500), sent(2_000), sent(4_000)], [5, 6, 7]);
}

// --- The receiver ---

#[test]
fn acks_beyond_a_hole_share() {
    let compressed = |nr: i64| {
        let w = World::with(NetemParams { delay_ns: 20_000_000, limit: 100_000, ..NetemParams::default() });
        w.b.sysctl.set("net.ipv4.tcp_comp_sack_nr", nr).unwrap();
        let (c, s) = w.connect();
        w.set(NetemParams { delay_ns: 20_000_000, loss: 0.02, limit: 100_000, ..NetemParams::default() });
        w.transfer(&c, &s, &pattern(1_000_000));
        w.b.mib.get(Mib::TcpExtTCPAckCompressed)
    };
    assert!(compressed(44) > 0);
    assert_eq!(compressed(0), 0);
}
