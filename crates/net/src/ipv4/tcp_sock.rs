//! TCP's state of one connection.
//!
//! Interface: [`TcpSock`], [`tcp_sk`], [`TcpOps`], [`TcpCongestionOps`]; with it its parts, constants, sequence arithmetic.
//! Linux counterpart: `include/linux/tcp.h`, `include/net/{tcp,inet_connection_sock}.h`.
//! Locks and context: under the socket lock.

use super::inet_sock::InetSock;
use super::tcp_accecn::AccEcn;
use super::tcp_queue::TxQueue;
use crate::core::box_queue::BoxQueue;
use crate::core::on_use::OnUse;
use crate::core::skbuff::Skb;
use crate::core::sock::{ProtoSock, Sock};
use crate::ipv4::request_sock::RequestSock;
use kernel::{PageMut, Timer, TimerOwner};
use std::any::Any;
use std::sync::Arc;
use uapi::tcp::TcpCcInfo;

pub use super::tcp_ca_types::*;
pub use super::tcp_consts::*;
pub use super::tcp_queue::{after, before, between};
pub use super::tcp_types::*;

/// A congestion control algorithm (`struct tcp_congestion_ops`). Its functions run under the socket lock, in process or
/// softirq context, and do not sleep; its state lives in [`TcpSock::ca_priv`], zeroed before `init`. The clock is
/// [`TcpSock::tcp_mstamp`]. A new one is best written as `TcpCongestionOps { name, .., ..RENO_OPS }`.
pub struct TcpCongestionOps {
    /// At most 15 bytes.
    pub name: &'static str,
    pub flags: CaFlags,
    /// Size and alignment of the type laid over [`TcpSock::ca_priv`]; alignment at most 8.
    pub priv_layout: (usize, usize),
    /// The connection begins, or changes to this algorithm.
    pub init: Option<fn(sk: &Sock, tp: &mut TcpSock)>,
    /// It ends, or changes to another.
    pub release: Option<fn(sk: &Sock, tp: &mut TcpSock)>,
    /// The threshold after a loss, in segments.
    pub ssthresh: fn(sk: &Sock, tp: &mut TcpSock) -> u32,
    /// `acked` segments were acknowledged while congestion control may open the window. Not called with `cong_control`.
    pub cong_avoid: fn(sk: &Sock, tp: &mut TcpSock, ack: u32, acked: u32),
    /// Instead of the window's usual handling: after each ACK, sets window and pacing rate itself.
    pub cong_control: Option<fn(sk: &Sock, tp: &mut TcpSock, rs: &RateSample)>,
    /// Before the state becomes `new`.
    pub set_state: Option<fn(sk: &Sock, tp: &mut TcpSock, new: TcpCaState)>,
    pub cwnd_event: Option<fn(sk: &Sock, tp: &mut TcpSock, ev: TcpCaEvent)>,
    /// For each ACK, before losses are looked for.
    pub in_ack_event: Option<fn(sk: &Sock, tp: &mut TcpSock, flags: CaAck)>,
    /// Segments were acknowledged.
    pub pkts_acked: Option<fn(sk: &Sock, tp: &mut TcpSock, sample: &AckSample)>,
    /// Segments of the smallest packet worth building; without it `net.ipv4.tcp_min_tso_segs`.
    pub min_tso_segs: Option<fn(sk: &Sock, tp: &TcpSock) -> u32>,
    /// How many windows the send buffer is to hold; without it 2.
    pub sndbuf_expand: Option<fn(sk: &Sock, tp: &TcpSock) -> u32>,
    /// The window to go back to when a reduction was wrong.
    pub undo_cwnd: fn(sk: &Sock, tp: &mut TcpSock) -> u32,
    /// What `TCP_CC_INFO` answers.
    pub get_info: Option<fn(sk: &Sock, tp: &TcpSock) -> TcpCcInfo>,
}

/// What lower files of TCP must call in higher ones. One table, filled where all are visible.
pub struct TcpOps {
    /// The timers' functions, for the socket that owns the timer: they take its lock in softirq context, or defer.
    pub write_timer: fn(sk: Arc<TimerOwner>),
    pub delack_timer: fn(sk: Arc<TimerOwner>),
    pub keepalive_timer: fn(sk: Arc<TimerOwner>),
    pub comp_sack_timer: fn(sk: &Arc<Sock>),
    /// The device has taken a packet of a throttled sender (`tcp_tsq_handler`).
    pub tsq: fn(sk: &Arc<Sock>),
    /// Sends a request's SYN-ACK again; `false` if it could not be sent.
    pub rtx_syn_ack: fn(sk: &Arc<Sock>, req: &Arc<RequestSock>) -> bool,
}

