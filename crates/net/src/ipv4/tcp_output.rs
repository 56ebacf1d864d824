//! TCP transmit.
//!
//! Interface: `tcp_write_xmit`, `tcp_transmit_skb`, `tcp_send_ack`, `tcp_connect`.
//! Linux counterpart: `net/ipv4/tcp_output.c`.
//! Locks and context: socket lock.
