//! TCP options: reading and writing.
//!
//! Interface: [`tcp_parse_options`], [`sack_block`], [`accecn_option`], [`TcpOutOptions`].
//! Linux counterpart: `tcp_parse_options` in `net/ipv4/tcp_input.c`, `tcp_options_write` in `tcp_output.c`.
//! Locks and context: plain data.

use super::tcp_accecn::{AccEcnOut, TCPOPT_ACCECN0, TCPOPT_ACCECN1};
use super::tcp_ao::{AuthOut, TCPOPT_AO};
use super::tcp_fastopen_cookie::{FastopenCookie, fastopen_option_size, write_fastopen_option};
use super::tcp_md5::{TCPOLEN_MD5SIG, TCPOPT_MD5SIG};
use super::tcp_sock::*;

fn be16(b: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*b.first()?, *b.get(1)?]))
}

fn be32(b: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*b.first_chunk::<4>()?))
}

/// Reads the option area of a header. With `estab` only what a synchronised connection may carry (timestamps if
/// `out.tstamp_ok`, SACK if `out.sack_ok`); else MSS, window scale and SACK-permitted of a SYN. Bad options end the list.
pub fn tcp_parse_options(hdr_opts: &[u8], out: &mut TcpOptionsReceived, estab: bool) {
    out.saw_tstamp = false;
    out.sack_blocks = 0;
    out.accecn = 0;
    if estab && parse_aligned_timestamp(hdr_opts, out) {
        return;
    }
    let mut at = 0;
    while let Some(&kind) = hdr_opts.get(at) {
        match kind {
            TCPOPT_EOL => return,
            TCPOPT_NOP => {
                at += 1;
                continue;
            }
            _ => {}
        }
        let Some(&len) = hdr_opts.get(at + 1) else { return };
        let len = len as usize;
        let Some(body) = hdr_opts.get(at + 2..at + len).filter(|_| len >= 2) else { return };
        parse_one(kind, body, at, out, estab);
        at += len;
    }
}

/// The usual header of an established connection: two NOPs and a timestamp, nothing else (`tcp_parse_aligned_timestamp`).
fn parse_aligned_timestamp(o: &[u8], out: &mut TcpOptionsReceived) -> bool {
    let &[TCPOPT_NOP, TCPOPT_NOP, TCPOPT_TIMESTAMP, 10, ..] = o else { return false };
    if !out.tstamp_ok || o.len() != TCPOLEN_TSTAMP_ALIGNED {
        return false;
    }
    let (Some(val), Some(ecr)) = (be32(&o[4..]), be32(&o[8..])) else { return false };
    (out.saw_tstamp, out.rcv_tsval, out.rcv_tsecr) = (true, val, ecr);
    true
}

fn parse_one(kind: u8, body: &[u8], at: usize, out: &mut TcpOptionsReceived, estab: bool) {
    match (kind, body.len()) {
        (TCPOPT_MSS, 2) if !estab => {
            let mss = be16(body).unwrap_or(0);
            if mss != 0 {
                let user = out.user_mss;
                out.mss_clamp = if user != 0 && user < mss { user } else { mss };
            }
        }
        (TCPOPT_WINDOW, 1) if !estab => {
            out.wscale_ok = true;
            // RFC 7323, 2.3: a larger shift is read as 14.
            out.snd_wscale = body[0].min(TCP_MAX_WSCALE);
        }
        (TCPOPT_SACK_PERM, 0) if !estab => out.sack_ok = true,
        (TCPOPT_TIMESTAMP, 8) if !estab || out.tstamp_ok => {
            let (Some(val), Some(ecr)) = (be32(body), be32(&body[4..])) else { return };
            (out.saw_tstamp, out.rcv_tsval, out.rcv_tsecr) = (true, val, ecr);
            if !estab {
                out.tstamp_ok = true;
            }
        }
        (TCPOPT_SACK, n) if estab && out.sack_ok && n >= 8 && n % 8 == 0 => {
            out.sack_off = (at + 2) as u8;
            out.sack_blocks = (n / 8).min(TCP_NUM_SACKS) as u8;
        }
        (TCPOPT_ACCECN0 | TCPOPT_ACCECN1, _) => out.accecn = at as u8 + 1,
        _ => {}
    }
}

/// The `i`th SACK block of the option area just parsed.
pub fn sack_block(hdr_opts: &[u8], o: &TcpOptionsReceived, i: usize) -> Option<TcpSackBlock> {
    if i >= o.sack_blocks as usize {
        return None;
    }
    let b = hdr_opts.get(o.sack_off as usize + i * 8..)?;
    Some(TcpSackBlock { start_seq: be32(b)?, end_seq: be32(b.get(4..)?)? })
}

