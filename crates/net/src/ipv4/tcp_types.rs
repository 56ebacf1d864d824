//! What a connection's state is made of.
//!
//! Interface: [`TcpSkbCb`], [`TcpOptionsReceived`], [`IcskAck`], [`TcpRack`], [`TcpHandshake`], [`TxNotify`] and the others.
//! Linux counterpart: the parts of `struct tcp_sock` and `struct inet_connection_sock`.
//! Locks and context: plain data, under the socket lock.

use super::tcp_accecn::AccEcn;
use super::tcp_ao::TcpAuth;
use super::tcp_ca_types::TcpPacing;
use super::tcp_consts::*;
use super::tcp_queue::Seq;
use crate::core::dst_metrics::DstMetrics;
use crate::core::on_use::{OnUse, unused};
use crate::core::skbuff::Skb;
use crate::ipv4::request_sock::RequestSock;
use crate::ipv4::tcp_fastopen_cookie::FastopenCookie;
use kernel::{Frag, HrTimer};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a received packet's control block holds (`struct tcp_skb_cb`), filled by `tcp_v4_fill_cb`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TcpSkbCb {
    pub seq: u32,
    /// `seq` + SYN + FIN + payload.
    pub end_seq: u32,
    pub ack_seq: u32,
    /// The TCP header's flag byte.
    pub tcp_flags: u8,
    pub sacked: u8,
    /// TOS or traffic class of the IP header.
    pub ip_dsfield: u8,
    pub flags: u8,
}

/// The packet's TCP control block.
#[inline]
pub fn tcp_skb_cb(skb: &Skb) -> &TcpSkbCb {
    skb.cb.get()
}

#[inline]
pub fn tcp_skb_cb_mut(skb: &mut Skb) -> &mut TcpSkbCb {
    skb.cb.get_mut()
}

/// Options of the connection and of the packet at hand (`struct tcp_options_received`).
#[derive(Clone, Copy, Default, Debug)]
pub struct TcpOptionsReceived {
    /// When `ts_recent` was taken, in seconds; 0: never.
    pub ts_recent_stamp: u32,
    pub ts_recent: u32,
    pub rcv_tsval: u32,
    pub rcv_tsecr: u32,
    /// The last packet had a timestamp.
    pub saw_tstamp: bool,
    pub tstamp_ok: bool,
    pub dsack: bool,
    pub wscale_ok: bool,
    /// SACK was agreed (`TCP_SACK_SEEN`).
    pub sack_ok: bool,
    pub snd_wscale: u8,
    pub rcv_wscale: u8,
    /// Blocks to be sent.
    pub num_sacks: u8,
    /// SACK blocks of the packet at hand: offset in the option area and number; offset is to the first block.
    pub sack_off: u8,
    pub sack_blocks: u8,
    /// Offset of the AccECN option of the packet at hand in the option area, + 1; 0: none (`accecn`).
    pub accecn: u8,
    /// `TCP_MAXSEG`.
    pub user_mss: u16,
    /// The MSS the peer named, clamped.
    pub mss_clamp: u16,
}

/// A range of sequence space.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct TcpSackBlock {
    pub start_seq: u32,
    pub end_seq: u32,
}

/// ACKs of out-of-order data that are held back to be sent as one (`compressed_ack` and around it).
pub struct CompSack {
    pub timer: HrTimer,
    /// `rcv_nxt` when duplicates began to be counted.
    pub rcv_nxt: u32,
    /// Held back.
    pub held: u8,
    /// Duplicate ACKs sent for `rcv_nxt`.
    pub dup_acks: u8,
}

/// Delayed ACK (`icsk_ack`).
#[derive(Clone, Copy, Default, Debug)]
pub struct IcskAck {
    pub pending: u8,
    /// ACKs still to be sent at once.
    pub quick: u8,
    /// The session is interactive when this is at least `tcp_pingpong_thresh`.
    pub pingpong: u8,
    pub retry: u8,
    pub last_seg_size: u16,
    pub rcv_mss: u16,
    /// Milliseconds.
    pub ato: u32,
    /// When data last came, jiffies.
    pub lrcvtime: u32,
    /// When the timer was set for, jiffies.
    pub timeout: u32,
}

