//! The loopback device.
//!
//! Interface: `loopback_net_init`.
//! Linux counterpart: `drivers/net/loopback.c`.
//! Locks and context: transmit runs to `netif_rx` on the same CPU.
