//! What a connection costs while it is idle, and that it gives back what it needed meanwhile.
//!
//! Interface: tests.
//! Linux counterpart: none.
//! Locks and context: a manual clock.

use super::*;
use crate::ipv4::tcp_sock::*;

/// The mark for one end: `TcpSock`, with what the tests count in it.
const IDLE: usize = 640;

fn with<R>(c: &Socket, f: impl FnOnce(&mut TcpSock) -> R) -> R {
    let mut guard = c.sk.lock_sock();
    f(tcp_sk(&mut *guard))
}

fn memory(s: &Socket) -> usize {
    with(s, |tp| {
        assert!(tp.frag.is_none() && tp.rare.hs.is_none() && tp.rare.accecn.is_none() && tp.tx.is_empty());
        assert!(s.sk.rare.get().is_none(), "a connection at its defaults has nothing rare");
        tp.memory()
    })
}

fn exchange(w: &World, from: &Socket, to: &Socket, n: usize) {
    let (mut sent, mut got) = (0, 0);
    while got < n {
        if sent < n {
            sent += send(from, &vec![7; n - sent]).unwrap_or(0);
        }
        w.run(1);
        got += recv(to, 1 << 20, 0).map_or(0, |b| b.len());
    }
    w.run(1000);
}

#[test]
fn an_idle_connection_is_small() {
    let w = World::new();
    let (c, s) = w.connect();
    for (from, to) in [(&c, &s), (&s, &c), (&c, &s)] {
        exchange(&w, from, to, 100);
        assert!(memory(&c) <= IDLE && memory(&s) <= IDLE, "{} and {} bytes", memory(&c), memory(&s));
    }
    // One that has had more to do gives its queues back with the next quiet exchange.
    exchange(&w, &c, &s, 1_000_000);
    exchange(&w, &c, &s, 100);
    with(&c, |tp| assert_eq!(tp.tx.memory(), 0));
    with(&s, |tp| assert_eq!(tp.receive_queue.memory(), 0));
}

#[test]
fn a_connection_that_rests_has_no_timers() {
    let w = World::new();
    let (c, s) = w.connect();
    let timers = |s: &Socket| with(s, |tp| (tp.retransmit_timer.is_some(), tp.delack_timer.is_some()));
    set_int(&s, IPPROTO_TCP, TCP_QUICKACK, 0);
    send(&c, &[7; 100]).unwrap();
    assert!(timers(&c).0, "it waits for an ACK");
    w.run(20);
    assert!(timers(&s).1, "it owes one");
    assert_eq!(recv(&s, 200, 0).unwrap().len(), 100);
    // As long as any of them was armed for.
    w.run(3000);
    assert_eq!((timers(&c), timers(&s)), ((false, false), (false, false)));
    // It makes them again.
    exchange(&w, &c, &s, 100_000);
    exchange(&w, &s, &c, 100_000);
}

#[test]
fn what_only_some_need_is_there_once_they_do() {
    let w = World::new();
    let (c, s) = w.connect();
    with(&c, |tp| assert!(!tp.rec.is_used() && !tp.rare.is_used()));
    set_int(&c, IPPROTO_TCP, TCP_KEEPCNT, 9);
    with(&c, |tp| assert_eq!((tp.rare.is_used(), tp.rare.opts.keepalive_probes), (true, 9)));
    with(&c, |tp| assert_eq!(tp.rare.opts.icsk_delack_max, TCP_DELACK_MAX));
    w.set(NetemParams { loss: 0.05, ..NetemParams::default() });
    exchange(&w, &c, &s, 300_000);
    with(&c, |tp| assert!(tp.rec.is_used() && tp.rec.total_retrans > 0));
    with(&s, |tp| assert!(tp.ofo.is_used() && tp.ofo.rcv_ooopack > 0 && !tp.rec.is_used()));
}

#[test]
fn a_child_has_its_listener_s_options_and_no_more() {
    let w = World::new();
    let l = w.listen(81);
    set_int(&l, IPPROTO_TCP, TCP_USER_TIMEOUT, 1234);
    let (c, _s) = w.connect();
    assert!(with(&c, |tp| !tp.rare.is_used()), "another listener's");
    let c = w.socket(&w.a);
    let _ = c.connect(&addr(B, 81), true, &mut wait());
    w.run(1000);
    let Poll::Ready(Ok(s)) = l.accept(true, &mut wait()) else { panic!("nobody came") };
    with(&s, |tp| assert_eq!((tp.rare.opts.icsk_user_timeout, tp.rare.urg_seq), (1234, 0)));
}
