//! IPv6 routing.
//!
//! Interface: `ip6_route_output`, `ip6_route_input`.
//! Linux counterpart: `net/ipv6/route.c`, `ip6_fib.c`.
//! Locks and context: any context.
