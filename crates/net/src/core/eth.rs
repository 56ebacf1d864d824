//! Ethernet: the link-layer header, written and taken off.
//!
//! Interface: [`eth_type_trans`], [`eth_header`], [`eth_get_headlen`].
//! Linux counterpart: `net/ethernet/eth.c`, `net/core/flow_dissector.c` (`__skb_flow_dissect`).
//! Locks and context: pure functions on a packet.
