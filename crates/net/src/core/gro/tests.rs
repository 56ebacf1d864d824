//! Unit tests of segmentation and merging, which undo each other.

use super::*;
use crate::core::gso::skb_gso_segment;
use crate::core::test_arch::bytes;
use crate::hdr::{IPPROTO_UDP, UdpHdr};
use kernel::Frag;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

const MAC: usize = 14;

/// A TCP packet as a test describes it.
#[derive(Clone, Debug)]
struct Tcp {
    v6: bool,
    id: u16,
    sport: u16,
    seq: u32,
    ack: u32,
    flags: u8,
    options: Vec<u8>,
    payload: Vec<u8>,
}

fn tcp(seq: u32, payload: &[u8]) -> Tcp {
    Tcp {
        v6: false,
        id: 7,
        sport: 1000,
        seq,
        ack: 5,
        flags: tcp_flag::ACK,
        options: vec![1; 12],
        payload: payload.to_vec(),
    }
}

impl Tcp {
    fn iphlen(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    fn addrs(&self) -> (IpAddr, IpAddr) {
        match self.v6 {
            true => ("fe80::1".parse().expect("v6"), "fe80::2".parse().expect("v6")),
            false => (Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 2).into()),
        }
    }

    fn headers(&self) -> Vec<u8> {
        let thlen = 20 + self.options.len();
        let len = self.iphlen() + thlen + self.payload.len();
        let mut h = vec![2u8; 12];
        match self.v6 {
            true => {
                h.extend(ETH_P_IPV6.to_be_bytes());
                h.extend([0x60, 0, 0, 1]);
                h.extend(((len - 40) as u16).to_be_bytes());
                h.extend([IPPROTO_TCP, 64]);
            }
            false => {
                h.extend(ETH_P_IP.to_be_bytes());
                h.extend([0x45, 0]);
                h.extend((len as u16).to_be_bytes());
                h.extend(self.id.to_be_bytes());
                h.extend([0x40, 0, 64, IPPROTO_TCP, 0, 0]);
            }
        }
        for a in [self.addrs().0, self.addrs().1] {
            match a {
                IpAddr::V4(a) => h.extend(a.octets()),
                IpAddr::V6(a) => h.extend(a.octets()),
            }
        }
        if !self.v6 {
            let check = ip_fast_csum(&h[MAC..]);
            h[MAC + 10..MAC + 12].copy_from_slice(&check);
        }
        h.extend(self.sport.to_be_bytes());
        h.extend(80u16.to_be_bytes());
        h.extend(self.seq.to_be_bytes());
        h.extend(self.ack.to_be_bytes());
        h.extend([(thlen as u8 / 4) << 4, self.flags, 1, 0, 0, 0, 0, 0]);
        h.extend(&self.options);
        h
    }

    /// As a driver that verifies nothing receives it, headers linear, payload in fragments of `frag` bytes.
    fn received(&self, frag: usize) -> Box<Skb> {
        let mut skb = self.whole(frag);
        let (s, d) = self.addrs();
        let at = MAC + self.iphlen();
        let len = skb.len() - at;
        let check = csum_fold(csum_pseudo(s, d, len, IPPROTO_TCP, skb_checksum(&skb, at, len, 0)));
        skb.data_mut()[at + 16..at + 18].copy_from_slice(&check);
        up(skb)
    }

    fn whole(&self, frag: usize) -> Box<Skb> {
        let mut skb = Skb::from_bytes(64, &self.headers());
        skb.protocol = if self.v6 { ETH_P_IPV6 } else { ETH_P_IP };
        for c in self.payload.chunks(frag) {
            assert!(skb.add_frag(Frag::copy_of(c)));
        }
        skb.reset_mac_header();
        skb.set_network_header(MAC);
        skb.set_transport_header(MAC + self.iphlen());
        skb
    }

    /// As TCP sends it, to be cut.
    fn gso(&self, mss: u16, frag: usize) -> Box<Skb> {
        let mut skb = self.whole(frag);
        skb.gso_size = mss;
        skb.gso_type = if self.v6 { GsoType::TCPV6 } else { GsoType::TCPV4 };
        let (s, d) = self.addrs();
        let seed = csum_partial_seed(s, d, skb.len() - MAC - self.iphlen(), IPPROTO_TCP);
        skb.transport_header_mut()[16..18].copy_from_slice(&seed);
        skb.set_csum_partial(16);
        skb
    }
}

