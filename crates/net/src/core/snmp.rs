//! The counters of `/proc/net/snmp` and `/proc/net/netstat`, under Linux's names.
//!
//! Interface: [`Mib`], [`MibTable`] (`inc`, `add`, `get`).
//! Linux counterpart: `include/uapi/linux/snmp.h`, `net/ipv4/proc.c`.
//! Locks and context: any; per-CPU relaxed atomics.

use kernel::{PerCpu, this_cpu_add};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! mibs {
    ($($name:ident,)*) => {
        /// A counter. Its name is its group's and its own, as `nstat` prints it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Mib { $($name,)* }

        impl Mib {
            pub const ALL: &'static [Mib] = &[$(Mib::$name,)*];
            /// The name as `nstat` prints it.
            pub fn name(self) -> &'static str {
                match self { $(Mib::$name => stringify!($name),)* }
            }
        }
    };
}

mibs! {
    IpInReceives, IpInHdrErrors, IpInAddrErrors, IpForwDatagrams, IpInUnknownProtos, IpInDiscards, IpInDelivers,
    IpOutRequests, IpOutDiscards, IpOutNoRoutes, IpReasmTimeout, IpReasmReqds, IpReasmOKs, IpReasmFails,
    IpFragOKs, IpFragFails, IpFragCreates, IpOutTransmits,
    IpExtInNoRoutes, IpExtInECT1Pkts, IpExtInECT0Pkts, IpExtInCEPkts, IpExtInTruncatedPkts, IpExtInCsumErrors, IpExtReasmOverlaps, IpExtInMcastPkts, IpExtInBcastPkts,
    Ip6InReceives, Ip6InECT1Pkts, Ip6InECT0Pkts, Ip6InCEPkts, Ip6InHdrErrors, Ip6InTooBigErrors, Ip6InNoRoutes, Ip6InAddrErrors, Ip6InUnknownProtos,
    Ip6InTruncatedPkts, Ip6InDiscards, Ip6InDelivers, Ip6OutForwDatagrams, Ip6OutRequests, Ip6OutDiscards,
    Ip6OutNoRoutes, Ip6ReasmTimeout, Ip6ReasmReqds, Ip6ReasmOKs, Ip6ReasmFails, Ip6FragOKs, Ip6FragFails,
    Ip6FragCreates, Ip6OutTransmits, Ip6InMcastPkts, Ip6OutMcastPkts, Ip6ReasmOverlaps,
    IcmpInMsgs, IcmpInErrors, IcmpInCsumErrors, IcmpInDestUnreachs, IcmpInTimeExcds, IcmpInParmProbs,
    IcmpInEchos, IcmpInEchoReps, IcmpInSrcQuenchs, IcmpInRedirects, IcmpInTimestamps, IcmpInTimestampReps,
    IcmpOutTimestampReps, IcmpOutMsgs, IcmpOutErrors, IcmpOutRateLimitGlobal, IcmpOutRateLimitHost,
    IcmpOutDestUnreachs, IcmpOutTimeExcds, IcmpOutParmProbs, IcmpOutEchos, IcmpOutEchoReps,
    Icmp6InMsgs, Icmp6InErrors, Icmp6InCsumErrors, Icmp6OutMsgs, Icmp6OutErrors, Icmp6OutRateLimitHost,
    Icmp6InEchos, Icmp6InEchoReplies, Icmp6OutEchos, Icmp6OutEchoReplies, Icmp6InNeighborSolicits,
    Icmp6InNeighborAdvertisements, Icmp6OutNeighborSolicits, Icmp6OutNeighborAdvertisements,
    Icmp6InRouterAdvertisements, Icmp6OutRouterSolicits, Icmp6InDestUnreachs, Icmp6InPktTooBigs, Icmp6InTimeExcds,
    Icmp6InParmProblems, Icmp6InRouterSolicits, Icmp6InRedirects, Icmp6OutMLDv2Reports,
    Icmp6OutDestUnreachs, Icmp6OutPktTooBigs, Icmp6OutTimeExcds, Icmp6OutParmProblems,
    TcpActiveOpens, TcpPassiveOpens, TcpAttemptFails, TcpEstabResets, TcpCurrEstab, TcpInSegs, TcpOutSegs,
    TcpRetransSegs, TcpInErrs, TcpOutRsts, TcpInCsumErrors,
    UdpInDatagrams, UdpNoPorts, UdpInErrors, UdpOutDatagrams, UdpRcvbufErrors, UdpSndbufErrors, UdpInCsumErrors,
    UdpIgnoredMulti, UdpMemErrors,
    Udp6InDatagrams, Udp6NoPorts, Udp6InErrors, Udp6OutDatagrams, Udp6RcvbufErrors, Udp6SndbufErrors, Udp6InCsumErrors,
    Udp6IgnoredMulti,
    TcpExtSyncookiesSent, TcpExtSyncookiesRecv, TcpExtSyncookiesFailed, TcpExtEmbryonicRsts, TcpExtPruneCalled,
    TcpExtRcvPruned, TcpExtOfoPruned, TcpExtOutOfWindowIcmps, TcpExtLockDroppedIcmps, TcpExtTW, TcpExtTWRecycled,
    TcpExtTWKilled, TcpExtPAWSActive, TcpExtPAWSEstab, TcpExtPAWSOldAck, TcpExtPAWSTimewait, TcpExtBeyondWindow,
    TcpExtTSEcrRejected, TcpExtDelayedACKs,
    TcpExtDelayedACKLocked, TcpExtDelayedACKLost, TcpExtListenOverflows, TcpExtListenDrops, TcpExtTCPHPHits,
    TcpExtTCPPureAcks, TcpExtTCPHPAcks, TcpExtTCPRenoRecovery, TcpExtTCPSackRecovery, TcpExtTCPSACKReneging,
    TcpExtTCPSACKReorder, TcpExtTCPRenoReorder, TcpExtTCPTSReorder, TcpExtTCPFullUndo, TcpExtTCPPartialUndo,
    TcpExtTCPDSACKUndo, TcpExtTCPLossUndo, TcpExtTCPLostRetransmit, TcpExtTCPRenoFailures, TcpExtTCPSackFailures,
    TcpExtTCPLossFailures, TcpExtTCPFastRetrans, TcpExtTCPSlowStartRetrans, TcpExtTCPTimeouts, TcpExtTCPLossProbes,
    TcpExtTCPLossProbeRecovery, TcpExtTCPRenoRecoveryFail, TcpExtTCPSackRecoveryFail, TcpExtTCPRcvCollapsed,
    TcpExtTCPBacklogCoalesce, TcpExtTCPDSACKOldSent, TcpExtTCPDSACKOfoSent, TcpExtTCPDSACKRecv,
    TcpExtTCPDSACKOfoRecv, TcpExtTCPAbortOnData, TcpExtTCPAbortOnClose, TcpExtTCPAbortOnMemory,
    TcpExtTCPAbortOnTimeout, TcpExtTCPAbortOnLinger, TcpExtTCPAbortFailed, TcpExtTCPMemoryPressures,
    TcpExtTCPMemoryPressuresChrono,
    TcpExtTCPSACKDiscard, TcpExtTCPDSACKIgnoredOld, TcpExtTCPDSACKIgnoredNoUndo, TcpExtTCPSpuriousRTOs,
    TcpExtTCPSackShifted, TcpExtTCPSackMerged, TcpExtTCPSackShiftFallback, TcpExtTCPBacklogDrop,
    TcpExtTCPRcvQDrop, TcpExtPFMemallocDrop, TcpExtTCPMinTTLDrop, TcpExtTCPDeferAcceptDrop, TcpExtIPReversePathFilter,
    TcpExtTCPTimeWaitOverflow, TcpExtTCPReqQFullDoCookies, TcpExtTCPReqQFullDrop, TcpExtTCPRetransFail,
    TcpExtTCPRcvCoalesce, TcpExtTCPOFOQueue, TcpExtTCPOFODrop, TcpExtTCPOFOMerge, TcpExtTCPChallengeACK,
    TcpExtTCPSYNChallenge, TcpExtTCPFastOpenActive, TcpExtTCPFastOpenActiveFail, TcpExtTCPFastOpenPassive,
    TcpExtTCPFastOpenPassiveFail, TcpExtTCPFastOpenListenOverflow, TcpExtTCPFastOpenCookieReqd,
    TcpExtTCPFastOpenBlackhole, TcpExtTCPFastOpenPassiveAltKey, TcpExtTCPMigrateReqSuccess,
    TcpExtTCPMigrateReqFailure, TcpExtTCPSpuriousRtxHostQueues,
    TcpExtTCPAutoCorking, TcpExtTCPFromZeroWindowAdv, TcpExtTCPToZeroWindowAdv, TcpExtTCPWantZeroWindowAdv,
    TcpExtTCPSynRetrans, TcpExtTCPOrigDataSent, TcpExtTCPHystartTrainDetect, TcpExtTCPHystartTrainCwnd,
    TcpExtTCPHystartDelayDetect, TcpExtTCPHystartDelayCwnd, TcpExtTCPACKSkippedSynRecv, TcpExtTCPACKSkippedPAWS,
    TcpExtTCPACKSkippedSeq, TcpExtTCPACKSkippedFinWait2, TcpExtTCPACKSkippedTimeWait,
    TcpExtTCPACKSkippedChallenge, TcpExtTCPWinProbe, TcpExtTCPKeepAlive, TcpExtTCPMTUPFail,
    TcpExtTCPMTUPSuccess, TcpExtTCPDelivered, TcpExtTCPMD5NotFound,
    TcpExtTCPMD5Unexpected, TcpExtTCPMD5Failure, TcpExtTCPAORequired, TcpExtTCPAOBad, TcpExtTCPAOKeyNotFound,
    TcpExtTCPAOGood, TcpExtTCPAODroppedIcmps, TcpExtTCPAckCompressed,
    TcpExtTCPZeroWindowDrop, TcpExtTCPRcvQFull, TcpExtTCPWqueueTooBig, TcpExtTcpTimeoutRehash,
    TcpExtTCPDSACKIgnoredDubious, TcpExtTCPDSACKRecvSegs, TcpExtTCPDeliveredCE,
    SockOptUnsupported,
}

