//! What the unit tests of TCP's tables need: a namespace on a clock set by hand, and sockets of a transport that does nothing.
//!
//! Interface: [`TestNet`], [`bare_sock`].
//! Linux counterpart: none.
//! Locks and context: tests.

use crate::core::net_namespace::{Net, Registries};
use crate::core::sock::{Proto, ProtoSock, Sock};
use crate::ipv4::inet_connection_sock::{inet_csk_accept, inet_csk_get_port, inet_csk_listen_start};
use crate::ipv4::inet_hashtables::inet_hashinfo_init;
use crate::ipv4::inet_sock::{InetSock, InetTuple};
use kernel::task::Task;
use kernel::{Arch, Kernel, TICK_NSEC};
use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::task::Poll;
use uapi::Errno;
use uapi::poll::Poll as PollMask;

/// An arch whose time stands still until a test moves it.
pub struct ManualArch {
    now: AtomicU64,
    random: AtomicU64,
}

impl Arch for ManualArch {
    fn ktime_get(&self) -> u64 {
        self.now.load(SeqCst)
    }
    fn ktime_get_real(&self) -> u64 {
        self.ktime_get()
    }
    fn get_random_bytes(&self, buf: &mut [u8]) {
        for b in buf {
            let x = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, SeqCst);
            *b = ((x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 56) as u8;
        }
    }
    fn cpu_relax(&self, _: u32) {
        std::thread::yield_now();
    }
    fn current(&self) -> Arc<Task> {
        Task::from_fn(|| {})
    }
    fn schedule(&self, _: &Task, _: Option<u64>) {}
    fn wakeup_softirqd(&self, _: usize) {}
    fn program_timer(&self, _: usize, _: u64) {}
}

/// A namespace with TCP's tables and nothing else.
pub struct TestNet {
    pub arch: Arc<ManualArch>,
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
        let arch = Arc::new(ManualArch { now: AtomicU64::new(1_000_000_000), random: AtomicU64::new(1) });
        let kernel = Kernel::new(arch.clone(), 1);
        let net = Net::new(&init(&kernel));
        TestNet { arch, kernel, net }
    }

    /// Moves the clock and fires what is due.
    pub fn advance(&self, ms: u64) {
        self.arch.now.fetch_add(ms * TICK_NSEC, SeqCst);
        self.kernel.run_timers(0);
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
    connect: |_, _, _| Err(Errno::EOPNOTSUPP),
    disconnect: |_, _| Ok(()),
    listen: inet_csk_listen_start,
    keepalive: |_, _, _| {},
    accept: inet_csk_accept,
    ioctl: |_, _| Err(Errno::ENOIOCTLCMD),
    setsockopt: |_, _, _, _| Err(Errno::ENOPROTOOPT),
    getsockopt: |_, _, _, _| Err(Errno::ENOPROTOOPT),
    shutdown: |_, _, _| {},
    sendmsg: |_, _, _| Poll::Ready(Err(Errno::EOPNOTSUPP)),
    recvmsg: |_, _, _, _| Poll::Ready(Err(Errno::EOPNOTSUPP)),
    backlog_rcv: |_, _, _| {},
    release_cb: |_, _, _| {},
    get_port: inet_csk_get_port,
    poll: |_| PollMask::empty(),
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
