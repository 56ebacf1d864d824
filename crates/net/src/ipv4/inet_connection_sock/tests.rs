//! Ports: the same calls on sockets of ours and of this machine's kernel. Accept queues and requests on a clock set by hand.

use super::*;
use crate::ipv4::inet_hashtables::{__inet_lookup_established, inet_ehash_insert};
use crate::ipv4::test_support::{TestNet, bare_sock, ip, request};
use kernel::task::Task;
use rustix::net as real;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;
use uapi::socket::{AF_INET, AF_INET6};

/// How a socket is bound.
#[derive(Clone, Copy, Debug)]
struct How {
    addr: IpAddr,
    v6: bool,
    v6only: bool,
    reuse: bool,
    reuseport: bool,
}

fn all_hows() -> Vec<How> {
    let mut v = Vec::new();
    let addrs = [
        ("0.0.0.0", false, false),
        ("127.0.0.1", false, false),
        ("127.0.0.2", false, false),
        ("::", true, false),
        ("::", true, true),
        ("::1", true, false),
        // Stands for ::ffff:127.0.0.1 on an IPv6 socket.
        ("127.0.0.1", true, false),
    ];
    for (addr, v6, v6only) in addrs {
        for (reuse, reuseport) in [(false, false), (true, false), (false, true), (true, true)] {
            v.push(How { addr: ip(addr), v6, v6only, reuse, reuseport });
        }
    }
    v
}

/// What a call answers, compared between the two.
type Errnos = Vec<i32>;

struct RealSock(OwnedFd);

impl RealSock {
    fn new(h: &How) -> RealSock {
        let family = if h.v6 { real::AddressFamily::INET6 } else { real::AddressFamily::INET };
        let fd = real::socket(family, real::SocketType::STREAM, None).expect("a socket of the kernel");
        if h.v6 {
            real::sockopt::set_ipv6_v6only(&fd, h.v6only).expect("IPV6_V6ONLY");
        }
        real::sockopt::set_socket_reuseaddr(&fd, h.reuse).expect("SO_REUSEADDR");
        real::sockopt::set_socket_reuseport(&fd, h.reuseport).expect("SO_REUSEPORT");
        RealSock(fd)
    }

    fn bind(&self, h: &How, port: u16) -> i32 {
        let addr = match h.addr {
            IpAddr::V4(a) if h.v6 => IpAddr::V6(a.to_ipv6_mapped()),
            a => a,
        };
        real::bind(&self.0, &SocketAddr::new(addr, port)).err().map_or(0, |e| e.raw_os_error())
    }

    fn listen(&self) -> i32 {
        real::listen(&self.0, 5).err().map_or(0, |e| e.raw_os_error())
    }
}

struct OurSock(Arc<Sock>);

impl OurSock {
    fn new(t: &TestNet, h: &How) -> OurSock {
        let sk = bare_sock(&t.net, if h.v6 { AF_INET6 } else { AF_INET });
        sk.set_flag(SockFlags::V6ONLY, h.v6only);
        sk.set_flag(SockFlags::REUSEADDR, h.reuse);
        sk.set_flag(SockFlags::REUSEPORT, h.reuseport);
        OurSock(sk)
    }

    fn bind(&self, h: &How, port: u16) -> i32 {
        let mut state = self.0.lock_sock();
        inet_sk(&mut *state).rcv_saddr = h.addr;
        inet_csk_get_port(&self.0, &mut *state, port).err().map_or(0, |e| e.0)
    }

    fn listen(&self) -> i32 {
        let mut state = self.0.lock_sock();
        inet_csk_listen_start(&self.0, &mut *state, 5).err().map_or(0, |e| e.0)
    }
}

impl Drop for OurSock {
    fn drop(&mut self) {
        inet_unhash(&self.0);
        inet_put_port(&self.0);
    }
}

/// Binds two sockets, and lets them listen: 0: not at all, 1: the first before the second is bound, 2: both at the end.
macro_rules! script {
    ($new:expr, $a:expr, $b:expr, $port:expr, $listen:expr) => {{
        let (a, b) = ($new(&$a), $new(&$b));
        let mut said: Errnos = vec![a.bind(&$a, $port)];
        if $listen == 1 {
            said.push(a.listen());
        }
        let second = b.bind(&$b, $port);
        said.push(second);
        if $listen == 2 {
            said.push(a.listen());
        }
        if $listen > 0 && second == 0 {
            said.push(b.listen());
        }
        said
    }};
}

/// A port that nobody on this machine uses, as far as can be known.
fn free_port() -> u16 {
    let l = std::net::TcpListener::bind("[::]:0").or_else(|_| std::net::TcpListener::bind("0.0.0.0:0"));
    l.and_then(|l| l.local_addr()).expect("a free port").port()
}

