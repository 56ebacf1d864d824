//! Fast Open (RFC 7413), both sides: cookies, data in SYNs, what happens when any of it is refused or lost.
//!
//! Interface: none.
//! Linux counterpart: packetdrill's fastopen scripts, `tools/testing/selftests/net/tcp_fastopen_backup_key.c`.
//! Locks and context: tests.

use super::*;
use crate::core::iov_iter::{IovIter, MsgHdr};
use crate::ipv4::inet_hashtables::{inet_csk, tcp_hashinfo};

const TCP_FASTOPEN_KEY: i32 = 33;
const SERVER_PORT: u16 = 80;

/// A world in which both sides may, with a listener.
fn world(client: i64, server: i64) -> (World, Arc<Socket>) {
    let w = World::new();
    w.a.sysctl.set("net.ipv4.tcp_fastopen", client).unwrap();
    w.b.sysctl.set("net.ipv4.tcp_fastopen", server).unwrap();
    let l = w.listen(SERVER_PORT);
    if server & 0x400 == 0 {
        set_int(&l, IPPROTO_TCP, TCP_FASTOPEN, 5);
    }
    // The neighbours find each other, so that no SYN waits for that.
    let c = w.socket(&w.a);
    let _ = c.connect(&addr(B, 9), true, &mut wait());
    w.run(50);
    (w, l)
}

/// A client that opens its connection with `data`.
fn open_with(w: &World, data: &[u8]) -> (Arc<Socket>, Result<usize>) {
    let c = w.socket(&w.a);
    let r = send_open(&c, data);
    (c, r)
}

fn send_open(c: &Socket, data: &[u8]) -> Result<usize> {
    let mut m = MsgHdr::new(IovIter::source(data));
    (m.name, m.flags) = (Some(addr(B, SERVER_PORT)), MSG_DONTWAIT | MSG_FASTOPEN);
    match c.sendmsg(&mut m, &mut wait()) {
        Poll::Ready(r) => r,
        Poll::Pending => panic!("waits without being asked to"),
    }
}

fn accept(l: &Socket) -> Result<Arc<Socket>> {
    match l.accept(true, &mut wait()) {
        Poll::Ready(r) => r,
        Poll::Pending => panic!("waits without being asked to"),
    }
}

/// The client asks for a cookie and gets one.
fn warm_up(w: &World, l: &Socket) {
    let (c, r) = open_with(w, b"");
    assert_eq!(r, Err(Errno::EINPROGRESS));
    w.run(20);
    assert_eq!(c.sk.state(), TcpState::Established, "{}", w.mibs());
    accept(l).unwrap().release();
    c.release();
    w.run(50);
}

fn client_fail(s: &Socket) -> u8 {
    info(s).tcpi_delivery_rate_app_limited >> 1 & 3
}

#[test]
fn the_second_connection_carries_data_in_its_syn() {
    let (w, l) = world(1, 2);
    // Without a cookie the data waits for the handshake.
    let (c, r) = open_with(&w, b"early");
    assert_eq!(r, Err(Errno::EINPROGRESS));
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPFastOpenCookieReqd), 0);
    w.run(20);
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPFastOpenCookieReqd), 1);
    assert_eq!(client_fail(&c), 1, "TFO_COOKIE_UNAVAILABLE");
    accept(&l).unwrap().release();
    c.release();
    w.run(50);

    let (c, r) = open_with(&w, b"early");
    assert_eq!(r, Ok(5));
    assert_eq!(c.sk.state(), TcpState::SynSent);
    // Half a round trip: the server has it.
    w.run(6);
    let s = accept(&l).unwrap();
    assert_eq!(s.sk.state(), TcpState::SynRecv);
    assert!(s.poll().contains(PollMask::IN | PollMask::OUT));
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b"early"[..]));
    assert_eq!(send(&s, b"answer"), Ok(6));
    w.run(6);
    assert_eq!(recv(&c, 100, 0).as_deref(), Ok(&b"answer"[..]), "{}", w.mibs());
    w.run(20);
    assert_eq!((c.sk.state(), s.sk.state()), (TcpState::Established, TcpState::Established));
    for x in [&c, &s] {
        assert!(info(x).tcpi_options & TCPI_OPT_SYN_DATA != 0);
    }
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPFastOpenActive), 1);
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPFastOpenPassive), 1);
    assert_eq!((w.a.mib.get(Mib::TcpRetransSegs), w.b.mib.get(Mib::TcpRetransSegs)), (0, 0), "{}", w.mibs());
    assert!(inet_csk(&l.sk).accept_queue.fastopenq.is_empty());
    w.transfer(&c, &s, &pattern(200_000));
    w.transfer(&s, &c, &pattern(200_000));
    c.release();
    w.run(20);
    assert_eq!(recv(&s, 1, 0).as_deref(), Ok(&b""[..]));
    s.release();
    w.run(50);
    assert_eq!(s.sk.state(), TcpState::Close);
}