/// Takes the Ethernet header off, as a driver does.
fn up(mut skb: Box<Skb>) -> Box<Skb> {
    skb.reset_mac_header();
    skb.mac_len = MAC as u16;
    assert!(skb.pull(MAC));
    skb
}

fn receive(list: &mut GroList, skbs: impl IntoIterator<Item = Box<Skb>>) -> Vec<Box<Skb>> {
    let mut out: Vec<_> = skbs.into_iter().flat_map(|s| dev_gro_receive(list, s)).collect();
    out.extend(list.flush());
    out
}

/// Payload lengths of what comes up.
fn merged(packets: &[Tcp]) -> Vec<usize> {
    let up = receive(&mut GroList::default(), packets.iter().map(|p| p.received(4096)));
    let hlen = |s: &Skb| if s.protocol == ETH_P_IPV6 { 40 } else { 20 } + 32;
    up.iter().map(|s| s.len() - hlen(s)).collect()
}

fn checksum_is_right(skb: &Skb, t: &Tcp) -> bool {
    let at = MAC + t.iphlen();
    let (s, d) = t.addrs();
    let len = skb.len() - at;
    csum_fold(csum_pseudo(s, d, len, IPPROTO_TCP, skb_checksum(skb, at, len, 0))) == [0, 0]
}

#[test]
fn merges_what_follows() {
    let (a, b) = (vec![1; 100], vec![2; 100]);
    assert_eq!(merged(&[tcp(0, &a), tcp(100, &b)]), [200]);
    let up = receive(&mut GroList::default(), [tcp(0, &a).received(99), tcp(100, &b).received(99)]);
    let s = &up[0];
    assert_eq!((s.gso_size, s.gso_segs, s.gso_type), (100, 2, GsoType::TCPV4));
    assert_eq!(bytes(s)[52..], [a, b].concat());
    let ip = IpHdr::read(s.data()).expect("header");
    assert_eq!((ip.tot_len.get(), ip_fast_csum(&s.data()[..20])), (252, [0, 0]));
}

#[test]
fn does_not_merge_what_differs() {
    let p = vec![1; 100];
    let first = tcp(0, &p);
    let next = Tcp { id: 8, ..tcp(100, &p) };
    assert_eq!(merged(&[first.clone(), next.clone()]), [200]);
    let cases = [
        Tcp { seq: 101, ..next.clone() },
        Tcp { seq: 0, ..next.clone() },
        Tcp { ack: 6, ..next.clone() },
        Tcp { id: 10, ..next.clone() },
        Tcp { sport: 1001, ..next.clone() },
        Tcp { options: [vec![1; 11], vec![2]].concat(), ..next.clone() },
        Tcp { payload: vec![1; 101], ..next.clone() },
        Tcp { flags: tcp_flag::ACK | tcp_flag::CWR, ..next.clone() },
        Tcp { flags: tcp_flag::ACK | tcp_flag::ECE, ..next.clone() },
        Tcp { flags: tcp_flag::ACK | tcp_flag::SYN, ..next.clone() },
    ];
    for c in cases {
        assert_eq!(merged(&[first.clone(), c.clone()]), [100, c.payload.len()], "{c:?}");
    }
    // A pure ACK passes, behind the data that came before it.
    assert_eq!(merged(&[first.clone(), Tcp { payload: vec![], ..next.clone() }, next]), [100, 0, 100]);
}

#[test]
fn the_end_of_a_burst_goes_up_at_once() {
    for (len, flags) in
        [(50, tcp_flag::ACK), (100, tcp_flag::ACK | tcp_flag::PSH), (100, tcp_flag::ACK | tcp_flag::FIN)]
    {
        let mut list = GroList::default();
        assert!(dev_gro_receive(&mut list, tcp(0, &[1; 100]).received(4096)).is_empty());
        let last = Tcp { flags, ..tcp(100, &vec![2; len]) };
        let up = dev_gro_receive(&mut list, last.received(4096));
        assert_eq!((up.len(), list.is_empty()), (1, true));
        assert_eq!(TcpHdr::read(&up[0].data()[20..]).expect("tcp").flags, flags);
    }
}

#[test]
fn a_large_packet_does_not_overtake() {
    let large = up(Tcp { id: 8, ..tcp(100, &[2; 2000]) }.gso(100, 4096));
    let up = receive(&mut GroList::default(), [tcp(0, &[1; 100]).received(4096), large]);
    assert_eq!(up.iter().map(|s| s.len() - 52).collect::<Vec<_>>(), [100, 2000]);
}

