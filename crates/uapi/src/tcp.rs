//! TCP's user-visible constants and `struct tcp_info`.
//!
//! Interface: option names, [`TcpState`], [`TcpInfo`].
//! Linux counterpart: `include/uapi/linux/tcp.h`, `include/net/tcp_states.h`.
//! Locks and context: plain data.

pub use super::tcp_cc::{TcpBbrInfo, TcpCcInfo, TcpDctcpInfo, TcpVegasInfo};
pub use libc::{
    TCP_CONGESTION, TCP_CORK, TCP_DEFER_ACCEPT, TCP_FASTOPEN, TCP_FASTOPEN_CONNECT, TCP_INFO, TCP_KEEPCNT,
    TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_LINGER2, TCP_MAXSEG, TCP_NODELAY, TCP_NOTSENT_LOWAT, TCP_QUICKACK, TCP_REPAIR,
    TCP_SAVE_SYN, TCP_SAVED_SYN, TCP_SYNCNT, TCP_TIMESTAMP, TCP_ULP, TCP_USER_TIMEOUT, TCP_WINDOW_CLAMP,
};
pub const TCP_CC_INFO: i32 = 26;
pub const TCP_THIN_LINEAR_TIMEOUTS: i32 = 16;
pub const TCP_THIN_DUPACK: i32 = 17;
pub const TCP_FASTOPEN_KEY: i32 = 33;
pub const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
pub const TCP_INQ: i32 = 36;
pub const TCP_TX_DELAY: i32 = 37;
pub const TCP_RTO_MAX_MS: i32 = 44;
pub const TCP_RTO_MIN_US: i32 = 45;
pub const TCP_DELACK_MAX_US: i32 = 46;

/// The states of the machine of RFC 9293, section 3.3.2, with Linux's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TcpState {
    Established = 1,
    SynSent = 2,
    SynRecv = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    Close = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
    Closing = 11,
    NewSynRecv = 12,
}

impl TcpState {
    /// From Linux's number; an unknown one is `Close`.
    pub fn from_u8(v: u8) -> TcpState {
        use TcpState::*;
        match v {
            1 => Established,
            2 => SynSent,
            3 => SynRecv,
            4 => FinWait1,
            5 => FinWait2,
            6 => TimeWait,
            8 => CloseWait,
            9 => LastAck,
            10 => Listen,
            11 => Closing,
            12 => NewSynRecv,
            _ => Close,
        }
    }

    /// The state's bit (`TCPF_*`), for sets of states.
    pub const fn flag(self) -> u32 {
        1 << self as u8
    }

    /// Whether the state is in a set of [`flag`](Self::flag)s.
    pub const fn is_in(self, set: u32) -> bool {
        self.flag() & set != 0
    }

    /// The name as `ss` and `netstat` print it.
    pub fn name(self) -> &'static str {
        use TcpState::*;
        match self {
            Established => "ESTABLISHED",
            SynSent => "SYN_SENT",
            SynRecv => "SYN_RECV",
            FinWait1 => "FIN_WAIT1",
            FinWait2 => "FIN_WAIT2",
            TimeWait => "TIME_WAIT",
            Close => "CLOSE",
            CloseWait => "CLOSE_WAIT",
            LastAck => "LAST_ACK",
            Listen => "LISTEN",
            Closing => "CLOSING",
            NewSynRecv => "NEW_SYN_RECV",
        }
    }
}

pub const TCPI_OPT_TIMESTAMPS: u8 = 1;
pub const TCPI_OPT_SACK: u8 = 2;
pub const TCPI_OPT_WSCALE: u8 = 4;
pub const TCPI_OPT_ECN: u8 = 8;
/// A packet with ECT came.
pub const TCPI_OPT_ECN_SEEN: u8 = 16;
pub const TCPI_OPT_SYN_DATA: u8 = 32;

