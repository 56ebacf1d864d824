//! The interface of congestion control, and Reno.
//!
//! Interface: `TcpCongestionOps`.
//! Linux counterpart: `net/ipv4/tcp_cong.c`.
//! Locks and context: socket lock.
