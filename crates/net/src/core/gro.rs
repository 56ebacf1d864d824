//! Generic receive offload: packets of one flow become one.
//!
//! Interface: `dev_gro_receive` for `core::dev`.
//! Linux counterpart: `net/core/gro.c`, `net/ipv4/tcp_offload.c`.
//! Locks and context: softirq context, one NAPI instance at a time.