macro_rules! tcp_info {
    ($($(#[$m:meta])* $f:ident: $t:ty,)*) => {
        /// `struct tcp_info` up to `tcpi_accecn_opt_seen`; times in microseconds unless a comment says otherwise.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct TcpInfo { $($(#[$m])* pub $f: $t,)* }

        impl TcpInfo {
            /// The bytes of the C structure (its fields are laid out without implicit padding).
            pub fn to_bytes(&self) -> Vec<u8> {
                let mut v = Vec::with_capacity(280);
                $(v.extend_from_slice(&self.$f.to_ne_bytes());)*
                v
            }

            /// The structure from its bytes; what is missing at the end is zero.
            pub fn from_bytes(bytes: &[u8]) -> TcpInfo {
                let mut rest = bytes;
                $(
                    let mut field = <$t>::default().to_ne_bytes();
                    let n = rest.len().min(field.len());
                    field[..n].copy_from_slice(&rest[..n]);
                    rest = &rest[n..];
                    let $f = <$t>::from_ne_bytes(field);
                )*
                let _ = rest;
                TcpInfo { $($f,)* }
            }
        }
    };
}

tcp_info! {
    tcpi_state: u8, tcpi_ca_state: u8, tcpi_retransmits: u8, tcpi_probes: u8, tcpi_backoff: u8, tcpi_options: u8,
    /// `tcpi_snd_wscale` in the low, `tcpi_rcv_wscale` in the high four bits.
    tcpi_wscale: u8,
    /// `tcpi_delivery_rate_app_limited` in the lowest bit, `tcpi_fastopen_client_fail` in the next two.
    tcpi_delivery_rate_app_limited: u8,
    tcpi_rto: u32, tcpi_ato: u32, tcpi_snd_mss: u32, tcpi_rcv_mss: u32,
    tcpi_unacked: u32, tcpi_sacked: u32, tcpi_lost: u32, tcpi_retrans: u32, tcpi_fackets: u32,
    /// Milliseconds.
    tcpi_last_data_sent: u32, tcpi_last_ack_sent: u32, tcpi_last_data_recv: u32, tcpi_last_ack_recv: u32,
    tcpi_pmtu: u32, tcpi_rcv_ssthresh: u32, tcpi_rtt: u32, tcpi_rttvar: u32, tcpi_snd_ssthresh: u32,
    tcpi_snd_cwnd: u32, tcpi_advmss: u32, tcpi_reordering: u32, tcpi_rcv_rtt: u32, tcpi_rcv_space: u32,
    tcpi_total_retrans: u32,
    tcpi_pacing_rate: u64, tcpi_max_pacing_rate: u64, tcpi_bytes_acked: u64, tcpi_bytes_received: u64,
    tcpi_segs_out: u32, tcpi_segs_in: u32, tcpi_notsent_bytes: u32, tcpi_min_rtt: u32,
    tcpi_data_segs_in: u32, tcpi_data_segs_out: u32, tcpi_delivery_rate: u64,
    tcpi_busy_time: u64, tcpi_rwnd_limited: u64, tcpi_sndbuf_limited: u64,
    tcpi_delivered: u32, tcpi_delivered_ce: u32, tcpi_bytes_sent: u64, tcpi_bytes_retrans: u64,
    tcpi_dsack_dups: u32, tcpi_reord_seen: u32, tcpi_rcv_ooopack: u32, tcpi_snd_wnd: u32,
    tcpi_rcv_wnd: u32, tcpi_rehash: u32, tcpi_total_rto: u16, tcpi_total_rto_recoveries: u16, tcpi_total_rto_time: u32,
    /// Accurate ECN (RFC 9768): packets, and payload bytes by code point, as far as the peer has told, and as they came.
    tcpi_received_ce: u32,
    tcpi_delivered_e1_bytes: u32, tcpi_delivered_e0_bytes: u32, tcpi_delivered_ce_bytes: u32,
    tcpi_received_e1_bytes: u32, tcpi_received_e0_bytes: u32, tcpi_received_ce_bytes: u32,
    tcpi_accecn_fail_mode: u16, tcpi_accecn_opt_seen: u16,
}
