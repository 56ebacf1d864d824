//! ACKs of out-of-order data, many in one.
//!
//! Interface: [`tcp_compress_ack`], [`tcp_sack_compress_send_ack`].
//! Linux counterpart: the end of `__tcp_ack_snd_check`, `tcp_sack_compress_send_ack` in `net/ipv4/tcp_input.c`.
//! Locks and context: socket lock. What the timer does is in `tcp_timer`, reached through `TcpOps`.
//!
//! Beyond a hole each segment asks for an ACK at once (RFC 5681, 4.2). The first duplicates go out, for their number tells
//! the sender of a loss; those after them carry SACK blocks that the next one repeats, so a few are held back for a
//! twentieth of the round-trip time.

use super::tcp_sock::*;
use super::tcp_transmit::tcp_send_ack;
use crate::core::snmp::Mib;
use crate::core::sock::Sock;
use kernel::{HrTimer, HrtimerRestart};
use std::sync::Arc;

/// SACK blocks that an ACK is sure to have room for.
pub const TCP_SACK_BLOCKS_EXPECTED: usize = 2;

fn new_timer(sk: &Sock) -> HrTimer {
    let (weak, ops) = (sk.weak(), tcp_ops(sk));
    sk.net.kernel().hrtimer(move |_| {
        if let Some(sk) = weak.upgrade() {
            (ops.comp_sack_timer)(&sk);
        }
        HrtimerRestart::NoRestart
    })
}

/// Holds the ACK that is due back, if others may come to share it; `false`: it must go now.
pub fn tcp_compress_ack(sk: &Sock, tp: &mut TcpSock) -> bool {
    let s = &sk.net.sysctl;
    if !tp.rx_opt.sack_ok {
        return false;
    }
    let rcv_nxt = tp.rcv_nxt;
    let c = tp.ofo.make().comp_sack.get_or_insert_with(|| {
        Box::new(CompSack { timer: new_timer(sk), rcv_nxt: rcv_nxt.wrapping_sub(1), held: 0, dup_acks: 0 })
    });
    if c.held as i64 >= s.tcp_comp_sack_nr.get() {
        return false;
    }
    if c.rcv_nxt != rcv_nxt {
        (c.rcv_nxt, c.dup_acks) = (rcv_nxt, 0);
    }
    if (c.dup_acks as u32) < TCP_FASTRETRANS_THRESH {
        c.dup_acks += 1;
        return false;
    }
    c.held += 1;
    if c.timer.is_queued() {
        return true;
    }
    // Both are eight times the round-trip time, in microseconds.
    let mut rtt = tp.rcv_tune.rtt_us;
    if tp.srtt_us != 0 && tp.srtt_us < rtt {
        rtt = tp.srtt_us;
    }
    let delay = (rtt as u64 * (1000 >> 3) / 20).min(s.tcp_comp_sack_delay_ns.get() as u64);
    c.timer.start_range_ns(sk.net.kernel().ktime_get() + delay, s.tcp_comp_sack_slack_ns.get() as u64);
    true
}

/// What was held back must go: more is to be said than one ACK has room for.
pub fn tcp_sack_compress_send_ack(sk: &Arc<Sock>, tp: &mut TcpSock) {
    let ofo = tp.ofo.if_used();
    let Some(c) = ofo.and_then(|o| o.comp_sack.as_deref_mut()).filter(|c| c.held > 0) else { return };
    c.timer.try_to_cancel();
    // One of them is sent.
    let spared = std::mem::take(&mut c.held) - 1;
    sk.net.mib.add(Mib::TcpExtTCPAckCompressed, spared as u64);
    tcp_send_ack(sk, tp);
}
