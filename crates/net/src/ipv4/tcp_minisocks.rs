//! Small sockets: connection requests and TIME_WAIT.
//!
//! Interface: [`tcp_check_req`], [`tcp_listen_publish`], [`tcp_create_openreq_child`], [`tcp_time_wait`],
//! [`tcp_timewait_state_process`].
//! Linux counterpart: `net/ipv4/tcp_minisocks.c`.
//! Locks and context: softirq context. A request and a time-wait entry have no lock: they change by atomics, and a rare race
//! between two segments of one connection decides no more than which of them is answered.

use crate::core::net_namespace::Net;
use crate::core::skbuff::Skb;
use crate::core::snmp::Mib;
use crate::core::sock::{ProtoSock, Sock, SockFlags};
use crate::hdr::TcpHdr;
use crate::hdr::tcp_flag::{ACK, FIN, RST, SYN};
use crate::ipv4::inet_hashtables::{inet_csk, inet_twsk_expired, inet_twsk_hashdance, inet_twsk_kill, tcp_hashinfo};
use crate::ipv4::inet_timewait_sock::{InetTimewaitSock, TCP_TIMEWAIT_LEN, TimewaitInit};
use crate::ipv4::request_sock::RequestSock;
use crate::ipv4::tcp_auth::{tcp_auth_child, tcp_auth_key};
use crate::ipv4::tcp_ca::tcp_ca_openreq_child;
use crate::ipv4::tcp_ecn::{tcp_ecn_openreq_child, tcp_ecn_request_option};
use crate::ipv4::tcp_fastopen::handshake;
use crate::ipv4::tcp_options::{accecn_option, tcp_parse_options};
use crate::ipv4::tcp_path_metrics::tcp_update_metrics;
use crate::ipv4::tcp_sock::{
    TCP_MSS_DEFAULT, TCP_PAWS_MSL, TCP_PAWS_WINDOW, TCP_TIMEOUT_INIT, TCPOLEN_TSTAMP_ALIGNED, TcpOptionsReceived,
    TcpRare, TcpSkbCb, TcpSock, after, before, tcp_sk, tcp_skb_cb,
};
use crate::ipv4::tcp_state::tcp_done;
use kernel::{Fault, HZ, should_fail};
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use uapi::tcp::TcpState;

/// A timestamp older than this says nothing (RFC 7323, 5.5), in seconds.
const TCP_PAWS_24DAYS: u32 = 60 * 60 * 24 * 24;

/// Monotonic seconds.
fn seconds(net: &Net) -> u32 {
    (net.kernel().jiffies_coarse() / HZ) as u32
}

/// The option area of the header at `skb.data`.
fn option_bytes<'a>(skb: &'a Skb, th: &TcpHdr) -> &'a [u8] {
    skb.data().get(TcpHdr::LEN..th.header_len()).unwrap_or(&[])
}

/// PAWS (RFC 7323, 5.3): whether the segment's timestamp is older than the connection's.
fn tcp_paws_reject(o: &TcpOptionsReceived, now: u32, rst: bool) -> bool {
    let age = now.wrapping_sub(o.ts_recent_stamp);
    let fine = o.ts_recent.wrapping_sub(o.rcv_tsval) as i32 <= TCP_PAWS_WINDOW
        || age >= TCP_PAWS_24DAYS
        // Some stacks send their SYN with a timestamp of zero.
        || o.ts_recent == 0;
    // A RST counts even with a bad timestamp, once the old ones can no longer be under way.
    let excused = rst && age >= TCP_PAWS_MSL;
    !fine && !excused
}

/// Whether the segment has anything in the window, or is an empty one at its edge (`tcp_in_window`).
fn tcp_in_window(seq: u32, end_seq: u32, s_win: u32, e_win: u32) -> bool {
    seq == s_win || (after(end_seq, s_win) && before(seq, e_win)) || (seq == e_win && seq == end_seq)
}

/// Whether an out-of-window segment was answered a moment ago (`tcp_invalid_ratelimit`), so that two ends that disagree
/// cannot answer each other for ever. `last` is the time of the last answer in milliseconds, 0 for never.
fn oow_rate_limited(net: &Net, cb: &TcpSkbCb, last: u64, mib: Mib) -> bool {
    let carries_data = cb.seq != cb.end_seq && cb.tcp_flags & SYN == 0;
    if carries_data || last == 0 {
        return false;
    }
    let limited = net.kernel().jiffies().wrapping_sub(last) < net.sysctl.tcp_invalid_ratelimit.get() as u64;
    if limited {
        net.mib.inc(mib);
    }
    limited
}

