//! Accurate ECN: the counters of one connection, their encodings, and what can be told from them (RFC 9768).
//!
//! Interface: [`AccEcn`], [`AccEcnOut`], [`AceSample`], [`tcp_accecn_ace`], [`ace_of_ect`], [`ect_of_ace`].
//! Linux counterpart: the AccECN half of `include/net/tcp_ecn.h`, `tcp_accecn_process` in `net/ipv4/tcp_input.c`.
//! Locks and context: plain data.

use crate::hdr::TcpHdr;

/// The option in its two orders (RFC 9768, 3.2.3): counters of ECT(0), CE, ECT(1), or of ECT(1), CE, ECT(0).
pub const TCPOPT_ACCECN0: u8 = 172;
pub const TCPOPT_ACCECN1: u8 = 174;
/// Kind and length; each counter.
pub const TCPOLEN_ACCECN_BASE: usize = 2;
pub const TCPOLEN_ACCECN_PERFIELD: usize = 3;
pub const TCP_ACCECN_NUMFIELDS: u8 = 3;

/// Code points of the IP header's ECN field (RFC 3168, 5).
pub const NOT_ECT: u8 = 0;
pub const ECT_1: u8 = 1;
pub const ECT_0: u8 = 2;
pub const CE: u8 = 3;

/// The packet counter starts here on the wire, so that zero stands out (RFC 9768, 3.2.1).
pub const CEP_INIT_OFFSET: u32 = 5;
const ACE_MASK: u32 = 7;
/// Marks that may be outstanding before an ACK goes out at once, so that three bits do not wrap (RFC 9768, 3.2.2.5.1).
pub const ACE_MAX_DELTA: u8 = 4;
/// Fixed-point digits and weight of the mean number of segments per ACK, and from when on ACKs are taken for thinned out.
const EWMA_PREC: u32 = 6;
const EWMA_WEIGHT: u32 = 6;
const ACK_COMP_THRESH: u32 = 4;

/// The three flags as one number (RFC 9768, 3.1): AE, CWR, ECE from the high bit.
#[inline]
pub fn tcp_accecn_ace(th: &TcpHdr) -> u8 {
    (th.doff & 1) << 2 | th.flags >> 6
}

/// The number's two low bits as they stand in the flag byte; the third is [`ace_ae`].
#[inline]
pub fn ace_flags(ace: u8) -> u8 {
    ace << 6
}

/// Whether AE is set in that number.
#[inline]
pub fn ace_ae(ace: u8) -> bool {
    ace & 4 != 0
}

/// How a SYN-ACK, or the ACK of one, tells with which code point the other's came (RFC 9768, tables 2 and 3).
pub fn ace_of_ect(ect: u8) -> u8 {
    match ect & 3 {
        NOT_ECT => 0b010,
        ECT_1 => 0b011,
        ECT_0 => 0b100,
        _ => 0b110,
    }
}

/// The inverse of [`ace_of_ect`]; `None` for the numbers that say nothing (RFC 9768, table 4).
pub fn ect_of_ace(ace: u8) -> Option<u8> {
    match ace {
        0b010 => Some(NOT_ECT),
        0b011 => Some(ECT_1),
        0b100 => Some(ECT_0),
        0b110 => Some(CE),
        _ => None,
    }
}

/// Whether a network may have made the one code point of the other (RFC 9768, 3.2.2.3).
pub fn ect_transition_valid(sent: u8, received: u8) -> bool {
    sent == received || (sent != NOT_ECT && received != NOT_ECT && sent != CE)
}

/// Whether a SYN asks for AccECN: any combination but none and that of RFC 3168 (RFC 9768, 3.1.2).
pub fn tcp_accecn_syn_requested(th: &TcpHdr) -> bool {
    !matches!(tcp_accecn_ace(th), 0 | 0b011)
}

/// The value that the wire adds to a byte counter: not zero where zeroing by a middlebox is to be seen (RFC 9768, 3.2.1).
fn init_offset(ect: u8) -> u32 {
    (ect != CE) as u32
}

/// The code points in an option's order.
fn order(kind: u8) -> [u8; 3] {
    if kind == TCPOPT_ACCECN1 { [ECT_1, CE, ECT_0] } else { [ECT_0, CE, ECT_1] }
}

