//! BBR, version 1: the window and the pace follow a model of the path instead of its losses.
//!
//! Interface: [`BBR`].
//! Linux counterpart: `net/ipv4/tcp_bbr.c`.
//! Locks and context: socket lock.
//!
//! After draft-cardwell-iccrg-bbr-congestion-control-00 (sections are its) and Cardwell et al., ACM Queue 14(5). The model is
//! the highest delivery rate of the last ten round trips and the least round-trip time of the last ten seconds. Their product
//! is what the path holds. Packets leave at the rate, times a gain:
//!
//! ```text
//!   Startup --(rate has not grown by a quarter in three rounds)--> Drain --(in flight <= the product)--> ProbeBw
//!   any --(no lower round-trip time for 10 s)--> ProbeRtt --(200 ms and a round)--> ProbeBw or Startup
//! ```
//! What senders of tokens suffer from policers is in the second half: when losses are many and steady, the rate is taken from
//! what got through in a long interval.

use super::tcp_bbr_model::*;
use super::tcp_cong::{RENO_OPS, tcp_snd_cwnd_set};
use super::tcp_output::tcp_min_rtt;
use super::tcp_pacing::{TCP_PACING_SHIFT, tcp_need_pacing, tcp_wstamp_ns};
use super::tcp_route::tcp_snd_cwnd_clamp;
use super::tcp_sock::*;
use crate::core::skbuff::GSO_MAX_SIZE;
use crate::core::sock::Sock;
use uapi::tcp::{TcpBbrInfo, TcpCcInfo};

pub static BBR: TcpCongestionOps = TcpCongestionOps {
    name: "bbr",
    flags: CaFlags::NON_RESTRICTED,
    priv_layout: (size_of::<Bbr>(), align_of::<Bbr>()),
    init: Some(bbr_init),
    ssthresh: bbr_ssthresh,
    cong_control: Some(bbr_main),
    set_state: Some(bbr_set_state),
    cwnd_event: Some(bbr_cwnd_event),
    min_tso_segs: Some(bbr_min_tso_segs),
    sndbuf_expand: Some(|_, _| 3),
    undo_cwnd: bbr_undo_cwnd,
    get_info: Some(bbr_get_info),
    ..RENO_OPS
};

fn ca(tp: &mut TcpSock) -> &mut Bbr {
    tp.ca_priv.get_mut()
}

fn look(tp: &TcpSock) -> &Bbr {
    tp.ca_priv.get()
}

// --- Pace and window ---

/// Bytes a second for a bandwidth times a gain, a percent below so that a queue empties (section 4.2.1).
fn bbr_rate(tp: &TcpSock, bw: u32, gain: u32) -> u64 {
    let segments = (bw as u128 * tp.mss_cache as u128 * gain as u128) >> BBR_SCALE;
    let rate = (segments * (1_000_000 / 100 * (100 - PACING_MARGIN_PERCENT))) >> BW_SCALE;
    rate.min(u64::MAX as u128) as u64
}

fn bbr_bw_to_pacing_rate(sk: &Sock, tp: &TcpSock, bw: u32, gain: u32) -> u64 {
    bbr_rate(tp, bw, gain).min(sk.rare.max_pacing_rate())
}

/// Before the first sample the rate is a window a round trip, or a millisecond.
fn bbr_init_pacing_rate_from_rtt(sk: &Sock, tp: &mut TcpSock) {
    let rtt_us = if tp.srtt_us != 0 {
        ca(tp).has_seen_rtt = 1;
        (tp.srtt_us >> 3).max(1)
    } else {
        1000
    };
    let bw = (((tp.snd_cwnd as u64) << BW_SCALE) / rtt_us as u64).min(u32::MAX as u64) as u32;
    tp.pacing_rate = bbr_bw_to_pacing_rate(sk, tp, bw, HIGH_GAIN);
}

/// The pace only rises while the path is not yet known to be full: a bad first sample must not slow Startup.
fn bbr_set_pacing_rate(sk: &Sock, tp: &mut TcpSock, bw: u32, gain: u32) {
    let rate = bbr_bw_to_pacing_rate(sk, tp, bw, gain);
    if look(tp).has_seen_rtt == 0 && tp.srtt_us != 0 {
        bbr_init_pacing_rate_from_rtt(sk, tp);
    }
    if look(tp).full_bw_reached != 0 || rate > tp.pacing_rate {
        tp.pacing_rate = rate;
    }
}

