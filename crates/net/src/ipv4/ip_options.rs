//! IPv4 options (RFC 791, 3.1; RFC 1108, RFC 2113).
//!
//! Interface: [`ip_options_compile`], [`IpOptions`], [`ip_options_fragment`], [`ip_options_forward`].
//! Linux counterpart: `net/ipv4/ip_options.c`.
//! Locks and context: pure functions.

const IPOPT_END: u8 = 0;
const IPOPT_NOOP: u8 = 1;
const IPOPT_RR: u8 = 7;
const IPOPT_TIMESTAMP: u8 = 68;
const IPOPT_LSRR: u8 = 131;
const IPOPT_SSRR: u8 = 137;
const IPOPT_RA: u8 = 148;
/// The option is to be in every fragment.
const IPOPT_COPY: u8 = 0x80;

/// Timestamp option flags (RFC 791): stamps only, addresses and stamps, given addresses.
const TS_ONLY: u8 = 0;
const TS_AND_ADDR: u8 = 1;
const TS_PRESPEC: u8 = 3;

/// What the options of a packet ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpOptions {
    /// A source route, loose or strict.
    pub source_route: bool,
    pub router_alert: bool,
    /// Where in the header the record-route and timestamp options begin.
    pub record_route: Option<usize>,
    pub timestamp: Option<usize>,
}

/// Checks the options of `header` (a whole IPv4 header). The error is the offset in the header that is to blame, as an ICMP
/// parameter problem says it (RFC 792; RFC 1122, 3.2.2.5).
pub fn ip_options_compile(header: &[u8]) -> Result<IpOptions, u8> {
    let mut opt = IpOptions::default();
    let mut at = 20;
    while let Some(&kind) = header.get(at) {
        match kind {
            IPOPT_END => break,
            IPOPT_NOOP => {
                at += 1;
                continue;
            }
            _ => {}
        }
        let blame = |off: usize| (at + off) as u8;
        let len = *header.get(at + 1).ok_or(blame(0))? as usize;
        let body = header.get(at..at + len).filter(|b| b.len() >= 2).ok_or(blame(1))?;
        match kind {
            IPOPT_LSRR | IPOPT_SSRR => {
                check_route(body).map_err(blame)?;
                if opt.source_route {
                    return Err(blame(0));
                }
                opt.source_route = true;
            }
            IPOPT_RR => {
                check_route(body).map_err(blame)?;
                if opt.record_route.replace(at).is_some() {
                    return Err(blame(0));
                }
            }
            IPOPT_TIMESTAMP => {
                check_timestamp(body).map_err(blame)?;
                if opt.timestamp.replace(at).is_some() {
                    return Err(blame(0));
                }
            }
            IPOPT_RA if len < 4 => return Err(blame(1)),
            IPOPT_RA => opt.router_alert = body[2] == 0 && body[3] == 0,
            _ => {}
        }
        at += len;
    }
    Ok(opt)
}

/// Length and pointer of a route option.
fn check_route(body: &[u8]) -> Result<(), usize> {
    match body {
        [_, len, ..] if *len < 3 => Err(1),
        [_, len, ptr, ..] if *ptr < 4 || (*ptr <= *len && *ptr as usize + 3 > *len as usize) => Err(2),
        _ => Ok(()),
    }
}

fn check_timestamp(body: &[u8]) -> Result<(), usize> {
    let [_, len, ptr, flags, ..] = *body else { return Err(1) };
    if ptr < 5 {
        return Err(2);
    }
    let need = match flags & 15 {
        TS_ONLY => 4,
        TS_AND_ADDR | TS_PRESPEC => 8,
        _ => return Err(3),
    };
    if ptr <= len {
        return if ptr as usize + need - 1 > len as usize { Err(2) } else { Ok(()) };
    }
    // No room left: the overflow counter must not overflow itself.
    if flags >> 4 == 15 && flags & 15 != TS_PRESPEC { Err(3) } else { Ok(()) }
}

