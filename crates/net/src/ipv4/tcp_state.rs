//! TCP's states: changing them, and the end of a connection.
//!
//! Interface: [`tcp_set_state`], [`tcp_done`], [`tcp_reset`], [`tcp_init_sock`].
//! Linux counterpart: `tcp_set_state`, `tcp_done` in `net/ipv4/tcp.c`, `tcp_reset` in `tcp_input.c`.
//! Locks and context: socket lock; process or softirq context.

use super::tcp_sock::{TcpOps, TcpSock};
use crate::core::sock::Sock;
use std::sync::Arc;
use uapi::Result;
use uapi::tcp::TcpState;

/// The state of a new socket, with the namespace's defaults (`tcp_init_sock`).
pub fn tcp_init_sock(sk: &Arc<Sock>, ops: &'static TcpOps) -> Result<Box<TcpSock>> {
    let _ = (sk, ops);
    todo!()
}

/// Changes the state, keeping counters (`CurrEstab`) and hash tables in step: `CLOSE` unhashes, and gives the port back
/// unless the user bound it (`tcp_set_state`).
pub fn tcp_set_state(sk: &Arc<Sock>, tp: &mut TcpSock, state: TcpState) {
    let _ = (sk, tp, state);
    todo!()
}

/// The connection is over: state `CLOSE`, timers off, everybody told (`tcp_done`).
pub fn tcp_done(sk: &Arc<Sock>, tp: &mut TcpSock) {
    let _ = (sk, tp);
    todo!()
}

/// The peer sent a valid RST: sets the error that goes with the state, then [`tcp_done`] (`tcp_reset`).
pub fn tcp_reset(sk: &Arc<Sock>, tp: &mut TcpSock) {
    let _ = (sk, tp);
    todo!()
}
