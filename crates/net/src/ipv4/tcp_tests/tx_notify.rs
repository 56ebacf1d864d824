//! What a sender is told on the error queue: zero-copy sends that are done, and timestamps.
//!
//! Interface: none.
//! Linux counterpart: `tools/testing/selftests/net/{msg_zerocopy,txtimestamp}.c`.
//! Locks and context: tests.

use super::*;
use crate::core::sock_options::SO_TIMESTAMPING;

/// `sock_extended_err`: errno, origin, code, info, data.
pub fn report(s: &Socket) -> Result<(u32, u8, u8, u32, u32)> {
    let mut m = MsgHdr::new(IovIter::dest(&mut []));
    let Poll::Ready(r) = s.recvmsg(&mut m, MSG_ERRQUEUE, &mut wait()) else { panic!("the error queue never waits") };
    r?;
    assert!(m.flags & MSG_ERRQUEUE != 0);
    let d = &m.control.last().expect("a report").data;
    let word = |at: usize| u32::from_ne_bytes(d[at..at + 4].try_into().unwrap());
    Ok((word(0), d[4], d[6], word(8), word(12)))
}

#[test]
fn zero_copy_sends_are_reported_when_they_are_acknowledged() {
    let w = World::new();
    let (c, s) = w.connect();
    assert_eq!(send_flags(&c, b"nobody asked", MSG_ZEROCOPY), Ok(12));
    w.run(20);
    assert_eq!(report(&c), Err(Errno::EAGAIN), "without SO_ZEROCOPY the flag means nothing");
    set_int(&c, SOL_SOCKET, SO_ZEROCOPY, 1);
    for _ in 0..3 {
        send_flags(&c, b"message", MSG_ZEROCOPY).unwrap();
    }
    assert_eq!(send_flags(&c, b"", MSG_ZEROCOPY), Ok(0), "nothing is no message");
    assert_eq!(report(&c), Err(Errno::EAGAIN), "not yet acknowledged");
    assert!(!c.poll().contains(PollMask::ERR));
    w.run(60);
    assert!(c.poll().contains(PollMask::ERR));
    assert_eq!(report(&c), Ok((0, 5, 1, 0, 2)), "one report for all three");
    assert_eq!(report(&c), Err(Errno::EAGAIN));
    assert!(!c.poll().contains(PollMask::ERR));
    send_flags(&c, b"lost", MSG_ZEROCOPY).unwrap();
    s.release();
    w.run(60);
    assert_eq!(report(&c), Ok((0, 5, 1, 3, 3)), "a reset ends it too");
}

#[test]
fn so_zerocopy_takes_a_switch() {
    let w = World::new();
    let c = w.socket(&w.a);
    let set = |v: i32| c.setsockopt(SOL_SOCKET, SO_ZEROCOPY, &v.to_ne_bytes());
    assert_eq!((set(2), set(-1), set(1)), (Err(Errno::EINVAL), Err(Errno::EINVAL), Ok(())));
    assert_eq!(c.getsockopt(SOL_SOCKET, SO_ZEROCOPY, 4), Ok(1i32.to_ne_bytes().to_vec()));
    let u = sock_create(&w.a, AF_INET, SOCK_DGRAM, 0).unwrap();
    assert_eq!(u.setsockopt(SOL_SOCKET, SO_ZEROCOPY, &1i32.to_ne_bytes()), Err(Errno::EOPNOTSUPP));
}

#[test]
fn timestamps_come_when_a_byte_is_sent_and_acknowledged() {
    const ASK: i32 = 1 << 1 | 1 << 4 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 11;
    let w = World::new();
    let fresh = w.socket(&w.a);
    let set = |s: &Socket, v: i32| s.setsockopt(SOL_SOCKET, SO_TIMESTAMPING, &v.to_ne_bytes());
    assert_eq!(set(&fresh, ASK), Err(Errno::EINVAL), "no bytes to count yet");
    assert_eq!(set(&fresh, 1 << 20), Err(Errno::EINVAL));
    assert_eq!(set(&fresh, 1 << 3), Err(Errno::EOPNOTSUPP), "receive timestamps");
    let (c, _s) = w.connect();
    set(&c, ASK).unwrap();
    assert_eq!(c.getsockopt(SOL_SOCKET, SO_TIMESTAMPING, 4), Ok(ASK.to_ne_bytes().to_vec()));
    send(&c, &[0; 100]).unwrap();
    let enomsg = Errno::ENOMSG.0 as u32;
    assert_eq!(report(&c), Ok((enomsg, 4, 0, 1, 99)), "SCM_TSTAMP_SCHED of byte 99");
    assert_eq!(report(&c), Ok((enomsg, 4, 0, 0, 99)), "SCM_TSTAMP_SND");
    assert_eq!(report(&c), Err(Errno::EAGAIN));
    w.run(20);
    assert_eq!(report(&c), Ok((enomsg, 4, 0, 2, 99)), "SCM_TSTAMP_ACK");
}
