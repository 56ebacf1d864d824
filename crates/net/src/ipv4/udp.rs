//! UDP over both versions of IP (RFC 768): the protocol's table, its options, connect and close.
//!
//! Interface: [`UDP_PROT`], [`udp_init`].
//! Linux counterpart: `net/ipv4/udp.c`, `net/ipv6/udp.c`.
//! Locks and context: see `core::sock`. Sending is in `udp_output`, receiving in `udp_input`, the tables in `udp_table`.

use crate::core::net_namespace::{Net, NetId, NetProtocol, Registries};
use crate::core::skbuff::Skb;
use crate::core::snmp::Mib;
use crate::core::sock::{Proto, ProtoSock, SEND_SHUTDOWN, Sock, SockFlags};
use crate::hdr::IPPROTO_UDP as PROTO;
use crate::ipv4::af_inet::{INET_DGRAM_OPS, InetProtosw, inet_register_protosw};
use crate::ipv4::datagram::{UDP_SEGMENT, datagram_poll, purge_receive_queue};
use crate::ipv4::udp_input::{UDP_GRO, udp_err, udp_rcv, udp_recvmsg};
use crate::ipv4::udp_output::{
    UdpSock, udp_clear_peer, udp_flush_pending_frames, udp_push_pending_frames, udp_sendmsg, udp_set_peer, udp_sk,
};
use crate::ipv4::udp_table::{UdpExt, UdpTable, udp_ext, udp_hash_port, udp_rehash, udp_unhash};
use kernel::{Wait, tp};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use uapi::socket::{IPPROTO_UDP, SOCK_DGRAM};
use uapi::tcp::TcpState;
use uapi::{Errno, Result, SockAddr};

const UDP_CORK: i32 = 1;
const UDP_NO_CHECK6_TX: i32 = 101;
const UDP_NO_CHECK6_RX: i32 = 102;
/// `FIONREAD` and `TIOCOUTQ`.
const SIOCINQ: u32 = 0x541b;
const SIOCOUTQ: u32 = 0x5411;

/// `udp_prot` and `udpv6_prot`.
pub static UDP_PROT: Proto = Proto {
    name: "UDP",
    init: udp_init_sock,
    close: udp_close,
    linger: |_, _| Poll::Ready(()),
    connect: udp_connect,
    disconnect: udp_disconnect,
    listen: |_, _, _| Err(Errno::EOPNOTSUPP),
    options_changed: None,
    keepalive: |_, _, _| {},
    set_rcvlowat: Sock::set_rcvlowat,
    accept: udp_accept,
    ioctl: udp_ioctl,
    setsockopt: udp_setsockopt,
    getsockopt: udp_getsockopt,
    shutdown: udp_shutdown,
    fastopen: None,
    sendmsg: udp_sendmsg,
    recvmsg: udp_recvmsg,
    splice_read: None,
    backlog_rcv: udp_backlog_rcv,
    release_cb: |_, _, _| {},
    get_port: udp_get_port,
    poll: |sk| datagram_poll(sk, &udp_ext(sk).errq),
    inner: &(),
};

/// `SOCK_DGRAM` of AF_INET. AF_INET6 registers [`UDP_PROT`] with its own operations.
pub const UDP_PROTOSW: InetProtosw = InetProtosw {
    kind: SOCK_DGRAM,
    protocol: IPPROTO_UDP as u16,
    prot: &UDP_PROT,
    ops: &INET_DGRAM_OPS,
    permanent: true,
    reuse: false,
};

/// `udp_init`: the namespace's table, the handlers below both versions of IP, the entry in `inetsw`.
pub fn udp_init(reg: &Registries) -> Result<()> {
    reg.pernet.lock_bh().push(|net: &Arc<Net>| net.set_generic(NetId::Udp, UdpTable::default()));
    for protos in [&reg.inet_protos, &reg.inet6_protos] {
        let p = NetProtocol { handler: udp_rcv, err_handler: udp_err };
        protos[PROTO as usize].assign_if_none(Arc::new(p)).map_err(|_| Errno::EEXIST)?;
    }
    inet_register_protosw(reg, UDP_PROTOSW)
}

pub fn udp_init_sock(sk: &Arc<Sock>) -> Result<Box<dyn ProtoSock>> {
    let mut state = UdpSock::default();
    let o = state.inet.opts.make();
    let ext = UdpExt::new(o.mc.groups().clone(), o.v6.mc.groups().clone());
    let _ = sk.rare.make().ext.set(Box::new(ext));
    Ok(Box::new(state))
}

/// `udp_lib_close`: the port is free again; what nobody will read is dropped.
fn udp_close(sk: &Arc<Sock>) {
    tp!(udp_lib_close, *sk);
    let mut state = sk.lock_sock();
    udp_flush_pending_frames(udp_sk(&mut *state));
    udp_unhash(sk);
    sk.set_state(TcpState::Close);
    *sk.dst_cache.lock_bh() = None;
    drop(state);
    purge_receive_queue(sk);
}