/// The AccECN option of the option area just parsed, kind and length included.
pub fn accecn_option<'a>(hdr_opts: &'a [u8], o: &TcpOptionsReceived) -> Option<&'a [u8]> {
    let at = (o.accecn as usize).checked_sub(1)?;
    let len = *hdr_opts.get(at + 1)? as usize;
    hdr_opts.get(at..at + len)
}

/// What goes into a header (`struct tcp_out_options`).
#[derive(Clone, Copy, Default, Debug)]
pub struct TcpOutOptions {
    /// 0: none.
    pub mss: u16,
    pub sack_perm: bool,
    pub wscale: Option<u8>,
    /// Value and echo.
    pub tstamp: Option<(u32, u32)>,
    pub sacks: [TcpSackBlock; TCP_NUM_SACKS],
    pub num_sacks: u8,
    pub accecn: Option<AccEcnOut>,
    pub auth: Option<AuthOut>,
    pub fastopen: Option<FastopenCookie>,
}

impl TcpOutOptions {
    /// Bytes it takes, a multiple of 4.
    pub fn size(&self) -> usize {
        let mut n = 0;
        if self.mss != 0 {
            n += TCPOLEN_MSS_ALIGNED;
        }
        if self.tstamp.is_some() {
            n += TCPOLEN_TSTAMP_ALIGNED;
        } else if self.sack_perm {
            n += TCPOLEN_SACKPERM_ALIGNED;
        }
        if self.wscale.is_some() {
            n += TCPOLEN_WSCALE_ALIGNED;
        }
        if self.num_sacks > 0 {
            n += TCPOLEN_SACK_BASE_ALIGNED + self.num_sacks as usize * TCPOLEN_SACK_PERBLOCK;
        }
        if let Some(a) = &self.accecn {
            n += a.size as usize;
        }
        if let Some(a) = &self.auth {
            n += a.len_aligned();
        }
        if let Some(c) = &self.fastopen {
            n += fastopen_option_size(c);
        }
        n
    }

    /// Bytes of padding before the next option that the end of an AccECN option may take the place of.
    pub fn accecn_saving(&self) -> usize {
        match self {
            _ if self.num_sacks > 0 => 2,
            _ if self.sack_perm && self.tstamp.is_none() => 2,
            _ if self.wscale.is_some() => 1,
            _ => 0,
        }
    }

    /// Writes them in Linux's order to `to`, which is [`size`](Self::size) bytes long (`tcp_options_write`).
    pub fn write(&self, to: &mut [u8]) {
        if to.is_empty() {
            return;
        }
        // Nothing else fits beside a timestamp: the usual header.
        if let Some((val, ecr)) = self.tstamp
            && !self.sack_perm
            && let Ok(to) = <&mut [u8; TCPOLEN_TSTAMP_ALIGNED]>::try_from(&mut *to)
        {
            to[..4].copy_from_slice(&[TCPOPT_NOP, TCPOPT_NOP, TCPOPT_TIMESTAMP, 10]);
            to[4..8].copy_from_slice(&val.to_be_bytes());
            to[8..].copy_from_slice(&ecr.to_be_bytes());
            return;
        }
        self.write_all(to);
    }

    fn write_all(&self, to: &mut [u8]) {
        let mut out = Writer { to, at: 0 };
        // First, so that its place is known to who signs.
        match self.auth {
            Some(AuthOut::Md5) => {
                out.put(&[TCPOPT_NOP, TCPOPT_NOP, TCPOPT_MD5SIG, TCPOLEN_MD5SIG as u8]);
                out.put(&[0; 16]);
            }
            Some(a @ AuthOut::Ao { keyid, rnext, maclen }) => {
                out.put(&[TCPOPT_AO, 4 + maclen, keyid, rnext]);
                out.put(&[0; MAX_TCP_OPTION_SPACE][..(maclen as usize).min(MAX_TCP_OPTION_SPACE)]);
                out.put(&[TCPOPT_NOP; 3][..(a.len_aligned() - 4 - maclen as usize).min(3)]);
            }
            None => {}
        }
        if self.mss != 0 {
            out.put(&[TCPOPT_MSS, 4]);
            out.put(&self.mss.to_be_bytes());
        }
        if let Some((val, ecr)) = self.tstamp {
            out.put(if self.sack_perm { &[TCPOPT_SACK_PERM, 2] } else { &[TCPOPT_NOP, TCPOPT_NOP] });
            out.put(&[TCPOPT_TIMESTAMP, 10]);
            out.put(&val.to_be_bytes());
            out.put(&ecr.to_be_bytes());
        }
        // Padding, or the end of an AccECN option that has no room of its own.
        let mut pad = [TCPOPT_NOP; 2];
        if let Some(a) = &self.accecn {
            let (b, len) = a.encode();
            out.put(&b[..a.size as usize]);
            if let Some(rest) = b.get(a.size as usize..len) {
                pad[..rest.len()].copy_from_slice(rest);
            }
        }
        if self.tstamp.is_none() && self.sack_perm {
            out.put(&std::mem::replace(&mut pad, [TCPOPT_NOP; 2]));
            out.put(&[TCPOPT_SACK_PERM, 2]);
        }
        if let Some(shift) = self.wscale {
            out.put(&[std::mem::replace(&mut pad[0], TCPOPT_NOP), TCPOPT_WINDOW, 3, shift]);
        }
        if self.num_sacks > 0 {
            out.put(&pad);
            out.put(&[TCPOPT_SACK, 2 + self.num_sacks * 8]);
            for b in &self.sacks[..(self.num_sacks as usize).min(TCP_NUM_SACKS)] {
                out.put(&b.start_seq.to_be_bytes());
                out.put(&b.end_seq.to_be_bytes());
            }
        }
        if let Some(c) = &self.fastopen {
            write_fastopen_option(c, |b| out.put(b));
        }
    }
}

