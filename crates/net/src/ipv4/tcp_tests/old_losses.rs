//! A loss that was repaired long ago says nothing about a new one.
//!
//! Interface: tests.
//! Linux counterpart: `retransmits_timed_out` and `retrans_stamp`.
//! Locks and context: a manual clock.
//!
//! How long a peer has been silent is counted from the first retransmission of this time. Found in simulation: an orphan
//! gave up after two retransmissions.

use super::*;

#[test]
fn an_old_loss_does_not_have_a_new_one_given_up() {
    let w = World::new();
    let (c, s) = w.connect();
    let cut = NetemParams { loss: 1.0, ..NetemParams::default() };
    // The first is repaired by a probe (TLP), the second only by the timer.
    for (byte, silence, idle) in [(b"x", 1, 1_000_000), (b"y", 3_000, 0)] {
        w.set(cut);
        send(&c, byte).expect("sent");
        w.run(silence);
        w.set(NetemParams::default());
        w.run(10_000);
        assert_eq!(recv(&s, 10, 0).as_deref(), Ok(&byte[..]), "{}", w.mibs());
        // Longer than all of `tcp_retries2` takes.
        w.run(idle);
    }
}
