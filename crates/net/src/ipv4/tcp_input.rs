//! TCP receive: the state machine, acknowledgements, SACK, recovery.
//!
//! Interface: `tcp_rcv_established`, `tcp_rcv_state_process`.
//! Linux counterpart: `net/ipv4/tcp_input.c`.
//! Locks and context: softirq context or backlog; socket lock.

use super::tcp_sock::TcpSock;
use crate::core::skbuff::Skb;
use crate::core::sock::Sock;
use std::sync::Arc;

/// A packet for an established connection. `skb.data` is at the TCP header, whose length and checksum are right, and whose
/// control block is filled.
pub fn tcp_rcv_established(sk: &Arc<Sock>, tp: &mut TcpSock, skb: Box<Skb>) {
    let _ = (sk, tp, skb);
    todo!()
}

/// A packet for a connection in any other state but `LISTEN` and `TIME_WAIT`. `Err`: the caller answers with a RST; the
/// packet comes back for it.
pub fn tcp_rcv_state_process(sk: &Arc<Sock>, tp: &mut TcpSock, skb: Box<Skb>) -> Result<(), Box<Skb>> {
    let _ = (sk, tp, skb);
    todo!()
}

/// A connection has just become established: congestion control, buffers, metrics (`tcp_init_transfer`).
pub fn tcp_init_transfer(sk: &Arc<Sock>, tp: &mut TcpSock) {
    let _ = (sk, tp);
    todo!()
}
