//! Groups of listeners, and the ports that connections come from.
//!
//! Interface: none.
//! Linux counterpart: `tools/testing/selftests/net/ip_local_port_range.c`, `migrate_reuseport.c`.
//! Locks and context: tests.

use super::*;

const IP_LOCAL_PORT_RANGE: i32 = 51;

fn member(w: &World) -> Arc<Socket> {
    let l = w.socket(&w.b);
    set_int(&l, SOL_SOCKET, SO_REUSEPORT, 1);
    l.bind(&addr(Ipv4Addr::UNSPECIFIED, 80)).unwrap();
    l.listen(16).unwrap();
    l
}

fn accept(l: &Socket) -> Option<Arc<Socket>> {
    match l.accept(true, &mut wait()) {
        Poll::Ready(Ok(s)) => Some(s),
        _ => None,
    }
}

#[test]
fn connections_of_a_closed_listener_go_to_another_of_its_group() {
    for migrate in [0, 1] {
        let w = World::new();
        w.b.sysctl.set("net.ipv4.tcp_migrate_req", migrate).unwrap();
        let first = member(&w);
        let waiting = w.socket(&w.a);
        let _ = waiting.connect(&addr(B, 80), true, &mut wait());
        w.run(50);
        assert_eq!(waiting.sk.state(), TcpState::Established);
        // Its handshake is half done when the listener closes.
        let half = w.socket(&w.a);
        let _ = half.connect(&addr(B, 80), true, &mut wait());
        w.run(6);
        let second = member(&w);
        first.release();
        w.run(100);
        let expect = if migrate == 1 { TcpState::Established } else { TcpState::Close };
        assert_eq!((waiting.sk.state(), half.sk.state()), (expect, expect), "{}", w.mibs());
        assert_eq!((accept(&second).is_some(), accept(&second).is_some()), (migrate == 1, migrate == 1));
        assert_eq!(w.b.mib.get(Mib::TcpExtTCPMigrateReqSuccess) >= 2, migrate == 1);
    }
}

/// The port that a new connection is from.
fn source_port(w: &World, range: Option<(u16, u16)>) -> Result<u16> {
    let c = w.socket(&w.a);
    if let Some((low, high)) = range {
        c.setsockopt(0, IP_LOCAL_PORT_RANGE, &(low as u32 | (high as u32) << 16).to_ne_bytes())?;
    }
    match c.connect(&addr(B, 80), true, &mut wait()) {
        Poll::Ready(Err(e)) if e != Errno::EINPROGRESS => Err(e),
        _ => Ok(c.getname(false)?.port()),
    }
}

#[test]
fn ports_are_chosen_within_the_socket_s_range_and_not_among_the_reserved() {
    let w = World::new();
    for _ in 0..20 {
        assert!((40_000..=40_003).contains(&source_port(&w, Some((40_000, 40_003))).unwrap()));
    }
    assert_eq!(source_port(&w, Some((40_003, 40_000))), Err(Errno::EINVAL));
    // An end outside of the namespace's range counts for nothing.
    assert!(source_port(&w, Some((1000, 32_770))).unwrap() <= 32_770);
    w.a.sysctl.set_str("net.ipv4.ip_local_reserved_ports", "40000-40001,40003").unwrap();
    for _ in 0..10 {
        assert_eq!(source_port(&w, Some((40_000, 40_003))), Ok(40_002));
    }
    assert_eq!(w.a.sysctl.set_str("net.ipv4.ip_local_reserved_ports", "2-1"), Err(Errno::EINVAL));
    assert_eq!(w.a.sysctl.get_str("net.ipv4.ip_local_reserved_ports").as_deref(), Ok("40000-40001,40003"));
}
