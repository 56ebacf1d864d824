//! The tunables of `/proc/sys/net`, under Linux's names and with its defaults.
//!
//! Interface: [`NetSysctl`] (a field each), [`NetSysctl::get`] and [`NetSysctl::set`] by dotted name.
//! Linux counterpart: `net/core/sysctl_net_core.c`, `net/ipv4/sysctl_net_ipv4.c`, `net/ipv6/sysctl_net_ipv6.c`.
//! Locks and context: any; atomics.

use kernel::SpinLock;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use uapi::{Errno, Result};

/// One tunable with its bounds.
pub struct Ctl {
    value: AtomicI64,
    min: i64,
    max: i64,
}

impl Ctl {
    #[inline]
    pub fn get(&self) -> i64 {
        self.value.load(Relaxed)
    }

    /// `EINVAL` outside the bounds.
    pub fn set(&self, v: i64) -> Result<()> {
        if v < self.min || v > self.max {
            return Err(Errno::EINVAL);
        }
        self.value.store(v, Relaxed);
        Ok(())
    }

    /// For switches.
    #[inline]
    pub fn on(&self) -> bool {
        self.get() != 0
    }
}

macro_rules! sysctls {
    ($($(#[$m:meta])* $field:ident: $name:literal = $default:expr, $min:expr, $max:expr;)*
     => $($(#[$tm:meta])* $text:ident: $tname:literal, $check:expr;)*) => {
        /// A namespace's tunables.
        pub struct NetSysctl {
            $($(#[$m])* pub $field: Ctl,)*
            $($(#[$tm])* pub $text: SpinLock<String>,)*
        }

        impl Default for NetSysctl {
            fn default() -> Self {
                NetSysctl {
                    $($field: Ctl { value: AtomicI64::new($default), min: $min, max: $max },)*
                    $($text: SpinLock::default(),)*
                }
            }
        }

        impl NetSysctl {
            pub const NAMES: &'static [&'static str] = &[$($name,)*];

            /// The tunable of that dotted name (`"net.ipv4.tcp_sack"`).
            pub fn by_name(&self, name: &str) -> Option<&Ctl> {
                match name { $($name => Some(&self.$field),)* _ => None }
            }

            /// Tunables whose value is text.
            pub const TEXTS: &'static [&'static str] = &[$($tname,)*];

            /// The text of that name, and what it must satisfy.
            fn text_by_name(&self, name: &str) -> Option<(&SpinLock<String>, fn(&str) -> bool)> {
                match name { $($tname => Some((&self.$text, $check)),)* _ => None }
            }
        }
    };
}

const MAX: i64 = i32::MAX as i64;

sysctls! {
    somaxconn: "net.core.somaxconn" = 4096, 0, MAX;
    netdev_max_backlog: "net.core.netdev_max_backlog" = 1000, 0, MAX;
    netdev_budget: "net.core.netdev_budget" = 300, 1, MAX;
    /// Microseconds that `net_rx_action` polls at a time.
    netdev_budget_usecs: "net.core.netdev_budget_usecs" = 2000, 0, MAX;
    rmem_default: "net.core.rmem_default" = 212_992, 2304, MAX;
    rmem_max: "net.core.rmem_max" = 4_194_304, 2304, MAX;
    wmem_default: "net.core.wmem_default" = 212_992, 4608, MAX;
    wmem_max: "net.core.wmem_max" = 4_194_304, 4608, MAX;
    ip_default_ttl: "net.ipv4.ip_default_ttl" = 64, 1, 255;
    ip_forward: "net.ipv4.ip_forward" = 0, 0, 1;
    ip_rt_min_pmtu: "net.ipv4.route.min_pmtu" = 552, 68, MAX;
    /// Seconds.
    ip_rt_mtu_expires: "net.ipv4.route.mtu_expires" = 600, 1, MAX;
    ip_no_pmtu_disc: "net.ipv4.ip_no_pmtu_disc" = 0, 0, 3;
    ip_nonlocal_bind: "net.ipv4.ip_nonlocal_bind" = 0, 0, 1;
    ip_unprivileged_port_start: "net.ipv4.ip_unprivileged_port_start" = 1024, 0, 65535;
    /// The two ends of `net.ipv4.ip_local_port_range`.
    ip_local_port_min: "net.ipv4.ip_local_port_range.min" = 32768, 1, 65535;
    ip_local_port_max: "net.ipv4.ip_local_port_range.max" = 60999, 1, 65535;
    ipfrag_high_thresh: "net.ipv4.ipfrag_high_thresh" = 4_194_304, 0, MAX;
    ipfrag_low_thresh: "net.ipv4.ipfrag_low_thresh" = 3_145_728, 0, MAX;
    ipfrag_time: "net.ipv4.ipfrag_time" = 30, 0, MAX;
    ipfrag_max_dist: "net.ipv4.ipfrag_max_dist" = 64, 0, MAX;
    ip6frag_high_thresh: "net.ipv6.ip6frag_high_thresh" = 4_194_304, 0, MAX;
    ip6frag_time: "net.ipv6.ip6frag_time" = 60, 0, MAX;
    icmp_echo_ignore_all: "net.ipv4.icmp_echo_ignore_all" = 0, 0, 1;
    icmp_echo_ignore_broadcasts: "net.ipv4.icmp_echo_ignore_broadcasts" = 1, 0, 1;
    icmp_ratelimit: "net.ipv4.icmp_ratelimit" = 1000, 0, MAX;
    icmp_ratemask: "net.ipv4.icmp_ratemask" = 6168, 0, MAX;
    icmp_msgs_per_sec: "net.ipv4.icmp_msgs_per_sec" = 10000, 0, MAX;
    icmp_msgs_burst: "net.ipv4.icmp_msgs_burst" = 10000, 0, MAX;
    icmp6_ratelimit: "net.ipv6.icmp.ratelimit" = 1000, 0, MAX;
    ipv6_hop_limit: "net.ipv6.conf.all.hop_limit" = 64, 1, 255;
    ipv6_bindv6only: "net.ipv6.bindv6only" = 0, 0, 1;
    ipv6_forwarding: "net.ipv6.conf.all.forwarding" = 0, 0, 1;
    ipv6_disable: "net.ipv6.conf.all.disable_ipv6" = 0, 0, 1;
    ipv6_accept_ra: "net.ipv6.conf.all.accept_ra" = 1, 0, 2;
    ipv6_autoconf: "net.ipv6.conf.all.autoconf" = 1, 0, 1;
    ipv6_accept_redirects: "net.ipv6.conf.all.accept_redirects" = 1, 0, 1;
    ipv6_optimistic_dad: "net.ipv6.conf.all.optimistic_dad" = 0, 0, 1;
    ipv6_router_solicitations: "net.ipv6.conf.all.router_solicitations" = 3, 0, MAX;
    /// Addresses of an interface; 0: no limit.
    ipv6_max_addresses: "net.ipv6.conf.all.max_addresses" = 16, 0, MAX;
    ipv6_auto_flowlabels: "net.ipv6.auto_flowlabels" = 1, 0, 1;
    ipv6_max_hbh_opts_number: "net.ipv6.max_hbh_opts_number" = 8, 0, MAX;
    ipv6_max_dst_opts_number: "net.ipv6.max_dst_opts_number" = 8, 0, MAX;
    /// Seconds.
    ipv6_mtu_expires: "net.ipv6.route.mtu_expires" = 600, 1, MAX;
    ipv6_route_max_size: "net.ipv6.route.max_size" = 4096, 0, MAX;
    icmp6_echo_ignore_all: "net.ipv6.icmp.echo_ignore_all" = 0, 0, 1;
    ipv6_dad_transmits: "net.ipv6.conf.all.dad_transmits" = 1, 0, MAX;
    neigh_gc_thresh1: "net.ipv4.neigh.default.gc_thresh1" = 128, 0, MAX;
    neigh_gc_thresh2: "net.ipv4.neigh.default.gc_thresh2" = 512, 0, MAX;
    neigh_gc_thresh3: "net.ipv4.neigh.default.gc_thresh3" = 1024, 0, MAX;
    neigh_unres_qlen_bytes: "net.ipv4.neigh.default.unres_qlen_bytes" = 212_992, 0, MAX;
    neigh_base_reachable_time_ms: "net.ipv4.neigh.default.base_reachable_time_ms" = 30000, 0, MAX;
    neigh_retrans_time_ms: "net.ipv4.neigh.default.retrans_time_ms" = 1000, 1, MAX;
    neigh_mcast_solicit: "net.ipv4.neigh.default.mcast_solicit" = 3, 0, MAX;
    neigh_ucast_solicit: "net.ipv4.neigh.default.ucast_solicit" = 3, 0, MAX;
    /// Seconds.
    neigh_delay_first_probe_time: "net.ipv4.neigh.default.delay_first_probe_time" = 5, 0, MAX;
    /// Seconds.
    neigh_gc_stale_time: "net.ipv4.neigh.default.gc_stale_time" = 60, 0, MAX;
    udp_rmem_min: "net.ipv4.udp_rmem_min" = 4096, 0, MAX;
    udp_wmem_min: "net.ipv4.udp_wmem_min" = 4096, 0, MAX;
    tcp_rmem_min: "net.ipv4.tcp_rmem.min" = 4096, 1, MAX;
    tcp_rmem_default: "net.ipv4.tcp_rmem.default" = 131_072, 1, MAX;
    tcp_rmem_max: "net.ipv4.tcp_rmem.max" = 33_554_432, 1, MAX;
    tcp_wmem_min: "net.ipv4.tcp_wmem.min" = 4096, 1, MAX;
    tcp_wmem_default: "net.ipv4.tcp_wmem.default" = 16384, 1, MAX;
    tcp_wmem_max: "net.ipv4.tcp_wmem.max" = 4_194_304, 1, MAX;
    /// The three values of `net.ipv4.tcp_mem`, in pages; Linux takes them from the machine's memory, here of 8 GiB.
    tcp_mem_low: "net.ipv4.tcp_mem.low" = 98_304, 0, MAX;
    tcp_mem_pressure: "net.ipv4.tcp_mem.pressure" = 131_072, 0, MAX;
    tcp_mem_high: "net.ipv4.tcp_mem.high" = 196_608, 0, MAX;
    /// Share of the buffer kept from the window for the process's slowness, as a shift; 31: one byte.
    tcp_app_win: "net.ipv4.tcp_app_win" = 31, 0, 31;
    tcp_shrink_window: "net.ipv4.tcp_shrink_window" = 0, 0, 1;
    tcp_workaround_signed_windows: "net.ipv4.tcp_workaround_signed_windows" = 0, 0, 1;
    tcp_stdurg: "net.ipv4.tcp_stdurg" = 0, 0, 1;
    tcp_pingpong_thresh: "net.ipv4.tcp_pingpong_thresh" = 1, 1, 255;
    /// Nanoseconds that ACKs of data beyond a hole may be held back; further; and how many of them.
    tcp_comp_sack_delay_ns: "net.ipv4.tcp_comp_sack_delay_ns" = 1_000_000, 0, MAX;
    tcp_comp_sack_slack_ns: "net.ipv4.tcp_comp_sack_slack_ns" = 100_000, 0, MAX;
    tcp_comp_sack_nr: "net.ipv4.tcp_comp_sack_nr" = 44, 0, 255;
    tcp_backlog_ack_defer: "net.ipv4.tcp_backlog_ack_defer" = 1, 0, 1;
    tcp_sack: "net.ipv4.tcp_sack" = 1, 0, 1;
    tcp_dsack: "net.ipv4.tcp_dsack" = 1, 0, 1;
    tcp_timestamps: "net.ipv4.tcp_timestamps" = 1, 0, 2;
    tcp_window_scaling: "net.ipv4.tcp_window_scaling" = 1, 0, 1;
    tcp_ecn: "net.ipv4.tcp_ecn" = 2, 0, 5;
    tcp_ecn_fallback: "net.ipv4.tcp_ecn_fallback" = 1, 0, 1;
    tcp_ecn_option: "net.ipv4.tcp_ecn_option" = 2, 0, 2;
    tcp_ecn_option_beacon: "net.ipv4.tcp_ecn_option_beacon" = 3, 0, 3;
    tcp_syn_retries: "net.ipv4.tcp_syn_retries" = 6, 1, 127;
    tcp_synack_retries: "net.ipv4.tcp_synack_retries" = 5, 0, 255;
    tcp_retries1: "net.ipv4.tcp_retries1" = 3, 0, 255;
    tcp_retries2: "net.ipv4.tcp_retries2" = 15, 0, 255;
    tcp_orphan_retries: "net.ipv4.tcp_orphan_retries" = 0, 0, 255;
    tcp_max_orphans: "net.ipv4.tcp_max_orphans" = 65536, 0, MAX;
    tcp_max_tw_buckets: "net.ipv4.tcp_max_tw_buckets" = 131_072, 0, MAX;
    tcp_max_syn_backlog: "net.ipv4.tcp_max_syn_backlog" = 1024, 0, MAX;
    tcp_syncookies: "net.ipv4.tcp_syncookies" = 1, 0, 2;
    /// Bits: 1 clients, 2 servers, 4 clients without cookies, 0x200 servers without cookies, 0x400 every listener.
    tcp_fastopen: "net.ipv4.tcp_fastopen" = 1, 0, MAX;
    /// Seconds; 0: clients never hold back.
    tcp_fastopen_blackhole_timeout: "net.ipv4.tcp_fastopen_blackhole_timeout_sec" = 0, 0, MAX;
    tcp_migrate_req: "net.ipv4.tcp_migrate_req" = 0, 0, 1;
    tcp_abort_on_overflow: "net.ipv4.tcp_abort_on_overflow" = 0, 0, 1;
    tcp_tw_reuse: "net.ipv4.tcp_tw_reuse" = 2, 0, 2;
    /// Milliseconds.
    tcp_tw_reuse_delay: "net.ipv4.tcp_tw_reuse_delay" = 1000, 1, 60_000;
    tcp_rfc1337: "net.ipv4.tcp_rfc1337" = 0, 0, 1;
    /// Seconds.
    tcp_fin_timeout: "net.ipv4.tcp_fin_timeout" = 60, 0, MAX;
    /// Seconds.
    tcp_keepalive_time: "net.ipv4.tcp_keepalive_time" = 7200, 1, MAX;
    tcp_keepalive_probes: "net.ipv4.tcp_keepalive_probes" = 9, 0, 255;
    /// Seconds.
    tcp_keepalive_intvl: "net.ipv4.tcp_keepalive_intvl" = 75, 1, MAX;
    tcp_reordering: "net.ipv4.tcp_reordering" = 3, 1, MAX;
    tcp_max_reordering: "net.ipv4.tcp_max_reordering" = 300, 1, MAX;
    /// Without effect since Linux 6.6, as there: the share of payload is measured.
    tcp_adv_win_scale: "net.ipv4.tcp_adv_win_scale" = 1, -31, 31;
    tcp_moderate_rcvbuf: "net.ipv4.tcp_moderate_rcvbuf" = 1, 0, 1;
    /// How CUBIC ends slow start. Bits: 1 by trains of ACKs, 2 by delay, 4 by HyStart++ (RFC 9406) instead; 0: only by loss. The
    /// first two are those of the parameter `hystart_detect` of Linux's module `tcp_cubic`.
    tcp_cubic_hystart_detect: "net.ipv4.tcp_cubic_hystart_detect" = 3, 0, 7;
    tcp_slow_start_after_idle: "net.ipv4.tcp_slow_start_after_idle" = 1, 0, 1;
    tcp_no_metrics_save: "net.ipv4.tcp_no_metrics_save" = 0, 0, 1;
    tcp_no_ssthresh_metrics_save: "net.ipv4.tcp_no_ssthresh_metrics_save" = 1, 0, 1;
    tcp_early_retrans: "net.ipv4.tcp_early_retrans" = 3, 0, 4;
    tcp_recovery: "net.ipv4.tcp_recovery" = 1, 0, MAX;
    tcp_frto: "net.ipv4.tcp_frto" = 2, 0, MAX;
    tcp_autocorking: "net.ipv4.tcp_autocorking" = 1, 0, 1;
    tcp_challenge_ack_limit: "net.ipv4.tcp_challenge_ack_limit" = MAX, 0, MAX;
    tcp_invalid_ratelimit: "net.ipv4.tcp_invalid_ratelimit" = 500, 0, MAX;
    tcp_limit_output_bytes: "net.ipv4.tcp_limit_output_bytes" = 4_194_304, 0, MAX;
    tcp_min_tso_segs: "net.ipv4.tcp_min_tso_segs" = 2, 1, 65535;
    /// Log2 of microseconds: paths shorter than this get the largest packets, longer ones half for each doubling.
    tcp_tso_rtt_log: "net.ipv4.tcp_tso_rtt_log" = 9, 0, 255;
    tcp_tso_win_divisor: "net.ipv4.tcp_tso_win_divisor" = 3, 0, 255;
    /// Percent of the window's rate, in slow start and after it.
    tcp_pacing_ss_ratio: "net.ipv4.tcp_pacing_ss_ratio" = 200, 0, 1000;
    tcp_pacing_ca_ratio: "net.ipv4.tcp_pacing_ca_ratio" = 120, 0, 1000;
    tcp_base_mss: "net.ipv4.tcp_base_mss" = 1024, 48, MAX;
    tcp_min_snd_mss: "net.ipv4.tcp_min_snd_mss" = 48, 48, MAX;
    tcp_mtu_probe_floor: "net.ipv4.tcp_mtu_probe_floor" = 48, 48, MAX;
    /// Seconds until a search that has ended begins anew.
    tcp_probe_interval: "net.ipv4.tcp_probe_interval" = 600, 0, u32::MAX as i64;
    /// Bytes between the bounds of a search below which it has ended.
    tcp_probe_threshold: "net.ipv4.tcp_probe_threshold" = 8, 0, MAX;
    tcp_mtu_probing: "net.ipv4.tcp_mtu_probing" = 0, 0, 2;
    tcp_notsent_lowat: "net.ipv4.tcp_notsent_lowat" = u32::MAX as i64, 0, u32::MAX as i64;
    tcp_rto_min_us: "net.ipv4.tcp_rto_min_us" = 200_000, 1, MAX;
    tcp_retrans_collapse: "net.ipv4.tcp_retrans_collapse" = 1, 0, 255;
    /// Seconds.
    tcp_min_rtt_wlen: "net.ipv4.tcp_min_rtt_wlen" = 300, 0, 86_400;
    tcp_thin_linear_timeouts: "net.ipv4.tcp_thin_linear_timeouts" = 0, 0, 1;
    tcp_syn_linear_timeouts: "net.ipv4.tcp_syn_linear_timeouts" = 4, 0, 127;
    tcp_rto_max_ms: "net.ipv4.tcp_rto_max_ms" = 120_000, 1000, 120_000;
    =>
    /// One or two keys of four 32-bit words in hexadecimal; empty until one is set or needed.
    tcp_fastopen_key: "net.ipv4.tcp_fastopen_key", |s| fastopen_key(s);
    /// Ports that are never chosen for a socket: numbers and ranges ("1000,2000-2010").
    ip_local_reserved_ports: "net.ipv4.ip_local_reserved_ports", |s| parse_ports(s).is_some();
}

/// Whether the text is one key or two, with a comma between.
fn fastopen_key(s: &str) -> bool {
    let word = |w: &str| (1..=8).contains(&w.len()) && w.bytes().all(|b| b.is_ascii_hexdigit());
    let key = |k: &str| k.split('-').count() == 4 && k.split('-').all(word);
    (1..=2).contains(&s.split(',').count()) && s.split(',').all(key)
}

/// The ranges of a list of ports; `None` if it is not well formed.
pub fn parse_ports(s: &str) -> Option<Vec<std::ops::RangeInclusive<u16>>> {
    let range = |r: &str| {
        let (a, b) = r.split_once('-').unwrap_or((r, r));
        let (a, b): (u16, u16) = (a.trim().parse().ok()?, b.trim().parse().ok()?);
        (a <= b).then_some(a..=b)
    };
    s.split([',', '\n']).map(str::trim).filter(|r| !r.is_empty()).map(range).collect()
}

impl NetSysctl {
    /// The value of a dotted name; `ENOENT` if there is none.
    pub fn get(&self, name: &str) -> Result<i64> {
        Ok(self.by_name(name).ok_or(Errno::ENOENT)?.get())
    }

    /// The value of a tunable as text, also of one that is a number; `ENOENT`.
    pub fn get_str(&self, name: &str) -> Result<String> {
        match self.text_by_name(name) {
            Some((text, _)) => Ok(text.lock_bh().clone()),
            None => self.get(name).map(|v| v.to_string()),
        }
    }

    /// Sets a tunable from text, also one that is a number; `ENOENT`, `EINVAL`.
    pub fn set_str(&self, name: &str, v: &str) -> Result<()> {
        match self.text_by_name(name) {
            Some((text, check)) if check(v.trim()) => {
                *text.lock_bh() = v.trim().to_string();
                Ok(())
            }
            Some(_) => Err(Errno::EINVAL),
            None => self.set(name, v.trim().parse().map_err(|_| Errno::EINVAL)?),
        }
    }

    /// Sets it; `ENOENT` for an unknown name, `EINVAL` outside its bounds.
    pub fn set(&self, name: &str, v: i64) -> Result<()> {
        self.by_name(name).ok_or(Errno::ENOENT)?.set(v)
    }
}