/// RACK (RFC 8985): the most recently sent segment that was delivered.
#[derive(Clone, Copy, Default, Debug)]
pub struct TcpRack {
    pub rtt_us: u32,
    /// That transmission's number. RFC 8985 breaks ties by sequence number, which takes a retransmission for older
    /// than new data sent a moment before it.
    pub xmit_id: u32,
    /// There was one.
    pub known: bool,
    pub advanced: bool,
}

/// What a sender keeps of it once something was lost, reordered or had to be probed for.
#[derive(Clone, Debug)]
pub struct TcpRecovery {
    /// What the last ACK with SACK reported.
    pub recv_sack_cache: [TcpSackBlock; TCP_NUM_SACKS],
    /// End of the highest piece that was SACKed; valid while `sacked_out` is not 0.
    pub highest_sack: u32,
    pub reord_seen: u32,
    // --- the reduction, and taking it back ---
    pub prior_cwnd: u32,
    pub prior_ssthresh: u32,
    pub prr_delivered: u32,
    pub prr_out: u32,
    pub high_seq: u32,
    pub undo_marker: u32,
    pub undo_retrans: i32,
    pub tlp_high_seq: u32,
    pub tlp_retrans: bool,
    pub is_sack_reneg: bool,
    pub frto: bool,
    // --- RACK's window for reordering ---
    pub rack_reo_wnd_steps: u8,
    pub rack_reo_wnd_persist: u8,
    pub rack_dsack_seen: bool,
    pub rack_last_delivered: u32,
    /// When probing a closed window began, jiffies; 0: it is not closed.
    pub icsk_probes_tstamp: u32,
    // --- statistics of `tcp_info` ---
    pub total_retrans: u32,
    pub bytes_retrans: u64,
    pub dsack_dups: u32,
    /// Timeouts, recoveries from them, when the last began (units of timestamps; 0: none runs), milliseconds spent in them.
    pub total_rto: u16,
    pub total_rto_recoveries: u16,
    pub rto_stamp: u32,
    pub total_rto_time: u32,
}

const NO_BLOCKS: [TcpSackBlock; TCP_NUM_SACKS] = [TcpSackBlock { start_seq: 0, end_seq: 0 }; TCP_NUM_SACKS];

unused!(
    TcpRecovery,
    TcpRecovery {
        recv_sack_cache: NO_BLOCKS,
        highest_sack: 0,
        reord_seen: 0,
        prior_cwnd: 0,
        prior_ssthresh: 0,
        prr_delivered: 0,
        prr_out: 0,
        high_seq: 0,
        undo_marker: 0,
        undo_retrans: 0,
        tlp_high_seq: 0,
        tlp_retrans: false,
        is_sack_reneg: false,
        frto: false,
        rack_reo_wnd_steps: 1,
        rack_reo_wnd_persist: 0,
        rack_dsack_seen: false,
        rack_last_delivered: 0,
        icsk_probes_tstamp: 0,
        total_retrans: 0,
        bytes_retrans: 0,
        dsack_dups: 0,
        total_rto: 0,
        total_rto_recoveries: 0,
        rto_stamp: 0,
        total_rto_time: 0,
    }
);

/// What a receiver has beyond a hole, and reports.
pub struct TcpOfo {
    pub out_of_order_queue: BTreeMap<Seq, Box<Skb>>,
    pub duplicate_sack: Option<TcpSackBlock>,
    pub selective_acks: [TcpSackBlock; TCP_NUM_SACKS],
    pub comp_sack: Option<Box<CompSack>>,
    /// For `tcp_info`.
    pub rcv_ooopack: u32,
}

