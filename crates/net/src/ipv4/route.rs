//! Routing decisions.
//!
//! Interface: `ip_route_output_flow`, `ip_route_input`.
//! Linux counterpart: `net/ipv4/route.c`, `fib_frontend.c`.
//! Locks and context: any context.
