//! TCP transmit.
//!
//! Interface: `tcp_write_xmit`, `tcp_transmit_skb`, `tcp_send_ack`, `tcp_connect`, `tcp_make_synack`.
//! Linux counterpart: `net/ipv4/tcp_output.c`.
//! Locks and context: socket lock.

use super::tcp_sock::TcpSock;
use crate::core::net_namespace::Net;
use crate::core::skbuff::Skb;
use crate::core::sock::Sock;
use std::net::IpAddr;
use std::sync::Arc;
use uapi::Result;

/// What the SYN-ACK of a request looks like (`struct tcp_request_sock`, `tcp_out_options`). Ports in host order.
#[derive(Clone, Copy, Debug)]
pub struct SynAckArgs {
    pub saddr: IpAddr,
    pub daddr: IpAddr,
    pub sport: u16,
    pub dport: u16,
    /// Our initial sequence number (`snt_isn`).
    pub isn: u32,
    /// The peer's + 1.
    pub rcv_nxt: u32,
    /// Not scaled: as it stands in a SYN.
    pub rcv_wnd: u32,
    /// MSS we advertise.
    pub mss: u16,
    pub tstamp_ok: bool,
    /// Our timestamp, offset included, and the peer's to echo.
    pub tsval: u32,
    pub tsecr: u32,
    pub wscale_ok: bool,
    pub rcv_wscale: u8,
    pub sack_ok: bool,
    pub ecn_ok: bool,
}

/// The SYN-ACK for a request: TCP header with options and checksum (`Partial`), `data` at the header, headroom for the
/// rest (`tcp_make_synack`).
pub fn tcp_make_synack(net: &Net, a: &SynAckArgs) -> Box<Skb> {
    let _ = (net, a);
    todo!()
}

/// Sets the checksum up for the device: pseudo-header sum and `IpSummed::Partial`; `data` at the TCP header
/// (`tcp_v4_send_check`, both versions).
pub fn tcp_v_send_check(skb: &mut Skb, saddr: IpAddr, daddr: IpAddr) {
    let _ = (skb, saddr, daddr);
    todo!()
}

/// A window to start with (RFC 9293, 3.8.6.2.2): from the buffer `space`, the `mss` and the clamp given (0: none).
/// Answers `(rcv_wnd, window_clamp, rcv_wscale)` (`tcp_select_initial_window`).
pub fn tcp_select_initial_window(net: &Net, space: u32, mss: u32, clamp: u32, wscale_ok: bool) -> (u32, u32, u8) {
    let _ = (net, space, mss, clamp, wscale_ok);
    todo!()
}

/// Buffer bytes to window bytes with the default scaling ratio (`tcp_win_from_space`).
pub fn tcp_win_from_space(space: u32, scaling_ratio: u8) -> u32 {
    ((space as u64 * scaling_ratio as u64) >> 8) as u32
}

/// Largest payload for a path of this MTU, without options that vary (`tcp_mtu_to_mss`).
pub fn tcp_mtu_to_mss(tp: &TcpSock, mtu: u32) -> u32 {
    let _ = (tp, mtu);
    todo!()
}

/// Takes a path MTU over into `mss_cache` (`tcp_sync_mss`).
pub fn tcp_sync_mss(tp: &mut TcpSock, pmtu: u32) -> u32 {
    let _ = (tp, pmtu);
    todo!()
}

/// The MSS for data now: path MTU and options of the moment considered (`tcp_current_mss`).
pub fn tcp_current_mss(sk: &Sock, tp: &mut TcpSock) -> u32 {
    let _ = (sk, tp);
    todo!()
}

/// Builds and sends the SYN; the state is `SYN_SENT` already, and the socket hashed and routed (`tcp_connect`).
pub fn tcp_connect(sk: &Arc<Sock>, tp: &mut TcpSock) -> Result<()> {
    let _ = (sk, tp);
    todo!()
}

/// Sends a RST for the connection (`tcp_send_active_reset`).
pub fn tcp_send_active_reset(sk: &Arc<Sock>, tp: &mut TcpSock) {
    let _ = (sk, tp);
    todo!()
}

/// The path MTU became smaller (`tcp_v4_mtu_reduced`): sync, and send again what does not fit.
pub fn tcp_mtu_reduced(sk: &Arc<Sock>, tp: &mut TcpSock, mtu: u32) {
    let _ = (sk, tp, mtu);
    todo!()
}