unused!(
    TcpOfo,
    TcpOfo {
        out_of_order_queue: BTreeMap::new(),
        duplicate_sack: None,
        selective_acks: NO_BLOCKS,
        comp_sack: None,
        rcv_ooopack: 0,
    }
);

/// What few processes set. A listener's children have it too.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TcpOpts {
    /// 0: the namespace's default.
    pub icsk_syn_retries: u8,
    pub icsk_delack_max: u32,
    /// `TCP_USER_TIMEOUT`, milliseconds; 0: none.
    pub icsk_user_timeout: u32,
    /// Linear timeouts for a thin stream (`TCP_THIN_LINEAR_TIMEOUTS`).
    pub thin_lto: bool,
    /// `TCP_INQ`: a control message with each read tells how much is left.
    pub recvmsg_inq: bool,
    /// Defers ACKs of an accepted but silent connection; 0: off (`rskq_defer_accept`), retransmissions.
    pub defer_accept: u8,
    /// Milliseconds; 0: the namespace's default; negative: no FIN_WAIT2 timeout for orphans.
    pub linger2: i32,
    /// Seconds; 0: the namespace's default.
    pub keepalive_time: u32,
    pub keepalive_intvl: u32,
    pub keepalive_probes: u8,
    /// 0: the namespace's default.
    pub notsent_lowat: u32,
}

/// What few connections have any of.
pub struct TcpRare {
    pub opts: TcpOpts,
    /// Where the urgent byte is; valid while `urg_data` is not 0.
    pub urg_seq: u32,
    /// What the route says; kept here for every ACK asks.
    pub route: Option<Arc<DstMetrics>>,
    /// There once the path's MTU is searched for (`tcp_mtu_probing`).
    pub mtup: Option<Box<IcskMtup>>,
    /// Of a connection that paces (`SK_PACING_NEEDED`).
    pub pacing: Option<Box<TcpPacing>>,
    /// Keys of TCP-MD5 and TCP-AO, on sockets that have some.
    pub auth: Option<Box<TcpAuth>>,
    /// What the sender wants to be told about its bytes.
    pub tx_notify: Option<Box<TxNotify>>,
    /// What only some connections need of the handshake.
    pub hs: Option<Box<TcpHandshake>>,
    /// Counters of Accurate ECN, on connections that ask for it or have agreed on it.
    pub accecn: Option<Box<AccEcn>>,
    /// How long the peer's window and our buffer have held the sender up, milliseconds.
    pub chrono_rwnd_limited: u32,
    pub chrono_sndbuf_limited: u32,
}

/// As the namespace and Linux have it.
const NO_OPTS: TcpOpts = TcpOpts {
    icsk_syn_retries: 0,
    icsk_delack_max: TCP_DELACK_MAX,
    icsk_user_timeout: 0,
    thin_lto: false,
    recvmsg_inq: false,
    defer_accept: 0,
    linger2: 0,
    keepalive_time: 0,
    keepalive_intvl: 0,
    keepalive_probes: 0,
    notsent_lowat: 0,
};

unused!(
    TcpRare,
    TcpRare {
        opts: NO_OPTS,
        urg_seq: 0,
        route: None,
        mtup: None,
        pacing: None,
        auth: None,
        tx_notify: None,
        hs: None,
        accecn: None,
        chrono_rwnd_limited: 0,
        chrono_sndbuf_limited: 0,
    }
);

impl TcpRare {
    /// The options of another socket, if they are not as everybody's.
    pub fn inherit(rare: &mut OnUse<TcpRare>, from: &TcpRare) {
        if from.opts != NO_OPTS {
            rare.make().opts = from.opts;
        }
    }
}

/// One sample of the windowed minimum.
#[derive(Clone, Copy, Default, Debug)]
pub struct MinmaxSample {
    pub t: u32,
    pub v: u32,
}

