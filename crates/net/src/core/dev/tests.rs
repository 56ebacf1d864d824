//! Unit tests of the device layer.

use super::*;
use crate::core::eth::{ETH_HLEN, eth_header, eth_type_trans};
use crate::core::net_namespace::Net;
use crate::core::skbuff::{IpSummed, PktType, Skb};
use crate::core::test_arch::{Recorder, TestMachine, bytes};
use kernel::local_bh_disable;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use uapi::Errno;

const ETH_P_TEST: u16 = 0x88b5;

fn frame(dev: &Arc<NetDevice>, n: u8) -> Box<Skb> {
    let mut skb = Skb::from_bytes(64, &[n; 50]);
    skb.dev = Some(dev.clone());
    skb.reset_network_header();
    eth_header(&mut skb, dev, ETH_P_TEST, dev.addr, None);
    skb
}

fn received(dev: &Arc<NetDevice>, n: u8) -> Box<Skb> {
    let mut skb = frame(dev, n);
    eth_type_trans(&mut skb, dev);
    skb
}

fn numbers(sent: &[Box<Skb>]) -> Vec<u8> {
    sent.iter().map(|s| s.data()[ETH_HLEN]).collect()
}

struct Setup {
    m: TestMachine,
    net: Arc<Net>,
    driver: Arc<Recorder>,
    dev: Arc<NetDevice>,
}

fn setup() -> Setup {
    let m = TestMachine::new();
    let net = Net::new(&m.core_registries());
    let driver = Recorder::new();
    let dev = driver.device(&net, "eth%d", Features::SG);
    Setup { m, net, driver, dev }
}

#[test]
fn names_and_indexes() {
    let s = setup();
    let second = s.driver.device(&s.net, "eth%d", Features::empty());
    assert_eq!((s.dev.name.as_str(), s.dev.ifindex), ("eth0", 1));
    assert_eq!((second.name.as_str(), second.ifindex), ("eth1", 2));
    let spec = |name: &str| NetDeviceSpec {
        name: name.into(),
        addr: [2; 6],
        mtu: 1500,
        flags: Iff::empty(),
        hard_header_len: 14,
        features: Features::empty(),
        ops: Box::new(crate::core::test_arch::RecorderOps(s.driver.clone())),
    };
    for (name, e) in
        [("eth1", Errno::EEXIST), ("", Errno::EINVAL), ("a/b", Errno::EINVAL), ("sixteen-letters-", Errno::EINVAL)]
    {
        assert_eq!(register_netdevice(&s.net, spec(name)).err(), Some(e), "{name}");
    }
    unregister_netdevice(&s.dev);
    assert!(dev_get_by_index(&s.net, 1).is_none() && dev_get_by_name(&s.net, "eth0").is_none());
    assert!(dev_get_by_index(&s.net, 2).is_some_and(|d| Arc::ptr_eq(&d, &second)));
    // An index is never used twice.
    assert_eq!(s.driver.device(&s.net, "eth%d", Features::empty()).ifindex, 3);
    assert_eq!(dev_open(&s.dev), Err(Errno::ENODEV));
}

#[test]
fn events_and_mtu() {
    static SEEN: Mutex<Vec<NetdevEvent>> = Mutex::new(Vec::new());
    let s = setup();
    register_netdevice_notifier(&s.net.reg, |_, e| SEEN.lock().expect("lock").push(e));
    let gen0 = s.net.rt_genid();
    let dev = s.driver.device(&s.net, "x", Features::empty());
    for (mtu, r) in [(67, Err(Errno::EINVAL)), (65536, Err(Errno::EINVAL)), (1500, Ok(())), (68, Ok(()))] {
        assert_eq!(dev_set_mtu(&dev, mtu), r);
    }
    dev_close(&dev);
    dev_close(&dev);
    dev_open(&dev).expect("open");
    unregister_netdevice(&dev);
    use NetdevEvent::*;
    assert_eq!(*SEEN.lock().expect("lock"), [Register, Up, ChangeMtu, Down, Up, Down, Unregister]);
    assert_ne!(s.net.rt_genid(), gen0);
}

