//! Windows, buffers and memory of TCP.
//!
//! Interface: tests.
//! Linux counterpart: `tools/testing/selftests/net/packetdrill/tcp_rcv_*`, and what `tcp(7)` says.
//! Locks and context: a manual clock.

use super::*;
use crate::core::sock::SockFlags;
use crate::hdr::tcp_flag::{ACK, FIN, PSH};
use crate::ipv4::tcp_sock::{TcpSock, tcp_sk};

fn with_tp<T>(s: &Socket, f: impl FnOnce(&mut TcpSock) -> T) -> T {
    f(tcp_sk(&mut *s.sk.lock_sock()))
}

fn set_mem(w: &World, low: i64, pressure: i64, high: i64) {
    for n in [&w.a, &w.b] {
        for (name, v) in [("low", low), ("pressure", pressure), ("high", high)] {
            n.sysctl.set(&format!("net.ipv4.tcp_mem.{name}"), v).unwrap();
        }
    }
}

#[test]
fn the_window_scale_follows_the_largest_buffer() {
    use crate::ipv4::tcp_mss::tcp_select_initial_window;
    let w = World::new();
    let select = |space, clamp, ok| tcp_select_initial_window(&w.a, space, 1460, clamp, 0, ok);
    // 32 MiB are 2^25: 10 bits beyond 15.
    assert_eq!(select(65536, 0, true), (64240, 65535 << 10, 10));
    assert_eq!(select(65536, 0, false), (64240, 65535, 0));
    assert_eq!(select(65536, 20_000, true), (18980, 20_000, 0), "a clamp below 2^16 needs no scale");
    assert_eq!(select(65536, 70_000, true).2, 1);
    assert_eq!(select(1 << 20, 0, true).0, (1 << 20) / 1460 * 1460, "more than the SYN's 16 bits");
    w.a.sysctl.set("net.ipv4.tcp_workaround_signed_windows", 1).unwrap();
    assert_eq!(select(65536, 0, true).0, 32767);
}

#[test]
fn a_fixed_buffer_of_a_listener_bounds_the_window() {
    let w = World::new();
    let l = w.listen(80);
    set_int(&l, SOL_SOCKET, SO_RCVBUF, 20_000);
    let c = w.socket(&w.a);
    let _ = c.connect(&addr(B, 80), true, &mut wait());
    w.run(50);
    let Poll::Ready(Ok(s)) = l.accept(true, &mut wait()) else { panic!("nobody came") };
    let (wnd, scale) = with_tp(&s, |tp| (tp.rcv_wnd, tp.rx_opt.rcv_wscale));
    assert!((10_000..=20_000).contains(&wnd), "{wnd}");
    assert_eq!(scale, 0);
    w.transfer(&c, &s, &pattern(200_000));
}

#[test]
fn pressure_begins_stops_growth_and_ends() {
    let w = World::new();
    let (c, s) = w.connect();
    w.transfer(&c, &s, &pattern(20_000));
    w.run(300);
    assert_eq!((w.a.tcp_mem.allocated_exact(), w.b.tcp_mem.allocated_exact()), (0, 0), "nothing is queued");
    set_mem(&w, 8, 16, 400);
    let data = pattern(1_000_000);
    let mut sent = 0;
    for _ in 0..2000 {
        sent += send(&c, &data[sent..]).unwrap_or(0);
        w.run(1);
    }
    assert!(w.b.tcp_mem.under_pressure(), "{}", w.mibs());
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPMemoryPressures), 1);
    let held = s.sk.rmem_alloc.load(SeqCst);
    assert!(held <= 400 * 4096 + 70_000, "{held}");
    let held = w.b.tcp_mem.allocated_exact();
    assert!(held > 0 && held as usize >= s.sk.rmem_alloc.load(SeqCst) / 4096, "{held} pages");
    // Everything still arrives.
    let mut got = Vec::new();
    for _ in 0..200_000 {
        sent += send(&c, &data[sent..]).unwrap_or(0);
        while let Ok(b) = recv(&s, 1 << 20, 0) {
            got.extend_from_slice(&b);
        }
        if got.len() == data.len() {
            break;
        }
        w.run(1);
    }
    assert!(got == data, "{} {}", got.len(), w.mibs());
    w.run(3000);
    assert_eq!((w.a.tcp_mem.allocated_exact(), w.b.tcp_mem.allocated_exact()), (0, 0));
    assert!(!w.a.tcp_mem.under_pressure() && !w.b.tcp_mem.under_pressure(), "{}", w.mibs());
    assert!(w.b.mib.get(Mib::TcpExtTCPMemoryPressuresChrono) > 0);
}