/// A connection (`struct tcp_sock` with its `inet_connection_sock`). Times: `_us` microseconds, `mstamp` microseconds of
/// the monotonic clock, others jiffies (milliseconds, 32 bits) unless noted.
pub struct TcpSock {
    pub inet: InetSock,
    pub rare: OnUse<TcpRare>,

    // --- inet_connection_sock ---
    pub retransmit_timer: Option<Timer>,
    pub delack_timer: Option<Timer>,
    /// `sk_timer`: keepalive, FIN_WAIT2, SYN-ACK of old.
    pub sk_timer: Option<Timer>,
    /// When the retransmission timer is due (`icsk_timeout`), jiffies.
    pub icsk_timeout: u32,
    pub icsk_pending: u8,
    pub icsk_retransmits: u8,
    pub icsk_backoff: u8,
    pub icsk_probes_out: u8,
    pub ca_state: TcpCaState,
    pub ca_setsockopt: bool,
    pub ca_initialized: bool,
    /// The socket was bound to a port by `inet_csk_get_port` and is in `bhash`.
    pub icsk_bound: bool,
    pub icsk_rto: u32,
    pub icsk_rto_min: u32,
    pub icsk_rto_max: u32,
    pub icsk_pmtu_cookie: u32,
    pub icsk_ack: IcskAck,
    pub ca_ops: &'static TcpCongestionOps,
    pub ca_priv: CaPriv,

    // --- sequence space ---
    pub rcv_nxt: u32,
    /// Head of yet unread data.
    pub copied_seq: u32,
    /// `rcv_nxt` when the window was last advertised.
    pub rcv_wup: u32,
    pub rcv_wnd: u32,
    pub snd_una: u32,
    pub snd_nxt: u32,
    pub write_seq: u32,
    pub pushed_seq: u32,
    /// Last byte of the last small segment sent (Minshall's Nagle).
    pub snd_sml: u32,
    pub snd_up: u32,
    pub snd_wl1: u32,
    pub snd_wnd: u32,
    pub max_window: u32,
    pub window_clamp: u32,
    pub rcv_ssthresh: u32,
    pub mss_cache: u32,
    pub advmss: u16,
    pub tcp_header_len: u16,
    pub scaling_ratio: u8,
    /// Segments of the largest packet to build.
    pub gso_segs: u16,

    // --- queues ---
    pub tx: TxQueue,
    /// In order, headers pulled; its memory is counted in `sk.rmem_alloc`.
    pub receive_queue: BoxQueue<Skb>,
    pub ofo: OnUse<TcpOfo>,
    /// Where the next bytes to be sent are copied to; dropped when all is acknowledged.
    pub frag: Option<PageMut>,

    // --- options ---
    pub rx_opt: TcpOptionsReceived,
    /// Added to our timestamps.
    pub tsoffset: u32,

    // --- time and round-trip time ---
    pub tcp_mstamp: u64,
    /// Smoothed, times 8.
    pub srtt_us: u32,
    pub mdev_us: u32,
    pub mdev_max_us: u32,
    pub rttvar_us: u32,
    pub rtt_seq: u32,
    pub rtt_min: [MinmaxSample; 3],
    pub lsndtime: u32,
    pub rcv_tstamp: u32,
    pub last_oow_ack_time: u32,
    /// When the next hop was last confirmed.
    pub confirm_stamp: u32,
    /// When the first retransmission of this recovery went out, in units of timestamps; 0: none.
    pub retrans_stamp: u32,

    // --- congestion control and recovery; segments ---
    pub packets_out: u32,
    pub retrans_out: u32,
    pub sacked_out: u32,
    pub lost_out: u32,
    pub max_packets_out: u32,
    pub cwnd_usage_seq: u32,
    pub snd_cwnd: u32,
    pub snd_ssthresh: u32,
    pub snd_cwnd_cnt: u32,
    pub snd_cwnd_used: u32,
    pub snd_cwnd_stamp: u32,
    pub reordering: u32,
    pub rack: TcpRack,
    pub rec: OnUse<TcpRecovery>,
    /// What came while a process owned the socket is being worked off.
    pub in_backlog: bool,
    pub is_cwnd_limited: bool,

    // --- delivery rate ---
    pub delivered: u32,
    pub delivered_ce: u32,
    pub lost: u32,
    pub app_limited: u32,
    pub first_tx_mstamp: u64,
    pub delivered_mstamp: u64,
    pub rate_delivered: u32,
    pub rate_interval_us: u32,
    pub rate_app_limited: bool,
    /// Bytes a second, before `SO_MAX_PACING_RATE` (`sk_pacing_rate`).
    pub pacing_rate: u64,

