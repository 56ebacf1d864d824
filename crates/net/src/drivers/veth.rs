//! A pair of devices joined back to back.
//!
//! Interface: `veth_pair`.
//! Linux counterpart: `drivers/net/veth.c`.
//! Locks and context: transmit runs to `netif_rx` of the peer on the same CPU.