/// Below 1.2 Mbit/s a packet is a segment.
fn bbr_min_tso_segs(_sk: &Sock, tp: &TcpSock) -> u32 {
    if tp.pacing_rate < MIN_TSO_RATE >> 3 { 1 } else { 2 }
}

/// Segments that leave as one packet at this pace.
fn bbr_tso_segs_goal(sk: &Sock, tp: &TcpSock) -> u32 {
    let bytes = (tp.pacing_rate >> TCP_PACING_SHIFT).min(GSO_MAX_SIZE as u64 - 1 - 320) as u32;
    (bytes / tp.mss_cache.max(1)).max(bbr_min_tso_segs(sk, tp)).min(0x7f)
}

/// What the path holds, times a gain, in segments (section 4.2.3.2).
fn bbr_bdp(tp: &TcpSock, bw: u32, gain: u32) -> u32 {
    let b = look(tp);
    if b.min_rtt_us == u32::MAX {
        return TCP_INIT_CWND;
    }
    bdp_segments(bw, b.min_rtt_us, gain)
}

/// Room for what does not leave evenly: packets of several segments, delayed ACKs (section 4.2.3.3).
fn bbr_quantization_budget(sk: &Sock, tp: &TcpSock, cwnd: u32) -> u32 {
    let b = look(tp);
    let even = cwnd.saturating_add(3 * bbr_tso_segs_goal(sk, tp)).saturating_add(1) & !1;
    if b.mode == PROBE_BW && b.cycle_idx == 0 { even + 2 } else { even }
}

fn bbr_inflight(sk: &Sock, tp: &TcpSock, bw: u32, gain: u32) -> u32 {
    bbr_quantization_budget(sk, tp, bbr_bdp(tp, bw, gain))
}

/// What will be in flight when the next packet's time has come: a paced sender's packets leave later than they are built.
fn bbr_packets_in_net_at_edt(sk: &Sock, tp: &TcpSock, inflight_now: u32) -> u32 {
    let b = look(tp);
    let now_ns = tp.tcp_mstamp * 1000;
    let ahead_us = tcp_wstamp_ns(tp).saturating_sub(now_ns) / 1000;
    let delivered = ((b.bw() as u64).saturating_mul(ahead_us) >> BW_SCALE).min(u32::MAX as u64) as u32;
    let at_edt = if b.pacing_gain > BBR_UNIT { inflight_now + bbr_tso_segs_goal(sk, tp) } else { inflight_now };
    at_edt.saturating_sub(delivered)
}

/// ACKs that come in clumps need room for what the path held back: the most it was of late, up to 100 ms of it.
fn bbr_ack_aggregation_cwnd(tp: &TcpSock) -> u32 {
    let b = look(tp);
    if b.full_bw_reached == 0 {
        return 0;
    }
    let most = ((b.bw() as u64 * EXTRA_ACKED_MAX_US) >> BW_SCALE).min(u32::MAX as u64) as u32;
    b.extra_acked[0].max(b.extra_acked[1]).min(most)
}

/// Remembers the window before recovery or ProbeRtt, the best of it.
fn bbr_save_cwnd(tp: &mut TcpSock) {
    let cwnd = tp.snd_cwnd;
    let b = ca(tp);
    let fresh = b.prev_ca_state < TcpCaState::Recovery as u8 && b.mode != PROBE_RTT;
    b.prior_cwnd = if fresh { cwnd } else { b.prior_cwnd.max(cwnd) };
}