#[test]
fn a_full_driver_stops_the_queue_and_wakes_it_in_order() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    s.driver.room.store(1, SeqCst);
    for n in 0..5 {
        dev_queue_xmit(frame(&s.dev, n)).expect("queued");
    }
    assert_eq!(numbers(&s.driver.take()), [0]);
    assert!(netif_queue_stopped(&s.dev));
    // Room for two: they go, the third stops the queue again.
    s.driver.room.store(2, SeqCst);
    {
        let _bh = local_bh_disable();
        netif_wake_queue(&s.dev);
        assert!(s.driver.sent.lock_bh().is_empty(), "not before the softirq");
    }
    assert_eq!(numbers(&s.driver.take()), [1, 2]);
    s.driver.room.store(100, SeqCst);
    netif_wake_queue(&s.dev);
    drop(local_bh_disable());
    assert_eq!(numbers(&s.driver.take()), [3, 4]);
    dev_queue_xmit(frame(&s.dev, 9)).expect("sent");
    assert_eq!(numbers(&s.driver.take()), [9]);
    assert_eq!(s.dev.stats.tx_packets(), 6);
}

#[test]
fn the_queue_is_bounded() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    s.driver.room.store(0, SeqCst);
    s.dev.tx_queue_len.store(10, SeqCst);
    let results: Vec<_> = (0..15).map(|n| dev_queue_xmit(frame(&s.dev, n))).collect();
    assert_eq!(results.iter().filter(|r| **r == Err(Errno::ENOBUFS)).count(), 5);
    assert_eq!(s.dev.stats.tx_dropped.load(SeqCst), 5);
    dev_close(&s.dev);
    assert_eq!(s.dev.stats.tx_dropped.load(SeqCst), 15);
    assert_eq!(dev_queue_xmit(frame(&s.dev, 0)), Err(Errno::ENETDOWN));
}

#[test]
fn a_batch_is_flushed_once() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    s.driver.room.store(0, SeqCst);
    for n in 0..6 {
        dev_queue_xmit(frame(&s.dev, n)).expect("queued");
    }
    s.driver.room.store(100, SeqCst);
    s.driver.flushes.store(0, SeqCst);
    netif_wake_queue(&s.dev);
    drop(local_bh_disable());
    assert_eq!(numbers(&s.driver.take()), [0, 1, 2, 3, 4, 5]);
    assert_eq!(s.driver.flushes.load(SeqCst), 1);
}

#[test]
fn checksums_are_completed_for_devices_that_cannot() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    let mut skb = frame(&s.dev, 1);
    skb.set_transport_header(ETH_HLEN);
    skb.set_csum_partial(6);
    dev_queue_xmit(skb).expect("sent");
    let sent = s.driver.take();
    assert_eq!(sent[0].ip_summed, IpSummed::None);
    // 25 words of 0x0101, one of which is replaced by the complement of their sum.
    assert_eq!(bytes(&sent[0])[ETH_HLEN + 6..][..2], (!(0x0101u16 * 25)).to_be_bytes());
    // A checksum position outside the packet is refused, not written.
    let mut bad = frame(&s.dev, 1);
    bad.set_transport_header(ETH_HLEN);
    bad.set_csum_partial(60);
    assert_eq!(dev_queue_xmit(bad), Ok(()));
    assert!(s.driver.take().is_empty());
    assert_eq!(s.dev.stats.tx_dropped.load(SeqCst), 1);
}

fn count_handler(net: &Net) -> Arc<Mutex<Vec<u8>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let to = seen.clone();
    let func = Box::new(move |_: &Arc<Net>, skb: Box<Skb>| to.lock().expect("lock").push(skb.data()[0]));
    dev_add_pack(&net.reg, PacketType { kind: ETH_P_TEST, func });
    seen
}

#[test]
fn netif_rx_is_bounded_and_runs_up_in_order() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    let seen = count_handler(&s.net);
    s.net.sysctl.set("net.core.netdev_max_backlog", 9).expect("sysctl");
    {
        let _bh = local_bh_disable();
        let results: Vec<_> = (0..15).map(|n| netif_rx(received(&s.dev, n))).collect();
        assert_eq!(results.iter().filter(|r| r.is_err()).count(), 5);
        assert!(seen.lock().expect("lock").is_empty());
    }
    assert_eq!(*seen.lock().expect("lock"), (0..10).collect::<Vec<u8>>());
    assert_eq!(s.dev.stats.rx_dropped.load(SeqCst), 5);
    assert_eq!(s.dev.stats.rx_packets(), 10);
    // 64 bytes with the header.
    assert_eq!(s.dev.stats.rx_bytes(), 640);
    assert_eq!(s.net.reg.softnet.iter().map(|d| d.dropped.load(SeqCst)).sum::<u64>(), 5);
}

