//! TCP options: reading and writing.
//!
//! Interface: [`tcp_parse_options`].
//! Linux counterpart: `tcp_parse_options` in `net/ipv4/tcp_input.c`, `tcp_options_write` in `tcp_output.c`.
//! Locks and context: plain data.

use super::tcp_sock::TcpOptionsReceived;

/// Reads the option area of a header. With `estab` only what a synchronised connection may carry (timestamps if
/// `out.tstamp_ok`, SACK if `out.sack_ok`); else MSS, window scale and SACK-permitted of a SYN. Bad options end the list.
pub fn tcp_parse_options(hdr_opts: &[u8], out: &mut TcpOptionsReceived, estab: bool) {
    let _ = (hdr_opts, out, estab);
    todo!()
}
