//! Fast Open's cookies (RFC 7413): the option, the keys, and a namespace's share of it all.
//!
//! Interface: [`FastopenCookie`], [`tcp_fastopen_option`], [`write_fastopen_option`], [`FastopenKeys`], [`FastopenNet`].
//! Linux counterpart: `struct tcp_fastopen_context`, `proc_tcp_fastopen_key` in `net/ipv4/sysctl_net_ipv4.c`.
//! Locks and context: plain data.

use std::sync::atomic::{AtomicU32, AtomicU64};
use uapi::{Errno, Result};

pub const TCP_FASTOPEN_KEY_LENGTH: usize = 16;
const TCPOPT_FASTOPEN: u8 = 34;
const TCPOPT_EXP: u8 = 254;
/// The magic number of the experimental option.
const TCPOPT_FASTOPEN_MAGIC: [u8; 2] = [0xF9, 0x89];

/// A cookie of the Fast Open option (RFC 7413, 4.1.1). `len` 0 asks for one; negative: no option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FastopenCookie {
    pub len: i8,
    /// By the experimental option (kind 254, magic 0xF989).
    pub exp: bool,
    pub val: [u8; TCP_FASTOPEN_COOKIE_MAX],
}

pub const TCP_FASTOPEN_COOKIE_MIN: usize = 4;
pub const TCP_FASTOPEN_COOKIE_MAX: usize = 16;

impl FastopenCookie {
    pub const NONE: FastopenCookie = FastopenCookie { len: -1, exp: false, val: [0; TCP_FASTOPEN_COOKIE_MAX] };
    pub const REQUEST: FastopenCookie = FastopenCookie { len: 0, ..FastopenCookie::NONE };

    /// The cookie's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.val[..(self.len.max(0) as usize).min(TCP_FASTOPEN_COOKIE_MAX)]
    }
}

impl Default for FastopenCookie {
    fn default() -> Self {
        FastopenCookie::REQUEST
    }
}

// --- The option ---

/// The Fast Open option of a SYN's option area; `len` is -1 if there is none, or none that can be used.
pub fn tcp_fastopen_option(opts: &[u8]) -> FastopenCookie {
    let mut found = FastopenCookie::NONE;
    let mut at = 0;
    while let Some(&kind) = opts.get(at) {
        match kind {
            0 => break,
            1 => {
                at += 1;
                continue;
            }
            _ => {}
        }
        let len = opts.get(at + 1).copied().unwrap_or(0) as usize;
        let Some(body) = opts.get(at + 2..at + len).filter(|_| len >= 2) else { break };
        match kind {
            TCPOPT_FASTOPEN => read_cookie(body, false, &mut found),
            TCPOPT_EXP if body.starts_with(&TCPOPT_FASTOPEN_MAGIC) => read_cookie(&body[2..], true, &mut found),
            _ => {}
        }
        at += len;
    }
    found
}

/// RFC 7413, 4.1.1: an even number of bytes from 4 to 16, or none at all.
fn read_cookie(b: &[u8], exp: bool, to: &mut FastopenCookie) {
    if !b.len().is_multiple_of(2) {
        return;
    }
    to.exp = exp;
    match b.len() {
        0 => to.len = 0,
        TCP_FASTOPEN_COOKIE_MIN..=TCP_FASTOPEN_COOKIE_MAX => {
            to.len = b.len() as i8;
            to.val[..b.len()].copy_from_slice(b);
        }
        _ => to.len = -1,
    }
}

/// Bytes that the option takes in a header, padding included.
pub fn fastopen_option_size(c: &FastopenCookie) -> usize {
    let base = if c.exp { 4 } else { 2 };
    (base + c.bytes().len()).next_multiple_of(4)
}

/// Writes it.
pub fn write_fastopen_option(c: &FastopenCookie, mut put: impl FnMut(&[u8])) {
    let n = c.bytes().len() as u8;
    if c.exp {
        put(&[TCPOPT_EXP, 4 + n]);
        put(&TCPOPT_FASTOPEN_MAGIC);
    } else {
        put(&[TCPOPT_FASTOPEN, 2 + n]);
    }
    put(c.bytes());
    let base = if c.exp { 4 } else { 2 };
    (base + c.bytes().len()..fastopen_option_size(c)).for_each(|_| put(&[1]));
}