/// Losses: in the first round of recovery a packet goes for each that arrives; after it, the old window (section 4.2.3.4).
/// `Some`: the window is decided.
fn bbr_recover_or_restore(tp: &mut TcpSock, rs: &RateSample, acked: u32) -> (u32, bool) {
    let (state, inflight, delivered) = (tp.ca_state, tp.packets_in_flight(), tp.delivered);
    let mut cwnd = tp.snd_cwnd.saturating_sub(rs.losses).max(1);
    let b = ca(tp);
    let (was, is) = (b.prev_ca_state >= TcpCaState::Recovery as u8, state >= TcpCaState::Recovery);
    if state == TcpCaState::Recovery && b.prev_ca_state != TcpCaState::Recovery as u8 {
        b.packet_conservation = 1;
        b.next_rtt_delivered = delivered;
        cwnd = inflight + acked;
    } else if was && !is {
        cwnd = cwnd.max(b.prior_cwnd);
        b.packet_conservation = 0;
    }
    b.prev_ca_state = state as u8;
    if b.packet_conservation != 0 { (cwnd.max(inflight + acked), true) } else { (cwnd, false) }
}

/// Section 4.2.3.5.
fn bbr_set_cwnd(sk: &Sock, tp: &mut TcpSock, rs: &RateSample, bw: u32) {
    let acked = rs.acked_sacked;
    let mut cwnd = tp.snd_cwnd;
    if acked > 0 {
        let (now, decided) = bbr_recover_or_restore(tp, rs, acked);
        cwnd = now;
        if !decided {
            let gain = look(tp).cwnd_gain;
            let target = bbr_bdp(tp, bw, gain).saturating_add(bbr_ack_aggregation_cwnd(tp));
            let target = bbr_quantization_budget(sk, tp, target);
            if look(tp).full_bw_reached != 0 {
                cwnd = cwnd.saturating_add(acked).min(target);
            } else if cwnd < target || tp.delivered < TCP_INIT_CWND {
                cwnd = cwnd.saturating_add(acked);
            }
            cwnd = cwnd.max(CWND_MIN_TARGET);
        }
    }
    cwnd = cwnd.min(tcp_snd_cwnd_clamp(tp));
    if look(tp).mode == PROBE_RTT {
        cwnd = cwnd.min(CWND_MIN_TARGET);
    }
    tcp_snd_cwnd_set(tp, cwnd);
}

// --- States ---

/// The next of the eight phases of ProbeBw: one probes, one drains, six cruise (section 4.3.4.2).
fn bbr_advance_cycle_phase(tp: &mut TcpSock) {
    let now = tp.delivered_mstamp;
    let b = ca(tp);
    b.cycle_idx = (b.cycle_idx + 1) % CYCLE_LEN as u8;
    b.cycle_mstamp = now;
}

fn bbr_is_next_cycle_phase(sk: &Sock, tp: &TcpSock, rs: &RateSample) -> bool {
    let b = look(tp);
    let full_length = tp.delivered_mstamp.saturating_sub(b.cycle_mstamp) > b.min_rtt_us as u64;
    if b.pacing_gain == BBR_UNIT {
        return full_length;
    }
    let inflight = bbr_packets_in_net_at_edt(sk, tp, rs.prior_in_flight);
    let bw = b.max_bw();
    if b.pacing_gain > BBR_UNIT {
        // Probed for long enough when as much is in flight as the gain asks for, or the path is full.
        return full_length && (rs.losses > 0 || inflight >= bbr_inflight(sk, tp, bw, b.pacing_gain));
    }
    full_length || inflight <= bbr_inflight(sk, tp, bw, BBR_UNIT)
}

/// Starts in any phase but the draining one, so that flows do not probe together (section 4.3.4.3).
fn bbr_reset_probe_bw_mode(sk: &Sock, tp: &mut TcpSock) {
    let skip = ((sk.net.kernel().random_u32() as u64 * CYCLE_RAND as u64) >> 32) as u8;
    let b = ca(tp);
    b.mode = PROBE_BW;
    b.cycle_idx = CYCLE_LEN as u8 - 1 - skip;
    bbr_advance_cycle_phase(tp);
}

fn bbr_reset_mode(sk: &Sock, tp: &mut TcpSock) {
    if look(tp).full_bw_reached == 0 {
        ca(tp).mode = STARTUP;
    } else {
        bbr_reset_probe_bw_mode(sk, tp);
    }
}

