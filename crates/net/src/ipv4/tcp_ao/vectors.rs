//! Published vectors: RFC 9235 (TCP-AO), RFC 4615 (the key of AES-CMAC made to fit).
//!
//! Interface: tests.
//! Linux counterpart: `tools/testing/selftests/net/tcp_ao/`.
//! Locks and context: tests.

use super::*;
use crate::core::skbuff::Skb;

fn hex(s: &str) -> Vec<u8> {
    let digits: Vec<u8> = s.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

/// A client's SYN of RFC 9235, 4.1.1 or 4.2.1: its traffic key and the MAC in it come out.
fn syn(packet: &str, traffic_key: &str, exclude: bool) {
    let b = hex(packet);
    let seg = &b[20..];
    let ctx = TrafficContext {
        saddr: [10, 11, 12, 13].into(),
        daddr: [172, 27, 28, 29].into(),
        sport: u16::from_be_bytes([seg[0], seg[1]]),
        dport: 179,
        sisn: u32::from_be_bytes([seg[4], seg[5], seg[6], seg[7]]),
        disn: 0,
    };
    let traffic = AoAlg::HmacSha1.kdf(b"testvector", &ctx);
    assert_eq!(traffic[..], hex(traffic_key)[..]);
    let hole = seg.len() - 12;
    let mac = seg[hole..].to_vec();
    assert_eq!(seg[hole - 4..hole], [29, 16, 61, 84], "KeyIDs of client and server");
    let skb = Skb::from_bytes(64, seg);
    let view = SegmentView { skb: &skb, saddr: ctx.saddr, daddr: ctx.daddr };
    let tag = tcp_ao_hash(AoAlg::HmacSha1, &traffic, &view, 0, hole, 12, exclude).unwrap();
    assert_eq!(tag[..], mac[..]);
}

#[test]
fn rfc_9235_hmac_sha_1_96_covers_options() {
    syn(
        "45 e0 00 4c dd 0f 40 00 ff 06 bf 6b 0a 0b 0c 0d ac 1b 1c 1d e9 d7 00 b3 fb fb ab 5a 00 00 00 00
         e0 02 ff ff ca c4 00 00 02 04 05 b4 01 03 03 08 04 02 08 0a 00 15 5a b7 00 00 00 00 1d 10 3d 54
         2e e4 37 c6 f8 ed e6 d7 c4 d6 02 e7",
        "6d 63 ef 1b 02 fe 15 09 d4 b1 40 27 07 fd 7b 04 16 ab b7 4f",
        false,
    );
}

#[test]
fn rfc_9235_hmac_sha_1_96_omits_options() {
    syn(
        "45 e0 00 4c 53 99 40 00 ff 06 48 e2 0a 0b 0c 0d ac 1b 1c 1d ff 12 00 b3 cb 0e fb ee 00 00 00 00
         e0 02 ff ff 54 1f 00 00 02 04 05 b4 01 03 03 08 04 02 08 0a 00 02 4c ce 00 00 00 00 1d 10 3d 54
         80 af 3c fe b8 53 68 93 7b 8f 9e c2",
        "30 ea a1 56 0c f0 be 57 da b5 c0 45 22 9f b1 0a 42 3c d7 ea",
        true,
    );
}

#[test]
fn rfc_4615_aes_cmac_prf_128() {
    let message: Vec<u8> = (0..20).collect();
    for (key, want) in [
        ("000102030405060708090a0b0c0d0e0fedcb", "84a348a4a45d235babfffc0d2b4da09a"),
        ("000102030405060708090a0b0c0d0e0f", "980ae87b5f4c9c5214f5b6a8455e4c2d"),
        ("00010203040506070809", "290d9e112edb09ee141fcf64c0b72f3d"),
    ] {
        assert_eq!(AoAlg::Aes128Cmac.mac(&hex(key), |f| f(&message))[..], hex(want)[..], "key {key}");
    }
}

#[test]
fn a_sequence_number_extension_grows_when_the_number_wraps() {
    // RFC 5925, 6.2: late segments of the last round, and early ones of the next.
    assert_eq!(tcp_ao_compute_sne(5, 100, 200), 5);
    assert_eq!(tcp_ao_compute_sne(5, 100, 50), 5);
    assert_eq!(tcp_ao_compute_sne(5, 100, u32::MAX - 100), 4);
    assert_eq!(tcp_ao_compute_sne(5, u32::MAX - 100, 100), 6);
    let mut ao = AoInfo { snd: (0, 0xffff_0000), rcv: (0, 10), ..AoInfo::default() };
    ao.advance(0x0001_0000, 0x7000_0000);
    assert_eq!((ao.snd, ao.rcv), ((1, 0x0001_0000), (0, 0x7000_0000)));
    assert_eq!((ao.snd_sne(0xffff_ff00), ao.snd_sne(0x0001_0010)), (0, 1));
}