const N: usize = Mib::ALL.len();

struct Counters([AtomicU64; N]);

impl Default for Counters {
    fn default() -> Self {
        Counters([const { AtomicU64::new(0) }; N])
    }
}

/// All counters of a namespace.
#[derive(Default)]
pub struct MibTable(PerCpu<Counters>);

impl MibTable {
    #[inline]
    pub fn inc(&self, m: Mib) {
        self.add(m, 1)
    }

    #[inline]
    pub fn add(&self, m: Mib, n: u64) {
        this_cpu_add(&self.0.this().0[m as usize], n);
    }

    /// Counts a packet of `segs` segments by the ECN field of its IP header, if that is set (RFC 3168, 5): ECT(1), ECT(0), CE.
    #[inline]
    pub fn ecn(&self, tos: u8, segs: u16, by_mark: [Mib; 3]) {
        if let Some(&m) = by_mark.get((tos as usize & 3).wrapping_sub(1)) {
            self.add(m, segs.max(1) as u64);
        }
    }

    /// For gauges (`TcpCurrEstab`).
    pub fn dec(&self, m: Mib) {
        self.add(m, u64::MAX);
    }

    /// The sum over all CPUs.
    pub fn get(&self, m: Mib) -> u64 {
        self.0.iter().fold(0, |sum, c| sum.wrapping_add(c.0[m as usize].load(Relaxed)))
    }
}