/// Startup to Drain to ProbeBw (sections 4.3.2 and 4.3.3).
fn bbr_check_drain(sk: &Sock, tp: &mut TcpSock) {
    let b = look(tp);
    let bw = b.max_bw();
    if b.mode == STARTUP && b.full_bw_reached != 0 {
        ca(tp).mode = DRAIN;
        tp.snd_ssthresh = bbr_inflight(sk, tp, bw, BBR_UNIT);
    }
    let inflight = bbr_packets_in_net_at_edt(sk, tp, tp.packets_in_flight());
    if look(tp).mode == DRAIN && inflight <= bbr_inflight(sk, tp, bw, BBR_UNIT) {
        bbr_reset_probe_bw_mode(sk, tp);
    }
}

fn bbr_check_probe_rtt_done(sk: &Sock, tp: &mut TcpSock) {
    let now = tp.jiffies32();
    let b = ca(tp);
    if b.probe_rtt_done_stamp == 0 || !after(now, b.probe_rtt_done_stamp) {
        return;
    }
    b.min_rtt_stamp = now;
    let prior = b.prior_cwnd;
    tcp_snd_cwnd_set(tp, tp.snd_cwnd.max(prior));
    bbr_reset_mode(sk, tp);
}

/// The least round-trip time, and ProbeRtt when it is old: the queue, if there is one, is emptied for 200 ms, so that what
/// is measured is the path (section 4.3.5).
fn bbr_update_min_rtt(sk: &Sock, tp: &mut TcpSock, rs: &RateSample) {
    let now = tp.jiffies32();
    let b = ca(tp);
    let expired = after(now, b.min_rtt_stamp.wrapping_add(MIN_RTT_WIN_SEC * 1000));
    if rs.rtt_us >= 0 && (rs.rtt_us < b.min_rtt_us as i64 || (expired && !rs.is_ack_delayed)) {
        b.min_rtt_us = rs.rtt_us as u32;
        b.min_rtt_stamp = now;
    }
    if expired && b.idle_restart == 0 && b.mode != PROBE_RTT {
        b.mode = PROBE_RTT;
        bbr_save_cwnd(tp);
        ca(tp).probe_rtt_done_stamp = 0;
    }
    if look(tp).mode == PROBE_RTT {
        bbr_in_probe_rtt(sk, tp, now);
    }
    if rs.delivered > 0 {
        ca(tp).idle_restart = 0;
    }
}

fn bbr_in_probe_rtt(sk: &Sock, tp: &mut TcpSock, now: u32) {
    // Samples of these moments say nothing about the path's rate.
    let inflight = tp.packets_in_flight();
    tp.app_limited = tp.delivered.wrapping_add(inflight).clamp(1, u32::MAX - 1);
    let delivered = tp.delivered;
    let b = ca(tp);
    if b.probe_rtt_done_stamp == 0 {
        if inflight <= CWND_MIN_TARGET {
            b.probe_rtt_done_stamp = now.wrapping_add(PROBE_RTT_MODE_MS).max(1);
            b.probe_rtt_round_done = 0;
            b.next_rtt_delivered = delivered;
        }
        return;
    }
    if b.round_start != 0 {
        b.probe_rtt_round_done = 1;
    }
    if b.probe_rtt_round_done != 0 {
        bbr_check_probe_rtt_done(sk, tp);
    }
}

// --- The model ---

/// The highest rate of the last ten round trips (section 4.1.1.3).
fn bbr_update_bw(sk: &Sock, tp: &mut TcpSock, rs: &RateSample) {
    let d = Delivery::of(tp);
    let b = ca(tp);
    b.round_start = 0;
    if rs.delivered < 0 || rs.interval_us <= 0 {
        return;
    }
    if !before(rs.prior_delivered, b.next_rtt_delivered) {
        b.next_rtt_delivered = d.delivered;
        b.rtt_cnt = b.rtt_cnt.wrapping_add(1);
        b.round_start = 1;
        b.packet_conservation = 0;
    }
    bbr_lt_bw_sampling(sk, tp, rs);
    let b = ca(tp);
    let bw = (((rs.delivered as u64) << BW_SCALE) / rs.interval_us as u64).min(u32::MAX as u64) as u32;
    // An application that has little to send shows less than the path can do.
    if !rs.is_app_limited || bw >= b.max_bw() {
        let now = b.rtt_cnt;
        b.bw_filter.running_max(BW_RTTS, now, bw);
    }
}

