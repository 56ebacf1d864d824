//! Families and transports are registered and unregistered while other threads make sockets of them and use them.
//!
//! Interface: tests. `REGISTRATION_ROUNDS` is how often each of the registering threads registers; see
//! [`millions_of_times`] for the long run.
//! Linux counterpart: none; what `modprobe` and `rmmod` in loops beside `socket(2)` do to `net/socket.c`.
//! Locks and context: threads. Each registering thread has a module of its own, which is ready only while it is registered.

use host::Host;
use kernel::local_bh_disable;
use sockeye_net::core::net_namespace::{Net, NetProtocol, Registries};
use sockeye_net::core::skbuff::Skb;
use sockeye_net::core::sock::Proto;
use sockeye_net::init::net_init;
use sockeye_net::ipv4::af_inet::{InetProtosw, inet_create, inet_register_protosw, inet_unregister_protosw};
use sockeye_net::ipv4::ip_input::ip_local_deliver_finish;
use sockeye_net::ipv4::protocol::{inet_add_protocol, inet_del_protocol};
use sockeye_net::ipv4::udp::{UDP_PROT, UDP_PROTOSW};
use sockeye_net::socket::{NetProtoFamily, sock_register, sock_unregister};
use sockeye_net::syscall::FdTable;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::thread;
use uapi::sockaddr::AF_INET;
use uapi::socket::*;
use uapi::{Errno, SockAddr};

const FAMILY: u16 = 29;
const PROTOCOL: u8 = 253;
const SOCK_RDM: i32 = 4;
const READY: u64 = 0x600d_600d;
const GONE: u64 = 0xdead_dead;

/// What a family or a transport needs to be there while anybody is inside: set up before it is registered, torn down after.
struct Module {
    /// Both are `READY` or it is not.
    first: AtomicU64,
    last: AtomicU64,
    inside: AtomicUsize,
    entered: AtomicUsize,
}

impl Module {
    const fn new() -> Module {
        let (first, last) = (AtomicU64::new(GONE), AtomicU64::new(GONE));
        Module { first, last, inside: AtomicUsize::new(0), entered: AtomicUsize::new(0) }
    }

    /// Nothing but the registration publishes this.
    fn init(&self) {
        self.first.store(READY, Relaxed);
        self.last.store(READY, Relaxed);
    }

    fn exit(&self) {
        assert_eq!(self.inside.load(Relaxed), 0, "unregistered while somebody is inside");
        self.forget();
    }

    fn forget(&self) {
        self.last.store(GONE, Relaxed);
        self.first.store(GONE, Relaxed);
    }

    fn check(&self) {
        let state = (self.first.load(Relaxed), self.last.load(Relaxed));
        assert_eq!(state, (READY, READY), "entered a module that is half made, or gone");
    }

    fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        self.inside.fetch_add(1, Relaxed);
        self.check();
        if self.entered.fetch_add(1, Relaxed).is_multiple_of(32) {
            thread::yield_now();
        }
        let r = f();
        self.check();
        self.inside.fetch_sub(1, Relaxed);
        r
    }
}