#[test]
fn without_any_memory_a_connection_still_moves() {
    let w = World::new();
    let (c, s) = w.connect();
    set_mem(&w, 0, 0, 0);
    w.transfer(&c, &s, &pattern(100_000));
    w.run(1000);
    assert_eq!((w.a.tcp_mem.allocated_exact(), w.b.tcp_mem.allocated_exact()), (0, 0));
}

#[test]
fn an_orphan_with_data_goes_when_memory_is_out() {
    let w = World::new();
    let (c, s) = w.connect();
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    set_mem(&w, 1, 2, 100);
    send(&c, &pattern(50_000)).unwrap();
    set_mem(&w, 1, 2, 3);
    c.release();
    w.run(100);
    assert_eq!(c.sk.state(), TcpState::Close, "{}", w.mibs());
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPAbortOnMemory), 1);
    drop(s);
}

#[test]
fn small_packets_are_packed_when_the_buffer_is_full() {
    let w = World::new();
    let (_c, s) = w.connect();
    set_int(&s, SOL_SOCKET, SO_RCVBUF, 30_000);
    // Each takes several times its payload; the process does not read.
    for _ in 0..150 {
        inject(&s, |tp| (tp.rcv_nxt, tp.snd_nxt, ACK | PSH, stamp(tp, 0), 200));
    }
    let (mem, max) = (s.sk.rmem_alloc.load(SeqCst), s.sk.rcvbuf.load(SeqCst) as usize);
    assert!(mem <= max + 2000, "{mem} of {max}");
    assert!(w.b.mib.get(Mib::TcpExtPruneCalled) > 0);
    assert!(w.b.mib.get(Mib::TcpExtTCPRcvCollapsed) > 10, "{}", w.mibs());
    // More than would fit unpacked.
    let got = recv(&s, 1 << 20, 0).unwrap().len();
    assert!(got * 3 > max, "{got} of {max}: {}", w.mibs());
    assert_eq!(s.sk.rmem_alloc.load(SeqCst), 0);
}

#[test]
fn what_is_furthest_goes_first_and_the_nearest_stays() {
    let w = World::new();
    let (_c, s) = w.connect();
    set_int(&s, SOL_SOCKET, SO_RCVBUF, 40_000);
    // Pieces with holes between them, from near to far, until nothing more is taken.
    for i in 0..60u32 {
        inject(&s, |tp| (tp.rcv_nxt.wrapping_add(1000 + i * 900), tp.snd_nxt, ACK, stamp(tp, 0), 600));
    }
    assert!(w.b.mib.get(Mib::TcpExtTCPOFODrop) > 0, "{}", w.mibs());
    assert_eq!(w.b.mib.get(Mib::TcpExtOfoPruned), 0, "nothing near gives way to what is far");
    let far = with_tp(&s, |tp| tp.ofo.out_of_order_queue.len());
    // What is in order has others go.
    inject(&s, |tp| (tp.rcv_nxt, tp.snd_nxt, ACK, stamp(tp, 0), 900));
    assert_eq!(w.b.mib.get(Mib::TcpExtOfoPruned), 1, "{}", w.mibs());
    assert!(with_tp(&s, |tp| tp.ofo.out_of_order_queue.len()) < far);
    assert_eq!(recv(&s, 10_000, 0).map(|b| b.len()), Ok(900));
}

#[test]
fn notsent_lowat_bounds_what_waits_to_be_sent() {
    let w = World::new();
    let (c, s) = w.connect();
    set_int(&c, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 20_000);
    let data = pattern(2_000_000);
    let (mut sent, mut got) = (0, 0);
    let mut most = 0;
    for _ in 0..20_000 {
        if c.poll().contains(PollMask::OUT) {
            assert!(with_tp(&c, |tp| tp.write_seq.wrapping_sub(tp.snd_nxt)) < 10_000, "writable at half the mark");
        }
        sent += send(&c, &data[sent..]).unwrap_or(0);
        most = most.max(info(&c).tcpi_notsent_bytes);
        while let Ok(b) = recv(&s, 1 << 20, 0) {
            got += b.len();
        }
        if got == data.len() {
            break;
        }
        w.run(1);
    }
    assert_eq!(got, data.len());
    assert!((20_000..200_000).contains(&most), "{most}");
}

