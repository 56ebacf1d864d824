//! What `TCP_CC_INFO` answers.
//!
//! Interface: [`TcpVegasInfo`], [`TcpDctcpInfo`], [`TcpBbrInfo`], [`TcpCcInfo`].
//! Linux counterpart: `union tcp_cc_info` in `include/uapi/linux/inet_diag.h`.
//! Locks and context: plain data.

/// `struct tcpvegas_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpVegasInfo {
    pub enabled: u32,
    pub rttcnt: u32,
    /// Microseconds, as `minrtt`.
    pub rtt: u32,
    pub minrtt: u32,
}

/// `struct tcp_dctcp_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpDctcpInfo {
    /// 0: without ECN it works as Reno does.
    pub enabled: u16,
    pub ce_state: u16,
    /// 1024ths.
    pub alpha: u32,
    /// Bytes marked, and all, in this window.
    pub ab_ecn: u32,
    pub ab_tot: u32,
}

/// `struct tcp_bbr_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpBbrInfo {
    /// Bytes a second: `bw_hi:bw_lo`.
    pub bw_lo: u32,
    pub bw_hi: u32,
    /// Microseconds.
    pub min_rtt: u32,
    /// 256ths.
    pub pacing_gain: u32,
    pub cwnd_gain: u32,
}

/// One of them (`union tcp_cc_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpCcInfo {
    Vegas(TcpVegasInfo),
    Dctcp(TcpDctcpInfo),
    Bbr(TcpBbrInfo),
}

impl TcpCcInfo {
    /// The bytes of the C structure.
    pub fn to_bytes(&self) -> Vec<u8> {
        let words = |w: &[u32]| w.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>();
        match self {
            TcpCcInfo::Vegas(i) => words(&[i.enabled, i.rttcnt, i.rtt, i.minrtt]),
            TcpCcInfo::Dctcp(i) => {
                let mut v = [i.enabled.to_ne_bytes(), i.ce_state.to_ne_bytes()].concat();
                v.extend(words(&[i.alpha, i.ab_ecn, i.ab_tot]));
                v
            }
            TcpCcInfo::Bbr(i) => words(&[i.bw_lo, i.bw_hi, i.min_rtt, i.pacing_gain, i.cwnd_gain]),
        }
    }
}