// --- TIME_WAIT ---

/// Replaces the socket by a time-wait entry for `timeo` milliseconds (or 60 s for TIME_WAIT proper), and ends it. Socket
/// lock held; the socket must not be used after this but to drop it.
pub fn tcp_time_wait(sk: &Arc<Sock>, tp: &mut TcpSock, substate: TcpState, timeo: u32) {
    let net = &sk.net;
    tcp_update_metrics(sk, tp);
    let full = tcp_hashinfo(net).tw_count.load(Relaxed) as i64 >= net.sysctl.tcp_max_tw_buckets.get();
    if full || should_fail(Fault::Request) {
        // Out of room: the connection is forgotten at once, which is a risk, but a bounded one.
        net.mib.inc(Mib::TcpExtTCPTimeWaitOverflow);
        return tcp_done(sk, tp);
    }
    let tw = InetTimewaitSock::alloc(net, timewait_init(sk, tp, substate), inet_twsk_expired);
    let rto = ((tp.icsk_rto as u64) << 2) - (tp.icsk_rto as u64 >> 1);
    let timeo = if substate == TcpState::TimeWait { TCP_TIMEWAIT_LEN } else { (timeo as u64).max(rto) };
    if inet_twsk_hashdance(&tw, sk) {
        // Counted when it begins; as killed, what will not last.
        net.mib.inc(if timeo <= 4 * kernel::HZ { Mib::TcpExtTWKilled } else { Mib::TcpExtTW });
        tw.reschedule(timeo);
    }
    tcp_done(sk, tp);
}

fn timewait_init(sk: &Sock, tp: &TcpSock, substate: TcpState) -> TimewaitInit {
    TimewaitInit {
        tuple: tp.inet.tuple(),
        family: sk.family,
        reuse: sk.flag(SockFlags::REUSEADDR),
        reuseport: sk.flag(SockFlags::REUSEPORT),
        ipv6only: sk.flag(SockFlags::V6ONLY),
        tos: tp.inet.tos,
        rcv_wscale: tp.rx_opt.rcv_wscale,
        substate,
        auth: tcp_auth_key(tp),
        bound_dev_if: sk.bound_dev_if.load(Relaxed),
        mark: sk.rare.mark(),
        rcv_nxt: tp.rcv_nxt,
        snd_nxt: tp.snd_nxt,
        rcv_wnd: tp.receive_window(),
        ts_offset: tp.tsoffset,
        ts_recent: tp.rx_opt.ts_recent,
        ts_recent_stamp: if tp.rx_opt.tstamp_ok { tp.rx_opt.ts_recent_stamp } else { 0 },
    }
}

/// What to do about a segment for a time-wait entry (`enum tcp_tw_status`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcpTwStatus {
    /// Nothing: drop it.
    Success,
    Rst,
    Ack,
    /// A SYN that is certainly new: a listener may have it, starting at this sequence number.
    Syn(u32),
}

/// A segment for a connection that is over (RFC 9293, 3.10.7.4, TIME-WAIT; RFC 1337; RFC 6191).
pub fn tcp_timewait_state_process(net: &Net, tw: &Arc<InetTimewaitSock>, skb: &Skb, th: &TcpHdr) -> TcpTwStatus {
    let cb = tcp_skb_cb(skb);
    let now = seconds(net);
    let mut opt = TcpOptionsReceived { tstamp_ok: true, ..TcpOptionsReceived::default() };
    let stamp = tw.ts_recent_stamp.load(Relaxed);
    if th.header_len() > TcpHdr::LEN && stamp != 0 {
        tcp_parse_options(option_bytes(skb, th), &mut opt, true);
        opt.ts_recent = tw.ts_recent.load(Relaxed);
        opt.ts_recent_stamp = stamp;
    }
    let paws_reject = opt.saw_tstamp && tcp_paws_reject(&opt, now, th.has(RST));
    let seen = Seen { tw, cb, opt: &opt, now, paws_reject };
    if tw.substate() == TcpState::FinWait2 { seen.in_fin_wait2(net, th) } else { seen.in_time_wait(net, th) }
}

struct Seen<'a> {
    tw: &'a Arc<InetTimewaitSock>,
    cb: &'a TcpSkbCb,
    opt: &'a TcpOptionsReceived,
    now: u32,
    paws_reject: bool,
}