#[test]
fn a_wrong_checksum_is_not_merged_and_not_called_right() {
    let mut bad = Tcp { id: 8, ..tcp(100, &[2; 100]) }.received(4096);
    bad.data_mut()[30] ^= 1;
    let up = receive(&mut GroList::default(), [tcp(0, &[1; 100]).received(4096), bad]);
    assert_eq!(up.len(), 2);
    assert_eq!((up[0].ip_summed, up[1].ip_summed), (IpSummed::Unnecessary, IpSummed::None));
    // A wrong IPv4 header, a fragment, options, a length beyond the end: all are left alone.
    for (at, to) in [(10, 0xff), (6, 0x20), (0, 0x46), (2, 0x7f), (9, IPPROTO_UDP)] {
        let mut skb = tcp(0, &[1; 100]).received(4096);
        skb.data_mut()[at] = to;
        let mut list = GroList::default();
        assert_eq!(dev_gro_receive(&mut list, skb).len(), 1, "{at}");
    }
}

#[test]
fn flows_are_bounded_and_the_oldest_leaves() {
    let mut list = GroList::default();
    for i in 0..MAX_GRO_SKBS as u16 {
        assert!(dev_gro_receive(&mut list, Tcp { sport: i, ..tcp(0, &[1; 9]) }.received(9)).is_empty());
    }
    let up = dev_gro_receive(&mut list, Tcp { sport: 99, ..tcp(0, &[1; 9]) }.received(9));
    assert_eq!(up.len(), 1);
    assert_eq!(up[0].data()[20..22], [0, 0]);
    assert_eq!(list.flush().len(), MAX_GRO_SKBS);
}

#[test]
fn never_larger_than_an_ip_packet() {
    let packets: Vec<_> = (0..60u32).map(|i| Tcp { id: i as u16, ..tcp(i * 1448, &[i as u8; 1448]) }).collect();
    let up = receive(&mut GroList::default(), packets.iter().map(|p| p.received(4096)));
    assert!(up.iter().all(|s| s.len() < 65536 && s.frags().len() <= MAX_SKB_FRAGS));
    assert_eq!(up.iter().map(|s| s.len() - 52).sum::<usize>(), 60 * 1448);
    assert!(up.len() <= 3);
}

#[test]
fn link_padding_is_no_payload() {
    let mut skb = Tcp { options: vec![], ..tcp(0, &[7]) }.received(9);
    assert!(skb.add_frag(Frag::copy_of(&[0; 5])));
    let up = receive(&mut GroList::default(), [skb]);
    assert_eq!((up[0].len(), up[0].ip_summed), (41, IpSummed::Unnecessary));
}

#[test]
fn the_last_segment_answers_for_the_whole() {
    static FREED: AtomicU32 = AtomicU32::new(0);
    let mut skb = tcp(0, &[1; 1000]).gso(100, 64);
    skb.destructor = Some(|s| FREED.store(s.truesize, SeqCst));
    let charged = skb.truesize;
    let mut segs = skb_gso_segment(skb, false).expect("segments");
    assert_eq!(segs.len(), 10);
    assert!(segs.iter().all(|s| s.len() == MAC + 52 + 100 && !s.is_gso()));
    segs.truncate(9);
    assert_eq!(FREED.load(SeqCst), charged, "the last one gives back what the packet was charged");
    drop(segs);
}

#[test]
fn udp_is_cut_into_datagrams() {
    let mut t = Tcp { options: vec![], ..tcp(0, &[3; 250]) }.gso(100, 64);
    // The same bytes as a UDP packet: eight header bytes, the other twelve become payload.
    t.data_mut()[MAC + 9] = IPPROTO_UDP;
    t.gso_type = GsoType::UDP_L4;
    let segs = skb_gso_segment(t, false).expect("segments");
    assert_eq!(segs.iter().map(|s| s.len() - MAC - 28).collect::<Vec<_>>(), [100, 100, 62]);
    for (i, s) in segs.iter().enumerate() {
        let (ip, udp) = (IpHdr::read(&s.data()[MAC..]).expect("ip"), UdpHdr::read(&s.data()[MAC + 20..]).expect("udp"));
        assert_eq!(
            (ip.id.get(), udp.len.get() as usize, ip.tot_len.get() as usize),
            (7 + i as u16, s.len() - 34, s.len() - 14)
        );
        let sum = csum_pseudo(
            ip.src().into(),
            ip.dst().into(),
            s.len() - 34,
            IPPROTO_UDP,
            skb_checksum(s, 34, s.len() - 34, 0),
        );
        assert_eq!(csum_fold(sum), [0, 0]);
    }
}

