//! The assertions between `%{` and `}%`: Python's `assert` with arithmetic on `tcp_info`.
//!
//! Interface: [`check`].
//! Linux counterpart: packetdrill's `code.c`, which runs Python.
//! Locks and context: pure functions.

use super::symbols::symbol;

/// Where each field of `struct tcp_info` is: name, offset, size.
const FIELDS: &[(&str, usize, usize)] = &[
    ("tcpi_state", 0, 1),
    ("tcpi_ca_state", 1, 1),
    ("tcpi_retransmits", 2, 1),
    ("tcpi_probes", 3, 1),
    ("tcpi_backoff", 4, 1),
    ("tcpi_options", 5, 1),
    ("tcpi_rto", 8, 4),
    ("tcpi_ato", 12, 4),
    ("tcpi_snd_mss", 16, 4),
    ("tcpi_rcv_mss", 20, 4),
    ("tcpi_unacked", 24, 4),
    ("tcpi_sacked", 28, 4),
    ("tcpi_lost", 32, 4),
    ("tcpi_retrans", 36, 4),
    ("tcpi_last_data_sent", 44, 4),
    ("tcpi_last_data_recv", 52, 4),
    ("tcpi_last_ack_recv", 56, 4),
    ("tcpi_pmtu", 60, 4),
    ("tcpi_rcv_ssthresh", 64, 4),
    ("tcpi_rtt", 68, 4),
    ("tcpi_rttvar", 72, 4),
    ("tcpi_snd_ssthresh", 76, 4),
    ("tcpi_snd_cwnd", 80, 4),
    ("tcpi_advmss", 84, 4),
    ("tcpi_reordering", 88, 4),
    ("tcpi_rcv_rtt", 92, 4),
    ("tcpi_rcv_space", 96, 4),
    ("tcpi_total_retrans", 100, 4),
    ("tcpi_pacing_rate", 104, 8),
    ("tcpi_bytes_acked", 120, 8),
    ("tcpi_bytes_received", 128, 8),
    ("tcpi_segs_out", 136, 4),
    ("tcpi_segs_in", 140, 4),
    ("tcpi_notsent_bytes", 144, 4),
    ("tcpi_min_rtt", 148, 4),
    ("tcpi_data_segs_in", 152, 4),
    ("tcpi_data_segs_out", 156, 4),
    ("tcpi_delivery_rate", 160, 8),
    ("tcpi_busy_time", 168, 8),
    ("tcpi_rwnd_limited", 176, 8),
    ("tcpi_sndbuf_limited", 184, 8),
    ("tcpi_delivered", 192, 4),
    ("tcpi_delivered_ce", 196, 4),
    ("tcpi_bytes_sent", 200, 8),
    ("tcpi_bytes_retrans", 208, 8),
    ("tcpi_dsack_dups", 216, 4),
    ("tcpi_reord_seen", 220, 4),
    ("tcpi_rcv_ooopack", 224, 4),
    ("tcpi_snd_wnd", 228, 4),
];

/// Evaluates each `assert`; the error is the one that does not hold, with the values of its names.
pub fn check(text: &str, info: &[u8]) -> Result<(), String> {
    let statements = text.split(['\n', ';']).map(str::trim).filter(|s| !s.is_empty() && !s.starts_with('#'));
    for st in statements {
        let e = st.strip_prefix("assert").ok_or_else(|| format!("only assert is understood: {st:?}"))?;
        let mut p = Eval { s: e.as_bytes(), at: 0, info, seen: Vec::new() };
        let v = p.or()?;
        // What follows a comma is only to be printed.
        if !p.take(",") && p.skip() != 0 {
            return Err(format!("{st:?} is not understood from {:?} on", &e[p.at..]));
        }
        if v == 0 {
            let seen: Vec<String> = p.seen.iter().map(|(n, v)| format!("{n} is {v}")).collect();
            return Err(format!("{st}: {}", seen.join(", ")));
        }
    }
    Ok(())
}

struct Eval<'a> {
    s: &'a [u8],
    at: usize,
    info: &'a [u8],
    seen: Vec<(String, i64)>,
}