impl Seen<'_> {
    /// The process has gone, and the peer has not yet sent its FIN.
    fn in_fin_wait2(&self, net: &Net, th: &TcpHdr) -> TcpTwStatus {
        let (tw, cb) = (self.tw, self.cb);
        let rcv_nxt = tw.rcv_nxt.load(Relaxed);
        if self.paws_reject || !tcp_in_window(cb.seq, cb.end_seq, rcv_nxt, rcv_nxt.wrapping_add(tw.rcv_wnd)) {
            return self.answer_unless_limited(net, Mib::TcpExtTCPACKSkippedFinWait2);
        }
        if th.has(RST) {
            inet_twsk_kill(tw);
            return TcpTwStatus::Success;
        }
        if th.has(SYN) && !before(cb.seq, rcv_nxt) {
            return TcpTwStatus::Rst;
        }
        if !th.has(ACK) || !after(cb.end_seq, rcv_nxt) || cb.end_seq == cb.seq {
            return TcpTwStatus::Success;
        }
        if !th.has(FIN) || cb.end_seq != rcv_nxt.wrapping_add(1) {
            // Data that nobody will ever read.
            return TcpTwStatus::Rst;
        }
        tw.rcv_nxt.store(cb.end_seq, Relaxed);
        tw.substate.store(TcpState::TimeWait as u8, Release);
        tw.entry_stamp.store(net.kernel().jiffies() as u32, Relaxed);
        self.note_timestamp();
        tw.reschedule(TCP_TIMEWAIT_LEN);
        TcpTwStatus::Ack
    }

    fn in_time_wait(&self, net: &Net, th: &TcpHdr) -> TcpTwStatus {
        let (tw, cb) = (self.tw, self.cb);
        let rcv_nxt = tw.rcv_nxt.load(Relaxed);
        if !self.paws_reject && cb.seq == rcv_nxt && (cb.seq == cb.end_seq || th.has(RST)) {
            if !th.has(RST) {
                tw.reschedule(TCP_TIMEWAIT_LEN);
            } else if !net.sysctl.tcp_rfc1337.on() {
                // The assassination that RFC 1337 warns of; allowed unless forbidden.
                inet_twsk_kill(tw);
                return TcpTwStatus::Success;
            }
            self.note_timestamp();
            return TcpTwStatus::Success;
        }
        let newer = after(cb.seq, rcv_nxt)
            || (self.opt.saw_tstamp && (tw.ts_recent.load(Relaxed).wrapping_sub(self.opt.rcv_tsval) as i32) < 0);
        if th.flags & (SYN | RST | ACK) == SYN && !self.paws_reject && newer {
            let isn = tw.snd_nxt.wrapping_add(65535 + 2);
            return TcpTwStatus::Syn(if isn == 0 { 1 } else { isn });
        }
        if self.paws_reject {
            net.mib.inc(Mib::TcpExtPAWSTimewait);
        }
        if th.has(RST) {
            return TcpTwStatus::Success;
        }
        // A SYN without ACK may be an old duplicate or a new one with a lower number: that does not prolong anything.
        if self.paws_reject || th.has(ACK) {
            tw.reschedule(TCP_TIMEWAIT_LEN);
        }
        self.answer_unless_limited(net, Mib::TcpExtTCPACKSkippedTimeWait)
    }

    fn note_timestamp(&self) {
        if self.opt.saw_tstamp {
            self.tw.ts_recent.store(self.opt.rcv_tsval, Relaxed);
            self.tw.ts_recent_stamp.store(self.now, Relaxed);
        }
    }

    /// `tcp_timewait_check_oow_rate_limit`.
    fn answer_unless_limited(&self, net: &Net, mib: Mib) -> TcpTwStatus {
        let now = net.kernel().jiffies();
        let last = match self.tw.last_oow_ack_time.load(Relaxed) {
            0 => 0,
            // Only the low half is kept.
            t => now - (now as u32).wrapping_sub(t) as u64,
        };
        if oow_rate_limited(net, self.cb, last, mib) {
            return TcpTwStatus::Success;
        }
        // Data is answered each time, and limits nothing.
        if self.cb.seq == self.cb.end_seq || self.cb.tcp_flags & SYN != 0 {
            self.tw.last_oow_ack_time.store((now as u32).max(1), Relaxed);
        }
        TcpTwStatus::Ack
    }
}

// --- Requests ---

/// What to do about a segment for a connection request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckReq {
    Drop,
    /// The SYN came again: so does the SYN-ACK.
    SendSynAck,
    /// Out of window: an ACK tells the peer where we are.
    SendAck,
    /// The acknowledgement is of something never sent (RFC 9293, 3.10.7.4): RST, and the request stays.
    Reset,
    /// RST or a SYN in the window: the request is over; `Embryonic(true)` with a RST to the peer.
    Embryonic(bool),
    /// The third packet of the handshake.
    Create,
}