/// How much more than the rate times the time came at once.
fn bbr_update_ack_aggregation(tp: &mut TcpSock, rs: &RateSample) {
    if rs.acked_sacked == 0 || rs.delivered < 0 || rs.interval_us <= 0 {
        return;
    }
    let (now, cwnd) = (tp.delivered_mstamp, tp.snd_cwnd);
    let b = ca(tp);
    if b.round_start != 0 {
        b.extra_acked_win_rtts = (b.extra_acked_win_rtts + 1).min(31);
        if b.extra_acked_win_rtts >= EXTRA_ACKED_WIN_RTTS {
            b.extra_acked_win_rtts = 0;
            b.extra_acked_win_idx ^= 1;
            b.extra_acked[b.extra_acked_win_idx as usize & 1] = 0;
        }
    }
    let epoch_us = now.saturating_sub(b.ack_epoch_mstamp);
    let mut expected = ((b.bw() as u128 * epoch_us as u128) >> BW_SCALE).min(u32::MAX as u128) as u32;
    if b.ack_epoch_acked <= expected || b.ack_epoch_acked.saturating_add(rs.acked_sacked) >= ACK_EPOCH_ACKED_RESET {
        b.ack_epoch_acked = 0;
        b.ack_epoch_mstamp = now;
        expected = 0;
    }
    b.ack_epoch_acked = b.ack_epoch_acked.saturating_add(rs.acked_sacked).min(ACK_EPOCH_ACKED_RESET - 1);
    let extra = b.ack_epoch_acked.saturating_sub(expected).min(cwnd);
    let slot = &mut b.extra_acked[b.extra_acked_win_idx as usize & 1];
    *slot = (*slot).max(extra);
}

/// Section 4.3.2.2.
fn bbr_check_full_bw_reached(b: &mut Bbr, rs: &RateSample) {
    if b.full_bw_reached != 0 || b.round_start == 0 || rs.is_app_limited {
        return;
    }
    let bw = b.max_bw();
    if bw as u64 * BBR_UNIT as u64 >= b.full_bw as u64 * FULL_BW_THRESH as u64 {
        b.full_bw = bw;
        b.full_bw_cnt = 0;
        return;
    }
    b.full_bw_cnt += 1;
    b.full_bw_reached = (b.full_bw_cnt >= FULL_BW_CNT) as u8;
}

/// A policer drops what is above its rate. Where many are lost in two intervals of at least four round trips, at the same
/// rate, that rate is used for 48 round trips.
fn bbr_lt_bw_sampling(sk: &Sock, tp: &mut TcpSock, rs: &RateSample) {
    let d = Delivery::of(tp);
    let bps_diff_ok = |tp: &TcpSock, bw: u32, lt: u32| {
        let diff = bw.abs_diff(lt);
        diff as u64 * BBR_UNIT as u64 <= LT_BW_RATIO as u64 * lt as u64 || bbr_rate(tp, diff, BBR_UNIT) <= LT_BW_DIFF
    };
    let b = ca(tp);
    if b.lt_use_bw != 0 {
        if b.mode == PROBE_BW && b.round_start != 0 {
            b.lt_rtt_cnt = b.lt_rtt_cnt.saturating_add(1);
            if b.lt_rtt_cnt >= LT_BW_MAX_RTTS {
                b.reset_lt_bw_sampling(&d);
                bbr_reset_probe_bw_mode(sk, tp);
            }
        }
        return;
    }
    let Some(bw) = b.lt_sample(&d, rs) else { return };
    let lt = b.lt_bw;
    if lt != 0 && bps_diff_ok(tp, bw, lt) {
        let b = ca(tp);
        b.lt_bw = ((bw as u64 + lt as u64) >> 1) as u32;
        b.lt_use_bw = 1;
        b.pacing_gain = BBR_UNIT;
        b.lt_rtt_cnt = 0;
        return;
    }
    let b = ca(tp);
    b.lt_bw = bw;
    b.reset_lt_bw_interval(&d);
}

