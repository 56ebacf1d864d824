//! TCP's tables: where its parts, which look only downwards, are put together.
//!
//! Interface: `TCP_PROT`, [`TCP_OPS`].
//! Linux counterpart: `tcp_prot` in `net/ipv4/tcp_ipv4.c`, `tcpv6_prot` in `net/ipv6/tcp_ipv6.c`.
//! Locks and context: tables.

use super::tcp_sock::TcpOps;
use super::tcp_timer::{tcp_delack_timer, tcp_keepalive_timer, tcp_write_timer};

/// What TCP's lower files call in higher ones.
pub static TCP_OPS: TcpOps = TcpOps {
    write_timer: tcp_write_timer,
    delack_timer: tcp_delack_timer,
    keepalive_timer: tcp_keepalive_timer,
    tsq: |_| {},
};