/// A segment for a connection request (RFC 9293, 3.10.7.4, SYN-RECEIVED). `fastopen`: the request has its child already, and
/// `Create` means that the segment is the child's.
pub fn tcp_check_req(net: &Net, req: &RequestSock, skb: &Skb, th: &TcpHdr, fastopen: bool) -> CheckReq {
    let cb = tcp_skb_cb(skb);
    let mut opt = TcpOptionsReceived { tstamp_ok: req.tstamp_ok, ..TcpOptionsReceived::default() };
    let mut paws_reject = false;
    if th.header_len() > TcpHdr::LEN {
        tcp_parse_options(option_bytes(skb, th), &mut opt, true);
        if opt.saw_tstamp {
            opt.ts_recent = req.ts_recent.load(Relaxed);
            // A request is never old enough for its timestamp to be.
            opt.ts_recent_stamp = seconds(net);
            paws_reject = tcp_paws_reject(&opt, opt.ts_recent_stamp, th.has(RST));
        }
    }
    if req.accecn_ok {
        tcp_ecn_request_option(req, accecn_option(option_bytes(skb, th), &opt));
    }
    let rcv_nxt = req.rcv_nxt.load(Relaxed);
    if cb.seq == req.rcv_isn && th.flags & (SYN | RST | ACK) == SYN && !paws_reject {
        return if note_oow(net, req, cb, Mib::TcpExtTCPACKSkippedSynRecv) {
            CheckReq::Drop
        } else {
            CheckReq::SendSynAck
        };
    }
    // A child made by Fast Open may have sent data: what of it is acknowledged is for the child to see.
    if th.has(ACK) && !fastopen && cb.ack_seq != req.snt_isn.wrapping_add(1) {
        return CheckReq::Reset;
    }
    if paws_reject || !tcp_in_window(cb.seq, cb.end_seq, rcv_nxt, rcv_nxt.wrapping_add(req.rsk_rcv_wnd)) {
        if paws_reject {
            net.mib.inc(Mib::TcpExtPAWSEstab);
        }
        let silent = th.has(RST) || note_oow(net, req, cb, Mib::TcpExtTCPACKSkippedSynRecv);
        return if silent { CheckReq::Drop } else { CheckReq::SendAck };
    }
    if opt.saw_tstamp && !after(cb.seq, rcv_nxt) {
        req.ts_recent.store(opt.rcv_tsval, Relaxed);
    }
    // A SYN at the very start lies before the window: it is cut off.
    let syn = th.has(SYN) && cb.seq != req.rcv_isn;
    if th.has(RST) || syn {
        net.mib.inc(Mib::TcpAttemptFails);
        return CheckReq::Embryonic(!th.has(RST));
    }
    if !th.has(ACK) {
        return CheckReq::Drop;
    }
    if fastopen {
        return CheckReq::Create;
    }
    if req.num_timeout.load(Relaxed) < req.defer_accept && cb.end_seq == rcv_nxt {
        req.acked.store(true, Release);
        net.mib.inc(Mib::TcpExtTCPDeferAcceptDrop);
        return CheckReq::Drop;
    }
    CheckReq::Create
}

/// Whether to stay silent; notes the time of the answer otherwise.
fn note_oow(net: &Net, req: &RequestSock, cb: &TcpSkbCb, mib: Mib) -> bool {
    if oow_rate_limited(net, cb, req.last_oow_ack_time.load(Relaxed), mib) {
        return true;
    }
    req.last_oow_ack_time.store(net.kernel().jiffies(), Relaxed);
    false
}