/// The place of a code point in what we send, from 1; 0: it is not counted.
fn field_of(ect: u8) -> u8 {
    match ect {
        ECT_1 => 1,
        CE => 2,
        ECT_0 => 3,
        _ => 0,
    }
}

/// What is known about the peer's option (`tp->saw_accecn_opt`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum OptSeen {
    #[default]
    NotSeen = 0,
    /// Without counters.
    Empty = 1,
    Counters = 2,
    /// Its counters were zeroed, or it came too late: not to be believed.
    Failed = 3,
}

impl OptSeen {
    pub fn from_u8(v: u8) -> OptSeen {
        match v {
            0 => OptSeen::NotSeen,
            1 => OptSeen::Empty,
            2 => OptSeen::Counters,
            _ => OptSeen::Failed,
        }
    }

    /// What a first option says: counters that start at 1 must not be zero (RFC 9768, 3.2.3.2.4). `opt` with kind and length.
    pub fn of_option(opt: &[u8]) -> OptSeen {
        let fields: Vec3 = fields(opt);
        match fields {
            [None, ..] => OptSeen::Empty,
            [Some(0), ..] | [_, _, Some(0)] => OptSeen::Failed,
            _ => OptSeen::Counters,
        }
    }
}

type Vec3 = [Option<u32>; 3];

/// The counters of an option with kind and length.
fn fields(opt: &[u8]) -> Vec3 {
    let body = opt.get(TCPOLEN_ACCECN_BASE..).unwrap_or(&[]);
    std::array::from_fn(|i| {
        let b = body.get(i * TCPOLEN_ACCECN_PERFIELD..(i + 1) * TCPOLEN_ACCECN_PERFIELD)?;
        Some(u32::from_be_bytes([0, b[0], b[1], b[2]]))
    })
}

/// `accecn_fail_mode`: the flags do not reach the peer, or us; the option does not.
pub const ACE_FAIL_SEND: u8 = 1;
pub const ACE_FAIL_RECV: u8 = 2;
pub const OPT_FAIL_SEND: u8 = 4;
pub const OPT_FAIL_RECV: u8 = 8;

/// An AccECN connection's state, of both half-connections. Byte counters are by code point - 1.
#[derive(Clone, Default, Debug)]
pub struct AccEcn {
    /// Code points of our SYN or SYN-ACK, and of the peer's as it came.
    pub syn_ect_snt: u8,
    pub syn_ect_rcv: u8,
    pub fail_mode: u8,
    pub saw_opt: OptSeen,
    /// The next segment tells how the peer's SYN-ACK or SYN came, not what was counted.
    pub reflect: bool,

    // Receiver: packets and payload bytes that came with each code point.
    pub received_ce: u32,
    /// Of those, not told yet.
    pub received_ce_pending: u8,
    pub received_bytes: [u32; 3],
    pub prev_ecnfield: u8,
    /// Counters that the next option must have, and options that must be sent.
    pub minlen: u8,
    pub opt_demand: u8,
    /// When an option was last sent, microseconds.
    pub opt_tstamp: u64,

    // Sender: what the peer said came of ours.
    pub delivered_bytes: [u32; 3],
    /// The one code point that grows, + 1, while there are no options; 0: not known.
    est_ecnfield: u8,
    pkts_acked_ewma: u32,
}

/// An ACK as the counters see it.
#[derive(Clone, Copy, Debug)]
pub struct AceSample<'a> {
    pub ace: u8,
    /// The peer's option, kind and length included.
    pub option: Option<&'a [u8]>,
    /// What this ACK newly says to be delivered.
    pub pkts: u32,
    pub bytes: u32,
    /// The ACK was not the predicted one.
    pub slow: bool,
    /// It says something new, so it is no older than the last.
    pub progress: bool,
    /// It acknowledges our SYN: the flags have another meaning.
    pub syn: bool,
    /// Bytes sent so far on the connection.
    pub bytes_sent: u64,
    pub mss: u32,
    /// Delivered segments are known exactly.
    pub exact: bool,
}

impl AccEcn {
    /// The number for the next segment's flags.
    pub fn wire_ace(&self) -> u8 {
        (self.received_ce.wrapping_add(CEP_INIT_OFFSET) & ACE_MASK) as u8
    }

