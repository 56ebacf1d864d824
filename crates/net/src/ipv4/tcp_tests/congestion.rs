//! Choosing congestion control: the registry, the socket option, the tunables.
//!
//! Interface: tests.
//! Linux counterpart: `net/ipv4/tcp_cong.c`.
//! Locks and context: a manual clock.

use super::*;
use crate::core::sysctl_text::{sysctl_get, sysctl_set};
use crate::ipv4::tcp_ca::{tcp_register_congestion_control, tcp_unregister_congestion_control};
use crate::ipv4::tcp_cong::RENO_OPS;
use crate::ipv4::tcp_sock::{CaFlags, RateSample, TcpCongestionOps, TcpSock, tcp_sk};
use std::sync::atomic::AtomicU32;

const IPPROTO_TCP: i32 = 6;
static ACKS: AtomicU32 = AtomicU32::new(0);
static RELEASED: AtomicU32 = AtomicU32::new(0);

/// Keeps the window at 4 segments.
static FOUR: TcpCongestionOps = TcpCongestionOps {
    name: "four",
    flags: CaFlags::empty(),
    priv_layout: (120, 8),
    release: Some(|_, _| {
        RELEASED.fetch_add(1, SeqCst);
    }),
    cong_control: Some(|_, tp: &mut TcpSock, rs: &RateSample| {
        *tp.ca_priv.get_mut::<[u64; 15]>() = [7; 15];
        tp.snd_cwnd = 4;
        ACKS.fetch_add((rs.acked_sacked > 0) as u32, SeqCst);
    }),
    ..RENO_OPS
};

fn choose(s: &Socket, name: &[u8]) -> Result<()> {
    s.setsockopt(IPPROTO_TCP, TCP_CONGESTION, name)
}

fn chosen(s: &Socket) -> String {
    let b = s.getsockopt(IPPROTO_TCP, TCP_CONGESTION, 64).unwrap();
    assert_eq!(b.len(), 16);
    String::from_utf8(b).unwrap().trim_end_matches('\0').to_owned()
}

/// What the kernel answered to the same calls.
#[test]
fn a_socket_chooses_by_name() {
    let w = World::new();
    let s = w.socket(&w.a);
    assert_eq!(chosen(&s), "cubic");
    assert_eq!(choose(&s, b"reno"), Ok(()));
    assert_eq!(chosen(&s), "reno");
    assert_eq!(choose(&s, b""), Err(Errno::EINVAL));
    assert_eq!(choose(&s, b"nosuch"), Err(Errno::ENOENT));
    assert_eq!(choose(&s, b"cubic\0xx"), Ok(()));
    assert_eq!(choose(&s, b"cubicxxxxxxxxxxxxxxxxxxxxxxx"), Err(Errno::ENOENT));
    assert_eq!(chosen(&s), "cubic");
    assert_eq!(s.getsockopt(IPPROTO_TCP, TCP_CONGESTION, 3).as_deref(), Ok(&b"cub"[..]));
}

#[test]
fn a_registered_algorithm_is_used_and_goes_again() {
    let w = World::new();
    let reg = &w.a.reg;
    assert_eq!(tcp_register_congestion_control(reg, &FOUR), Ok(()));
    assert_eq!(tcp_register_congestion_control(reg, &FOUR), Err(Errno::EEXIST));
    let (c, s) = w.connect();
    assert_eq!(choose(&c, b"four"), Ok(()));
    w.transfer(&c, &s, &pattern(300_000));
    assert!(ACKS.load(SeqCst) > 20, "asked at each ACK: {ACKS:?}");
    assert_eq!(info(&c).tcpi_snd_cwnd, 4);
    assert_eq!(tcp_unregister_congestion_control(reg, &FOUR), Ok(()));
    assert_eq!(tcp_unregister_congestion_control(reg, &FOUR), Err(Errno::ENOENT));
    assert_eq!(chosen(&c), "four", "who has it keeps it");
    assert_eq!(choose(&s, b"four"), Err(Errno::ENOENT));
    assert_eq!(choose(&c, b"cubic"), Ok(()));
    assert_eq!(RELEASED.load(SeqCst), 1);
    w.transfer(&c, &s, &pattern(300_000));
    assert!(info(&c).tcpi_snd_cwnd > 4);
}