#[test]
fn a_budget_squeezes_but_loses_nothing() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    let seen = count_handler(&s.net);
    s.net.sysctl.set("net.core.netdev_budget", 100).expect("sysctl");
    {
        let _bh = local_bh_disable();
        (0..=255).for_each(|n| netif_rx(received(&s.dev, n)).expect("room"));
    }
    assert_eq!(*seen.lock().expect("lock"), (0..=255).collect::<Vec<u8>>());
    assert!(s.net.reg.softnet.iter().any(|d| d.time_squeeze.load(SeqCst) > 0));
}

#[test]
fn unknown_protocols_are_counted() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    netif_rx(received(&s.dev, 1)).expect("room");
    assert_eq!(s.dev.stats.rx_dropped.load(SeqCst), 1);
}

#[test]
fn taps_see_both_ways() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let to = seen.clone();
    let func = Box::new(move |_: &Net, _: &NetDevice, skb: &Skb| {
        to.lock().expect("lock").push((skb.pkt_type, skb.mac_header().len()));
    });
    let tap = dev_add_tap(&s.net.reg, Tap { ifindex: s.dev.ifindex, func });
    dev_queue_xmit(frame(&s.dev, 1)).expect("sent");
    netif_rx(received(&s.dev, 1)).expect("room");
    dev_remove_tap(&s.net.reg, &tap);
    netif_rx(received(&s.dev, 1)).expect("room");
    assert_eq!(*seen.lock().expect("lock"), [(PktType::Outgoing, 64), (PktType::Host, 64)]);
}

#[test]
fn napi_polls_until_the_ring_is_empty() {
    let s = setup();
    let _inside = s.m.kernel.enter();
    let seen = count_handler(&s.net);
    let ring = Arc::new(AtomicUsize::new(150));
    let polls = Arc::new(Mutex::new(Vec::new()));
    let (r, p) = (ring.clone(), polls.clone());
    let napi = netif_napi_add(
        &s.dev,
        NAPI_POLL_WEIGHT,
        Box::new(move |n, budget| {
            let take = budget.min(r.load(SeqCst));
            r.fetch_sub(take, SeqCst);
            (0..take).for_each(|i| napi_gro_receive(n, received(&n.dev, i as u8)));
            p.lock().expect("lock").push(take);
            if take < budget {
                napi_complete_done(n, take);
            }
            take
        }),
    );
    {
        let _bh = local_bh_disable();
        assert!(napi_schedule(&napi));
        assert!(!napi_schedule(&napi), "once is enough");
    }
    // Scheduled again meanwhile, so it looks once more after the ring was empty.
    assert_eq!(*polls.lock().expect("lock"), [64, 64, 22, 0]);
    assert_eq!(seen.lock().expect("lock").len(), 150);
    napi_disable(&napi);
    assert!(!napi_schedule(&napi));
}

/// A queue with a ring of so many packets, whose polls are noted.
struct Ring {
    left: Arc<AtomicUsize>,
    polls: Arc<Mutex<Vec<usize>>>,
    irq_on: Arc<std::sync::atomic::AtomicBool>,
    napi: Arc<NapiStruct>,
}

fn ring(s: &Setup) -> Ring {
    let (left, polls) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let irq_on = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let (l, p, irq) = (left.clone(), polls.clone(), irq_on.clone());
    let poll = move |n: &Arc<NapiStruct>, budget: usize| {
        let take = budget.min(l.load(SeqCst));
        l.fetch_sub(take, SeqCst);
        (0..take).for_each(|i| napi_gro_receive(n, received(&n.dev, i as u8)));
        p.lock().expect("lock").push(take);
        if take < budget && napi_complete_done(n, take) {
            irq.store(true, SeqCst);
        }
        take
    };
    Ring { left, polls, irq_on, napi: netif_napi_add(&s.dev, NAPI_POLL_WEIGHT, Box::new(poll)) }
}

impl Ring {
    /// Packets come; the top half runs if the interrupt is on.
    fn arrive(&self, s: &Setup, n: usize) {
        let _inside = s.m.kernel.enter();
        self.left.fetch_add(n, SeqCst);
        if self.irq_on.swap(false, SeqCst) {
            let _irq = kernel::cpu::irq_enter();
            napi_schedule(&self.napi);
        }
    }
    fn polls(&self) -> Vec<usize> {
        std::mem::take(&mut self.polls.lock().expect("lock"))
    }
}

