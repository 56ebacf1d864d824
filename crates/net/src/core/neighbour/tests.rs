//! Unit tests of the neighbour state machine, on a clock that is moved by hand.

use super::*;
use crate::core::dev::{Features, NetDevice, dev_close};
use crate::core::dst::{Dst, RtnType};
use crate::core::net_namespace::Net;
use crate::core::skbuff::Skb;
use crate::core::test_arch::{Recorder, TestMachine};
use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use uapi::Errno;
use uapi::sockaddr::AF_INET;

const HA: [u8; 6] = [2, 0, 0, 0, 0, 9];
const HA2: [u8; 6] = [2, 0, 0, 0, 0, 10];

thread_local! {
    /// Whom was asked, and whether unicast.
    static ASKED: RefCell<Vec<Option<[u8; 6]>>> = const { RefCell::new(Vec::new()) };
    static FAILED: RefCell<usize> = const { RefCell::new(0) };
}

static OPS: NeighOps = NeighOps {
    family: AF_INET,
    direct: |_, dev, hop| matches!(hop, IpAddr::V4(a) if a.is_broadcast()).then_some(dev.broadcast),
    solicit: |_, _, _, to| ASKED.with_borrow_mut(|a| a.push(to)),
    error_report: |_, _| FAILED.with_borrow_mut(|n| *n += 1),
};

struct Setup {
    m: TestMachine,
    net: Arc<Net>,
    driver: Arc<Recorder>,
    dev: Arc<NetDevice>,
    dst: Dst,
}

fn hop(n: u8) -> IpAddr {
    [10, 0, 0, n].into()
}

fn setup() -> Setup {
    let m = TestMachine::new();
    let reg = m.core_registries();
    neigh_register(&reg, &OPS);
    let net = Net::new(&reg);
    let driver = Recorder::new();
    let dev = driver.device(&net, "eth0", Features::SG | Features::HW_CSUM);
    let dst = Dst {
        dev: dev.clone(),
        kind: RtnType::Unicast,
        gateway: None,
        prefsrc: hop(1),
        pmtu: Default::default(),
        pmtu_locked: Default::default(),
        metrics: None,
        genid: 0,
        input: |_, _| (),
        output: |_, _| Ok(()),
    };
    Setup { m, net, driver, dev, dst }
}

impl Setup {
    fn send(&self, to: u8) -> uapi::Result<()> {
        let mut ip = [0u8; 40];
        ip[0] = 0x45;
        neigh_output(&self.net, &self.dst.dev, hop(to), Skb::from_bytes(64, &ip))
    }
    fn neigh(&self, n: u8) -> Arc<Neighbour> {
        neigh_lookup(&self.net, self.dev.ifindex, hop(n)).expect("an entry")
    }
    fn sent_to(&self) -> Vec<[u8; 6]> {
        let dest = |s: &Skb| s.data()[..6].try_into().expect("six");
        self.driver.take().iter().map(|s| dest(s)).collect()
    }
    fn asked() -> Vec<Option<[u8; 6]>> {
        ASKED.take()
    }
}

#[test]
fn resolves_then_sends_what_waited_in_order() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    for _ in 0..3 {
        s.send(2).expect("queued");
    }
    assert_eq!(s.neigh(2).state(), Nud::Incomplete);
    assert_eq!((Setup::asked(), s.sent_to().len()), (vec![None], 0));
    neigh_update(&s.net, &s.neigh(2), Some(HA), Nud::Reachable, NeighUpdate::OVERRIDE).expect("update");
    assert_eq!(s.sent_to(), [HA; 3]);
    s.send(2).expect("sent");
    assert_eq!(s.sent_to(), [HA]);
}

#[test]
fn asks_three_times_then_fails_and_is_asked_anew() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    s.send(2).expect("queued");
    s.send(2).expect("queued");
    s.m.advance(2900);
    assert_eq!((Setup::asked().len(), s.neigh(2).state()), (3, Nud::Incomplete));
    s.m.advance(1000);
    assert_eq!(s.neigh(2).state(), Nud::Failed);
    assert_eq!((FAILED.take(), Setup::asked().len()), (2, 0));
    s.send(2).expect("queued");
    assert_eq!((Setup::asked().len(), s.neigh(2).state()), (1, Nud::Incomplete));
}

