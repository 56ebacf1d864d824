//! What each segment does to a request and to a time-wait entry (RFC 9293, 3.10.7.4; RFC 1337; RFC 7323).

use super::*;
use crate::ipv4::inet_hashtables::{__inet_lookup_established, inet_ehash_insert};
use crate::ipv4::test_support::{TestNet, bare_request, bare_sock, segment, timestamp, tuple};
use std::sync::Weak;
use uapi::socket::AF_INET;

fn check(t: &TestNet, req: &RequestSock, seq: u32, ack: u32, flags: u8, opts: &[u8], payload: usize) -> CheckReq {
    let (skb, th) = segment(1000, seq, ack, flags, opts, payload);
    tcp_check_req(&t.net, req, &skb, &th, false)
}

#[test]
fn segments_for_a_request() {
    let t = TestNet::new();
    let req = bare_request(Weak::new(), 1000, 0);
    let ask = |seq, ack, flags, payload| {
        req.last_oow_ack_time.store(0, Relaxed);
        check(&t, &req, seq, ack, flags, &[], payload)
    };
    // The peer's SYN was 1, ours 2.
    assert_eq!(ask(2, 3, ACK, 0), CheckReq::Create);
    assert_eq!(ask(2, 3, ACK, 100), CheckReq::Create, "data on the third packet");
    assert_eq!(ask(2, 3, ACK | FIN, 0), CheckReq::Create);
    assert_eq!(ask(1, 0, SYN, 0), CheckReq::SendSynAck, "the SYN again");
    assert_eq!(ask(2, 4, ACK, 0), CheckReq::Reset, "an ACK of what was never sent");
    assert_eq!(ask(2, 2, ACK, 0), CheckReq::Reset);
    assert_eq!(ask(2, 3, RST | ACK, 0), CheckReq::Embryonic(false));
    assert_eq!(ask(2, 0, RST, 0), CheckReq::Embryonic(false));
    assert_eq!(ask(5, 0, SYN, 0), CheckReq::Embryonic(true), "a SYN in the window");
    assert_eq!(ask(2, 0, 0, 10), CheckReq::Drop, "no ACK");
    assert_eq!(ask(100_000, 3, ACK, 0), CheckReq::SendAck, "out of the window");
    assert_eq!(ask(100_000, 0, RST, 0), CheckReq::Drop, "a RST out of the window");
    assert_eq!(ask(1, 3, SYN | ACK, 0), CheckReq::SendAck, "the SYN lies before the window");
    assert_eq!(ask(1, 3, SYN | ACK, 10), CheckReq::Create, "the SYN is cut off");
}

#[test]
fn a_request_does_not_answer_every_stray_segment() {
    let t = TestNet::new();
    let req = bare_request(Weak::new(), 1000, 0);
    assert_eq!(check(&t, &req, 1, 0, SYN, &[], 0), CheckReq::SendSynAck);
    assert_eq!(check(&t, &req, 1, 0, SYN, &[], 0), CheckReq::Drop, "tcp_invalid_ratelimit");
    assert_eq!(t.net.mib.get(Mib::TcpExtTCPACKSkippedSynRecv), 1);
    t.advance(600);
    assert_eq!(check(&t, &req, 1, 0, SYN, &[], 0), CheckReq::SendSynAck);
}

#[test]
fn old_timestamps_make_no_connection() {
    let t = TestNet::new();
    let mut req = bare_request(Weak::new(), 1000, 0);
    req.tstamp_ok = true;
    req.ts_recent.store(1000, Relaxed);
    assert_eq!(check(&t, &req, 2, 3, ACK, &timestamp(900, 0), 0), CheckReq::SendAck);
    assert_eq!(t.net.mib.get(Mib::TcpExtPAWSEstab), 1);
    assert_eq!(check(&t, &req, 2, 3, ACK, &timestamp(1001, 0), 0), CheckReq::Create);
    assert_eq!(req.ts_recent.load(Relaxed), 1001);
}

#[test]
fn a_deferred_connection_waits_for_data() {
    let t = TestNet::new();
    let req = bare_request(Weak::new(), 1000, 2);
    assert_eq!(check(&t, &req, 2, 3, ACK, &[], 0), CheckReq::Drop);
    assert!(req.acked.load(Relaxed));
    assert_eq!(check(&t, &req, 2, 3, ACK, &[], 1), CheckReq::Create);
    req.num_timeout.store(2, Relaxed);
    assert_eq!(check(&t, &req, 2, 3, ACK, &[], 0), CheckReq::Create, "it has waited long enough");
}

// --- TIME_WAIT ---

/// An entry that expects sequence number 100 next, and would send 200.
fn time_wait(t: &TestNet, substate: TcpState, with_ts: bool) -> Arc<InetTimewaitSock> {
    let sk = bare_sock(&t.net, AF_INET);
    let tuple = tuple("10.0.0.1", 80, "10.0.0.2", 1000);
    inet_ehash_insert(&sk, &tuple).unwrap();
    let init = TimewaitInit {
        tuple,
        family: AF_INET as u16,
        reuse: false,
        reuseport: false,
        ipv6only: false,
        tos: 0,
        rcv_wscale: 0,
        substate,
        auth: None,
        bound_dev_if: 0,
        mark: 0,
        rcv_nxt: 100,
        snd_nxt: 200,
        rcv_wnd: 1000,
        ts_offset: 0,
        ts_recent: 5000,
        ts_recent_stamp: if with_ts { seconds(&t.net) } else { 0 },
    };
    let tw = InetTimewaitSock::alloc(&t.net, init, inet_twsk_expired);
    assert!(inet_twsk_hashdance(&tw, &sk));
    tw.reschedule(TCP_TIMEWAIT_LEN);
    tw
}