#[test]
fn a_queue_counts_what_it_does() {
    let s = setup();
    let seen = count_handler(&s.net);
    let ring = ring(&s);
    ring.arrive(&s, 1);
    ring.arrive(&s, 1);
    ring.arrive(&s, 130);
    assert_eq!(ring.polls(), [1, 1, 64, 64, 2]);
    let counts = NapiCounts { interrupts: 3, polls: 5, packets: 132, exhausted: 2, completed: 3, ..Default::default() };
    assert_eq!((ring.napi.stats.counts(), seen.lock().expect("lock").len()), (counts, 132));
    assert_eq!(s.dev.napis().len(), 1);
    assert!(s.dev.napis().iter().all(|n| Arc::ptr_eq(n, &ring.napi)));
}

#[test]
fn a_deferred_interrupt_is_replaced_by_the_watchdogs_polls() {
    let s = setup();
    let ring = ring(&s);
    s.dev.gro_flush_timeout.store(20_000, SeqCst);
    s.dev.napi_defer_hard_irqs.store(2, SeqCst);
    ring.arrive(&s, 3);
    assert_eq!((ring.polls(), ring.irq_on.load(SeqCst)), (vec![3], false));
    ring.arrive(&s, 5);
    s.m.advance_ns(19_999);
    assert!(ring.polls().is_empty());
    s.m.advance_ns(1);
    assert_eq!((ring.polls(), ring.irq_on.load(SeqCst)), (vec![5], false));
    // Two polls in vain, and it waits for the interrupt again.
    s.m.advance_ns(20_000);
    assert_eq!((ring.polls(), ring.irq_on.load(SeqCst)), (vec![0], false));
    s.m.advance_ns(20_000);
    assert_eq!((ring.polls(), ring.irq_on.load(SeqCst)), (vec![0], true));
    assert_eq!(s.m.kernel.hrtimers().pending(), 0);
    let counts = NapiCounts { interrupts: 1, polls: 4, packets: 8, completed: 1, deferred: 3, ..Default::default() };
    assert_eq!(ring.napi.stats.counts(), counts);
    // What is disabled is not polled by the watchdog either.
    ring.arrive(&s, 1);
    napi_disable(&ring.napi);
    s.m.advance_ns(100_000);
    assert_eq!((ring.polls(), s.m.kernel.hrtimers().pending()), (vec![1], 0));
}

#[test]
fn polling_has_a_budget_of_time() {
    let s = setup();
    let slow = Arc::new(AtomicUsize::new(5));
    let (left, m) = (slow.clone(), Arc::new(s.m.clock()));
    let napi = netif_napi_add(
        &s.dev,
        1,
        Box::new(move |n, _| {
            m.pass(900_000);
            match left.fetch_update(SeqCst, SeqCst, |l| l.checked_sub(1)) {
                Ok(_) => 1,
                Err(_) => {
                    napi_complete_done(n, 0);
                    0
                }
            }
        }),
    );
    let squeezed = || s.net.reg.softnet.iter().map(|d| d.time_squeeze.load(SeqCst)).sum::<u64>();
    let _inside = s.m.kernel.enter();
    {
        let _bh = local_bh_disable();
        napi_schedule(&napi);
    }
    // Four polls until two milliseconds after the first, then the rest: with the time that softirqs have, still in one go.
    assert_eq!((slow.load(SeqCst), squeezed()), (0, 1));
    assert!(softnet_stat(&s.net.reg.softnet).contains(" 00000001 "));
    s.net.sysctl.set("net.core.netdev_budget_usecs", 0).expect("sysctl");
    slow.store(3, SeqCst);
    {
        let _bh = local_bh_disable();
        napi_schedule(&napi);
    }
    assert!(squeezed() > 1, "with no time at all each poll is the last");
}

/// One thread polls, another disables: when that is done no poll runs.
#[test]
fn napi_disable_waits_for_a_poll_that_runs() {
    let s = setup();
    let inside = Arc::new(AtomicUsize::new(0));
    let i = inside.clone();
    let napi = netif_napi_add(
        &s.dev,
        64,
        Box::new(move |n, _| {
            i.store(1, SeqCst);
            (0..50).for_each(|_| std::thread::yield_now());
            i.store(0, SeqCst);
            napi_complete_done(n, 0);
            0
        }),
    );
    std::thread::scope(|scope| {
        for _ in 0..200 {
            let poll = scope.spawn(|| {
                let _inside = s.m.kernel.enter();
                let _bh = local_bh_disable();
                napi_schedule(&napi);
            });
            (0..20).for_each(|_| std::thread::yield_now());
            napi_disable(&napi);
            assert_eq!(inside.load(SeqCst), 0, "the poll runs");
            poll.join().expect("polled");
            napi_enable(&napi);
        }
    });
}