#[test]
fn more_than_a_syn_takes_follows_it() {
    let (w, l) = world(1, 2);
    warm_up(&w, &l);
    let data = pattern(10_000);
    let (c, r) = open_with(&w, &data);
    let n = r.unwrap();
    assert!((1300..1460).contains(&n), "{n}: an MSS, less room for options");
    w.run(20);
    let s = accept(&l).unwrap();
    let mut got = recv(&s, 20_000, 0).unwrap();
    assert_eq!(got.len(), n);
    assert_eq!(send(&c, &data[n..]), Ok(data.len() - n));
    w.run(50);
    got.extend(recv(&s, 20_000, 0).unwrap());
    assert!(got == data);
}

#[test]
fn clients_may_be_forbidden() {
    let (w, _l) = world(0, 2);
    assert_eq!(open_with(&w, b"x").1, Err(Errno::EOPNOTSUPP));
    let c = w.socket(&w.a);
    let set = |v: i32| c.setsockopt(IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &v.to_ne_bytes());
    assert_eq!(set(1), Err(Errno::EOPNOTSUPP));
    w.a.sysctl.set("net.ipv4.tcp_fastopen", 1).unwrap();
    assert_eq!((set(2), set(1)), (Err(Errno::EINVAL), Ok(())));
}

#[test]
fn a_deferred_connect_sends_its_syn_with_the_first_write() {
    let (w, l) = world(1, 2);
    warm_up(&w, &l);
    let c = w.socket(&w.a);
    set_int(&c, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1);
    assert_eq!(c.connect(&addr(B, SERVER_PORT), true, &mut wait()), Poll::Ready(Ok(())));
    assert_eq!(c.connect(&addr(B, SERVER_PORT), true, &mut wait()), Poll::Ready(Err(Errno::EISCONN)));
    w.run(50);
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPFastOpenPassive), 0, "nothing was sent");
    assert!(c.poll().contains(PollMask::OUT), "a write will do");
    assert_eq!(send(&c, b"first"), Ok(5));
    w.run(6);
    let s = accept(&l).unwrap();
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b"first"[..]));
    w.run(20);
    assert_eq!(send(&c, b"second"), Ok(6));
    w.run(20);
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b"second"[..]));
}

#[test]
fn a_server_that_does_not_take_the_data_gets_it_again() {
    let (w, l) = world(1, 2);
    warm_up(&w, &l);
    // From now on it takes none.
    w.b.sysctl.set("net.ipv4.tcp_fastopen", 0).unwrap();
    let (c, r) = open_with(&w, b"early");
    assert_eq!(r, Ok(5));
    w.run(25);
    let s = accept(&l).unwrap();
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b"early"[..]), "{}", w.mibs());
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPFastOpenActiveFail), 1);
    assert_eq!(client_fail(&c), 2, "TFO_DATA_NOT_ACKED");
    assert_eq!(info(&c).tcpi_options & TCPI_OPT_SYN_DATA, 0);
    w.run(300);
    let i = info(&c);
    assert_eq!([i.tcpi_unacked, i.tcpi_lost, i.tcpi_retrans], [0; 3]);
    w.transfer(&c, &s, &pattern(100_000));
}

#[test]
fn a_cookie_of_another_key_is_refused_and_replaced() {
    let (w, l) = world(1, 2);
    warm_up(&w, &l);
    w.b.sysctl.set_str("net.ipv4.tcp_fastopen_key", "1-2-3-4").unwrap();
    let (_c, r) = open_with(&w, b"early");
    assert_eq!(r, Ok(5));
    w.run(25);
    let s = accept(&l).unwrap();
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b"early"[..]));
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPFastOpenPassiveFail), 1);
    // The SYN-ACK brought a good one.
    let (_c, r) = open_with(&w, b"early");
    assert_eq!(r, Ok(5));
    w.run(6);
    assert_eq!(recv(&accept(&l).unwrap(), 100, 0).as_deref(), Ok(&b"early"[..]));
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPFastOpenPassive), 1);
}

