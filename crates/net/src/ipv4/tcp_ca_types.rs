//! What TCP and its congestion control tell each other.
//!
//! Interface: [`TcpCaState`], [`TcpCaEvent`], [`CaFlags`], [`CaAck`], [`RateSample`], [`AckSample`], [`TcpPacing`],
//! [`CaPriv`].
//! Linux counterpart: the congestion control part of `include/net/tcp.h`.
//! Locks and context: plain data, under the socket lock.

use kernel::HrTimer;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// State of congestion control (`enum tcp_ca_state`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, PartialOrd, Ord)]
#[repr(u8)]
pub enum TcpCaState {
    #[default]
    Open = 0,
    Disorder = 1,
    Cwr = 2,
    Recovery = 3,
    Loss = 4,
}

/// What congestion control is told about (`enum tcp_ca_event`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcpCaEvent {
    /// First transmit when nothing is in flight.
    TxStart,
    /// The window is opened again after idleness.
    CwndRestart,
    CompleteCwr,
    Loss,
    /// A segment without a congestion mark came (to the receiver).
    EcnNoCe,
    /// A segment with a congestion mark came.
    EcnIsCe,
}

bitflags::bitflags! {
    /// What an algorithm is (`TCP_CONG_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct CaFlags: u32 {
        /// Everybody may choose it, not only the stack's owner.
        const NON_RESTRICTED = 1;
        /// It works by congestion marks, so its connections ask for ECN.
        const NEEDS_ECN = 2;
    }
}

bitflags::bitflags! {
    /// What an ACK was (`enum tcp_ca_ack_event_flags`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct CaAck: u32 {
        const SLOWPATH = 1;
        const WIN_UPDATE = 2;
        /// It echoes a congestion mark.
        const ECE = 4;
    }
}

/// What one ACK says about the path's rate (`struct rate_sample`): between the time when the newest delivered segment was
/// sent and now. Times are microseconds, counts segments.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateSample {
    /// When that segment was sent, the last delivery before it; 0: nothing was delivered.
    pub prior_mstamp: u64,
    /// `tp.delivered` and `tp.delivered_ce` at that time.
    pub prior_delivered: u32,
    pub prior_delivered_ce: u32,
    /// Delivered since; negative: no sample.
    pub delivered: i32,
    pub delivered_ce: i32,
    /// How long that took; negative: no sample.
    pub interval_us: i64,
    pub snd_interval_us: u32,
    pub rcv_interval_us: u32,
    /// The round-trip time of the newest segment; negative: none.
    pub rtt_us: i64,
    /// Segments marked lost by this ACK.
    pub losses: u32,
    /// Segments delivered by this ACK.
    pub acked_sacked: u32,
    /// In flight before this ACK.
    pub prior_in_flight: u32,
    pub last_end_seq: u32,
    /// The sender had nothing to send meanwhile: the path may be faster.
    pub is_app_limited: bool,
    /// From a retransmitted segment.
    pub is_retrans: bool,
    /// The receiver may have held the ACK back.
    pub is_ack_delayed: bool,
}

/// What an ACK acknowledged (`struct ack_sample`).
#[derive(Clone, Copy, Debug)]
pub struct AckSample {
    pub pkts_acked: u32,
    /// Microseconds; negative: none.
    pub rtt_us: i64,
}

/// What a paced connection has.
pub struct TcpPacing {
    /// Goes on when the next packet may leave (`pacing_timer`).
    pub timer: HrTimer,
    /// When that is, nanoseconds (`tcp_wstamp_ns`).
    pub wstamp_ns: u64,
}

/// Words that a connection has for its algorithm without an allocation.
const SMALL: usize = 7;

/// Memory for the algorithm at work (`icsk_ca_priv`); each lays its own type over it. What needs more than 28 bytes gets an
/// allocation of its own, so that others do not pay for it: from the start, or when it asks for it.
pub struct CaPriv(Words);

enum Words {
    Small([u32; SMALL]),
    Large(Box<[u64]>),
}

impl Default for CaPriv {
    fn default() -> CaPriv {
        CaPriv(Words::Small([0; SMALL]))
    }
}

impl CaPriv {
    /// Zeroed memory for a type of `size` bytes and at most 8 bytes of alignment.
    pub fn with_size(size: usize, align: usize) -> CaPriv {
        if size <= SMALL * 4 && align <= 4 {
            return CaPriv::default();
        }
        CaPriv(Words::Large(vec![0; size.div_ceil(8)].into_boxed_slice()))
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Words::Small(w) => w.as_bytes(),
            Words::Large(w) => w.as_bytes(),
        }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Words::Small(w) => w.as_mut_bytes(),
            Words::Large(w) => w.as_mut_bytes(),
        }
    }

    /// The algorithm's state. Panics if `T` is larger than the algorithm has said (`TcpCongestionOps::priv_layout`).
    #[inline]
    pub fn get_mut<T: FromBytes + IntoBytes + KnownLayout>(&mut self) -> &mut T {
        self.get_mut_if_grown().unwrap_or_else(|| unreachable!("priv_layout is another's"))
    }

    /// Likewise, to look at.
    #[inline]
    pub fn get<T: FromBytes + KnownLayout + Immutable>(&self) -> &T {
        T::ref_from_prefix(self.bytes()).map(|(t, _)| t).unwrap_or_else(|_| unreachable!("priv_layout is another's"))
    }

    /// Bytes it has allocated.
    pub fn memory(&self) -> usize {
        match &self.0 {
            Words::Small(_) => 0,
            Words::Large(w) => size_of_val(&**w),
        }
    }

    /// The state as a larger type that begins with the one it had so far; what is new is zeroed.
    pub fn grow<T: FromBytes + IntoBytes + KnownLayout>(&mut self) -> &mut T {
        if self.bytes().len() < size_of::<T>() {
            let mut large = CaPriv(Words::Large(vec![0; size_of::<T>().div_ceil(8)].into_boxed_slice()));
            let old = self.bytes();
            large.bytes_mut()[..old.len()].copy_from_slice(old);
            *self = large;
        }
        self.get_mut()
    }

    /// The state as the larger type, if it has been.
    #[inline]
    pub fn get_mut_if_grown<T: FromBytes + IntoBytes + KnownLayout>(&mut self) -> Option<&mut T> {
        T::mut_from_prefix(self.bytes_mut()).map(|(t, _)| t).ok()
    }
}

const _: () = assert!(size_of::<CaPriv>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_algorithm_s_memory_grows_and_keeps_what_it_had() {
        let mut p = CaPriv::with_size(28, 4);
        *p.get_mut::<[u32; 7]>() = [1, 2, 3, 4, 5, 6, 7];
        assert!(p.get_mut_if_grown::<[u32; 15]>().is_none());
        assert_eq!(p.grow::<[u32; 15]>(), &[1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
        p.grow::<[u32; 15]>()[14] = 9;
        assert_eq!((p.grow::<[u32; 15]>()[14], p.get::<[u32; 7]>()[6]), (9, 7));
    }
}