/// After each ACK: the model, then what follows from it.
fn bbr_main(sk: &Sock, tp: &mut TcpSock, rs: &RateSample) {
    bbr_update_bw(sk, tp, rs);
    bbr_update_ack_aggregation(tp, rs);
    if look(tp).mode == PROBE_BW && bbr_is_next_cycle_phase(sk, tp, rs) {
        bbr_advance_cycle_phase(tp);
    }
    bbr_check_full_bw_reached(ca(tp), rs);
    bbr_check_drain(sk, tp);
    bbr_update_min_rtt(sk, tp, rs);
    let b = ca(tp);
    b.update_gains();
    let (bw, gain) = (b.bw(), b.pacing_gain);
    bbr_set_pacing_rate(sk, tp, bw, gain);
    bbr_set_cwnd(sk, tp, rs, bw);
}

// --- What TCP asks ---

fn bbr_init(sk: &Sock, tp: &mut TcpSock) {
    let (min_rtt, now, mstamp, delivered) = (tcp_min_rtt(tp), tp.jiffies32(), tp.tcp_mstamp, tp.delivered);
    let d = Delivery::of(tp);
    tp.snd_ssthresh = TCP_INFINITE_SSTHRESH;
    let b = ca(tp);
    b.next_rtt_delivered = delivered;
    b.prev_ca_state = TcpCaState::Open as u8;
    (b.min_rtt_us, b.min_rtt_stamp) = (min_rtt, now);
    b.mode = STARTUP;
    b.update_gains();
    b.reset_lt_bw_sampling(&d);
    b.ack_epoch_mstamp = mstamp;
    bbr_init_pacing_rate_from_rtt(sk, tp);
    tcp_need_pacing(sk, tp);
}

/// Nothing to go down to: the model decides.
fn bbr_ssthresh(_sk: &Sock, tp: &mut TcpSock) -> u32 {
    bbr_save_cwnd(tp);
    tp.snd_ssthresh
}

/// The losses were none: neither is what they said about the path.
fn bbr_undo_cwnd(_sk: &Sock, tp: &mut TcpSock) -> u32 {
    let d = Delivery::of(tp);
    let b = ca(tp);
    (b.full_bw, b.full_bw_cnt) = (0, 0);
    b.reset_lt_bw_sampling(&d);
    tp.snd_cwnd
}

fn bbr_set_state(sk: &Sock, tp: &mut TcpSock, new: TcpCaState) {
    if new != TcpCaState::Loss {
        return;
    }
    let b = ca(tp);
    b.prev_ca_state = TcpCaState::Loss as u8;
    b.full_bw = 0;
    // A timeout ends a round.
    b.round_start = 1;
    bbr_lt_bw_sampling(sk, tp, &RateSample { losses: 1, ..RateSample::default() });
}

/// The application sends again after it had nothing to send: at the path's rate, without a burst (section 4.3.4.4).
fn bbr_cwnd_event(sk: &Sock, tp: &mut TcpSock, ev: TcpCaEvent) {
    if ev != TcpCaEvent::TxStart || tp.app_limited == u32::MAX {
        return;
    }
    let now = tp.tcp_mstamp;
    let b = ca(tp);
    b.idle_restart = 1;
    b.ack_epoch_mstamp = now;
    b.ack_epoch_acked = 0;
    let (mode, bw) = (b.mode, b.bw());
    if mode == PROBE_BW {
        bbr_set_pacing_rate(sk, tp, bw, BBR_UNIT);
    } else if mode == PROBE_RTT {
        bbr_check_probe_rtt_done(sk, tp);
    }
}

fn bbr_get_info(_sk: &Sock, tp: &TcpSock) -> TcpCcInfo {
    let b = look(tp);
    let bw = ((b.bw() as u128 * tp.mss_cache as u128 * 1_000_000) >> BW_SCALE) as u64;
    let (pacing_gain, cwnd_gain) = (b.pacing_gain, b.cwnd_gain);
    TcpCcInfo::Bbr(TcpBbrInfo {
        bw_lo: bw as u32,
        bw_hi: (bw >> 32) as u32,
        min_rtt: b.min_rtt_us,
        pacing_gain,
        cwnd_gain,
    })
}