/// Receiver's estimates for buffer tuning (`rcv_rtt_est`, `rcvq_space`).
#[derive(Clone, Copy, Default, Debug)]
pub struct RcvTune {
    /// Microseconds, times 8.
    pub rtt_us: u32,
    pub rtt_seq: u32,
    /// The timestamp whose echo was measured last (`rcv_rtt_last_tsecr`).
    pub last_tsecr: u32,
    /// Of the clock in microseconds, the lower half; 0: no measurement is under way.
    pub rtt_time: u32,
    pub space: u32,
    pub space_seq: u32,
    pub space_time: u32,
}

/// What the sender was held up by (`enum tcp_chrono`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, PartialOrd, Ord)]
#[repr(u8)]
pub enum TcpChrono {
    #[default]
    Unspec = 0,
    Busy = 1,
    RwndLimited = 2,
    SndbufLimited = 3,
}

/// What Fast Open and `TCP_SAVE_SYN` keep, of the few connections that use them.
#[derive(Default)]
pub struct TcpHandshake {
    /// `TCP_FASTOPEN_CONNECT`: the first write carries the SYN.
    pub fastopen_connect: bool,
    pub fastopen_no_cookie: bool,
    /// A connection is being opened with data in its SYN, or with a request for a cookie.
    pub fastopen_req: Option<FastopenReq>,
    /// The option for the SYN that is being sent; none for its repetitions.
    pub fastopen_cookie: FastopenCookie,
    /// The SYN had the option; in its experimental form; data; and that data was acknowledged, or a SYN's was taken.
    pub syn_fastopen: bool,
    pub syn_fastopen_exp: bool,
    pub syn_data: bool,
    pub syn_data_acked: bool,
    /// A success ends a time of holding back.
    pub syn_fastopen_ch: bool,
    /// `enum tcp_fastopen_client_fail`.
    pub fastopen_client_fail: u8,
    /// A server's: the child was made out of the SYN, whose handshake still goes on.
    pub fastopen_rsk: Option<Arc<RequestSock>>,
    /// `TCP_SAVE_SYN`, and what it saved.
    pub save_syn: u8,
    pub saved_syn: Option<Box<[u8]>>,
}

/// `struct tcp_fastopen_request`.
#[derive(Default)]
pub struct FastopenReq {
    /// The message's first bytes, as many as a SYN may take.
    pub data: Option<Frag>,
    /// Bytes of the message, and those that the SYN took.
    pub size: usize,
    pub copied: usize,
    /// The writer waits for the connection, to send the rest.
    pub waits: bool,
    /// The message was sent with `MSG_ZEROCOPY`.
    pub zerocopy: bool,
}

/// The search for the path's MTU (RFC 4821; `icsk_mtup`). Sizes are of IP packets, in bytes.
#[derive(Clone, Copy, Default, Debug)]
pub struct IcskMtup {
    /// Packets of this size may pass; of `search_low` they do.
    pub search_high: u32,
    pub search_low: u32,
    /// Size of the probe under way, and the sequence numbers it spans; 0: none.
    pub probe_size: u32,
    pub probe_seq_start: u32,
    pub probe_seq_end: u32,
    /// When the search began, jiffies.
    pub probe_timestamp: u32,
    pub enabled: bool,
}

/// Zero-copy completions and transmit timestamps that are still to come (`sk_zckey`, `sk_tsflags`, `sk_tskey`).
#[derive(Default)]
pub struct TxNotify {
    /// The number of the next message sent with `MSG_ZEROCOPY`.
    pub zckey: u32,
    /// Messages on their way: the end of each, and its number.
    pub zerocopy: VecDeque<(u32, u32)>,
    /// `SOF_TIMESTAMPING_*`.
    pub tsflags: u32,
    /// The sequence number from which bytes are counted (`SOF_TIMESTAMPING_OPT_ID`).
    pub tskey: u32,
    /// Bytes to be reported: sequence number, and whether they have been sent.
    pub stamps: VecDeque<(u32, bool)>,
}
