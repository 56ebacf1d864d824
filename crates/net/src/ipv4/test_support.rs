//! What the unit tests of TCP's tables need: a namespace on a clock set by hand, and sockets of a transport that does nothing.
//!
//! Interface: [`TestNet`], [`bare_sock`].
//! Linux counterpart: none.
//! Locks and context: tests.

use crate::core::net_namespace::{Net, Registries};
use crate::core::skbuff::Skb;
use crate::core::sock::{Proto, ProtoSock, Sock};
use crate::core::test_arch::TestMachine;
use crate::hdr::TcpHdr;
use crate::hdr::tcp_flag::{FIN, SYN};
use crate::ipv4::inet_connection_sock::{inet_csk_accept, inet_csk_get_port, inet_csk_listen_start};
use crate::ipv4::inet_hashtables::inet_hashinfo_init;
use crate::ipv4::inet_sock::{InetSock, InetTuple};
use crate::ipv4::request_sock::RequestSock;
use crate::ipv4::tcp_sock::{TcpSkbCb, tcp_skb_cb_mut};
use kernel::Kernel;
use std::any::Any;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Poll;
use uapi::Errno;
use uapi::poll::Poll as PollMask;

/// A namespace with TCP's tables and nothing else.
pub struct TestNet {
    machine: TestMachine,
    pub kernel: Arc<Kernel>,
    pub net: Arc<Net>,
}

impl TestNet {
    pub fn new() -> TestNet {
        Self::with(|kernel| {
            let reg = Registries::new(kernel.clone());
            reg.pernet.lock_bh().push(inet_hashinfo_init);
            reg
        })
    }

    /// A namespace of other registries.
    pub fn with(init: impl FnOnce(&Arc<Kernel>) -> Arc<Registries>) -> TestNet {
        let machine = TestMachine::new();
        let kernel = machine.kernel.clone();
        let net = Net::new(&init(&kernel));
        TestNet { machine, kernel, net }
    }

    /// Moves the clock and fires what is due.
    pub fn advance(&self, ms: u64) {
        self.machine.advance(ms);
    }
}

/// The state of a transport that does nothing.
pub struct Bare(pub InetSock);

impl ProtoSock for Bare {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
    fn inet(&mut self) -> &mut dyn Any {
        &mut self.0
    }
}

static BARE_PROT: Proto = Proto {
    name: "BARE",
    init: |_| Ok(Box::new(Bare(InetSock::default()))),
    close: |_| {},
    linger: |_, _| Poll::Ready(()),
    connect: |_, _, _| Err(Errno::EOPNOTSUPP),
    disconnect: |_, _| Ok(()),
    listen: inet_csk_listen_start,
    options_changed: None,
    keepalive: |_, _, _| {},
    set_rcvlowat: Sock::set_rcvlowat,
    accept: inet_csk_accept,
    ioctl: |_, _| Err(Errno::ENOIOCTLCMD),
    setsockopt: |_, _, _, _| Err(Errno::ENOPROTOOPT),
    getsockopt: |_, _, _, _| Err(Errno::ENOPROTOOPT),
    shutdown: |_, _, _| {},
    fastopen: None,
    sendmsg: |_, _, _| Poll::Ready(Err(Errno::EOPNOTSUPP)),
    recvmsg: |_, _, _, _| Poll::Ready(Err(Errno::EOPNOTSUPP)),
    splice_read: None,
    backlog_rcv: |_, _, _| {},
    release_cb: |_, _, _| {},
    get_port: inet_csk_get_port,
    poll: |_| PollMask::empty(),
    inner: &(),
};

/// A socket of that transport.
pub fn bare_sock(net: &Arc<Net>, family: i32) -> Arc<Sock> {
    Sock::alloc(net, family as u16, uapi::socket::SOCK_STREAM, 6, &BARE_PROT).expect("a bare socket")
}

pub fn ip(s: &str) -> IpAddr {
    s.parse().expect("an address")
}

pub fn tuple(laddr: &str, lport: u16, faddr: &str, fport: u16) -> InetTuple {
    InetTuple { laddr: ip(laddr), faddr: ip(faddr), lport, fport }
}

/// A connection request from 10.0.0.2, sequence numbers 1 (theirs) and 2 (ours), without options.
pub fn request(listener: Weak<Sock>, fport: u16, defer_accept: u8) -> Arc<RequestSock> {
    Arc::new(bare_request(listener, fport, defer_accept))
}

/// The same, to be changed.
pub fn bare_request(listener: Weak<Sock>, fport: u16, defer_accept: u8) -> RequestSock {
    RequestSock {
        tuple: tuple("10.0.0.1", 80, "10.0.0.2", fport),
        bound_dev_if: 0,
        listener,
        mss: 1460,
        tstamp_ok: false,
        sack_ok: false,
        wscale_ok: false,
        ecn_ok: false,
        accecn_ok: false,
        auth: None,
        syn_ect_rcv: 0,
        saw_accecn_opt: AtomicU8::new(0),
        snd_wscale: 0,
        rcv_wscale: 0,
        rcv_isn: 1,
        snt_isn: 2,
        ts_off: 0,
        rsk_rcv_wnd: 65535,
        rsk_window_clamp: 65535,
        advmss: 1460,
        tos: 0,
        ttl: 0,
        mark: 0,
        iif: 0,
        ts_recent: AtomicU32::new(0),
        snt_synack: AtomicU64::new(1),
        num_timeout: AtomicU8::new(0),
        num_retrans: AtomicU8::new(0),
        acked: AtomicBool::new(false),
        last_oow_ack_time: AtomicU64::new(0),
        rcv_nxt: AtomicU32::new(2),
        tfo_listener: AtomicBool::new(false),
        tfo_accepted: AtomicBool::new(false),
        saved_syn: None,
        syn_retries: 0,
        defer_accept,
        traced: false,
        rsk_timer: OnceLock::new(),
    }
}

/// A segment from 10.0.0.2 as `tcp_v4_rcv` has prepared it: header with `opts`, control block filled, `payload` bytes.
pub fn segment(fport: u16, seq: u32, ack: u32, flags: u8, opts: &[u8], payload: usize) -> (Box<Skb>, TcpHdr) {
    let header = TcpHdr::LEN + opts.len();
    let mut b = vec![0; header + payload];
    b[TcpHdr::LEN..header].copy_from_slice(opts);
    let th = TcpHdr::read_mut(&mut b).expect("room");
    th.source.set(fport);
    th.dest.set(80);
    th.seq.set(seq);
    th.ack_seq.set(ack);
    th.doff = (header as u8 / 4) << 4;
    th.flags = flags;
    th.window.set(1000);
    let th = *th;
    let mut skb = Skb::from_bytes(64, &b);
    let counted = payload as u32 + (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32;
    *tcp_skb_cb_mut(&mut skb) =
        TcpSkbCb { seq, end_seq: seq.wrapping_add(counted), ack_seq: ack, tcp_flags: flags, ..TcpSkbCb::default() };
    (skb, th)
}

/// The option area with a timestamp.
pub fn timestamp(val: u32, ecr: u32) -> Vec<u8> {
    let mut o = vec![1, 1, 8, 10];
    o.extend_from_slice(&val.to_be_bytes());
    o.extend_from_slice(&ecr.to_be_bytes());
    o
}
