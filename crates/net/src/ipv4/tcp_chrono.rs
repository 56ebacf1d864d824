//! How long a sender was busy, and what held it up meanwhile (`tcpi_busy_time` and its like).
//!
//! Interface: [`tcp_chrono_start`], [`tcp_chrono_stop`], [`tcp_chrono_ms`].
//! Linux counterpart: `tcp_chrono_start`, `tcp_chrono_stop` in `net/ipv4/tcp_output.c`, `tcp_get_info_chrono_stats`.
//! Locks and context: socket lock. A CPU's view of the clock is enough: milliseconds.

use super::tcp_sock::*;
use crate::core::sock::Sock;

/// Something begins to hold the sender up. What weighs more goes on: no room in the send buffer, then the peer's window, then
/// the network.
pub fn tcp_chrono_start(tp: &mut TcpSock, what: TcpChrono) {
    if what > tp.chrono_type && !tp.tx.is_empty() {
        tcp_chrono_set(tp, what);
    }
}

/// It no longer does. With nothing left to be sent or acknowledged the sender rests.
pub fn tcp_chrono_stop(tp: &mut TcpSock, what: TcpChrono) {
    if tp.tx.is_empty() {
        tcp_chrono_set(tp, TcpChrono::Unspec);
    } else if what == tp.chrono_type {
        tcp_chrono_set(tp, TcpChrono::Busy);
    }
}

/// Closes the running interval and starts one of another kind.
fn tcp_chrono_set(tp: &mut TcpSock, what: TcpChrono) {
    if tp.chrono_type == what {
        return;
    }
    let now = tp.jiffies32();
    let past = now.wrapping_sub(tp.chrono_start);
    match tp.chrono_type {
        TcpChrono::Unspec => {}
        TcpChrono::Busy => tp.chrono_busy += past,
        TcpChrono::RwndLimited => tp.rare.make().chrono_rwnd_limited += past,
        TcpChrono::SndbufLimited => tp.rare.make().chrono_sndbuf_limited += past,
    }
    (tp.chrono_start, tp.chrono_type) = (now, what);
}

/// How long the sender was so, until now, milliseconds.
pub fn tcp_chrono_ms(sk: &Sock, tp: &TcpSock, what: TcpChrono) -> u32 {
    let past = match what {
        TcpChrono::Unspec => 0,
        TcpChrono::Busy => tp.chrono_busy,
        TcpChrono::RwndLimited => tp.rare.chrono_rwnd_limited,
        TcpChrono::SndbufLimited => tp.rare.chrono_sndbuf_limited,
    };
    if tp.chrono_type != what {
        return past;
    }
    // The clock that was last read may be an old one: nothing need have happened since.
    past + (sk.net.kernel().jiffies() as u32).wrapping_sub(tp.chrono_start)
}