/// Blanks what only the first fragment carries (`ip_options_fragment`).
pub fn ip_options_fragment(header: &mut [u8]) {
    let mut at = 20;
    while let Some(&kind) = header.get(at) {
        let len = match kind {
            IPOPT_END => return,
            IPOPT_NOOP => 1,
            _ => header.get(at + 1).map_or(0, |&l| l as usize),
        };
        let Some(body) = header.get_mut(at..at + len).filter(|b| !b.is_empty()) else { return };
        if kind & IPOPT_COPY == 0 {
            body.fill(IPOPT_NOOP);
        }
        at += len;
    }
}

/// Writes the route a forwarded packet took into its options (`ip_forward_options`; RFC 1812, 4.2.2.2): `addr` is the address
/// it leaves from, `now` milliseconds since midnight.
pub fn ip_options_forward(header: &mut [u8], opt: &IpOptions, addr: [u8; 4], now: u32) {
    if let Some(at) = opt.record_route {
        record(header, at, &addr);
    }
    let Some(at) = opt.timestamp else { return };
    let Some(&[_, len, ptr, flags]) = header.get(at..at + 4).and_then(|b| b.first_chunk::<4>()) else { return };
    if ptr > len {
        if flags >> 4 < 15
            && let Some(f) = header.get_mut(at + 3)
        {
            *f += 1 << 4;
        }
        return;
    }
    match flags & 15 {
        TS_ONLY => record(header, at, &now.to_be_bytes()),
        TS_AND_ADDR => {
            record(header, at, &addr);
            record(header, at, &now.to_be_bytes());
        }
        _ if header.get(at + ptr as usize - 1..at + ptr as usize + 3) == Some(&addr[..]) => {
            record(header, at, &addr);
            record(header, at, &now.to_be_bytes());
        }
        _ => {}
    }
}

/// Puts `what` where the option's pointer says, and moves the pointer.
fn record(header: &mut [u8], at: usize, what: &[u8; 4]) {
    let Some(&[_, len, ptr]) = header.get(at..at + 3).and_then(|b| b.first_chunk::<3>()) else { return };
    if ptr < 4 || ptr as usize + 3 > len as usize {
        return;
    }
    let to = at + ptr as usize - 1;
    if let Some(slot) = header.get_mut(to..to + 4) {
        slot.copy_from_slice(what);
        header[at + 2] = ptr + 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(options: &[u8]) -> Vec<u8> {
        let mut h = vec![0u8; 20];
        h.extend_from_slice(options);
        h
    }

    #[test]
    fn blames_the_byte_that_is_wrong() {
        assert_eq!(ip_options_compile(&header(&[IPOPT_RR, 7, 4, 0, 0, 0, 0, 0])).unwrap().record_route, Some(20));
        assert_eq!(ip_options_compile(&header(&[IPOPT_RR, 7, 3, 0, 0, 0, 0, 0])), Err(22));
        assert_eq!(ip_options_compile(&header(&[IPOPT_NOOP, IPOPT_RR, 9, 4])), Err(22));
        assert_eq!(ip_options_compile(&header(&[IPOPT_NOOP, IPOPT_NOOP, IPOPT_NOOP, 77])), Err(23));
        assert!(ip_options_compile(&header(&[IPOPT_LSRR, 7, 4, 1, 2, 3, 4, 0])).unwrap().source_route);
    }

    #[test]
    fn later_fragments_keep_only_copied_options() {
        let mut h = header(&[IPOPT_RR, 7, 4, 0, 0, 0, 0, IPOPT_RA, 4, 0, 0, 0]);
        ip_options_fragment(&mut h);
        assert_eq!(&h[20..], &[1, 1, 1, 1, 1, 1, 1, IPOPT_RA, 4, 0, 0, 0]);
    }

    #[test]
    fn records_the_route_until_it_is_full() {
        let mut h = header(&[IPOPT_RR, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let opt = ip_options_compile(&h).unwrap();
        for i in 1..4u8 {
            ip_options_forward(&mut h, &opt, [10, 0, 0, i], 0);
        }
        assert_eq!(&h[22..31], &[12, 10, 0, 0, 1, 10, 0, 0, 2]);
    }

    proptest! {
        #[test]
        fn takes_anything(options in prop::collection::vec(any::<u8>(), 0..41)) {
            let mut h = header(&options);
            if let Ok(opt) = ip_options_compile(&h) {
                ip_options_forward(&mut h, &opt, [1, 2, 3, 4], 5);
            }
            ip_options_fragment(&mut h);
        }
    }
}