    /// A segment has come with a code point (RFC 9768, 3.2.1, `tcp_ecn_received_counters`): `segs` segments, `len` payload
    /// bytes. `true`: the code point has changed, and an ACK is to say so at once (3.2.2.5.1).
    pub fn received(&mut self, ect: u8, segs: u32, len: u32) -> bool {
        let ect = ect & 3;
        if ect == CE {
            self.received_ce = self.received_ce.wrapping_add(segs);
            self.received_ce_pending = (self.received_ce_pending as u32 + segs).min(15) as u8;
        }
        if ect != NOT_ECT && len > 0 {
            let count = &mut self.received_bytes[ect as usize - 1];
            let old = *count;
            *count = old.wrapping_add(len);
            // A counter of 24 bits must not grow by half its range untold.
            if (old ^ *count) >> 22 != 0 {
                self.opt_demand = self.opt_demand.max(1);
            }
            self.minlen = self.minlen.max(field_of(ect));
        }
        let edge = self.prev_ecnfield != ect;
        self.prev_ecnfield = ect;
        if edge || ect == CE {
            self.opt_demand = 2;
        }
        edge
    }

    /// The peer's counters (RFC 9768, 3.2.3.3). `true`: how many bytes were marked is known now.
    fn process_option(&mut self, s: &AceSample<'_>) -> bool {
        if self.saw_opt == OptSeen::Failed || self.fail_mode & OPT_FAIL_RECV != 0 {
            return false;
        }
        let Some(opt) = s.option.filter(|_| s.slow) else {
            if self.saw_opt == OptSeen::NotSeen {
                // Should one come later, nobody could say how often its counters have wrapped.
                if s.bytes_sent >= (1 << 23) - 1 {
                    self.saw_opt = OptSeen::Failed;
                }
                return false;
            }
            if self.est_ecnfield == 0 {
                return false;
            }
            let count = &mut self.delivered_bytes[self.est_ecnfield as usize - 2];
            *count = count.wrapping_add(s.bytes);
            return true;
        };
        if self.saw_opt < OptSeen::Counters {
            self.saw_opt = OptSeen::of_option(opt);
            if self.saw_opt == OptSeen::Failed {
                self.fail_mode |= OPT_FAIL_RECV;
                return false;
            }
        }
        self.take_counters(opt)
    }

    fn take_counters(&mut self, opt: &[u8]) -> bool {
        let guessed = self.est_ecnfield;
        let (mut known, mut ambiguous, mut changed) = (guessed != 0, false, false);
        for (ect, field) in order(opt[0]).into_iter().zip(fields(opt)) {
            let Some(field) = field else { break };
            let count = &mut self.delivered_bytes[ect as usize - 1];
            let delta = ((field.wrapping_sub(init_offset(ect)).wrapping_sub(*count) << 8) as i32) >> 8;
            *count = count.wrapping_add(delta as u32);
            if delta == 0 {
                continue;
            }
            if delta < 0 {
                (known, ambiguous) = (false, true);
            }
            if ect + 1 != guessed {
                if changed {
                    (known, ambiguous) = (false, true);
                } else {
                    self.est_ecnfield = ect + 1;
                    changed = true;
                }
            }
        }
        if ambiguous {
            self.est_ecnfield = 0;
        }
        known
    }

    /// How many of our packets an ACK newly says to have been marked (RFC 9768, appendix A.2): three bits are counted on,
    /// wrapped as often as is likely for the number of packets acknowledged. `delivered_ce` is what was known before.
    pub fn newly_marked(&mut self, s: &AceSample<'_>, delivered_ce: u32) -> u32 {
        if !s.progress {
            // An old ACK, or one that cannot be told from an old one.
            return 0;
        }
        let old_ceb = self.delivered_bytes[CE as usize - 1];
        let bytes_known = self.process_option(s);
        self.note_acked(s.pkts);
        if (!s.slow && s.pkts <= ACE_MASK) || s.syn {
            return 0;
        }
        let corrected = (s.ace as u32).wrapping_sub(CEP_INIT_OFFSET);
        let delta = corrected.wrapping_sub(delivered_ce) & ACE_MASK;
        if s.pkts <= ACE_MASK {
            return delta;
        }
        // As many wraps as the packets allow.
        let safe = s.pkts - (s.pkts.wrapping_sub(delta) & ACE_MASK);
        if !bytes_known {
            let thinned = self.pkts_acked_ewma > ACK_COMP_THRESH << EWMA_PREC;
            return if thinned { delta } else { safe };
        }
        let ceb = self.delivered_bytes[CE as usize - 1].wrapping_sub(old_ceb);
        if ceb == 0 {
            return delta;
        }
        if s.pkts >= 2 * (ACE_MASK + 1) && s.exact {
            if s.bytes <= ceb {
                return safe;
            }
            let likely = (ceb as u64 * s.pkts as u64).div_ceil(s.bytes as u64) as u32;
            return safe.min(delta + (likely & !ACE_MASK));
        }
        if ceb as u64 > delta as u64 * s.mss as u64 {
            return safe;
        }
        // Marked segments so small are unlikely to be that many.
        if (ceb as u64) < (safe as u64 * s.mss as u64) >> 1 { delta } else { safe }
    }

