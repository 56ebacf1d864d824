//! Any frame into a device: counted and dropped, or answered; nothing else happens.
//!
//! Interface: `cargo xtask fuzz netif_rx`.
//! Linux counterpart: syzkaller's `syz_emit_ethernet`.
//! Locks and context: one thread is the device's softirq; the stack has sockets of every kind to be hit.
#![no_main]

use host::Host;
use libfuzzer_sys::fuzz_target;
use net::core::dev::{NetDevice, dev_open, netif_rx};
use net::core::eth::eth_type_trans;
use net::core::net_namespace::Net;
use net::core::skbuff::Skb;
use net::drivers::veth::veth_pair;
use net::init::net_init;
use net::ipv4::devinet::inet_addr_add;
use net::syscall::FdTable;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use uapi::SockAddr;
use uapi::socket::{AF_INET6, SOCK_DGRAM, SOCK_STREAM};

struct Stack {
    host: Arc<Host>,
    dev: Arc<NetDevice>,
    _sockets: FdTable,
    _peer: Arc<Net>,
}

static STACK: LazyLock<Stack> = LazyLock::new(|| {
    let host = Host::start(1).expect("host");
    let reg = net_init(host.kernel());
    let inside = host.kernel().enter();
    let (net, peer) = (Net::new(&reg), Net::new(&reg));
    let (dev, other) = veth_pair(&net, "eth0", &peer, "eth0").expect("veth");
    inet_addr_add(&dev, Ipv4Addr::new(192, 0, 2, 1), 24).expect("address");
    dev_open(&dev).expect("up");
    dev_open(&other).expect("up");
    drop(inside);
    let sockets = FdTable::new(&net, 64);
    for kind in [SOCK_STREAM, SOCK_DGRAM] {
        let fd = sockets.socket(AF_INET6, kind, 0).expect("socket");
        sockets.bind(fd, &SockAddr::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 80)))).expect("bind");
        if kind == SOCK_STREAM {
            sockets.listen(fd, 16).expect("listen");
        }
    }
    Stack { host, dev, _sockets: sockets, _peer: peer }
});

fuzz_target!(|frame: &[u8]| {
    let s = &*STACK;
    let _inside = s.host.kernel().enter();
    let mut skb = Skb::from_bytes(64, &frame[..frame.len().min(65535)]);
    if !skb.may_pull(14) {
        return;
    }
    skb.dev = Some(s.dev.clone());
    skb.protocol = eth_type_trans(&mut skb, &s.dev);
    let _ = netif_rx(skb);
});
