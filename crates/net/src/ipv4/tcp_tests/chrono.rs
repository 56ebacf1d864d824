//! What `tcp_info` says of the time that a sender was busy, and of what held it up.
//!
//! Interface: tests.
//! Linux counterpart: none.
//! Locks and context: a manual clock.

use super::*;
use uapi::socket::SO_SNDBUF;

/// Milliseconds: busy, held up by the peer's window, held up by its own buffer.
fn spent(s: &Socket) -> [u64; 3] {
    let i = info(s);
    [i.tcpi_busy_time, i.tcpi_rwnd_limited, i.tcpi_sndbuf_limited].map(|us| us / 1000)
}

#[test]
fn a_closed_window_holds_the_sender_up() {
    let w = World::new();
    let (c, s) = w.connect();
    send(&c, &[7; 1000]).unwrap();
    w.run(300);
    assert_eq!(spent(&c)[1..], [0, 0]);
    // Nobody reads.
    for _ in 0..300 {
        let _ = send(&c, &[7; 65536]);
        w.run(1);
    }
    let before = spent(&c);
    w.run(300);
    let [busy, window, buffer] = spent(&c);
    assert_eq!((busy - before[0], window - before[1], buffer - before[2]), (300, 300, 0), "{before:?}");
    // Somebody does.
    while recv(&s, 1 << 20, 0).is_ok_and(|b| !b.is_empty()) {
        w.run(500);
    }
    let over = spent(&c);
    w.run(1000);
    assert_eq!(spent(&c), over, "nothing is under way");
}

#[test]
fn a_small_send_buffer_holds_the_sender_up() {
    let w = World::new();
    let (c, s) = w.connect();
    set_int(&c, SOL_SOCKET, SO_SNDBUF, 8192);
    w.set(NetemParams { delay_ns: 50_000_000, ..NetemParams::default() });
    for _ in 0..2000 {
        let _ = send(&c, &[7; 4096]);
        let _ = recv(&s, 1 << 20, 0);
        w.run(1);
    }
    let [busy, window, buffer] = spent(&c);
    assert!(buffer > 1000 && busy > buffer && window == 0, "{:?}", [busy, window, buffer]);
    // With room for all, the sender is busy and no more.
    set_int(&c, SOL_SOCKET, SO_SNDBUF, 1 << 20);
    let trickle = |ms| {
        for _ in 0..ms {
            send(&c, &[7; 100]).unwrap();
            let _ = recv(&s, 1 << 20, 0);
            w.run(1);
        }
        spent(&c)
    };
    let before = trickle(200);
    let after = trickle(500);
    assert_eq!([after[0] - before[0], after[1], after[2] - before[2]], [500, 0, 0], "{before:?}");
}