#[test]
fn two_sockets_share_a_port_when_linux_says_so() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let has_v6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    if !has_v6 {
        eprintln!("this machine has no IPv6: only IPv4 bindings are compared");
    }
    let hows: Vec<How> = all_hows().into_iter().filter(|h| has_v6 || !h.v6).collect();
    let port = free_port();
    for a in &hows {
        for b in &hows {
            for listen in 0..3 {
                let theirs = script!(RealSock::new, a, b, port, listen);
                let ours = script!(|h| OurSock::new(&t, h), a, b, port, listen);
                assert_eq!(ours, theirs, "first {a:?}, second {b:?}, listen {listen}");
            }
        }
    }
}

#[test]
fn a_port_of_choice_is_free_until_none_is_left() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    t.net.sysctl.ip_local_port_min.set(40000).unwrap();
    t.net.sysctl.ip_local_port_max.set(40009).unwrap();
    let how = How { addr: ip("127.0.0.1"), v6: false, v6only: false, reuse: false, reuseport: false };
    let mut socks = Vec::new();
    for _ in 0..10 {
        let s = OurSock::new(&t, &how);
        assert_eq!(s.bind(&how, 0), 0);
        socks.push(s);
    }
    let mut ports: Vec<u16> = socks.iter().map(|s| s.0.hashed.bind_port()).collect();
    ports.sort_unstable();
    assert_eq!(ports, (40000..40010).collect::<Vec<u16>>());
    let s = OurSock::new(&t, &how);
    assert_eq!(s.bind(&how, 0), Errno::EADDRINUSE.0);
    socks.pop();
    assert_eq!(s.bind(&how, 0), 0, "the port that was given back");
}

/// Sockets that share a port by their addresses do not pay for each other: `bind` looks at those of its address alone.
#[test]
fn the_ten_thousandth_socket_of_a_port_binds_as_fast_as_the_first() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let how = |n: u32| {
        let addr = IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0001 + n));
        How { addr, v6: false, v6only: false, reuse: false, reuseport: false }
    };
    let asked = |h: &How| tcp_hashinfo(&t.net).bind_bucket(80).candidates(h.addr).count();
    let mut socks = Vec::new();
    for n in 0..10_000 {
        assert!(asked(&how(n)) <= 16, "socket {n} looks at {}", asked(&how(n)));
        let s = OurSock::new(&t, &how(n));
        assert_eq!(s.bind(&how(n), 80), 0);
        socks.push(s);
    }
    assert_eq!(asked(&how(10_000)), 0);
    for n in (0..10_000).step_by(97) {
        assert_eq!(asked(&how(n)), 1);
        assert_eq!(OurSock::new(&t, &how(n)).bind(&how(n), 80), Errno::EADDRINUSE.0);
    }
    let any = How { addr: ip("0.0.0.0"), ..how(0) };
    assert_eq!(OurSock::new(&t, &any).bind(&any, 80), Errno::EADDRINUSE.0, "any address is everybody's");
    socks.drain(..9_990);
    assert_eq!((asked(&how(9_000)), asked(&how(9_995))), (0, 1));
    assert_eq!(OurSock::new(&t, &how(9_000)).bind(&how(9_000), 80), 0);
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]
    /// Looking at some holders gives the answer that looking at all would give, whatever was bound and given back before.
    #[test]
    fn the_index_refuses_what_a_scan_refuses(ops in proptest::collection::vec((0usize..28, 0u32..3, 0u8..8, 0usize..64), 1..120)) {
        let t = TestNet::new();
        let _inside = t.kernel.enter();
        let hows = all_hows();
        let mut socks: Vec<OurSock> = Vec::new();
        for (how, dev, what, which) in ops {
            if what == 0 && !socks.is_empty() {
                let at = which % socks.len();
                socks.swap_remove(at);
            }
            let s = OurSock::new(&t, &hows[how]);
            s.0.bound_dev_if.store(dev, Relaxed);
            let me = Holder::of(&s.0, BindAddr::of(&s.0, hows[how].addr));
            for (relax, reuseport_ok) in [(true, true), (false, false)] {
                let b = tcp_hashinfo(&t.net).bind_bucket(80);
                let scan = b.owners().iter().any(|o| me.conflicts(&Holder::of_owner(o), relax, reuseport_ok));
                proptest::prop_assert_eq!(inet_csk_bind_conflict(&s.0, &me, &b, relax, reuseport_ok), scan);
            }
            if s.bind(&hows[how], 80) == 0 {
                // Listeners are in the way even of those who share.
                if what == 1 {
                    s.0.set_state(TcpState::Listen);
                }
                socks.push(s);
            }
        }
    }
}

// --- The accept queue ---

fn listener(t: &TestNet, backlog: i32) -> Arc<Sock> {
    let sk = bare_sock(&t.net, AF_INET);
    let mut state = sk.lock_sock();
    inet_csk_get_port(&sk, &mut *state, 80).unwrap();
    inet_csk_listen_start(&sk, &mut *state, backlog).unwrap();
    drop(state);
    sk
}