fn ask(t: &TestNet, tw: &Arc<InetTimewaitSock>, seq: u32, flags: u8, opts: &[u8], payload: usize) -> TcpTwStatus {
    tw.last_oow_ack_time.store(0, Relaxed);
    let (skb, th) = segment(1000, seq, 200, flags, opts, payload);
    tcp_timewait_state_process(&t.net, tw, &skb, &th)
}

fn alive(t: &TestNet, tw: &InetTimewaitSock) -> bool {
    __inet_lookup_established(&t.net, &tw.tuple, 0).is_some()
}

#[test]
fn segments_in_time_wait() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let tw = time_wait(&t, TcpState::TimeWait, false);
    assert_eq!(ask(&t, &tw, 100, ACK, &[], 0), TcpTwStatus::Success, "a bare ACK");
    assert_eq!(ask(&t, &tw, 99, ACK | FIN, &[], 0), TcpTwStatus::Ack, "the FIN again");
    assert_eq!(ask(&t, &tw, 50, ACK, &[], 10), TcpTwStatus::Ack, "old data");
    assert_eq!(ask(&t, &tw, 50, RST, &[], 0), TcpTwStatus::Success, "a RST out of the window");
    assert!(alive(&t, &tw));
    assert_eq!(ask(&t, &tw, 99, SYN, &[], 0), TcpTwStatus::Ack, "an old SYN");
    assert_eq!(ask(&t, &tw, 101, SYN, &[], 0), TcpTwStatus::Syn(200 + 65537), "a new SYN");
    assert_eq!(ask(&t, &tw, 100, RST, &[], 0), TcpTwStatus::Success);
    assert!(!alive(&t, &tw), "assassinated (RFC 1337)");
}

#[test]
fn rfc_1337_can_be_obeyed() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    t.net.sysctl.tcp_rfc1337.set(1).unwrap();
    let tw = time_wait(&t, TcpState::TimeWait, false);
    assert_eq!(ask(&t, &tw, 100, RST, &[], 0), TcpTwStatus::Success);
    assert!(alive(&t, &tw));
}

#[test]
fn timestamps_in_time_wait() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let tw = time_wait(&t, TcpState::TimeWait, true);
    assert_eq!(ask(&t, &tw, 99, SYN, &timestamp(5001, 0), 0), TcpTwStatus::Syn(200 + 65537), "newer by its timestamp");
    assert_eq!(ask(&t, &tw, 101, SYN, &timestamp(4000, 0), 0), TcpTwStatus::Ack, "older by its timestamp (PAWS)");
    assert_eq!(t.net.mib.get(Mib::TcpExtPAWSTimewait), 1);
}

#[test]
fn time_wait_answers_are_rate_limited_and_prolong_it() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let tw = time_wait(&t, TcpState::TimeWait, false);
    t.advance(50_000);
    assert_eq!(ask(&t, &tw, 99, ACK | FIN, &[], 0), TcpTwStatus::Ack);
    // What takes a number is answered each time, and counts for nothing; a bare ACK may be one of a loop.
    let bare = |want| {
        let (skb, th) = segment(1000, 50, 200, ACK, &[], 0);
        assert_eq!(tcp_timewait_state_process(&t.net, &tw, &skb, &th), want);
    };
    bare(TcpTwStatus::Ack);
    bare(TcpTwStatus::Success);
    assert_eq!(ask(&t, &tw, 99, ACK | FIN, &[], 0), TcpTwStatus::Ack);
    assert_eq!(t.net.mib.get(Mib::TcpExtTCPACKSkippedTimeWait), 1);
    t.advance(50_000);
    assert!(alive(&t, &tw), "each FIN starts the minute anew");
    t.advance(20_000);
    assert!(!alive(&t, &tw));
}

#[test]
fn segments_for_an_orphan_in_fin_wait2() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let tw = time_wait(&t, TcpState::FinWait2, false);
    assert_eq!(ask(&t, &tw, 100, ACK, &[], 0), TcpTwStatus::Success);
    assert_eq!(ask(&t, &tw, 100, ACK, &[], 10), TcpTwStatus::Rst, "data that nobody will read");
    assert_eq!(ask(&t, &tw, 5000, ACK, &[], 0), TcpTwStatus::Ack, "out of the window");
    assert_eq!(ask(&t, &tw, 100, SYN, &[], 0), TcpTwStatus::Rst);
    assert_eq!(ask(&t, &tw, 100, ACK | FIN, &[], 0), TcpTwStatus::Ack);
    assert_eq!(tw.substate(), TcpState::TimeWait);
    assert_eq!(tw.rcv_nxt.load(Relaxed), 101);

    inet_twsk_kill(&tw);
    let tw = time_wait(&t, TcpState::FinWait2, false);
    assert_eq!(ask(&t, &tw, 100, RST, &[], 0), TcpTwStatus::Success);
    assert!(!alive(&t, &tw));
}