fn rounds() -> usize {
    std::env::var("REGISTRATION_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(20_000)
}

/// Two threads run a registration each, over and over; two use it until these are done. `used` says whether it was there.
fn under_fire(
    rounds: usize,
    modules: &[Module; 2],
    round: impl Fn(usize, usize) -> bool + Sync,
    used: impl Fn(&AtomicBool) -> (u64, u64) + Sync,
) {
    let done = AtomicBool::new(false);
    let (mut there, mut not) = (0, 0);
    thread::scope(|s| {
        let round = &round;
        let users: Vec<_> = (0..2).map(|_| s.spawn(|| used(&done))).collect();
        let registering: Vec<_> = (0..2)
            .map(|w| {
                s.spawn(move || {
                    let mut i = 0;
                    while i < rounds {
                        modules[w].init();
                        if round(w, i) {
                            modules[w].exit();
                            i += 1;
                        } else {
                            modules[w].forget();
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let ends: Vec<_> = registering.into_iter().map(|t| t.join()).collect();
        done.store(true, Relaxed);
        for u in users {
            let (a, b) = u.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
            (there, not) = (there + a, not + b);
        }
        ends.into_iter().for_each(|e| e.unwrap_or_else(|e| std::panic::resume_unwind(e)));
    });
    let n = 2 * rounds;
    println!("registered and unregistered {n} times; used {there} times, not there {not} times");
    assert!(there > 0 && not > 0);
}

fn pause(i: usize) {
    (0..i % 64 * 8).for_each(|_| std::hint::spin_loop());
    if i.is_multiple_of(4) {
        thread::yield_now();
    }
}

/// Makes sockets, and uses them also when what they were made of is unregistered.
fn sockets(net: &Arc<Net>, family: i32, kind: i32, protocol: i32, absent: &[Errno], done: &AtomicBool) -> (u64, u64) {
    let f = FdTable::new(net, 64);
    let mut open = VecDeque::new();
    let (mut there, mut not) = (0, 0);
    while !done.load(Relaxed) {
        match f.socket(family, kind, protocol) {
            Ok(fd) => {
                there += 1;
                open.push_back(fd);
            }
            Err(e) => {
                assert!(absent.contains(&e), "{e:?}");
                not += 1;
                if not % 16 == 0 {
                    thread::yield_now();
                }
            }
        }
        if open.len() > 8 {
            let fd = open.pop_front().expect("one");
            if there % 8 == 0 {
                talk_to_itself(&f, fd);
            }
            f.close(fd).expect("close");
        }
    }
    open.into_iter().for_each(|fd| f.close(fd).expect("close"));
    (there, not)
}

fn talk_to_itself(f: &FdTable, fd: i32) {
    let any: SockAddr = "127.0.0.1:0".parse::<SocketAddr>().expect("address").into();
    f.bind(fd, &any).expect("bind");
    let name = f.getsockname(fd).expect("name");
    assert_eq!(f.sendto(fd, b"hello", 0, Some(&name)), Ok(5));
    let mut buf = [0; 16];
    assert_eq!(f.recvfrom(fd, &mut buf, MSG_DONTWAIT), Ok((5, Some(name))));
    assert_eq!(&buf[..5], b"hello");
}

fn machine() -> (Arc<Host>, Arc<Registries>, Arc<Net>) {
    let host = Host::start(1).expect("host");
    let reg = net_init(host.kernel());
    let net = Net::new(&reg);
    (host, reg, net)
}

fn families(rounds: usize) {
    static MODULES: [Module; 2] = [Module::new(), Module::new()];
    let create = [
        (|net, _, _| MODULES[0].enter(|| inet_create(net, SOCK_DGRAM, 0))) as fn(&Arc<Net>, i32, i32) -> _,
        |net, _, _| MODULES[1].enter(|| inet_create(net, SOCK_DGRAM, 0)),
    ];
    let (_host, reg, net) = machine();
    let round = |w: usize, i: usize| {
        match sock_register(&reg, NetProtoFamily { family: FAMILY, create: create[w] }) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return false,
            Err(e) => panic!("{e:?}"),
        }
        pause(i);
        sock_unregister(&reg, FAMILY);
        true
    };
    under_fire(rounds, &MODULES, round, |done| {
        sockets(&net, FAMILY as i32, SOCK_DGRAM, 0, &[Errno::EAFNOSUPPORT], done)
    });
}

fn transports(rounds: usize) {
    static MODULES: [Module; 2] = [Module::new(), Module::new()];
    static PROTS: [Proto; 2] = [
        Proto { init: |sk| MODULES[0].enter(|| (UDP_PROT.init)(sk)), ..UDP_PROT },
        Proto { init: |sk| MODULES[1].enter(|| (UDP_PROT.init)(sk)), ..UDP_PROT },
    ];
    let (_host, reg, net) = machine();
    let round = |w: usize, i: usize| {
        let (kind, protocol) = (SOCK_RDM, IPPROTO_UDP as u16);
        let p = InetProtosw { kind, protocol, prot: &PROTS[w], permanent: false, ..UDP_PROTOSW };
        inet_register_protosw(&reg, p).expect("register");
        pause(i);
        inet_unregister_protosw(&reg, &p).expect("unregister");
        true
    };
    under_fire(rounds, &MODULES, round, |done| {
        let absent = [Errno::ESOCKTNOSUPPORT, Errno::EPROTONOSUPPORT];
        sockets(&net, AF_INET as i32, SOCK_RDM, IPPROTO_UDP, &absent, done)
    });
}

/// A packet for this protocol number, as it comes up from IP.
fn packet() -> Box<Skb> {
    let mut ip = [0; 24];
    ip[0] = 0x45;
    ip[3] = 24;
    ip[8] = 64;
    ip[9] = PROTOCOL;
    ip[12..16].copy_from_slice(&[127, 0, 0, 1]);
    ip[16..20].copy_from_slice(&[127, 0, 0, 1]);
    let mut skb = Skb::from_bytes(64, &ip);
    skb.reset_network_header();
    skb.set_transport_header(20);
    skb
}

fn handlers(rounds: usize) {
    static MODULES: [Module; 2] = [Module::new(), Module::new()];
    static DELIVERED: AtomicU64 = AtomicU64::new(0);
    let deliver = [(|_, skb| MODULES[0].enter(|| count(skb))) as fn(&Arc<Net>, Box<Skb>), |_, skb| {
        MODULES[1].enter(|| count(skb))
    }];
    fn count(skb: Box<Skb>) {
        assert_eq!(skb.len(), 4);
        DELIVERED.fetch_add(1, Relaxed);
    }
    let (_host, reg, net) = machine();
    let round = |w: usize, i: usize| {
        let p = NetProtocol { handler: deliver[w], err_handler: |_, _, _| {} };
        match inet_add_protocol(&reg, PROTOCOL, p) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return false,
            Err(e) => panic!("{e:?}"),
        }
        pause(i);
        inet_del_protocol(&reg, PROTOCOL);
        true
    };
    let sent = AtomicU64::new(0);
    under_fire(rounds, &MODULES, round, |done| {
        let mut mine = 0;
        while !done.load(Relaxed) {
            let _cpu = net.kernel().enter();
            let _bh = local_bh_disable();
            ip_local_deliver_finish(&net, packet());
            mine += 1;
            if mine % 16 == 0 {
                thread::yield_now();
            }
        }
        // Which of them found a handler is only known in all.
        let before = sent.fetch_add(mine, Relaxed);
        if before == 0 { (0, 0) } else { (DELIVERED.load(Relaxed), before + mine - DELIVERED.load(Relaxed)) }
    });
}

#[test]
fn a_family_comes_and_goes_under_fire() {
    families(rounds());
}

#[test]
fn a_transport_comes_and_goes_under_fire() {
    transports(rounds());
}

#[test]
fn a_protocol_handler_comes_and_goes_under_fire() {
    handlers(rounds());
}

/// `cargo test --release -p sockeye-net --test registration -- --ignored --nocapture`
#[test]
#[ignore = "minutes"]
fn millions_of_times() {
    let n = std::env::var("REGISTRATION_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(1_000_000);
    [families, transports, handlers].into_iter().for_each(|f| f(n));
}
