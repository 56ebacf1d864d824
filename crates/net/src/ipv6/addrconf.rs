//! IPv6 addresses of devices.
//!
//! Interface: `Inet6Dev`, `inet6_addr_add`.
//! Linux counterpart: `net/ipv6/addrconf.c`.
//! Locks and context: process context; read under RCU.
