//! TCP timers.
//!
//! Interface: `tcp_init_xmit_timers` and the timer handlers.
//! Linux counterpart: `net/ipv4/tcp_timer.c`.
//! Locks and context: softirq context; socket lock.
