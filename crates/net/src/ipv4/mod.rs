//! IPv4, and the transports over both versions of IP.
//!
//! Interface: the modules.
//! Linux counterpart: `net/ipv4/`.
//! Locks and context: each file says its own.

#[cfg(test)]
mod ip_tests;
#[cfg(test)]
mod tcp_tests;

pub mod af_inet;
pub mod arp;
pub mod datagram;
pub mod devinet;
pub mod errqueue;
pub mod fib_frontend;
pub mod fib_trie;
pub mod fnhe;
pub mod icmp;
pub mod inet_bind2_bucket;
pub mod inet_connection_sock;
pub mod inet_csk_timers;
pub mod inet_ehash;
pub mod inet_hashtables;
pub mod inet_sock;
pub mod inet_timewait_sock;
pub mod ip_forward;
pub mod ip_fragment;
pub mod ip_input;
pub mod ip_options;
pub mod ip_output;
pub mod l3_ops;
pub mod metrics;
pub mod ping;
pub mod ping_prot;
pub mod proc;
pub mod protocol;
pub mod request_sock;
pub mod route;
pub mod secure_seq;
pub mod sockglue;
pub mod tcp;
pub mod tcp_accecn;
pub mod tcp_ack;
pub mod tcp_ao;
pub mod tcp_auth;
pub mod tcp_auth_key;
pub mod tcp_auth_sockopt;
pub mod tcp_bbr;
pub mod tcp_bbr_model;
pub mod tcp_ca;
pub mod tcp_ca_types;
pub mod tcp_chrono;
pub mod tcp_close;
pub mod tcp_comp_sack;
pub mod tcp_cong;
pub mod tcp_conn_request;
pub mod tcp_consts;
pub mod tcp_cubic;
pub mod tcp_cwr;
pub mod tcp_dctcp;
pub mod tcp_ecn;
pub mod tcp_fastopen;
pub mod tcp_fastopen_client;
pub mod tcp_fastopen_cookie;
pub mod tcp_fastopen_rcv;
pub mod tcp_fragment;
pub mod tcp_hystartpp;
pub mod tcp_input;
pub mod tcp_ipv4;
pub mod tcp_md5;
pub mod tcp_mem;
pub mod tcp_metrics;
pub mod tcp_minisocks;
pub mod tcp_mss;
pub mod tcp_mtu_probe;
pub mod tcp_options;
pub mod tcp_output;
pub mod tcp_pacing;
pub mod tcp_path_metrics;
pub mod tcp_prot;
pub mod tcp_queue;
pub mod tcp_rate;
pub mod tcp_rcvq;
pub mod tcp_recovery;
pub mod tcp_recv;
pub mod tcp_reply;
pub mod tcp_retransmit;
pub mod tcp_rmem;
pub mod tcp_route;
pub mod tcp_rtt;
pub mod tcp_sack;
pub mod tcp_sock;
pub mod tcp_sockopt;
pub mod tcp_state;
pub mod tcp_timer;
pub mod tcp_transmit;
pub mod tcp_tsq;
pub mod tcp_tx_notify;
pub mod tcp_types;
#[cfg(test)]
pub(crate) mod test_support;
pub mod udp;
pub mod udp_input;
pub mod udp_output;
pub mod udp_table;