/// Fills an option area from its start.
struct Writer<'a> {
    to: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, b: &[u8]) {
        if let Some(d) = self.to.get_mut(self.at..self.at + b.len()) {
            d.copy_from_slice(b);
        }
        self.at += b.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let out = TcpOutOptions {
            mss: 1460,
            sack_perm: true,
            wscale: Some(7),
            tstamp: Some((0x0102_0304, 5)),
            ..TcpOutOptions::default()
        };
        let mut b = vec![0; out.size()];
        out.write(&mut b);
        assert_eq!(b.len(), 20);
        let mut r = TcpOptionsReceived::default();
        tcp_parse_options(&b, &mut r, false);
        assert_eq!((r.mss_clamp, r.snd_wscale, r.rcv_tsval, r.rcv_tsecr), (1460, 7, 0x0102_0304, 5));
        assert!(r.sack_ok && r.wscale_ok && r.tstamp_ok && r.saw_tstamp);
    }

    #[test]
    fn sack_blocks_of_an_established_connection() {
        let mut out = TcpOutOptions { tstamp: Some((1, 2)), num_sacks: 2, ..TcpOutOptions::default() };
        out.sacks[0] = TcpSackBlock { start_seq: 10, end_seq: 20 };
        out.sacks[1] = TcpSackBlock { start_seq: 30, end_seq: 40 };
        let mut b = vec![0; out.size()];
        out.write(&mut b);
        let mut r = TcpOptionsReceived { tstamp_ok: true, sack_ok: true, ..TcpOptionsReceived::default() };
        tcp_parse_options(&b, &mut r, true);
        assert_eq!(sack_block(&b, &r, 1), Some(out.sacks[1]));
        assert_eq!(sack_block(&b, &r, 2), None);
    }

    #[test]
    fn an_accecn_option_ends_in_the_padding_of_the_next() {
        for (fields, size) in [(3, 12), (2, 8), (1, 4), (0, 0)] {
            let accecn = Some(AccEcnOut { fields, size, bytes: [0, 7, 9] });
            let mut out = TcpOutOptions { tstamp: Some((1, 2)), num_sacks: 1, accecn, ..TcpOutOptions::default() };
            out.sacks[0] = TcpSackBlock { start_seq: 10, end_seq: 20 };
            assert_eq!(out.accecn_saving(), 2);
            let mut b = vec![0; out.size()];
            out.write(&mut b);
            let mut r = TcpOptionsReceived { tstamp_ok: true, sack_ok: true, ..TcpOptionsReceived::default() };
            tcp_parse_options(&b, &mut r, true);
            assert_eq!(sack_block(&b, &r, 0), Some(out.sacks[0]), "{b:?}");
            let whole = [174, 2 + 3 * fields, 0, 0, 1, 0, 0, 9, 0, 0, 8];
            assert_eq!(accecn_option(&b, &r), Some(&whole[..2 + 3 * fields as usize]), "{b:?}");
        }
    }

    #[test]
    fn broken_options_end_the_list() {
        for bad in [&[2u8, 0][..], &[2], &[8, 40, 0], &[5, 1], &[255, 255], &[2, 4, 5]] {
            let mut r = TcpOptionsReceived::default();
            tcp_parse_options(bad, &mut r, false);
            assert_eq!(r.mss_clamp, 0);
        }
    }
}