#[test]
fn accept_waits_and_is_woken_by_a_connection() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let l = listener(&t, 5);
    let woken = Arc::new(AtomicUsize::new(0));
    let task = |n: &Arc<AtomicUsize>| {
        let n = n.clone();
        Wait::new(Task::from_fn(move || {
            n.fetch_add(1, SeqCst);
        }))
    };
    let (mut first, mut second) = (task(&woken), task(&woken));
    assert!(inet_csk_accept(&l, false, &mut first).is_pending());
    assert!(inet_csk_accept(&l, false, &mut second).is_pending());

    let child = bare_sock(&t.net, AF_INET);
    assert!(inet_csk_reqsk_queue_add(&l, &child, None));
    l.data_ready();
    assert_eq!(woken.load(SeqCst), 1, "one connection wakes one acceptor");
    match inet_csk_accept(&l, false, &mut first) {
        Poll::Ready(Ok(c)) => assert!(Arc::ptr_eq(&c, &child)),
        _ => panic!("the connection was not accepted"),
    }
    assert!(matches!(inet_csk_accept(&l, true, &mut task(&woken)), Poll::Ready(Err(Errno::EAGAIN))));

    // Closing the listener wakes the other one, who learns that there is nothing to wait for.
    l.set_state(TcpState::Close);
    inet_csk_listen_stop(&l);
    assert_eq!(woken.load(SeqCst), 2);
    assert!(matches!(inet_csk_accept(&l, false, &mut second), Poll::Ready(Err(Errno::EINVAL))));
    assert!(!inet_csk_reqsk_queue_add(&l, &child, None), "a closed listener takes nobody in");
}

/// The one acceptor that a connection woke is gone, or was interrupted: another one must hear of the connection.
#[test]
fn an_acceptor_that_leaves_passes_its_wake_up_on() {
    for interrupted in [false, true] {
        let t = TestNet::new();
        let _inside = t.kernel.enter();
        let l = listener(&t, 5);
        let woken = Arc::new(AtomicUsize::new(0));
        let n = woken.clone();
        let mut first = Wait::new(Task::from_fn(|| {}));
        let mut second = Wait::new(Task::from_fn(move || {
            n.fetch_add(1, SeqCst);
        }));
        assert!(inet_csk_accept(&l, false, &mut first).is_pending());
        assert!(inet_csk_accept(&l, false, &mut second).is_pending());
        if interrupted {
            // A connection that somebody else takes wakes it, it looks, and is interrupted.
            l.data_ready();
            first.task().send_signal();
            assert!(matches!(inet_csk_accept(&l, false, &mut first), Poll::Ready(Err(Errno::ERESTARTSYS))));
        } else {
            let child = bare_sock(&t.net, AF_INET);
            assert!(inet_csk_reqsk_queue_add(&l, &child, None));
            l.data_ready();
            drop(first);
            assert!(matches!(inet_csk_accept(&l, false, &mut second), Poll::Ready(Ok(_))));
        }
        assert_eq!(woken.load(SeqCst), 1, "interrupted: {interrupted}");
    }
}

#[test]
fn a_signal_ends_accept() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let l = listener(&t, 5);
    let task = Task::from_fn(|| {});
    let mut wait = Wait::new(task.clone());
    assert!(inet_csk_accept(&l, false, &mut wait).is_pending());
    task.send_signal();
    assert!(matches!(inet_csk_accept(&l, false, &mut wait), Poll::Ready(Err(Errno::ERESTARTSYS))));
}

#[test]
fn the_accept_queue_has_a_limit() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let l = listener(&t, 2);
    // Linux's comparison lets in one more than the backlog.
    for n in 0..3 {
        assert!(!crate::ipv4::request_sock::sk_acceptq_is_full(&l), "full at {n}");
        assert!(inet_csk_reqsk_queue_add(&l, &bare_sock(&t.net, AF_INET), None));
    }
    assert!(crate::ipv4::request_sock::sk_acceptq_is_full(&l));
    let mut wait = Wait::new(Task::from_fn(|| {}));
    assert!(inet_csk_accept(&l, true, &mut wait).is_ready());
    assert!(!crate::ipv4::request_sock::sk_acceptq_is_full(&l));
}

#[test]
fn a_backlog_is_cut_to_somaxconn() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    assert_eq!(listener(&t, -1).rare.max_ack_backlog(), 4096);
}

// --- Requests ---

