//! The light entry in place of a closed connection.
//!
//! Interface: [`InetTimewaitSock`]; hashing and killing it is the business of `inet_hashtables`.
//! Linux counterpart: `net/ipv4/inet_timewait_sock.c`, `struct tcp_timewait_sock`.
//! Locks and context: shared between softirqs; changes by atomics only. Its timer runs in softirq context.

use crate::core::net_namespace::Net;
use crate::ipv4::inet_sock::InetTuple;
use crate::ipv4::tcp_auth_key::AuthKey;
use kernel::{Timer, TimerOwner};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::*};
use std::sync::{Arc, Weak};
use uapi::tcp::TcpState;

/// How long a connection is remembered (`TCP_TIMEWAIT_LEN`): 60 s, in milliseconds.
pub const TCP_TIMEWAIT_LEN: u64 = 60 * kernel::HZ;

/// Everything that TIME_WAIT (RFC 9293, 3.6.1) and an orphan's FIN_WAIT2 need to know.
pub struct InetTimewaitSock {
    pub tuple: InetTuple,
    pub family: u16,
    pub reuse: bool,
    pub reuseport: bool,
    pub ipv6only: bool,
    pub tos: u8,
    pub rcv_wscale: u8,
    /// [`TcpState::TimeWait`] or [`TcpState::FinWait2`].
    pub substate: AtomicU8,
    killed: AtomicBool,
    pub bound_dev_if: u32,
    pub mark: u32,
    /// What signs its ACKs.
    pub auth: Option<Box<AuthKey>>,
    pub rcv_nxt: AtomicU32,
    pub snd_nxt: u32,
    pub rcv_wnd: u32,
    pub ts_offset: u32,
    /// The peer's latest timestamp, and when it came (seconds of the monotonic clock; 0: no timestamps).
    pub ts_recent: AtomicU32,
    pub ts_recent_stamp: AtomicU32,
    /// When TIME_WAIT began, in milliseconds of the monotonic clock, truncated (`tw_entry_stamp`).
    pub entry_stamp: AtomicU32,
    /// When an out-of-window packet was last answered, in milliseconds of the monotonic clock, truncated; 0: never.
    pub last_oow_ack_time: AtomicU32,
    /// Its place among the owners of its port; kept by the bind table.
    pub bind_index: AtomicU32,
    pub net: Weak<Net>,
    timer: Timer,
}

/// What a time-wait entry takes over from its socket.
pub struct TimewaitInit {
    pub tuple: InetTuple,
    pub family: u16,
    pub reuse: bool,
    pub reuseport: bool,
    pub ipv6only: bool,
    pub tos: u8,
    pub rcv_wscale: u8,
    pub substate: TcpState,
    pub auth: Option<Box<AuthKey>>,
    pub bound_dev_if: u32,
    pub mark: u32,
    pub rcv_nxt: u32,
    pub snd_nxt: u32,
    pub rcv_wnd: u32,
    pub ts_offset: u32,
    pub ts_recent: u32,
    pub ts_recent_stamp: u32,
}

impl InetTimewaitSock {
    /// `inet_twsk_alloc`. `expired` is called with it, in softirq context, when its time is over.
    pub fn alloc(net: &Arc<Net>, i: TimewaitInit, expired: fn(Arc<TimerOwner>)) -> Arc<InetTimewaitSock> {
        Arc::new_cyclic(|me: &Weak<InetTimewaitSock>| {
            let timer = net.kernel().timer_of(me.clone(), expired);
            InetTimewaitSock {
                tuple: i.tuple,
                family: i.family,
                reuse: i.reuse,
                reuseport: i.reuseport,
                ipv6only: i.ipv6only,
                tos: i.tos,
                rcv_wscale: i.rcv_wscale,
                substate: AtomicU8::new(i.substate as u8),
                killed: AtomicBool::new(false),
                auth: i.auth,
                bound_dev_if: i.bound_dev_if,
                mark: i.mark,
                rcv_nxt: AtomicU32::new(i.rcv_nxt),
                snd_nxt: i.snd_nxt,
                rcv_wnd: i.rcv_wnd,
                ts_offset: i.ts_offset,
                ts_recent: AtomicU32::new(i.ts_recent),
                ts_recent_stamp: AtomicU32::new(i.ts_recent_stamp),
                entry_stamp: AtomicU32::new(net.kernel().jiffies_coarse() as u32),
                last_oow_ack_time: AtomicU32::new(0),
                bind_index: AtomicU32::new(u32::MAX),
                net: net.weak(),
                timer,
            }
        })
    }

    pub fn substate(&self) -> TcpState {
        TcpState::from_u8(self.substate.load(Acquire))
    }

    /// `inet_twsk_reschedule`: its time is over in `timeo` milliseconds from now.
    pub fn reschedule(&self, timeo: u64) {
        if !self.killed.load(Acquire) {
            self.timer.mod_timer_in(timeo);
        }
    }

    /// Cancels its timer; `true` for the first caller, who is to take it out of the tables (`inet_twsk_deschedule_put`).
    pub fn deschedule(&self) -> bool {
        let first = !self.killed.swap(true, AcqRel);
        self.timer.del_timer();
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_wait_entry_is_light() {
        assert!(size_of::<InetTimewaitSock>() <= 200, "{} bytes", size_of::<InetTimewaitSock>());
    }
}
