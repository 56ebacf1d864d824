//! Which congestion control algorithms there are.
//!
//! Interface: [`tcp_ca_find`], [`tcp_set_congestion_control`], [`DEFAULT_CA`].
//! Linux counterpart: `tcp_ca_find`, `tcp_set_congestion_control` in `net/ipv4/tcp_cong.c`.
//! Locks and context: socket lock.

use super::tcp_cong::{RENO, tcp_init_congestion_control};
use super::tcp_cubic::CUBIC;
use super::tcp_sock::{TcpCongestionOps, TcpSock};
use uapi::{Errno, Result};

/// `CONFIG_DEFAULT_TCP_CONG`.
pub static DEFAULT_CA: &TcpCongestionOps = &CUBIC;

static ALL: [&TcpCongestionOps; 2] = [&CUBIC, &RENO];

pub fn tcp_ca_find(name: &str) -> Option<&'static TcpCongestionOps> {
    ALL.iter().copied().find(|c| c.name == name)
}

/// `TCP_CONGESTION`: `ENOENT` for one there is not.
pub fn tcp_set_congestion_control(tp: &mut TcpSock, name: &str) -> Result<()> {
    let ops = tcp_ca_find(name).ok_or(Errno::ENOENT)?;
    tp.ca_setsockopt = true;
    if std::ptr::eq(ops, tp.ca_ops) {
        return Ok(());
    }
    tp.ca_ops = ops;
    if tp.ca_initialized {
        tcp_init_congestion_control(tp);
    }
    Ok(())
}