impl Eval<'_> {
    /// The next byte that is not blank; 0 at the end.
    fn skip(&mut self) -> u8 {
        while self.s.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.s.get(self.at).copied().unwrap_or(0)
    }

    fn take(&mut self, w: &str) -> bool {
        self.skip();
        let there = self.s[self.at..].starts_with(w.as_bytes());
        self.at += if there { w.len() } else { 0 };
        there
    }

    fn or(&mut self) -> Result<i64, String> {
        let mut v = self.and()?;
        while self.take("or ") {
            let w = self.and()?;
            v = (v != 0 || w != 0) as i64;
        }
        Ok(v)
    }

    fn and(&mut self) -> Result<i64, String> {
        let mut v = self.comparison()?;
        while self.take("and ") {
            let w = self.comparison()?;
            v = (v != 0 && w != 0) as i64;
        }
        Ok(v)
    }

    /// Comparisons chain, as in Python: `1 <= x <= 3`.
    fn comparison(&mut self) -> Result<i64, String> {
        let mut left = self.bits()?;
        let (mut truth, mut any) = (true, false);
        loop {
            let ops: [(&str, fn(i64, i64) -> bool); 6] = [
                ("==", |a, b| a == b),
                ("!=", |a, b| a != b),
                ("<=", |a, b| a <= b),
                (">=", |a, b| a >= b),
                ("<", |a, b| a < b),
                (">", |a, b| a > b),
            ];
            let Some((_, f)) = ops.into_iter().find(|(w, _)| self.take(w)) else { break };
            let right = self.bits()?;
            truth &= f(left, right);
            (left, any) = (right, true);
        }
        Ok(if any { truth as i64 } else { left })
    }

    fn bits(&mut self) -> Result<i64, String> {
        let mut v = self.sum()?;
        loop {
            if self.take("&") {
                v &= self.sum()?;
            } else if self.take("|") {
                v |= self.sum()?;
            } else {
                return Ok(v);
            }
        }
    }

    fn sum(&mut self) -> Result<i64, String> {
        let mut v = self.product()?;
        loop {
            if self.take("+") {
                v += self.product()?;
            } else if self.take("-") {
                v -= self.product()?;
            } else {
                return Ok(v);
            }
        }
    }

    fn product(&mut self) -> Result<i64, String> {
        let mut v = self.atom()?;
        loop {
            if self.take("*") {
                v *= self.atom()?;
            } else if self.take("/") {
                v /= self.atom()?.max(1);
            } else {
                return Ok(v);
            }
        }
    }

    fn atom(&mut self) -> Result<i64, String> {
        if self.take("(") {
            let v = self.or()?;
            return if self.take(")") { Ok(v) } else { Err("no closing ')'".to_owned()) };
        }
        if self.take("not ") {
            return Ok((self.comparison()? == 0) as i64);
        }
        self.skip();
        let start = self.at;
        while self.s.get(self.at).is_some_and(|c| c.is_ascii_alphanumeric() || *c == b'_') {
            self.at += 1;
        }
        let w = String::from_utf8_lossy(&self.s[start..self.at]).into_owned();
        if let Ok(v) = w.parse() {
            return Ok(v);
        }
        let v = self.field(&w).or_else(|| symbol(&w)).ok_or_else(|| format!("what is {w:?}?"))?;
        self.seen.push((w, v));
        Ok(v)
    }

    fn field(&self, name: &str) -> Option<i64> {
        match name {
            "tcpi_snd_wscale" => return Some(i64::from(self.info.get(6)? & 15)),
            "tcpi_rcv_wscale" => return Some(i64::from(self.info.get(6)? >> 4)),
            _ => {}
        }
        let &(_, at, size) = FIELDS.iter().find(|f| f.0 == name)?;
        let mut b = [0; 8];
        b[..size].copy_from_slice(self.info.get(at..at + size)?);
        Some(i64::from_le_bytes(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assertions_hold_or_say_why_not() {
        let mut info = vec![0; 232];
        info[80] = 10;
        info[5] = 7;
        assert_eq!(
            check("assert tcpi_snd_cwnd == 10, tcpi_snd_cwnd\nassert 5 < tcpi_snd_cwnd <= 5 * 2", &info),
            Ok(())
        );
        assert_eq!(check("assert (tcpi_options & TCPI_OPT_SACK) != 0 and tcpi_lost == 0", &info), Ok(()));
        let e = check("assert tcpi_snd_cwnd > 10", &info).unwrap_err();
        assert!(e.contains("tcpi_snd_cwnd is 10"), "{e}");
        assert!(check("print(1)", &info).is_err());
        assert!(check("assert no_such == 1", &info).is_err());
    }
}
