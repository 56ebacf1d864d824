//! What every protocol stands on: buffers, sockets, devices, neighbours, namespaces.
//!
//! Interface: the modules.
//! Linux counterpart: `net/core/`, `net/ethernet/`.
//! Locks and context: each file says its own.

pub mod box_queue;
pub mod checksum;
pub mod dev;
pub mod dst;
pub mod dst_metrics;
pub mod eth;
pub mod flow;
pub mod gro;
pub mod gso;
pub mod inet_fragment;
pub mod iov_iter;
pub mod jhash;
pub mod l3;
pub mod neighbour;
pub mod net_namespace;
pub mod netfilter;
pub mod on_use;
pub mod proto_mem;
pub mod skb_queue;
pub mod skbuff;
pub mod snmp;
pub mod sock;
pub mod sock_hashed;
pub mod sock_mem;
pub mod sock_options;
pub mod sock_rare;
pub mod sysctl;
pub mod sysctl_text;
#[cfg(test)]
pub(crate) mod test_arch;