#[test]
fn the_backup_key_is_believed_while_clients_learn_the_new_one() {
    let (w, l) = world(1, 2);
    let (old, new) = ([1u8; 16], [2u8; 16]);
    let set = |k: &[u8]| l.setsockopt(IPPROTO_TCP, TCP_FASTOPEN_KEY, k);
    set(&old).unwrap();
    assert_eq!(l.getsockopt(IPPROTO_TCP, TCP_FASTOPEN_KEY, 32).unwrap(), old);
    assert_eq!(set(&[0; 20]), Err(Errno::EINVAL));
    warm_up(&w, &l);
    set(&[new, old].concat()).unwrap();
    for passive_alt in [1, 1] {
        let (_c, r) = open_with(&w, b"early");
        assert_eq!(r, Ok(5));
        w.run(25);
        accept(&l).unwrap();
        assert_eq!(w.b.mib.get(Mib::TcpExtTCPFastOpenPassiveAltKey), passive_alt, "once, then it has the new one");
    }
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPFastOpenPassive), 1);
}

#[test]
fn a_lost_syn_is_repeated_without_data() {
    let (w, l) = world(1, 2);
    warm_up(&w, &l);
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    let (c, r) = open_with(&w, b"early");
    assert_eq!(r, Ok(5));
    w.run(500);
    w.set(NetemParams { delay_ns: 5_000_000, ..NetemParams::default() });
    w.run(600);
    let s = accept(&l).unwrap();
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b"early"[..]), "{}", w.mibs());
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPFastOpenPassive), 0);
    assert_eq!(client_fail(&c), 3, "TFO_SYN_RETRANSMITTED");
    w.transfer(&c, &s, &pattern(100_000));
}

#[test]
fn a_lost_syn_ack_is_repeated_by_the_child() {
    let (w, l) = world(1, 2);
    warm_up(&w, &l);
    w.netem[1].set(NetemParams { loss: 1.0, ..NetemParams::default() });
    let (c, _) = open_with(&w, b"early");
    w.run(10);
    let s = accept(&l).unwrap();
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b"early"[..]));
    // Nothing but the SYN-ACK is repeated before it is answered.
    assert_eq!(send(&s, b"answer"), Ok(6));
    w.run(500);
    assert_eq!((c.sk.state(), s.sk.state()), (TcpState::SynSent, TcpState::SynRecv));
    w.netem[1].set(NetemParams { delay_ns: 5_000_000, ..NetemParams::default() });
    w.run(2500);
    assert_eq!((c.sk.state(), s.sk.state()), (TcpState::Established, TcpState::Established), "{}", w.mibs());
    assert_eq!(recv(&c, 100, 0).as_deref(), Ok(&b"answer"[..]));
    w.transfer(&s, &c, &pattern(100_000));
}

#[test]
fn a_child_whose_client_has_gone_is_given_up() {
    let (w, l) = world(1, 2);
    warm_up(&w, &l);
    let (c, _) = open_with(&w, b"early");
    w.run(5);
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    w.run(5);
    let s = accept(&l).unwrap();
    w.run(200_000);
    assert_eq!(s.sk.state(), TcpState::Close, "{}", w.mibs());
    assert!(inet_csk(&l.sk).accept_queue.fastopenq.is_empty());
    drop(c);
}

#[test]
fn no_more_children_than_the_listener_wants() {
    let (w, l) = world(1, 2);
    set_int(&l, IPPROTO_TCP, TCP_FASTOPEN, 2);
    assert_eq!(l.getsockopt(IPPROTO_TCP, TCP_FASTOPEN, 4).unwrap(), 2i32.to_ne_bytes());
    warm_up(&w, &l);
    // The server's SYN-ACKs are lost: the children wait.
    w.netem[1].set(NetemParams { loss: 1.0, ..NetemParams::default() });
    let clients: Vec<_> = (0..4).map(|_| open_with(&w, b"early").0).collect();
    w.run(10);
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPFastOpenPassive), 2);
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPFastOpenListenOverflow), 2);
    assert_eq!(inet_csk(&l.sk).accept_queue.fastopenq.len(), 2);
    drop(clients);
}