#[test]
fn doubt_probe_and_confirmation() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    neigh_event_ns(&s.net, &s.dev, HA, hop(2)).expect("room");
    assert_eq!(s.neigh(2).state(), Nud::Stale);
    s.send(2).expect("sent");
    assert_eq!((s.sent_to(), s.neigh(2).state()), (vec![HA], Nud::Delay));
    // Confirmed by the transport: no question is asked.
    s.m.advance(1000);
    neigh_confirm(&s.net, s.dev.ifindex, hop(2));
    s.m.advance(5000);
    assert_eq!((Setup::asked(), s.neigh(2).state()), (vec![], Nud::Reachable));
    // Reachable for at most 45 seconds without a word, then in doubt.
    s.m.advance(60_000);
    assert_eq!(s.neigh(2).state(), Nud::Stale);
    s.send(2).expect("sent");
    s.m.advance(6500);
    assert_eq!((Setup::asked()[0], s.neigh(2).state()), (Some(HA), Nud::Probe));
    s.send(2).expect("sent");
    assert_eq!(s.sent_to(), [HA; 2]);
    s.m.advance(5000);
    assert_eq!(s.neigh(2).state(), Nud::Failed);
}

#[test]
fn a_known_address_is_not_replaced_lightly() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    let n = neigh_create(&s.net, &s.dev, hop(2)).expect("room");
    neigh_update(&s.net, &n, Some(HA), Nud::Reachable, NeighUpdate::empty()).expect("update");
    neigh_update(&s.net, &n, Some(HA2), Nud::Stale, NeighUpdate::empty()).expect("update");
    assert_eq!((n.lladdr(), n.state()), (Some(HA), Nud::Reachable));
    neigh_update(&s.net, &n, Some(HA2), Nud::Reachable, NeighUpdate::WEAK_OVERRIDE).expect("update");
    assert_eq!((n.lladdr(), n.state()), (Some(HA), Nud::Stale));
    neigh_update(&s.net, &n, Some(HA2), Nud::Reachable, NeighUpdate::OVERRIDE).expect("update");
    assert_eq!((n.lladdr(), n.state()), (Some(HA2), Nud::Reachable));
    // The same again does not put it in doubt.
    neigh_update(&s.net, &n, Some(HA2), Nud::Stale, NeighUpdate::OVERRIDE).expect("update");
    assert_eq!(n.state(), Nud::Reachable);
    neigh_add(&s.net, &s.dev, hop(2), HA, Nud::Permanent).expect("add");
    assert_eq!(neigh_update(&s.net, &n, Some(HA2), Nud::Reachable, NeighUpdate::OVERRIDE), Err(Errno::EPERM));
    s.m.advance(600_000);
    assert_eq!(n.state(), Nud::Permanent);
}

#[test]
fn the_waiting_queue_is_bounded_and_drops_the_oldest() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    let one = Skb::alloc(64 + 40).truesize as i64;
    s.net.sysctl.set("net.ipv4.neigh.default.unres_qlen_bytes", one * 3).expect("sysctl");
    for _ in 0..8 {
        s.send(2).expect("queued");
    }
    assert_eq!(s.net.neigh.table(false).stats.unres_discards.load(SeqCst), 5);
    neigh_update(&s.net, &s.neigh(2), Some(HA), Nud::Reachable, NeighUpdate::OVERRIDE).expect("update");
    assert_eq!(s.sent_to().len(), 3);
}

#[test]
fn the_table_is_bounded() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    s.net.sysctl.set("net.ipv4.neigh.default.gc_thresh3", 8).expect("sysctl");
    let made = (0..100).filter(|n| neigh_create(&s.net, &s.dev, hop(*n)).is_ok()).count();
    // The one collection that the flood was granted freed the entries that nobody had asked for.
    assert!(made <= 17, "{made}");
    assert!(neigh_dump(&s.net, false).len() <= 9);
    assert!(s.net.neigh.table(false).stats.table_fulls.load(SeqCst) >= 83);
    s.m.advance(1000);
    assert!(neigh_create(&s.net, &s.dev, hop(200)).is_ok());
}

#[test]
fn idle_entries_are_collected() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    s.net.sysctl.set("net.ipv4.neigh.default.gc_thresh1", 1).expect("sysctl");
    for n in 2..6 {
        neigh_event_ns(&s.net, &s.dev, HA, hop(n)).expect("room");
    }
    s.m.advance(120_000);
    assert!(neigh_dump(&s.net, false).is_empty());
}

#[test]
fn a_device_that_goes_down_takes_its_neighbours_along() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    s.send(2).expect("queued");
    neigh_add(&s.net, &s.dev, hop(3), HA, Nud::Permanent).expect("add");
    dev_close(&s.dev);
    assert!(neigh_dump(&s.net, false).is_empty());
    Setup::asked();
    s.m.advance(10_000);
    assert!(Setup::asked().is_empty());
    assert_eq!(s.send(4), Err(Errno::ENETDOWN));
}

#[test]
fn some_hops_need_no_question() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    let all: IpAddr = [255, 255, 255, 255].into();
    neigh_output(&s.net, &s.dst.dev, all, Skb::from_bytes(64, &[0x45; 40])).expect("sent");
    assert_eq!(s.sent_to(), [[0xff; 6]]);
    assert!(neigh_dump(&s.net, false).is_empty());
}
