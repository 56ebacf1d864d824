//! The options of levels SOL_SOCKET, IPPROTO_IP and IPPROTO_IPV6.
//!
//! Interface: `sock_setsockopt`, `ip_setsockopt`, `ipv6_setsockopt` and their `get`.
//! Linux counterpart: `net/core/sock.c`, `net/ipv4/ip_sockglue.c`, `net/ipv6/ipv6_sockglue.c`.
//! Locks and context: process context.