#[test]
fn a_reset_child_keeps_its_place_for_a_minute() {
    let (w, l) = world(1, 2);
    set_int(&l, IPPROTO_TCP, TCP_FASTOPEN, 1);
    warm_up(&w, &l);
    let q = &inet_csk(&l.sk).accept_queue.fastopenq;
    let (c, _) = open_with(&w, b"early");
    w.run(3);
    // The client forgets the connection: the SYN-ACK is answered with a RST.
    c.release();
    w.run(3);
    let s = accept(&l).unwrap();
    w.run(20);
    assert_eq!(s.sk.state(), TcpState::Close);
    assert_eq!(q.len(), 1, "held");
    let _third = open_with(&w, b"early");
    w.run(20);
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPFastOpenListenOverflow), 1);
    w.run(60_000);
    let (_c, _) = open_with(&w, b"early");
    w.run(6);
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPFastOpenPassive), 2, "{}", w.mibs());
}

#[test]
fn a_closed_listener_resets_its_children() {
    let (w, l) = world(1, 2);
    warm_up(&w, &l);
    let before = tcp_hashinfo(&w.b).ehash.len();
    let (c, _) = open_with(&w, b"early");
    w.run(6);
    l.release();
    w.run(20);
    assert_eq!(c.sk.state(), TcpState::Close);
    assert_eq!(recv(&c, 1, 0), Err(Errno::ECONNRESET));
    assert_eq!(tcp_hashinfo(&w.b).ehash.len(), before, "{}", w.mibs());
}

#[test]
fn cookies_can_be_done_without() {
    let (w, l) = world(1 | 4, 2 | 0x200);
    let (_c, r) = open_with(&w, b"early");
    assert_eq!(r, Ok(5));
    w.run(6);
    assert_eq!(recv(&accept(&l).unwrap(), 100, 0).as_deref(), Ok(&b"early"[..]));
    // Or by the sockets' options, on a listener that the sysctl speaks for.
    let (w, l) = world(1, 2 | 0x400);
    set_int(&l, IPPROTO_TCP, 34, 1);
    l.listen(16).unwrap();
    let c = w.socket(&w.a);
    set_int(&c, IPPROTO_TCP, 34, 1);
    assert_eq!(send_open(&c, b"early"), Ok(5));
    w.run(6);
    assert_eq!(recv(&accept(&l).unwrap(), 100, 0).as_deref(), Ok(&b"early"[..]), "{}", w.mibs());
}

#[test]
fn clients_hold_back_from_a_black_hole() {
    let (w, l) = world(1, 2);
    w.a.sysctl.set("net.ipv4.tcp_fastopen_blackhole_timeout_sec", 10).unwrap();
    warm_up(&w, &l);
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    let (c, _) = open_with(&w, b"early");
    w.run(8000);
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPFastOpenBlackhole), 1, "{}", w.mibs());
    c.release();
    w.set(NetemParams { delay_ns: 5_000_000, ..NetemParams::default() });
    assert_eq!(open_with(&w, b"early").1, Err(Errno::EINPROGRESS), "an ordinary SYN");
    w.run(20_000);
    assert_eq!(open_with(&w, b"early").1, Ok(5), "after a while it tries again");
}

#[test]
fn the_experimental_option_is_tried_once() {
    let (w, l) = world(1, 0);
    for reqd in [0; 3] {
        let (c, _) = open_with(&w, b"");
        w.run(20);
        assert_eq!(w.b.mib.get(Mib::TcpExtTCPFastOpenCookieReqd) > 0, reqd == 0);
        accept(&l).unwrap();
        c.release();
    }
    // A server that understands it answers in kind.
    w.b.sysctl.set("net.ipv4.tcp_fastopen", 2).unwrap();
    warm_up(&w, &l);
    assert_eq!(open_with(&w, b"early").1, Ok(5));
}

