//! IPv4 addresses of devices.
//!
//! Interface: `InDevice`, `inet_addr_add`.
//! Linux counterpart: `net/ipv4/devinet.c`.
//! Locks and context: process context; read under RCU.
