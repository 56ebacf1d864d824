//! TCP over IPv4 and IPv6: from the packet to the socket, and replies without one.
//!
//! Interface: `tcp_v4_rcv`, `tcp_v6_rcv`, `tcp_v4_connect`.
//! Linux counterpart: `net/ipv4/tcp_ipv4.c`, `net/ipv6/tcp_ipv6.c`.
//! Locks and context: softirq context.