/// `udp_connect`: a peer to send to, and the only one to receive from.
fn udp_connect(sk: &Arc<Sock>, state: &mut dyn ProtoSock, addr: &SockAddr) -> Result<()> {
    let up = udp_sk(state);
    udp_set_peer(sk, up, addr.ip(), addr.port())?;
    udp_rehash(sk, up.inet.rcv_saddr, up.inet.daddr, up.inet.dport);
    sk.set_state(TcpState::Established);
    Ok(())
}

/// `udp_disconnect`: address and port stay only if `bind` gave them.
fn udp_disconnect(sk: &Arc<Sock>, state: &mut dyn ProtoSock) -> Result<()> {
    sk.set_state(TcpState::Close);
    let inet = &mut udp_sk(state).inet;
    udp_clear_peer(sk, inet);
    if sk.flag(SockFlags::BINDPORT_LOCK) {
        udp_rehash(sk, inet.rcv_saddr, inet.daddr, 0);
    } else {
        udp_unhash(sk);
        (inet.num, inet.sport) = (0, 0);
    }
    Ok(())
}

fn udp_accept(_: &Arc<Sock>, _nonblock: bool, _: &mut Wait) -> Poll<Result<Arc<Sock>>> {
    Poll::Ready(Err(Errno::EOPNOTSUPP))
}

/// `udp_ioctl`: `FIONREAD` is the size of the next datagram, `SIOCOUTQ` the memory of what has not left yet.
fn udp_ioctl(sk: &Arc<Sock>, cmd: u32) -> Result<i32> {
    let bytes = match cmd {
        SIOCINQ => sk.receive_queue().lock_bh().front().map_or(0, Skb::len),
        SIOCOUTQ => sk.wmem_alloc.load(Relaxed),
        _ => return Err(Errno::ENOIOCTLCMD),
    };
    Ok(i32::try_from(bytes).unwrap_or(i32::MAX))
}

/// Wakes whoever waits to receive; there is no peer to tell.
fn udp_shutdown(_: &Arc<Sock>, state: &mut dyn ProtoSock, how: u8) {
    if how & SEND_SHUTDOWN != 0 {
        udp_flush_pending_frames(udp_sk(state));
    }
}

/// Datagrams go to the receive queue whoever owns the socket; none comes here.
fn udp_backlog_rcv(sk: &Arc<Sock>, _: &mut dyn ProtoSock, skb: Box<Skb>) {
    debug_assert!(false, "UDP has no backlog");
    udp_rcv(&sk.net, skb);
}

/// `udp_v4_get_port`, `udp_v6_get_port`.
fn udp_get_port(sk: &Arc<Sock>, state: &mut dyn ProtoSock, port: u16) -> Result<()> {
    let inet = &mut udp_sk(state).inet;
    inet.num = udp_hash_port(sk, inet.rcv_saddr, inet.daddr, port)?;
    Ok(())
}

/// `udp_lib_setsockopt`.
fn udp_setsockopt(sk: &Arc<Sock>, _level: i32, name: i32, val: &[u8]) -> Result<()> {
    let v = val.get(..4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes).ok_or(Errno::EINVAL)?;
    let mut state = sk.lock_sock();
    let up = udp_sk(&mut *state);
    match name {
        UDP_CORK => {
            up.corked = v != 0;
            if !up.corked {
                return udp_push_pending_frames(sk, up);
            }
        }
        UDP_SEGMENT => up.gso_size = u16::try_from(v).map_err(|_| Errno::EINVAL)?,
        UDP_GRO => udp_ext(sk).gro.store(v != 0, Relaxed),
        UDP_NO_CHECK6_TX => up.no_check6_tx = v != 0,
        UDP_NO_CHECK6_RX => udp_ext(sk).no_check6_rx.store(v != 0, Relaxed),
        _ => {
            sk.net.mib.inc(Mib::SockOptUnsupported);
            return Err(Errno::ENOPROTOOPT);
        }
    }
    Ok(())
}

/// `udp_lib_getsockopt`.
fn udp_getsockopt(sk: &Arc<Sock>, _level: i32, name: i32, len: usize) -> Result<Vec<u8>> {
    let mut state = sk.lock_sock();
    let up = udp_sk(&mut *state);
    let v = match name {
        UDP_CORK => up.corked as i32,
        UDP_SEGMENT => up.gso_size as i32,
        UDP_GRO => udp_ext(sk).gro.load(Relaxed) as i32,
        UDP_NO_CHECK6_TX => up.no_check6_tx as i32,
        UDP_NO_CHECK6_RX => udp_ext(sk).no_check6_rx.load(Relaxed) as i32,
        _ => {
            sk.net.mib.inc(Mib::SockOptUnsupported);
            return Err(Errno::ENOPROTOOPT);
        }
    };
    let mut b = v.to_ne_bytes().to_vec();
    b.truncate(len);
    Ok(b)
}
