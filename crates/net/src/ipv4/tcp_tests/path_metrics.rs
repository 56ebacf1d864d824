//! What one connection learns for the next.
//!
//! Interface: tests.
//! Linux counterpart: `ip tcp_metrics`.
//! Locks and context: a manual clock.

use super::*;

/// A connection that is used and closed; its first timeout, milliseconds.
fn one(w: &World) -> u32 {
    let (c, s) = w.connect();
    let rto = info(&c).tcpi_rto / 1000;
    w.transfer(&c, &s, &pattern(100_000));
    c.release();
    w.run(1000);
    s.release();
    w.run(1000);
    rto
}

#[test]
fn a_slow_path_is_remembered_for_an_hour() {
    let w = World::with(NetemParams { delay_ns: 5_000_000, limit: 100_000, ..NetemParams::default() });
    let first = one(&w);
    assert!(first < 300, "{first}");
    // The handshake is quick, what follows is not.
    let (c, s) = w.connect();
    w.set(NetemParams { delay_ns: 400_000_000, limit: 100_000, ..NetemParams::default() });
    w.transfer(&c, &s, &pattern(100_000));
    c.release();
    w.run(3000);
    s.release();
    w.run(3000);
    w.set(NetemParams { delay_ns: 5_000_000, limit: 100_000, ..NetemParams::default() });
    let after = one(&w);
    assert!(after > 1000, "{after}");
    w.run(3_700_000);
    let later = one(&w);
    assert!(later < 300, "{later}");
}

#[test]
fn nothing_is_kept_where_it_is_not_wanted() {
    let w = World::with(NetemParams { delay_ns: 400_000_000, limit: 100_000, ..NetemParams::default() });
    w.a.sysctl.set("net.ipv4.tcp_no_metrics_save", 1).unwrap();
    one(&w);
    w.set(NetemParams { delay_ns: 5_000_000, limit: 100_000, ..NetemParams::default() });
    let rto = one(&w);
    assert!(rto < 300, "{rto}");
}
