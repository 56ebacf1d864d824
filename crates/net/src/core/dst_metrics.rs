//! What a route says about the path: MTU, timeouts, windows, what TCP may do.
//!
//! Interface: [`DstMetrics`], [`Rtax`], [`RTAX_FEATURE_ECN`].
//! Linux counterpart: `struct dst_metrics` in `include/net/dst.h`, `net/ipv4/metrics.c`.
//! Locks and context: plain data; routes that have any share it read-only.

use uapi::{Errno, Result};

/// `RTAX_*`: the metrics of a route, each with the unit that it has on the wire of netlink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Rtax {
    Mtu = 2,
    /// Bytes: the largest window to advertise.
    Window = 3,
    /// Milliseconds times 8.
    Rtt = 4,
    /// Segments.
    Ssthresh = 6,
    /// Segments: a bound of the congestion window. Of effect if it is locked.
    Cwnd = 7,
    Advmss = 8,
    Reordering = 9,
    Hoplimit = 10,
    /// Segments.
    Initcwnd = 11,
    /// `RTAX_FEATURE_*`.
    Features = 12,
    /// Milliseconds. Of effect if it is locked; `ip route` locks it always.
    RtoMin = 13,
    /// Segments.
    Initrwnd = 14,
    Quickack = 15,
    /// A congestion control; set by its name.
    CcAlgo = 16,
    FastopenNoCookie = 17,
}

const RTAX_MAX: usize = 17;

/// Connections of this route ask for ECN and grant it, whatever `tcp_ecn` says.
pub const RTAX_FEATURE_ECN: u32 = 1;

/// `TCP_CA_NAME_MAX`.
const NAME_MAX: usize = 16;

/// A route's metrics. What is 0 is not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DstMetrics {
    values: [u32; RTAX_MAX + 1],
    /// Bits by number: what the path itself may not change (`RTAX_LOCK`).
    locked: u32,
    cc_algo: [u8; NAME_MAX],
}

impl DstMetrics {
    /// Sets one, with Linux's bounds (`ip_metrics_convert`). `EINVAL` for a feature that is not there, and for the congestion
    /// control, which goes by name.
    pub fn set(&mut self, which: Rtax, v: u32) -> Result<()> {
        self.values[which as usize] = match which {
            Rtax::Features if v & !RTAX_FEATURE_ECN != 0 => return Err(Errno::EINVAL),
            Rtax::CcAlgo => return Err(Errno::EINVAL),
            Rtax::Advmss => v.min(65535 - 40),
            Rtax::Mtu => v.min(65535 - 15),
            Rtax::Hoplimit => v.min(255),
            _ => v,
        };
        Ok(())
    }

    /// Sets one and locks it (`ip route … lock`, as `mtu lock 1400`).
    pub fn set_locked(&mut self, which: Rtax, v: u32) -> Result<()> {
        self.set(which, v)?;
        self.lock(which);
        Ok(())
    }

    /// Keeps it from being changed by what the path says, or by the process.
    pub fn lock(&mut self, which: Rtax) {
        self.locked |= 1 << which as u8;
    }

    /// The congestion control of this route's connections (`congctl NAME`); there must be one when the route is added. `EINVAL`
    /// for what cannot be a name.
    pub fn set_cc_algo(&mut self, name: &str) -> Result<()> {
        if name.is_empty() || name.len() >= NAME_MAX || name.contains([' ', '\0']) {
            return Err(Errno::EINVAL);
        }
        self.cc_algo = [0; NAME_MAX];
        self.cc_algo[..name.len()].copy_from_slice(name.as_bytes());
        self.values[Rtax::CcAlgo as usize] = 1;
        Ok(())
    }

    /// `dst_metric`.
    pub fn get(&self, which: Rtax) -> u32 {
        self.values[which as usize]
    }

    /// `dst_metric_locked`.
    pub fn is_locked(&self, which: Rtax) -> bool {
        self.locked & 1 << which as u8 != 0
    }

    /// `dst_feature`.
    pub fn feature(&self, bit: u32) -> bool {
        self.get(Rtax::Features) & bit != 0
    }

    pub fn cc_algo(&self) -> Option<&str> {
        let len = self.cc_algo.iter().position(|&b| b == 0)?;
        std::str::from_utf8(&self.cc_algo[..len]).ok().filter(|n| !n.is_empty())
    }

    /// For a route: nothing, if nothing is set.
    pub fn shared(&self) -> Option<std::sync::Arc<DstMetrics>> {
        (*self != DstMetrics::default()).then(|| std::sync::Arc::new(*self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_linux_s_bounds() {
        let mut m = DstMetrics::default();
        for (which, v, got) in [
            (Rtax::Advmss, 70_000, 65_495),
            (Rtax::Mtu, 70_000, 65_520),
            (Rtax::Hoplimit, 300, 255),
            (Rtax::Initcwnd, 1000, 1000),
        ] {
            m.set(which, v).unwrap();
            assert_eq!(m.get(which), got);
        }
        assert_eq!(m.set(Rtax::Features, 2), Err(Errno::EINVAL));
        assert_eq!(m.set_cc_algo("a name that is too long"), Err(Errno::EINVAL));
        assert_eq!((m.cc_algo(), m.is_locked(Rtax::Mtu), m.feature(RTAX_FEATURE_ECN)), (None, false, false));
        m.set_cc_algo("reno").unwrap();
        m.set_locked(Rtax::Mtu, 1400).unwrap();
        m.set(Rtax::Features, RTAX_FEATURE_ECN).unwrap();
        assert_eq!((m.cc_algo(), m.is_locked(Rtax::Mtu), m.feature(RTAX_FEATURE_ECN)), (Some("reno"), true, true));
        assert!(!m.is_locked(Rtax::Rtt) && !m.feature(2) && m.get(Rtax::CcAlgo) != 0, "one is not the other");
        assert_eq!(m.set(Rtax::CcAlgo, 1), Err(Errno::EINVAL), "it goes by name");
        assert!(DstMetrics::default().shared().is_none() && m.shared().is_some());
    }

    #[test]
    fn a_congestion_control_has_a_name_of_15_bytes_at_most() {
        let mut m = DstMetrics::default();
        m.set_cc_algo("name_of_15_byte").unwrap();
        for bad in ["", "a name", "name\0", "name_of_16_bytes"] {
            assert_eq!(m.set_cc_algo(bad), Err(Errno::EINVAL), "{bad:?}");
        }
        assert_eq!(m.cc_algo(), Some("name_of_15_byte"));
        m.set_cc_algo("bbr").unwrap();
        assert_eq!(m.cc_algo(), Some("bbr"));
    }
}