/// Fills a child's state from its request and its listener's options (`tcp_create_openreq_child`). Child locked.
pub fn tcp_create_openreq_child(
    child: &Sock,
    tp: &mut TcpSock,
    ltp: &TcpSock,
    req: &RequestSock,
    skb: &Skb,
    th: &TcpHdr,
) {
    inherit_options(tp, ltp);
    tp.ca_ops = tcp_ca_openreq_child(&child.net, ltp);
    let inet = &mut tp.inet;
    *inet = ltp.inet.clone();
    // Group memberships stay with the listener.
    inet.forget_groups();
    (inet.rcv_saddr, inet.daddr) = (req.tuple.laddr, req.tuple.faddr);
    inet.set_saddr(req.tuple.laddr);
    (inet.num, inet.sport, inet.dport) = (req.tuple.lport, req.tuple.lport, req.tuple.fport);
    tp.mstamp_refresh(child);

    let (rcv_nxt, snd_nxt) = (req.rcv_isn.wrapping_add(1), req.snt_isn.wrapping_add(1));
    (tp.rcv_nxt, tp.rcv_wup, tp.copied_seq) = (rcv_nxt, rcv_nxt, rcv_nxt);
    (tp.snd_una, tp.snd_nxt, tp.snd_sml, tp.snd_up) = (snd_nxt, snd_nxt, snd_nxt, snd_nxt);
    (tp.write_seq, tp.pushed_seq) = (snd_nxt, snd_nxt);
    tp.snd_wl1 = req.rcv_isn;
    tp.rcv_wnd = req.rsk_rcv_wnd;
    tp.rcv_ssthresh = req.rsk_rcv_wnd;
    tp.window_clamp = req.rsk_window_clamp;

    tp.rx_opt = TcpOptionsReceived {
        tstamp_ok: req.tstamp_ok,
        sack_ok: req.sack_ok,
        wscale_ok: req.wscale_ok,
        user_mss: ltp.rx_opt.user_mss,
        mss_clamp: req.mss,
        ..TcpOptionsReceived::default()
    };
    if req.wscale_ok {
        (tp.rx_opt.snd_wscale, tp.rx_opt.rcv_wscale) = (req.snd_wscale, req.rcv_wscale);
    } else {
        tp.window_clamp = tp.window_clamp.min(65535);
    }
    tp.snd_wnd = (th.window.get() as u32) << tp.rx_opt.snd_wscale;
    tp.max_window = tp.snd_wnd;
    tp.tcp_header_len = TcpHdr::LEN as u16;
    if req.tstamp_ok {
        tp.rx_opt.ts_recent = req.ts_recent.load(Relaxed);
        tp.rx_opt.ts_recent_stamp = seconds(&child.net);
        tp.tcp_header_len += TCPOLEN_TSTAMP_ALIGNED as u16;
    }
    tcp_auth_child(tp, ltp, req);
    tp.tsoffset = req.ts_off;
    if skb.len() >= TCP_MSS_DEFAULT as usize + tp.tcp_header_len as usize {
        tp.icsk_ack.last_seg_size = (skb.len() - tp.tcp_header_len as usize).min(u16::MAX as usize) as u16;
    }
    tp.advmss = req.advmss;
    tcp_ecn_openreq_child(&child.net, tp, req, skb, th);
    tp.icsk_rto = TCP_TIMEOUT_INIT;
    tp.icsk_ack.lrcvtime = tp.jiffies32();
    let retrans = req.num_retrans.load(Relaxed) as u32;
    if retrans != 0 {
        tp.rec.make().total_retrans = retrans;
    }
    if let Some(syn) = &req.saved_syn {
        handshake(tp).saved_syn = Some(syn.clone());
    }
    tp.icsk_bound = true;
    child.net.mib.inc(Mib::TcpPassiveOpens);
}

/// Shows packets the options that the listener has now. To be called whenever one is set. Socket lock held.
pub fn tcp_listen_publish(sk: &Sock, state: &mut dyn ProtoSock) {
    let tp = tcp_sk(state);
    let mut opts = TcpSock::new(tp.ca_ops);
    inherit_options(&mut opts, tp);
    opts.inet = tp.inet.clone();
    if tp.rare.auth.is_some() {
        opts.rare.make().auth = tp.rare.auth.clone();
    }
    opts.rx_opt.user_mss = tp.rx_opt.user_mss;
    opts.window_clamp = tp.window_clamp;
    inet_csk(sk).listen_opts.assign(Some(Arc::from(opts)));
}

/// Socket options of TCP's level that a child takes over.
fn inherit_options(tp: &mut TcpSock, ltp: &TcpSock) {
    TcpRare::inherit(&mut tp.rare, &ltp.rare);
    (tp.icsk_rto_min, tp.icsk_rto_max) = (ltp.icsk_rto_min, ltp.icsk_rto_max);
    tp.icsk_ack.pingpong = ltp.icsk_ack.pingpong;
    tp.ca_setsockopt = ltp.ca_setsockopt;
    tp.nonagle = ltp.nonagle;
    if let Some(l) = ltp.rare.hs.as_ref().filter(|h| h.save_syn != 0 || h.fastopen_no_cookie) {
        let h = handshake(tp);
        (h.save_syn, h.fastopen_no_cookie) = (l.save_syn, l.fastopen_no_cookie);
    }
    tp.scaling_ratio = ltp.scaling_ratio;
}

#[cfg(test)]
mod tests;
