//! Small sockets: connection requests and TIME_WAIT.
//!
//! Interface: `tcp_check_req`, `tcp_time_wait`, `tcp_timewait_state_process`.
//! Linux counterpart: `net/ipv4/tcp_minisocks.c`.
//! Locks and context: softirq context.