    /// The moving average of packets an ACK acknowledges.
    fn note_acked(&mut self, pkts: u32) {
        if pkts == 0 {
            return;
        }
        let sample = pkts.min(0xffff >> EWMA_PREC) << EWMA_PREC;
        self.pkts_acked_ewma = match self.pkts_acked_ewma {
            0 => sample,
            e => (((e << EWMA_WEIGHT) - e + sample) >> EWMA_WEIGHT).min(0xffff),
        };
    }
}

/// The option of a segment to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccEcnOut {
    /// Counters in it, and bytes it takes in the option area: less than its length when its end takes the place of padding.
    pub fields: u8,
    pub size: u8,
    pub bytes: [u32; 3],
}

impl AccEcnOut {
    /// The largest option that fits in `room` bytes and has at least `required` counters, where the padding of the next
    /// option can take `saving` of its bytes (`tcp_options_fit_accecn`).
    pub fn fit(bytes: &[u32; 3], required: u8, room: usize, saving: usize) -> Option<AccEcnOut> {
        let size = |n: u8| {
            let len = TCPOLEN_ACCECN_BASE + n as usize * TCPOLEN_ACCECN_PERFIELD;
            if len & 3 > saving { len.next_multiple_of(4) } else { len & !3 }
        };
        let fields = (required..=TCP_ACCECN_NUMFIELDS).rev().find(|&n| size(n) <= room)?;
        Some(AccEcnOut { fields, size: size(fields) as u8, bytes: *bytes })
    }

    /// The option's bytes, and how many they are; counters in order 1, as Linux does.
    pub fn encode(&self) -> ([u8; 12], usize) {
        let len = TCPOLEN_ACCECN_BASE + self.fields as usize * TCPOLEN_ACCECN_PERFIELD;
        let mut b = [1; 12];
        (b[0], b[1]) = (TCPOPT_ACCECN1, len as u8);
        for (i, ect) in order(TCPOPT_ACCECN1).into_iter().take(self.fields as usize).enumerate() {
            let v = self.bytes[ect as usize - 1].wrapping_add(init_offset(ect)).to_be_bytes();
            b[2 + i * 3..5 + i * 3].copy_from_slice(&v[1..]);
        }
        (b, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ace: u8, pkts: u32) -> AceSample<'static> {
        AceSample {
            ace,
            option: None,
            pkts,
            bytes: pkts * 1000,
            slow: true,
            progress: true,
            syn: false,
            bytes_sent: 0,
            mss: 1000,
            exact: true,
        }
    }

    #[test]
    fn the_flags_say_how_the_syn_came() {
        for ect in 0..4 {
            assert_eq!(ect_of_ace(ace_of_ect(ect)), Some(ect));
        }
        assert!(ect_transition_valid(ECT_0, CE) && ect_transition_valid(ECT_0, ECT_1));
        assert!(!ect_transition_valid(NOT_ECT, CE) && !ect_transition_valid(ECT_0, NOT_ECT));
        assert!(!ect_transition_valid(CE, ECT_0));
    }

    #[test]
    fn three_bits_are_counted_on() {
        let mut a = AccEcn::default();
        assert_eq!(a.newly_marked(&sample(5, 2), 0), 0);
        assert_eq!(a.newly_marked(&sample(7, 2), 0), 2);
        assert_eq!(a.newly_marked(&sample(0, 2), 2), 1, "wrapped");
        // RFC 9768, A.2.1: up to 12 packets of which 1 is marked, or 9.
        assert_eq!(a.newly_marked(&sample(6, 12), 0), 9);
        assert_eq!(a.newly_marked(&AceSample { progress: false, ..sample(7, 2) }, 0), 0);
        assert_eq!(a.newly_marked(&AceSample { syn: true, ..sample(7, 2) }, 0), 0);
    }