#[test]
fn loopback_runs_up_when_bottom_halves_are_on_again() {
    let m = TestMachine::new();
    let reg = m.core_registries();
    crate::drivers::loopback::loopback_init(&reg);
    let net = Net::new(&reg);
    let lo = dev_get_by_index(&net, 1).expect("lo");
    assert!(lo.name == "lo" && lo.is_up() && lo.flags().contains(Iff::RUNNING) && lo.mtu() == 65536);
    let _inside = m.kernel.enter();
    let seen = count_handler(&net);
    {
        let _bh = local_bh_disable();
        dev_queue_xmit(frame(&lo, 7)).expect("sent");
        assert!(seen.lock().expect("lock").is_empty());
    }
    assert_eq!(*seen.lock().expect("lock"), [7]);
}

/// Softirqs come to their limit with packets in the queue, and `ksoftirqd` sends the rest.
#[test]
fn a_queue_too_long_for_softirqs_is_left_to_ksoftirqd() {
    const LEN: usize = 2000;
    let s = setup();
    s.dev.tx_queue_len.store(u32::MAX, SeqCst);
    s.driver.room.store(0, SeqCst);
    let sent = {
        let _inside = s.m.kernel.enter();
        for n in 0..LEN {
            dev_queue_xmit(frame(&s.dev, n as u8)).expect("queued");
        }
        s.driver.room.store(LEN, SeqCst);
        netif_wake_queue(&s.dev);
        drop(local_bh_disable());
        s.dev.stats.tx_packets() as usize
    };
    assert!(sent > 0 && sent < LEN, "{sent} sent in one go");
    s.m.run_ksoftirqd();
    assert_eq!(numbers(&s.driver.take()), (0..LEN).map(|n| n as u8).collect::<Vec<_>>());
}

/// Many senders, a driver that is full most of the time, and somebody who makes room: nothing is lost, doubled or stuck.
#[test]
fn senders_and_wakes_on_many_cpus_lose_nothing() {
    const SENDERS: usize = 4;
    const EACH: usize = 2000;
    let s = setup();
    s.dev.tx_queue_len.store(u32::MAX, SeqCst);
    s.driver.room.store(0, SeqCst);
    std::thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                for n in 0..EACH {
                    let _inside = s.m.kernel.enter();
                    dev_queue_xmit(frame(&s.dev, n as u8)).expect("queued");
                }
            });
        }
        scope.spawn(|| {
            while s.dev.stats.tx_packets() < (SENDERS * EACH) as u64 {
                s.driver.room.fetch_add(3, SeqCst);
                {
                    let _inside = s.m.kernel.enter();
                    netif_wake_queue(&s.dev);
                }
                s.m.run_ksoftirqd();
            }
        });
    });
    assert_eq!(s.driver.take().len(), SENDERS * EACH);
    assert!(s.dev.tx.lock_bh().list.is_empty());
}

/// Senders against a device that goes up and down: each packet is sent or counted, and none is left behind.
#[test]
fn closing_races_with_senders() {
    let s = setup();
    let done = std::sync::atomic::AtomicBool::new(false);
    let sent_ok = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for n in 0..3000 {
                        let _inside = s.m.kernel.enter();
                        if dev_queue_xmit(frame(&s.dev, n as u8)).is_ok() {
                            sent_ok.fetch_add(1, SeqCst);
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(SeqCst) {
                dev_close(&s.dev);
                assert!(s.dev.tx.lock_bh().list.is_empty() && !s.dev.tx.lock_bh().running);
                dev_open(&s.dev).expect("open");
            }
        });
        senders.into_iter().for_each(|t| t.join().expect("sender"));
        done.store(true, SeqCst);
    });
    s.m.run_ksoftirqd();
    let (tx, dropped) = (s.dev.stats.tx_packets(), s.dev.stats.tx_dropped.load(SeqCst));
    assert_eq!(tx + dropped, 6000);
    assert!(sent_ok.load(SeqCst) as u64 >= tx);
}
