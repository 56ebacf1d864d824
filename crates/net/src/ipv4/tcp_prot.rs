//! TCP's tables: where its parts, which look only downwards, are put together.
//!
//! Interface: [`TCP_PROT`], [`TCPV6_PROT`], [`TCP_OPS`], [`tcp_init`].
//! Linux counterpart: `tcp_prot` in `net/ipv4/tcp_ipv4.c`, `tcpv6_prot` in `net/ipv6/tcp_ipv6.c`, `tcp_init`.
//! Locks and context: tables.

use super::af_inet::{INET_STREAM_OPS, InetProtosw, inet_register_protosw};
use super::inet_connection_sock::{inet_csk_accept, inet_csk_get_port, inet_csk_listen_start};
use super::inet_hashtables::inet_csk;
use super::tcp::{tcp_ioctl, tcp_poll, tcp_sendmsg, tcp_sendmsg_fastopen};
use super::tcp_ca::{tcp_cong_init, tcp_cong_net_init};
use super::tcp_close::{tcp_close, tcp_disconnect, tcp_linger, tcp_shutdown};
use super::tcp_conn_request::tcp_v4_send_synack;
use super::tcp_fastopen::{TFO_SERVER_ENABLE, TFO_SERVER_WO_SOCKOPT1, tcp_fastopen_queue_tune};
use super::tcp_fastopen_client::tcp_fastopen_end;
use super::tcp_ipv4::{tcp_v4_connect, tcp_v4_do_rcv, tcp_v4_init, tcp_v6_connect};
use super::tcp_minisocks::tcp_listen_publish;
use super::tcp_recv::{tcp_recvmsg, tcp_splice_read};
use super::tcp_sock::{TcpOps, tcp_sk};
use super::tcp_sockopt::{tcp_getsockopt, tcp_set_keepalive, tcp_set_rcvlowat, tcp_setsockopt};
use super::tcp_state::tcp_init_sock;
use super::tcp_timer::*;
use super::tcp_tsq::tcp_tasklet_init;
use crate::core::net_namespace::Registries;
use crate::core::skbuff::Skb;
use crate::core::sock::{FastopenOps, Proto, ProtoSock, Sock};
use crate::hdr::IPPROTO_TCP;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use uapi::Result;
use uapi::socket::SOCK_STREAM;

/// What TCP's lower files call in higher ones.
pub static TCP_OPS: TcpOps = TcpOps {
    write_timer: tcp_write_timer,
    delack_timer: tcp_delack_timer,
    keepalive_timer: tcp_keepalive_timer,
    comp_sack_timer: tcp_compressed_ack_kick,
    tsq: tcp_tsq_handler,
    rtx_syn_ack: tcp_v4_send_synack,
};

/// TCP for sockets of AF_INET.
pub static TCP_PROT: Proto = Proto {
    name: "TCP",
    init: tcp_v4_init_sock,
    close: tcp_close,
    linger: tcp_linger,
    connect: tcp_v4_connect,
    disconnect: tcp_disconnect,
    listen: tcp_listen,
    options_changed: Some(tcp_listen_publish),
    keepalive: tcp_set_keepalive,
    set_rcvlowat: tcp_set_rcvlowat,
    accept: inet_csk_accept,
    ioctl: tcp_ioctl,
    setsockopt: tcp_setsockopt,
    getsockopt: tcp_getsockopt,
    shutdown: tcp_shutdown,
    fastopen: Some(&FastopenOps { begin: tcp_sendmsg_fastopen, end: tcp_fastopen_end }),
    sendmsg: tcp_sendmsg,
    recvmsg: tcp_recvmsg,
    splice_read: Some(tcp_splice_read),
    backlog_rcv: tcp_backlog_rcv,
    release_cb: tcp_release_cb,
    get_port: inet_csk_get_port,
    poll: tcp_poll,
    inner: &TCP_OPS,
};

/// TCP for sockets of AF_INET6.
pub static TCPV6_PROT: Proto = Proto { name: "TCPv6", connect: tcp_v6_connect, ..TCP_PROT };

/// `SOCK_STREAM` of AF_INET. AF_INET6 registers [`TCPV6_PROT`] with its own operations.
pub const TCP_PROTOSW: InetProtosw = InetProtosw {
    kind: SOCK_STREAM,
    protocol: IPPROTO_TCP as u16,
    prot: &TCP_PROT,
    ops: &INET_STREAM_OPS,
    permanent: true,
    reuse: false,
};

/// Packets must find the options before they can find the listener.
fn tcp_listen(sk: &Arc<Sock>, state: &mut dyn ProtoSock, backlog: i32) -> Result<()> {
    let tfo = sk.net.sysctl.tcp_fastopen.get();
    let q = &inet_csk(sk).accept_queue.fastopenq;
    if tfo & TFO_SERVER_WO_SOCKOPT1 != 0 && tfo & TFO_SERVER_ENABLE != 0 && q.max_qlen.load(Relaxed) == 0 {
        tcp_fastopen_queue_tune(sk, backlog as u32);
    }
    tcp_listen_publish(sk, state);
    inet_csk_listen_start(sk, state, backlog)
}

/// A packet from the backlog: whoever owned the socket lets it go when all is worked off.
fn tcp_backlog_rcv(sk: &Arc<Sock>, state: &mut dyn ProtoSock, skb: Box<Skb>) {
    tcp_sk(state).in_backlog = true;
    tcp_v4_do_rcv(sk, state, skb);
    tcp_sk(state).in_backlog = false;
}

fn tcp_v4_init_sock(sk: &Arc<Sock>) -> Result<Box<dyn ProtoSock>> {
    let state: Box<dyn ProtoSock> = tcp_init_sock(sk)?;
    Ok(state)
}

/// `tcp_init`: handlers below IP, the tables of each namespace, the small-queue softirq, the entry in `inetsw`.
pub fn tcp_init(reg: &Arc<Registries>) -> Result<()> {
    tcp_v4_init(reg);
    tcp_cong_init(reg)?;
    reg.pernet.lock_bh().push(|net| tcp_cong_net_init(net));
    tcp_tasklet_init(reg, &TCP_OPS);
    inet_register_protosw(reg, TCP_PROTOSW)
}