    // --- the rest ---
    pub rcv_tune: RcvTune,
    /// Pages it answers for (`sk_forward_alloc` and what is queued).
    pub mem_pages: u32,
    pub nonagle: u8,
    pub ecn_flags: u8,
    pub urg_data: u16,
    pub chrono_type: TcpChrono,
    pub chrono_start: u32,
    pub chrono_busy: u32,

    // --- statistics of `tcp_info` ---
    pub segs_in: u32,
    pub data_segs_in: u32,
    pub segs_out: u32,
    pub data_segs_out: u32,
    pub bytes_sent: u64,
    pub bytes_acked: u64,
    pub bytes_received: u64,

    /// Counted in `orphan_count`.
    pub orphan: bool,
}

impl ProtoSock for TcpSock {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
    fn inet(&mut self) -> &mut dyn Any {
        &mut self.inet
    }
}

/// What an idle connection costs. (The tests count steps in `tx`.)
#[cfg(not(test))]
const _: () = assert!(size_of::<TcpSock>() <= 632);

/// What TCP's lower files call in higher ones.
#[inline]
pub fn tcp_ops(sk: &Sock) -> &'static TcpOps {
    let inner: &'static dyn Any = sk.prot.inner;
    match inner.downcast_ref() {
        Some(ops) => ops,
        None => unreachable!("TCP_PROT has TCP_OPS"),
    }
}

/// The TCP part of a locked socket (`tcp_sk`).
#[inline]
pub fn tcp_sk(state: &mut dyn ProtoSock) -> &mut TcpSock {
    match state.as_any_mut().downcast_mut() {
        Some(t) => t,
        None => unreachable!("TCP_PROT's sockets hold TcpSock"),
    }
}

/// Like [`tcp_sk`], for a socket that may be another transport's.
pub fn try_tcp_sk(state: &mut dyn ProtoSock) -> Option<&mut TcpSock> {
    state.as_any_mut().downcast_mut()
}

impl TcpSock {
    /// A closed connection (the fields of `tcp_init_sock` that are the same everywhere).
    pub fn new(ca: &'static TcpCongestionOps) -> Box<TcpSock> {
        Box::new(TcpSock {
            inet: InetSock::default(),
            rare: OnUse::default(),
            retransmit_timer: None,
            delack_timer: None,
            sk_timer: None,
            icsk_timeout: 0,
            icsk_pending: 0,
            icsk_retransmits: 0,
            icsk_backoff: 0,
            icsk_probes_out: 0,
            ca_state: TcpCaState::Open,
            ca_setsockopt: false,
            ca_initialized: false,
            icsk_bound: false,
            icsk_rto: TCP_TIMEOUT_INIT,
            icsk_rto_min: TCP_RTO_MIN,
            icsk_rto_max: TCP_RTO_MAX,
            icsk_pmtu_cookie: 0,
            icsk_ack: IcskAck::default(),
            ca_ops: ca,
            ca_priv: CaPriv::default(),
            rcv_nxt: 0,
            copied_seq: 0,
            rcv_wup: 0,
            rcv_wnd: 0,
            snd_una: 0,
            snd_nxt: 0,
            write_seq: 0,
            pushed_seq: 0,
            snd_sml: 0,
            snd_up: 0,
            snd_wl1: 0,
            snd_wnd: 0,
            max_window: 0,
            window_clamp: 0,
            rcv_ssthresh: 0,
            mss_cache: TCP_MSS_DEFAULT,
            advmss: 0,
            tcp_header_len: 20,
            scaling_ratio: 128,
            gso_segs: 0,
            tx: TxQueue::default(),
            receive_queue: BoxQueue::default(),
            ofo: OnUse::default(),
            frag: None,
            rx_opt: TcpOptionsReceived::default(),
            tsoffset: 0,
            tcp_mstamp: 0,
            srtt_us: 0,
            mdev_us: TCP_TIMEOUT_INIT * 1000,
            mdev_max_us: 0,
            rttvar_us: 0,
            rtt_seq: 0,
            rtt_min: [MinmaxSample { t: 0, v: u32::MAX }; 3],
            lsndtime: 0,
            rcv_tstamp: 0,
            last_oow_ack_time: 0,
            confirm_stamp: 0,
            retrans_stamp: 0,
            packets_out: 0,
            retrans_out: 0,
            sacked_out: 0,
            lost_out: 0,
            max_packets_out: 0,
            cwnd_usage_seq: 0,
            snd_cwnd: TCP_INIT_CWND,
            snd_ssthresh: TCP_INFINITE_SSTHRESH,
            snd_cwnd_cnt: 0,
            snd_cwnd_used: 0,
            snd_cwnd_stamp: 0,
            reordering: TCP_FASTRETRANS_THRESH,
            rack: TcpRack::default(),
            rec: OnUse::default(),
            in_backlog: false,
            is_cwnd_limited: false,
            delivered: 0,
            delivered_ce: 0,
            lost: 0,
            app_limited: u32::MAX,
            first_tx_mstamp: 0,
            delivered_mstamp: 0,
            rate_delivered: 0,
            rate_interval_us: 0,
            rate_app_limited: true,
            pacing_rate: u64::MAX,
            rcv_tune: RcvTune::default(),
            mem_pages: 0,
            nonagle: 0,
            ecn_flags: 0,
            urg_data: 0,
            chrono_type: TcpChrono::Unspec,
            chrono_start: 0,
            chrono_busy: 0,
            segs_in: 0,
            data_segs_in: 0,
            segs_out: 0,
            data_segs_out: 0,
            bytes_sent: 0,
            bytes_acked: 0,
            bytes_received: 0,
            orphan: false,
        })
    }

