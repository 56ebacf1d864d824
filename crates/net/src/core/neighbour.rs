//! Neighbours: next-hop addresses resolved to link-layer addresses.
//!
//! Interface: [`NeighTables`] (ARP's and ND's table of a namespace), [`neigh_output`], `neigh_update`.
//! Linux counterpart: `net/core/neighbour.c`.
//! Locks and context: look-ups anywhere; each entry has a lock of its own.

use crate::core::dst::Dst;
use crate::core::net_namespace::Net;
use crate::core::skbuff::Skb;
use std::net::IpAddr;
use std::sync::Arc;
use uapi::Result;

/// ARP's and ND's table of a namespace. (To be filled.)
#[derive(Default)]
pub struct NeighTables {}

/// `neigh_output`: sends `skb` (at its network header, `skb.dev` set) to next hop `hop` over `dst.dev`: prepends the link-layer
/// header if the neighbour is known, else queues it (bounded) and starts the resolution.
pub fn neigh_output(net: &Arc<Net>, dst: &Dst, hop: IpAddr, skb: Box<Skb>) -> Result<()> {
    let _ = (net, dst, hop, skb);
    todo!()
}

/// `dst_confirm_neigh`: the transport has seen forward progress through this next hop (RFC 4861, 7.3.1).
pub fn neigh_confirm(net: &Net, ifindex: u32, hop: IpAddr) {
    let _ = (net, ifindex, hop);
    todo!()
}