#[test]
fn nonsense_is_refused() {
    let mut no_transport = tcp(0, &[1; 1000]).gso(100, 64);
    no_transport.set_transport_header(0);
    assert!(skb_gso_segment(no_transport, false).is_err());
    let mut cut = tcp(0, &[]).gso(100, 64);
    cut.trim(40);
    assert!(skb_gso_segment(cut, false).is_err());
    let mut no_type = tcp(0, &[1; 1000]).gso(100, 64);
    no_type.gso_type = GsoType::empty();
    assert!(skb_gso_segment(no_type, false).is_err());
}

fn any_tcp() -> impl Strategy<Value = (Tcp, u16, usize)> {
    let flags = prop::sample::select(vec![0, tcp_flag::PSH, tcp_flag::FIN | tcp_flag::PSH, tcp_flag::ECE]);
    let payload = prop::collection::vec(any::<u8>(), 2..6000);
    let t = (any::<bool>(), any::<u16>(), any::<u32>(), any::<u32>(), flags, 0usize..10, payload);
    (t, 200u16..1500, 300usize..2000).prop_map(|((v6, id, seq, ack, f, opts, payload), mss, frag)| {
        let t = Tcp { v6, id, sport: 9, seq, ack, flags: f | tcp_flag::ACK, options: vec![1; opts * 4], payload };
        (t, mss, frag)
    })
}

proptest! {
    /// Cut and merged, a packet is what it was; each segment is right by itself.
    #[test]
    fn merging_undoes_cutting((t, mss, frag) in any_tcp()) {
        let whole = t.gso(mss, frag);
        let before = bytes(&whole);
        let segs = skb_gso_segment(whole, false).expect("segments");
        let n = segs.len();
        prop_assert_eq!(n, t.payload.len().div_ceil(mss as usize));
        for (i, s) in segs.iter().enumerate() {
            prop_assert!(checksum_is_right(s, &t));
            let th = TcpHdr::read(&s.data()[MAC + t.iphlen()..]).expect("tcp");
            prop_assert_eq!(th.seq.get(), t.seq.wrapping_add(i as u32 * mss as u32));
            prop_assert_eq!(th.has(tcp_flag::PSH), i + 1 == n && t.flags & tcp_flag::PSH != 0);
        }
        let up_again = receive(&mut GroList::default(), segs.into_iter().map(up));
        prop_assert_eq!(up_again.len(), 1);
        let mut after = bytes(&up_again[0]);
        let mut before = before[MAC..].to_vec();
        if n == 1 {
            // Nothing to merge: the checksum is complete instead of begun.
            let at = t.iphlen() + 16;
            before[at..at + 2].fill(0);
            after[at..at + 2].fill(0);
        } else {
            prop_assert_eq!((up_again[0].gso_size, up_again[0].gso_segs as usize), (mss, n));
        }
        prop_assert_eq!(before, after);
    }

    /// A device that sums is given begun checksums, which completed are right.
    #[test]
    fn begun_checksums_complete_to_right_ones((t, mss, frag) in any_tcp()) {
        for mut s in skb_gso_segment(t.gso(mss, frag), true).expect("segments") {
            prop_assert_eq!(s.ip_summed, IpSummed::Partial);
            prop_assert!(crate::core::checksum::skb_checksum_help(&mut s));
            prop_assert!(checksum_is_right(&s, &t));
        }
    }

    /// Whatever arrives, nothing panics and no byte of an unmerged packet is lost.
    #[test]
    fn anything_may_arrive(data in prop::collection::vec(any::<u8>(), 0..120), v6 in any::<bool>(), first in any::<bool>()) {
        let mut skb = Skb::from_bytes(64, &data);
        if first && !data.is_empty() {
            skb.data_mut()[0] = if v6 { 0x60 } else { 0x45 };
        }
        skb.protocol = if v6 { ETH_P_IPV6 } else { ETH_P_IP };
        let up = receive(&mut GroList::default(), [skb]);
        prop_assert_eq!(up.len(), 1);
    }
}