/// Lets time pass until the request is gone; the seconds at which its SYN-ACK was sent again, and the one at which it went.
fn watch(t: &TestNet, req: &Arc<RequestSock>) -> (Vec<u64>, u64) {
    let (mut sent, mut n) = (Vec::new(), 0);
    for decisecond in 1..2000 {
        t.advance(100);
        let now = req.num_retrans.load(SeqCst);
        if now != n {
            n = now;
            sent.push(decisecond / 10);
        }
        if __inet_lookup_established(&t.net, &req.tuple, 0).is_none() {
            return (sent, decisecond / 10);
        }
    }
    panic!("the request lives for ever");
}

#[test]
fn a_syn_ack_is_sent_again_with_growing_pauses() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let l = listener(&t, 5);
    let req = request(l.weak(), 1000, 0);
    assert!(inet_csk_reqsk_queue_hash_add(&l, &req, |_, _| true));
    let queue = &inet_csk(&l).accept_queue;
    assert_eq!((queue.len(), queue.len_young()), (1, 1));
    assert!(!inet_csk_reqsk_queue_hash_add(&l, &request(l.weak(), 1000, 0), |_, _| true), "the same connection twice");
    assert_eq!(queue.len(), 1);
    let (sent, gone) = watch(&t, &req);
    // RFC 6298: 1 s, doubled each time; tcp_synack_retries is 5. The wheel may add an eighth.
    let ideal = [1, 3, 7, 15, 31];
    assert_eq!(sent.len(), ideal.len());
    for (s, i) in sent.iter().zip(ideal) {
        assert!((i..=i + i / 8 + 1).contains(s), "sent again at {sent:?}");
    }
    assert!((63..=72).contains(&gone), "given up after {gone} s");
    assert_eq!((queue.len(), queue.len_young()), (0, 0));
}

#[test]
fn requests_of_a_closed_listener_go() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let l = listener(&t, 5);
    let req = request(l.weak(), 1000, 0);
    assert!(inet_csk_reqsk_queue_hash_add(&l, &req, |_, _| true));
    l.set_state(TcpState::Close);
    let (sent, gone) = watch(&t, &req);
    assert!(sent.is_empty() && gone <= 2);
}

#[test]
fn a_full_queue_gives_up_old_requests_sooner() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let l = listener(&t, 4);
    let reqs: Vec<_> = (0..20).map(|n| request(l.weak(), 1000 + n, 0)).collect();
    for r in &reqs {
        assert!(inet_csk_reqsk_queue_hash_add(&l, r, |_, _| true));
    }
    assert!(inet_csk_reqsk_queue_is_full(&l));
    let (_, gone) = watch(&t, &reqs[0]);
    assert!(gone < 20, "kept for {gone} s");
}

#[test]
fn a_deferred_request_stays_silent() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let l = listener(&t, 5);
    let req = request(l.weak(), 1000, 3);
    req.acked.store(true, SeqCst);
    assert!(inet_csk_reqsk_queue_hash_add(&l, &req, |_, _| true));
    let (sent, _) = watch(&t, &req);
    assert!(sent[0] >= 7, "the first SYN-ACK again is the last call: {sent:?}");
}

#[test]
fn a_child_has_its_listener_s_options() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let l = listener(&t, 5);
    let child = |mark: u32| {
        let mut req = request(l.weak(), 1000, 0);
        Arc::get_mut(&mut req).unwrap().mark = mark;
        inet_csk_clone_lock(&l, &req).unwrap()
    };
    assert!(child(0).rare.get().is_none(), "what the listener has not set takes no memory");
    assert_eq!(child(3).rare.mark(), 3);
    let r = l.rare.make();
    let long = [&r.rcvtimeo, &r.sndtimeo, &r.lingertime, &r.max_pacing_rate];
    for (i, &v) in long.iter().enumerate() {
        let before = v.swap(7 + i as u64, Relaxed);
        let c = child(0);
        let c = &c.rare;
        let got = [c.rcvtimeo(), c.sndtimeo(), c.lingertime(), c.max_pacing_rate()];
        assert_eq!(got, long.map(|v| v.load(Relaxed)));
        v.store(before, Relaxed);
    }
    l.rare.set_priority(6);
    assert_eq!((child(0).rare.priority(), child(0).rare.max_ack_backlog()), (6, 0));
}

#[test]
fn one_child_takes_a_request_s_place() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let l = listener(&t, 5);
    let req = request(l.weak(), 1000, 0);
    assert!(inet_csk_reqsk_queue_hash_add(&l, &req, |_, _| true));
    let (a, b) = (bare_sock(&t.net, AF_INET), bare_sock(&t.net, AF_INET));
    assert!(crate::ipv4::inet_hashtables::inet_ehash_replace_request(&a, &req));
    assert!(!crate::ipv4::inet_hashtables::inet_ehash_replace_request(&b, &req), "the second third packet");
    assert!(!inet_csk_reqsk_queue_drop(&t.net, &req), "already gone");
    assert_eq!(inet_ehash_insert(&b, &req.tuple), Err(Errno::EADDRNOTAVAIL));
}
