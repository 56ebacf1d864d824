//! Whether it is the program that limits the connection.
//!
//! Interface: tests.
//! Linux counterpart: `tcp_rate_check_app_limited`.
//! Locks and context: a manual clock.

use super::*;
use crate::ipv4::tcp_sock::tcp_sk;
use uapi::socket::SO_SNDBUF;

/// A program that sleeps in `sendmsg` until there is room has all to send that can be: as on Linux, only its coming is a time to
/// ask. Samples that were thought to be the program's doing kept BBR in STARTUP.
#[test]
fn who_waits_for_room_does_not_limit_the_connection() {
    let w = World::new();
    let (c, s) = w.connect();
    set_int(&c, SOL_SOCKET, SO_SNDBUF, 8192);
    w.set(NetemParams { delay_ns: 50_000_000, ..NetemParams::default() });
    let limited = || tcp_sk(&mut *c.sk.lock_sock()).app_limited != u32::MAX;
    let data = pattern(300_000);
    let mut m = MsgHdr::new(IovIter::source(&data));
    let mut wait = wait();
    assert!(c.sendmsg(&mut m, &mut wait).is_pending());
    assert!(limited(), "nothing was there before");
    let (mut rounds, mut said) = (0, 0);
    for _ in 0..60_000 {
        w.run(1);
        let _ = recv(&s, 1 << 20, 0);
        if m.done > 100_000 {
            rounds += 1;
            said += limited() as u32;
        }
        if c.sendmsg(&mut m, &mut wait).is_ready() {
            break;
        }
    }
    assert_eq!(m.done, data.len());
    assert!(rounds >= 100 && said == 0, "{said} of {rounds} times");
    // The program has nothing for a while: now it does.
    w.run(1000);
    send(&c, b"more").unwrap();
    assert!(limited());
}
