//! TCP's numbers.
//!
//! Interface: the constants of options, timers, flags and limits.
//! Linux counterpart: the constants of `include/net/tcp.h` and `include/net/inet_connection_sock.h`.
//! Locks and context: none.

use uapi::tcp::TcpState;

/// The largest window without scaling.
pub const MAX_TCP_WINDOW: u32 = 32767;
pub const TCP_MAX_WSCALE: u8 = 14;
/// Room for options in a header.
pub const MAX_TCP_OPTION_SPACE: usize = 40;
/// Smallest MSS that a peer may make us use (`TCP_MIN_MSS`).
pub const TCP_MIN_MSS: u32 = 88;
/// MSS of a peer that named none (RFC 9293, 3.7.1) over IPv4; over IPv6.
pub const TCP_MSS_DEFAULT: u32 = 536;
pub const TCP_MSS_DEFAULT_V6: u32 = 1220;
pub const TCP_INIT_CWND: u32 = 10;
pub const TCP_INFINITE_SSTHRESH: u32 = 0x7fff_ffff;
pub const TCP_FASTRETRANS_THRESH: u32 = 3;
pub const TCP_MAX_QUICKACKS: u8 = 16;
/// Milliseconds (jiffies), as all times below.
pub const TCP_RTO_MIN: u32 = 200;
pub const TCP_RTO_MAX: u32 = 120_000;
/// RFC 6298, 2.1.
pub const TCP_TIMEOUT_INIT: u32 = 1000;
pub const TCP_TIMEOUT_MIN: u32 = 2;
pub const TCP_DELACK_MIN: u32 = 40;
pub const TCP_DELACK_MAX: u32 = 200;
pub const TCP_ATO_MIN: u32 = 40;
pub const TCP_RESOURCE_PROBE_INTERVAL: u32 = 500;
pub const TCP_TIMEWAIT_LEN: u32 = 60_000;
pub const TCP_FIN_TIMEOUT_MAX: u32 = 120_000;
pub const TCP_PAWS_MSL: u32 = 60;
pub const TCP_PAWS_WINDOW: i32 = 1;
pub const MAX_TCP_KEEPIDLE: i32 = 32767;
pub const MAX_TCP_KEEPINTVL: i32 = 32767;
pub const MAX_TCP_KEEPCNT: i32 = 127;
pub const MAX_TCP_SYNCNT: i32 = 127;

/// Options.
pub const TCPOPT_EOL: u8 = 0;
pub const TCPOPT_NOP: u8 = 1;
pub const TCPOPT_MSS: u8 = 2;
pub const TCPOPT_WINDOW: u8 = 3;
pub const TCPOPT_SACK_PERM: u8 = 4;
pub const TCPOPT_SACK: u8 = 5;
pub const TCPOPT_TIMESTAMP: u8 = 8;
pub const TCPOLEN_TSTAMP_ALIGNED: usize = 12;
pub const TCPOLEN_SACK_BASE_ALIGNED: usize = 4;
pub const TCPOLEN_SACK_PERBLOCK: usize = 8;
pub const TCPOLEN_MSS_ALIGNED: usize = 4;
pub const TCPOLEN_SACKPERM_ALIGNED: usize = 4;
pub const TCPOLEN_WSCALE_ALIGNED: usize = 4;
pub const TCP_NUM_SACKS: usize = 4;

/// `icsk_ack.pending`.
pub const ICSK_ACK_SCHED: u8 = 1;
pub const ICSK_ACK_TIMER: u8 = 2;
pub const ICSK_ACK_PUSHED: u8 = 4;
pub const ICSK_ACK_PUSHED2: u8 = 8;
/// Send the ACK now.
pub const ICSK_ACK_NOW: u8 = 16;
pub const ICSK_ACK_NOMEM: u8 = 32;

/// `icsk_pending`: what the retransmission timer is set for.
pub const ICSK_TIME_RETRANS: u8 = 1;
pub const ICSK_TIME_PROBE0: u8 = 3;
pub const ICSK_TIME_LOSS_PROBE: u8 = 5;
pub const ICSK_TIME_REO_TIMEOUT: u8 = 6;

/// Bits left for the owner of the socket lock (`TCPF_*_DEFERRED`).
pub const TCPF_TSQ_DEFERRED: u16 = 1 << 0;
pub const TCPF_WRITE_TIMER_DEFERRED: u16 = 1 << 1;
pub const TCPF_DELACK_TIMER_DEFERRED: u16 = 1 << 2;
pub const TCPF_MTU_REDUCED_DEFERRED: u16 = 1 << 3;
pub const TCPF_KEEPALIVE_DEFERRED: u16 = 1 << 4;
pub const TCPF_COMP_SACK_DEFERRED: u16 = 1 << 5;
pub const TCPF_ACK_DEFERRED: u16 = 1 << 6;

/// `tp->nonagle`.
pub const TCP_NAGLE_OFF: u8 = 1;
pub const TCP_NAGLE_CORK: u8 = 2;
pub const TCP_NAGLE_PUSH: u8 = 4;

/// `tp->ecn_flags`: RFC 3168 was agreed; a reduction is to be announced; marks are to be echoed; the peer sends marks.
pub const TCP_ECN_MODE_RFC3168: u8 = 1;
pub const TCP_ECN_QUEUE_CWR: u8 = 2;
pub const TCP_ECN_DEMAND_CWR: u8 = 4;
pub const TCP_ECN_SEEN: u8 = 8;
/// RFC 9768 was agreed. Together with RFC 3168: asked for, and not answered yet.
pub const TCP_ECN_MODE_ACCECN: u8 = 16;
pub const TCP_ECN_MODE_PENDING: u8 = TCP_ECN_MODE_RFC3168 | TCP_ECN_MODE_ACCECN;
pub const TCP_ECN_MODE_ANY: u8 = TCP_ECN_MODE_PENDING;

/// `tp->urg_data`.
pub const TCP_URG_VALID: u16 = 0x0100;
pub const TCP_URG_NOTYET: u16 = 0x0200;
pub const TCP_URG_READ: u16 = 0x0400;

/// ECN bits of an IP header's TOS byte (RFC 3168, 5).
pub const INET_ECN_MASK: u8 = 3;
pub const INET_ECN_ECT_0: u8 = 2;
pub const INET_ECN_CE: u8 = 3;

/// States in which data may be sent.
pub const TCPF_SEND: u32 = TcpState::Established.flag() | TcpState::CloseWait.flag();