    /// Bytes of this and of what it has allocated, beside packets, timers, and what few connections have behind `rare`.
    pub fn memory(&self) -> usize {
        let parts = self.rec.memory() + self.ofo.memory() + self.rare.memory() + self.inet.opts.memory();
        size_of::<TcpSock>() + parts + self.tx.memory() + self.receive_queue.memory() + self.ca_priv.memory()
    }

    /// What only some connections need of the handshake.
    #[inline]
    pub fn hs_mut(&mut self) -> Option<&mut TcpHandshake> {
        self.rare.if_used()?.hs.as_deref_mut()
    }

    /// What Accurate ECN counts.
    #[inline]
    pub fn accecn_mut(&mut self) -> Option<&mut AccEcn> {
        self.rare.if_used()?.accecn.as_deref_mut()
    }

    /// Whether the connection runs over IPv6.
    #[inline]
    pub fn is_v6(&self) -> bool {
        self.inet.daddr.is_ipv6()
    }

    /// `tcp_mstamp_refresh`: reads the clock.
    #[inline]
    pub fn mstamp_refresh(&mut self, sk: &Sock) {
        self.tcp_mstamp = sk.net.kernel().ktime_get() / 1000;
    }

    /// The last read clock as a timestamp option's value without offset, milliseconds (`tcp_time_stamp_ms`).
    #[inline]
    pub fn time_stamp(&self) -> u32 {
        (self.tcp_mstamp / 1000) as u32
    }

    /// The last read clock in jiffies, 32 bits (`tcp_jiffies32`).
    #[inline]
    pub fn jiffies32(&self) -> u32 {
        (self.tcp_mstamp / 1000) as u32
    }

    /// Whether data goes both ways in turn, so that an ACK may wait for it (`inet_csk_in_pingpong_mode`).
    #[inline]
    pub fn in_pingpong_mode(&self, sk: &Sock) -> bool {
        self.icsk_ack.pingpong as i64 >= sk.net.sysctl.tcp_pingpong_thresh.get()
    }

    /// `inet_csk_enter_pingpong_mode`.
    pub fn enter_pingpong_mode(&mut self, sk: &Sock) {
        self.icsk_ack.pingpong = sk.net.sysctl.tcp_pingpong_thresh.get().clamp(1, 255) as u8;
    }

    /// Segments that have left the network (`tcp_left_out`).
    #[inline]
    pub fn left_out(&self) -> u32 {
        self.sacked_out + self.lost_out
    }

    /// `tcp_packets_in_flight`.
    #[inline]
    pub fn packets_in_flight(&self) -> u32 {
        (self.packets_out + self.retrans_out).saturating_sub(self.left_out())
    }

    /// `tcp_in_slow_start`.
    #[inline]
    pub fn in_slow_start(&self) -> bool {
        self.snd_cwnd < self.snd_ssthresh
    }

    /// `tcp_wnd_end`: the end of the peer's window.
    #[inline]
    pub fn wnd_end(&self) -> u32 {
        self.snd_una.wrapping_add(self.snd_wnd)
    }

    /// `tcp_receive_window`: what of the advertised window is left.
    #[inline]
    pub fn receive_window(&self) -> u32 {
        let win = self.rcv_wup.wrapping_add(self.rcv_wnd).wrapping_sub(self.rcv_nxt) as i32;
        win.max(0) as u32
    }
}