// --- Keys ---

/// The key that cookies are made with, and an older one that is still believed (`struct tcp_fastopen_context`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FastopenKeys {
    pub primary: [u8; TCP_FASTOPEN_KEY_LENGTH],
    pub backup: Option<[u8; TCP_FASTOPEN_KEY_LENGTH]>,
}

impl FastopenKeys {
    /// One key or two, as `TCP_FASTOPEN_KEY` gives them; `EINVAL` for another length.
    pub fn from_bytes(b: &[u8]) -> Result<FastopenKeys> {
        let (primary, rest) = b.split_first_chunk().ok_or(Errno::EINVAL)?;
        let backup = match rest.len() {
            0 => None,
            TCP_FASTOPEN_KEY_LENGTH => rest.first_chunk().copied(),
            _ => return Err(Errno::EINVAL),
        };
        Ok(FastopenKeys { primary: *primary, backup })
    }

    pub fn to_bytes(self) -> Vec<u8> {
        self.primary.into_iter().chain(self.backup.into_iter().flatten()).collect()
    }

    /// As the sysctl has it: 32-bit words, each in the byte order of this protocol's keys (little-endian); with a comma
    /// between two. `EINVAL`.
    pub fn parse(s: &str) -> Result<FastopenKeys> {
        let mut bytes = Vec::new();
        for key in s.trim().split(',') {
            let mut words = 0;
            for w in key.split('-') {
                let ok = w.len() <= 8 && !w.starts_with('+');
                let w = u32::from_str_radix(w, 16).ok().filter(|_| ok).ok_or(Errno::EINVAL)?;
                bytes.extend_from_slice(&w.to_le_bytes());
                words += 1;
            }
            if words != 4 {
                return Err(Errno::EINVAL);
            }
        }
        FastopenKeys::from_bytes(&bytes)
    }

    pub fn format(&self) -> String {
        let word = |w: &[u8]| format!("{:08x}", u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
        let key = |k: &[u8]| k.chunks_exact(4).map(word).collect::<Vec<_>>().join("-");
        let keys = [Some(self.primary), self.backup];
        keys.iter().flatten().map(|k| key(k)).collect::<Vec<_>>().join(",")
    }
}

/// A namespace's share of Fast Open: how long clients hold back.
#[derive(Default)]
pub struct FastopenNet {
    /// How often in a row Fast Open was found to fail, and when it last was, jiffies.
    pub disable_times: AtomicU32,
    pub disable_stamp: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for s in ["00000001-02030405-ffffffff-0a0b0c0d", "a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4,1-2-3-4"] {
            let k = FastopenKeys::parse(s).unwrap();
            assert_eq!(FastopenKeys::parse(&k.format()), Ok(k));
            assert_eq!(FastopenKeys::from_bytes(&k.to_bytes()), Ok(k));
        }
        for bad in ["", "1-2-3", "1-2-3-4-5", "1-2-3-g", "1-2-3-4,", "1-2-3-123456789", "1-2-3-4,1-2-3-4,1-2-3-4"] {
            assert_eq!(FastopenKeys::parse(bad), Err(Errno::EINVAL), "{bad}");
        }
    }

    #[test]
    fn the_option_is_read_and_written() {
        for (exp, n) in [(false, 0), (false, 4), (false, 8), (false, 16), (true, 0), (true, 6), (true, 16)] {
            let mut c = FastopenCookie { len: n, exp, ..FastopenCookie::NONE };
            (0..n as usize).for_each(|i| c.val[i] = i as u8 + 1);
            let mut b = Vec::new();
            write_fastopen_option(&c, |x| b.extend_from_slice(x));
            assert_eq!(b.len(), fastopen_option_size(&c));
            assert_eq!(tcp_fastopen_option(&b), c);
        }
        for bad in [&[34u8, 3, 1][..], &[34, 4, 1, 2], &[34, 20], &[254, 4, 1, 2], &[34, 0], &[0, 34, 2]] {
            assert!(tcp_fastopen_option(bad).len < 0, "{bad:?}");
        }
        assert_eq!(tcp_fastopen_option(&[&[34, 20][..], &[7; 18]].concat()).len, -1, "too long");
    }
}