#[test]
fn the_default_is_a_tunable_of_each_namespace() {
    let w = World::new();
    let (a, b) = (&w.a, &w.b);
    let get = |n: &Net, name: &str| sysctl_get(n, &format!("net.ipv4.tcp_{name}congestion_control")).unwrap();
    let set = |n: &Net, name: &str, v: &str| sysctl_set(n, &format!("net.ipv4.tcp_{name}congestion_control"), v);
    assert!(get(a, "available_").starts_with("reno cubic"));
    assert_eq!(get(a, ""), "cubic");
    assert_eq!(set(a, "", "nosuch"), Err(Errno::ENOENT));
    assert_eq!(set(a, "available_", "reno"), Err(Errno::EACCES));
    assert_eq!(set(a, "", "reno\n"), Ok(()));
    assert_eq!((get(a, ""), get(b, "")), ("reno".into(), "cubic".into()));
    assert_eq!((chosen(&w.socket(a)), chosen(&w.socket(b))), ("reno".into(), "cubic".into()));
    assert_eq!(set(a, "allowed_", "cubic nosuch"), Err(Errno::ENOENT));
    assert_eq!(set(a, "allowed_", "cubic"), Ok(()));
    assert_eq!(get(a, "allowed_"), "cubic");
    assert_eq!(set(b, "", "reno"), Ok(()));
    assert_eq!(get(a, "allowed_"), "reno cubic", "a default is allowed");
}

#[test]
fn a_default_cannot_be_unregistered() {
    let w = World::new();
    let reg = &w.a.reg;
    static FIVE: TcpCongestionOps = TcpCongestionOps { name: "five", ..RENO_OPS };
    tcp_register_congestion_control(reg, &FIVE).unwrap();
    let name = "net.ipv4.tcp_congestion_control";
    sysctl_set(&w.b, name, "five").unwrap();
    assert_eq!(tcp_unregister_congestion_control(reg, &FIVE), Err(Errno::EBUSY));
    sysctl_set(&w.b, name, "cubic").unwrap();
    assert_eq!(tcp_unregister_congestion_control(reg, &FIVE), Ok(()));
    assert_eq!(tcp_unregister_congestion_control(reg, &crate::ipv4::tcp_cong::RENO), Err(Errno::EPERM));
}

/// A connection that a listener makes has what the process chose for the listener.
#[test]
fn a_listener_hands_its_choice_down() {
    let w = World::new();
    let l = w.listen(80);
    choose(&l, b"reno").unwrap();
    let c = w.socket(&w.a);
    let _ = c.connect(&addr(B, 80), true, &mut wait());
    w.run(50);
    let Poll::Ready(Ok(s)) = l.accept(true, &mut wait()) else { panic!("no connection") };
    assert_eq!((chosen(&c), chosen(&s)), ("cubic".into(), "reno".into()));
    assert!(tcp_sk(&mut *s.sk.lock_sock()).ca_initialized);
}

#[test]
fn several_numbers_are_one_tunable() {
    let w = World::new();
    assert_eq!(sysctl_set(&w.a, "net.ipv4.tcp_rmem", "4096 100000"), Ok(()));
    assert_eq!(sysctl_get(&w.a, "net.ipv4.tcp_rmem").as_deref(), Ok("4096\t100000\t33554432"));
    assert_eq!(sysctl_set(&w.a, "net.ipv4.tcp_sack", "x"), Err(Errno::EINVAL));
    assert_eq!(sysctl_set(&w.a, "net.ipv4.tcp_sack", "1 1"), Err(Errno::EINVAL));
    assert_eq!(sysctl_set(&w.a, "net.ipv4.nosuch", "1"), Err(Errno::ENOENT));
}