#[test]
fn zero_copy_data_in_a_syn_is_reported() {
    let (w, l) = world(1, 2);
    let send_zerocopy = |c: &Socket| {
        set_int(c, SOL_SOCKET, SO_ZEROCOPY, 1);
        let mut m = MsgHdr::new(IovIter::source(b"early"));
        (m.name, m.flags) = (Some(addr(B, SERVER_PORT)), MSG_DONTWAIT | MSG_FASTOPEN | MSG_ZEROCOPY);
        let Poll::Ready(r) = c.sendmsg(&mut m, &mut wait()) else { panic!("waits without being asked to") };
        r
    };
    let c = w.socket(&w.a);
    assert_eq!(send_zerocopy(&c), Err(Errno::EINPROGRESS), "it asks for a cookie");
    w.run(50);
    assert_eq!(tx_notify::report(&c), Err(Errno::EAGAIN), "nothing was sent");
    accept(&l).unwrap().release();
    c.release();
    w.run(50);
    let c = w.socket(&w.a);
    assert_eq!(send_zerocopy(&c), Ok(5), "with the SYN");
    w.run(50);
    assert_eq!(tx_notify::report(&c), Ok((0, 5, 1, 0, 0)));
    assert_eq!(tx_notify::report(&c), Err(Errno::EAGAIN));
}

#[test]
fn a_blocking_sender_waits_for_the_connection() {
    let (w, l) = world(1, 2);
    let c = w.socket(&w.a);
    let data = pattern(3000);
    let mut m = MsgHdr::new(IovIter::source(&data));
    (m.name, m.flags) = (Some(addr(B, SERVER_PORT)), MSG_FASTOPEN);
    let mut wt = wait();
    assert!(c.sendmsg(&mut m, &mut wt).is_pending());
    w.run(20);
    assert_eq!(c.sendmsg(&mut m, &mut wt), Poll::Ready(Ok(3000)));
    w.run(20);
    assert!(recv(&accept(&l).unwrap(), 9000, 0).unwrap() == data);
    // And one with a cookie.
    let c = w.socket(&w.a);
    let mut m = MsgHdr::new(IovIter::source(&data));
    (m.name, m.flags) = (Some(addr(B, SERVER_PORT)), MSG_FASTOPEN);
    let mut wt = wait();
    assert!(c.sendmsg(&mut m, &mut wt).is_pending());
    w.run(20);
    assert_eq!(c.sendmsg(&mut m, &mut wt), Poll::Ready(Ok(3000)));
    w.run(20);
    assert!(recv(&accept(&l).unwrap(), 9000, 0).unwrap() == data);
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPFastOpenPassive), 1);
}

#[test]
fn a_lost_syn_ack_s_timestamp_is_that_of_the_first_syn() {
    let w = World::new();
    let _l = w.listen(SERVER_PORT);
    let c = w.socket(&w.a);
    let _ = c.connect(&addr(B, 9), true, &mut wait());
    w.run(50);
    let c = w.socket(&w.a);
    w.netem[1].set(NetemParams { loss: 1.0, ..NetemParams::default() });
    let _ = c.connect(&addr(B, SERVER_PORT), true, &mut wait());
    w.run(500);
    w.netem[1].set(NetemParams { delay_ns: 5_000_000, ..NetemParams::default() });
    w.run(1000);
    assert_eq!(c.sk.state(), TcpState::Established, "{}", w.mibs());
    assert_eq!(w.a.mib.get(Mib::TcpExtPAWSActive), 0);
}

/// `RTAX_FASTOPEN_NO_COOKIE`, on the route of either side.
#[test]
fn a_route_needs_no_cookie() {
    use crate::core::dst_metrics::Rtax;
    use crate::ipv4::fib_frontend::{RouteSpec, ip_route_add};
    let (w, l) = world(1, 2);
    for (net, to) in [(&w.a, B), (&w.b, A)] {
        let _inside = w.t.kernel.enter();
        let oif = crate::core::dev::dev_get_by_name(net, "eth0").unwrap().ifindex;
        let mut spec = RouteSpec { oif, ..RouteSpec::new(to, 32) };
        spec.metrics.set(Rtax::FastopenNoCookie, 1).unwrap();
        ip_route_add(net, spec).unwrap();
    }
    let (_c, r) = open_with(&w, b"early");
    assert_eq!(r, Ok(5));
    w.run(6);
    assert_eq!(recv(&accept(&l).unwrap(), 100, 0).as_deref(), Ok(&b"early"[..]));
}