    #[test]
    fn bytes_tell_how_often_the_flags_have_wrapped() {
        let mut rcv = AccEcn::default();
        let mut snd = AccEcn::default();
        let opt = |r: &AccEcn| {
            let (b, len) = AccEcnOut { fields: 3, size: 12, bytes: r.received_bytes }.encode();
            b[..len].to_vec()
        };
        rcv.received(ECT_0, 10, 10_000);
        let o = opt(&rcv);
        assert_eq!(snd.newly_marked(&AceSample { option: Some(&o), ..sample(rcv.wire_ace(), 10) }, 0), 0);
        assert_eq!((snd.saw_opt, snd.delivered_bytes), (OptSeen::Counters, [0, 10_000, 0]));
        rcv.received(ECT_0, 1, 1000);
        rcv.received(CE, 1, 1000);
        let o = opt(&rcv);
        assert_eq!(snd.newly_marked(&AceSample { option: Some(&o), ..sample(rcv.wire_ace(), 2) }, 0), 1);
        rcv.received(CE, 9, 9000);
        let o = opt(&rcv);
        assert_eq!(snd.newly_marked(&AceSample { option: Some(&o), ..sample(rcv.wire_ace(), 9) }, 1), 9);
        assert_eq!(snd.delivered_bytes, rcv.received_bytes);
    }

    #[test]
    fn zeroed_counters_are_not_believed() {
        assert_eq!(OptSeen::of_option(&[174, 11, 0, 0, 1, 0, 0, 0, 0, 0, 1]), OptSeen::Counters);
        assert_eq!(OptSeen::of_option(&[174, 11, 0, 0, 0, 0, 0, 0, 0, 0, 1]), OptSeen::Failed);
        assert_eq!(OptSeen::of_option(&[172, 11, 0, 0, 1, 0, 0, 0, 0, 0, 0]), OptSeen::Failed);
        assert_eq!(OptSeen::of_option(&[172, 2]), OptSeen::Empty);
        let mut a = AccEcn::default();
        let zero = [174, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        a.newly_marked(&AceSample { option: Some(&zero), ..sample(5, 1) }, 0);
        assert_eq!((a.saw_opt, a.fail_mode), (OptSeen::Failed, OPT_FAIL_RECV));
    }

    #[test]
    fn the_option_shrinks_to_fit() {
        let b = [1, 2, 3];
        let fit = |required, room, saving| AccEcnOut::fit(&b, required, room, saving).map(|o| (o.fields, o.size));
        assert_eq!(fit(0, 28, 0), Some((3, 12)));
        assert_eq!(fit(0, 8, 2), Some((2, 8)));
        assert_eq!(fit(0, 4, 2), Some((1, 4)));
        assert_eq!(fit(0, 0, 2), Some((0, 0)));
        assert_eq!(fit(0, 0, 0), None);
        assert_eq!(fit(3, 8, 2), None);
    }

    #[test]
    fn both_orders_are_read() {
        let mut a = AccEcn::default();
        a.take_counters(&[172, 11, 0, 0, 11, 0, 0, 7, 0, 0, 1]);
        assert_eq!(a.delivered_bytes, [0, 10, 7]);
        a.take_counters(&[174, 5, 0, 0, 4]);
        assert_eq!(a.delivered_bytes, [3, 10, 7]);
        // 24 bits wrap.
        a.delivered_bytes[0] = 0x00ff_ffff;
        a.take_counters(&[174, 5, 0, 0, 4]);
        assert_eq!(a.delivered_bytes[0], 0x0100_0003);
    }

    #[test]
    fn a_change_of_marks_is_told_at_once() {
        let mut a = AccEcn { prev_ecnfield: ECT_0, ..AccEcn::default() };
        assert!(!a.received(ECT_0, 1, 100));
        assert!(a.received(CE, 1, 100));
        assert_eq!((a.opt_demand, a.received_ce, a.wire_ace()), (2, 1, 6));
        assert!(!a.received(CE, 2, 100), "not changed again");
        assert!(a.received(ECT_0, 1, 0));
        assert_eq!(a.received_bytes, [0, 100, 200]);
    }
}