#[test]
fn a_low_water_mark_makes_room_for_itself() {
    let w = World::new();
    let (c, s) = w.connect();
    set_int(&s, SOL_SOCKET, SO_RCVLOWAT, 300_000);
    assert!(s.sk.rcvbuf.load(SeqCst) >= 600_000);
    let data = pattern(300_000);
    let mut sent = 0;
    for _ in 0..2000 {
        sent += send(&c, &data[sent..]).unwrap_or(0);
        w.run(1);
        let ready = s.poll().contains(PollMask::IN);
        let there = with_tp(&s, |tp| tp.rcv_nxt.wrapping_sub(tp.copied_seq)) as usize;
        assert_eq!(ready, there >= 300_000, "{there}");
        if ready {
            return;
        }
    }
    panic!("never readable: {sent} {}", w.mibs());
}

#[test]
fn a_low_water_mark_is_at_most_half_the_buffer() {
    let w = World::new();
    let s = w.socket(&w.a);
    set_int(&s, SOL_SOCKET, SO_RCVBUF, 50_000);
    set_int(&s, SOL_SOCKET, SO_RCVLOWAT, 1_000_000);
    assert_eq!(s.sk.rcvlowat.load(SeqCst), 50_000);
    assert!(s.sk.flag(SockFlags::RCVBUF_LOCK));
    set_int(&s, SOL_SOCKET, SO_RCVLOWAT, 0);
    assert_eq!(s.sk.rcvlowat.load(SeqCst), 1);
}

#[test]
fn inq_tells_how_much_is_left() {
    let w = World::new();
    let (c, s) = w.connect();
    set_int(&s, IPPROTO_TCP, TCP_INQ, 1);
    assert_eq!(s.setsockopt(IPPROTO_TCP, TCP_INQ, &2i32.to_ne_bytes()), Err(Errno::EINVAL));
    send(&c, &pattern(10_000)).unwrap();
    w.run(50);
    let inq = |n: usize| {
        let mut b = vec![0; n];
        let mut m = MsgHdr::new(IovIter::dest(&mut b));
        let r = s.recvmsg(&mut m, MSG_DONTWAIT, &mut wait());
        let left = m.control.first().map(|c| i32::from_ne_bytes(c.data[..].try_into().unwrap()));
        (r, left)
    };
    assert_eq!(inq(4000), (Poll::Ready(Ok(4000)), Some(6000)));
    assert_eq!(inq(6000), (Poll::Ready(Ok(6000)), Some(0)));
    assert_eq!(inq(1), (Poll::Ready(Err(Errno::EAGAIN)), None));
    c.shutdown(SHUT_WR).unwrap();
    w.run(50);
    assert_eq!(inq(1), (Poll::Ready(Ok(0)), Some(1)), "there is the end to be read");
}

#[test]
fn data_beyond_the_window_is_taken_only_from_an_empty_queue() {
    let w = World::new();
    let (_c, s) = w.connect();
    set_int(&s, SOL_SOCKET, SO_RCVBUF, 10_000);
    let beyond = |w: &World| w.b.mib.get(Mib::TcpExtBeyondWindow);
    w.run(1000);
    inject(&s, |tp| (tp.rcv_nxt.wrapping_add(tp.receive_window() + 1), tp.snd_nxt, ACK, stamp(tp, 0), 10));
    assert_eq!(beyond(&w), 1, "wholly beyond");
    inject(&s, |tp| (tp.rcv_nxt, tp.snd_nxt, ACK, stamp(tp, 0), 10));
    inject(&s, |tp| (tp.rcv_nxt.wrapping_add(tp.receive_window() - 5), tp.snd_nxt, ACK, stamp(tp, 0), 10));
    assert_eq!(beyond(&w), 2, "partly, with something unread");
    recv(&s, 100, 0).unwrap();
    inject(&s, |tp| (tp.rcv_nxt.wrapping_add(tp.receive_window() - 5), tp.snd_nxt, ACK, stamp(tp, 0), 10));
    assert_eq!(beyond(&w), 2, "partly, with an empty queue");
}

#[test]
fn a_closed_window_takes_a_fin_and_nothing_else() {
    let w = World::new();
    let (c, s) = w.connect();
    let mut sent = 0;
    let data = pattern(20_000_000);
    for _ in 0..5000 {
        sent += send(&c, &data[sent..]).unwrap_or(0);
        w.run(1);
    }
    assert_eq!(with_tp(&s, |tp| tp.receive_window()), 0);
    let drops = w.b.mib.get(Mib::TcpExtTCPZeroWindowDrop);
    inject(&s, |tp| (tp.rcv_nxt, tp.snd_nxt, ACK, stamp(tp, 0), 1));
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPZeroWindowDrop) + w.b.mib.get(Mib::TcpExtBeyondWindow), drops + 1);
    inject(&s, |tp| (tp.rcv_nxt, tp.snd_nxt, ACK | FIN, stamp(tp, 0), 0));
    assert_eq!(s.sk.state(), TcpState::CloseWait);
}
