//! Reads a script.
//!
//! Interface: [`parse`].
//! Linux counterpart: packetdrill's `lexer.l` and `parser.y`; the subset is described in tests/packetdrill/README.md.
//! Locks and context: pure functions.

use super::script::*;
use super::symbols::symbol;

/// Line and what is wrong there.
pub type Error = (usize, String);
type Result<T> = std::result::Result<T, Error>;

struct Parser<'a> {
    s: &'a [u8],
    at: usize,
    line: usize,
}

/// The flags in the order of their bits; AE is the ninth.
const FLAGS: &[(u8, u16)] = &[
    (b'F', 1),
    (b'S', 2),
    (b'R', 4),
    (b'P', 8),
    (b'.', 0x10),
    (b'U', 0x20),
    (b'E', 0x40),
    (b'W', 0x80),
    (b'A', 0x100),
];

/// The kind of RFC 2385's option.
const MD5: u8 = 19;

pub fn parse(text: &str) -> Result<Script> {
    let mut p = Parser { s: text.as_bytes(), at: 0, line: 1 };
    let mut script = Script::default();
    loop {
        p.blank();
        if p.at >= p.s.len() {
            return Ok(script);
        }
        if script.events.is_empty() && p.starts("--") {
            let line = p.until(b'\n')?;
            let (name, value) = line.split_once('=').unwrap_or((&line, ""));
            script.options.push((name.trim().to_owned(), value.trim().to_owned()));
        } else if script.events.is_empty() && p.peek() == b'`' {
            let line = p.line;
            p.at += 1;
            script.init.push((line, p.until(b'`')?));
        } else {
            let e = p.event()?;
            script.events.push(e);
        }
    }
}

impl Parser<'_> {
    fn peek(&self) -> u8 {
        self.s.get(self.at).copied().unwrap_or(0)
    }

    fn starts(&self, w: &str) -> bool {
        self.s[self.at..].starts_with(w.as_bytes())
    }

    fn fail<T>(&self, what: impl Into<String>) -> Result<T> {
        Err((self.line, what.into()))
    }

    /// Skips white space and comments.
    fn blank(&mut self) {
        loop {
            match self.peek() {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'#' => self.rest_of_line(),
                b'/' if self.starts("//") => self.rest_of_line(),
                b'/' if self.starts("/*") => {
                    while self.at < self.s.len() && !self.starts("*/") {
                        self.line += (self.peek() == b'\n') as usize;
                        self.at += 1;
                    }
                    self.at = (self.at + 2).min(self.s.len());
                }
                _ => return,
            }
        }
    }

    fn rest_of_line(&mut self) {
        while self.at < self.s.len() && self.peek() != b'\n' {
            self.at += 1;
        }
    }

    /// Text up to `end`, which is skipped.
    fn until(&mut self, end: u8) -> Result<String> {
        let start = self.at;
        while self.at < self.s.len() && self.peek() != end {
            self.line += (self.peek() == b'\n') as usize;
            self.at += 1;
        }
        if self.at >= self.s.len() && end != b'\n' {
            return self.fail(format!("no closing {:?}", end as char));
        }
        let text = String::from_utf8_lossy(&self.s[start..self.at]).into_owned();
        self.line += (end == b'\n') as usize;
        self.at = (self.at + 1).min(self.s.len());
        Ok(text)
    }

    /// Takes `w` if it is next, after blanks.
    fn take(&mut self, w: &str) -> bool {
        self.blank();
        let there = self.starts(w);
        if there {
            self.at += w.len();
        }
        there
    }

    fn expect(&mut self, w: &str) -> Result<()> {
        if self.take(w) { Ok(()) } else { self.fail(format!("{w:?} expected before {:?}", self.next_few())) }
    }

    fn next_few(&self) -> String {
        String::from_utf8_lossy(&self.s[self.at..(self.at + 20).min(self.s.len())]).into_owned()
    }

    /// A run of letters, digits and underscores.
    fn word(&mut self) -> String {
        self.blank();
        let start = self.at;
        while self.peek().is_ascii_alphanumeric() || self.peek() == b'_' {
            self.at += 1;
        }
        String::from_utf8_lossy(&self.s[start..self.at]).into_owned()
    }

    fn number(&mut self) -> Result<i64> {
        self.blank();
        let negative = self.take("-");
        let w = self.word();
        let v = match w.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16),
            None => w.parse(),
        };
        match v {
            Ok(v) => Ok(if negative { -v } else { v }),
            Err(_) => self.fail(format!("a number expected, not {w:?} {:?}", self.next_few())),
        }
    }

    /// Seconds with a fraction, as microseconds.
    fn seconds(&mut self) -> Result<i64> {
        self.blank();
        let start = self.at;
        // "0...1" is a zero, then three dots.
        while self.peek().is_ascii_digit() || (self.peek() == b'.' && !self.starts("...")) {
            self.at += 1;
        }
        let text = String::from_utf8_lossy(&self.s[start..self.at]).into_owned();
        match format!("0{text}").parse::<f64>() {
            Ok(v) if !text.is_empty() => Ok((v * 1e6).round() as i64),
            _ => self.fail(format!("a time expected before {:?}", self.next_few())),
        }
    }

    fn event(&mut self) -> Result<Event> {
        let line = self.line;
        let (when, ends, ends_relative) = self.when()?;
        self.blank();
        let what = match self.peek() {
            b'<' | b'>' => self.packet()?,
            b'`' => {
                self.at += 1;
                What::Command(self.until(b'`')?)
            }
            b'%' => {
                self.expect("%{")?;
                let start = self.at;
                while self.at < self.s.len() && !self.starts("}%") {
                    self.line += (self.peek() == b'\n') as usize;
                    self.at += 1;
                }
                let text = String::from_utf8_lossy(&self.s[start..self.at]).into_owned();
                self.expect("}%")?;
                What::Code(text)
            }
            _ => {
                let mut c = self.call()?;
                (c.ends, c.ends_relative) = (ends, ends_relative);
                What::Call(c)
            }
        };
        Ok(Event { line, when, what })
    }

    fn when(&mut self) -> Result<(When, Option<i64>, bool)> {
        if self.take("*") {
            return Ok((When::Any, None, false));
        }
        let relative = self.take("+");
        let from = self.seconds()?;
        let mut ends = None;
        let mut to = None;
        if self.take("...") {
            ends = Some(self.seconds()?);
        } else if self.take("~") {
            self.take("+");
            to = Some(self.seconds()?);
        }
        let when = match (relative, to) {
            (true, None) => When::After(from),
            (true, Some(to)) => When::AfterBetween(from, to),
            (false, None) => When::At(from),
            (false, Some(to)) => When::Between(from, to),
        };
        Ok((when, ends, relative))
    }

    // --- Calls ---

    fn call(&mut self) -> Result<Call> {
        let name = self.word();
        if name.is_empty() {
            return self.fail(format!("a packet, a call or a command expected before {:?}", self.next_few()));
        }
        self.expect("(")?;
        let args = self.list(")")?;
        self.expect("=")?;
        let result = match self.expr()? {
            Expr::Int(v) => v,
            other => return self.fail(format!("a call answers a number, not {other:?}")),
        };
        let mut errno = None;
        self.blank();
        if self.peek() == b'E' {
            let w = self.word();
            errno = Some(symbol(&w).ok_or((self.line, format!("what is {w}?")))?);
        }
        if self.take("(") {
            self.until(b')')?;
        }
        Ok(Call { name, args, result, errno, ends: None, ends_relative: false })
    }

    fn list(&mut self, end: &str) -> Result<Vec<Expr>> {
        let mut v = Vec::new();
        while !self.take(end) {
            if !v.is_empty() {
                self.expect(",")?;
            }
            v.push(self.expr()?);
        }
        Ok(v)
    }

    fn expr(&mut self) -> Result<Expr> {
        let first = self.term()?;
        let Expr::Int(mut v) = first else { return Ok(first) };
        while self.take("|") {
            match self.term()? {
                Expr::Int(w) => v |= w,
                other => return self.fail(format!("{other:?} is no number")),
            }
        }
        Ok(Expr::Int(v))
    }

    fn term(&mut self) -> Result<Expr> {
        self.blank();
        match self.peek() {
            b'.' => self.expect("...").map(|()| Expr::Any),
            b'"' => {
                self.at += 1;
                self.until(b'"').map(Expr::Str)
            }
            b'[' => {
                self.at += 1;
                self.list("]").map(Expr::List)
            }
            b'{' => {
                self.at += 1;
                self.fields()
            }
            b'-' | b'0'..=b'9' => self.number().map(Expr::Int),
            _ => {
                let w = self.word();
                symbol(&w).map(Expr::Int).ok_or((self.line, format!("what is {w:?} {:?}?", self.next_few())))
            }
        }
    }

    fn fields(&mut self) -> Result<Expr> {
        let mut v = Vec::new();
        while !self.take("}") {
            if !v.is_empty() {
                self.expect(",")?;
            }
            let name = self.word();
            self.expect("=")?;
            v.push((name, self.expr()?));
        }
        Ok(Expr::Struct(v))
    }

    // --- Packets ---

    fn packet(&mut self) -> Result<What> {
        let incoming = self.take("<");
        if !incoming {
            self.expect(">")?;
        }
        let mut ecn = None;
        if self.take("[") {
            let w = self.word();
            ecn = Some(match w.as_str() {
                "noecn" => 0,
                "ect1" => 1,
                "ect0" => 2,
                "ce" => 3,
                _ => return self.fail(format!("[{w}]: noecn, ect0, ect1 or ce")),
            });
            self.expect("]")?;
        }
        self.blank();
        if self.starts("icmp") {
            return self.icmp(incoming);
        }
        let spec = self.segment(ecn)?;
        Ok(if incoming { What::In(spec) } else { What::Out(spec) })
    }

    /// The segment that it is about comes last.
    fn icmp(&mut self, incoming: bool) -> Result<What> {
        self.word();
        let kind = self.word();
        let (mut code, mut mtu, mut seq) = (String::new(), 0, 0);
        self.blank();
        if !self.starts("mtu") {
            code = self.word();
        }
        if self.take("mtu") {
            mtu = self.number()? as u32;
        }
        if self.take("[") {
            (seq, _) = self.range()?;
            self.expect("]")?;
        }
        if !incoming {
            return self.fail("ICMP can only come in");
        }
        Ok(What::InIcmp(Icmp { kind, code, mtu, seq }))
    }

    /// `1:1001(1000)`: first and length.
    fn range(&mut self) -> Result<(u32, u32)> {
        let from = self.number()? as u32;
        self.expect(":")?;
        let to = self.number()? as u32;
        self.expect("(")?;
        let len = self.number()? as u32;
        self.expect(")")?;
        if to.wrapping_sub(from) != len {
            return self.fail(format!("{from}:{to} are not {len} bytes"));
        }
        Ok((from, len))
    }

    fn segment(&mut self, ecn: Option<u8>) -> Result<PacketSpec> {
        let mut flags = 0;
        self.blank();
        loop {
            let c = self.peek();
            // The ACE counter of RFC 9768: AE, CWR, ECE.
            if c.is_ascii_digit() && flags != 0 {
                let ace = u16::from(c - b'0');
                flags |= (ace & 4) << 6 | (ace & 2) << 6 | (ace & 1) << 6;
            } else if let Some((_, bit)) = FLAGS.iter().find(|f| f.0 == c) {
                flags |= bit;
            } else if c != b'-' {
                break;
            }
            self.at += 1;
        }
        let (seq, len) = self.range()?;
        let mut p = PacketSpec { ecn, flags, seq, len, ack: None, win: None, urg: None, opts: Some(Vec::new()) };
        loop {
            self.blank();
            if self.starts("ack") {
                self.word();
                p.ack = Some(self.number()? as u32);
            } else if self.starts("win") {
                self.word();
                p.win = Some(self.number()? as u16);
            } else if self.starts("urg") {
                self.word();
                p.urg = Some(self.number()? as u16);
            } else if self.take("<...>") {
                p.opts = None;
            } else if self.peek() == b'<' {
                self.at += 1;
                p.opts = Some(self.options()?);
                return Ok(p);
            } else {
                return Ok(p);
            }
        }
    }

    fn options(&mut self) -> Result<Vec<Opt>> {
        let mut v = Vec::new();
        while !self.take(">") {
            if !v.is_empty() {
                self.expect(",")?;
            }
            v.push(self.option()?);
        }
        Ok(v)
    }

    fn option(&mut self) -> Result<Opt> {
        let w = self.word();
        Ok(match w.as_str() {
            "nop" => Opt::Nop,
            "eol" => Opt::Eol,
            "mss" => Opt::Mss(self.number()? as u16),
            "wscale" => Opt::Wscale(self.number()? as u8),
            "sackOK" => Opt::SackOk,
            "sack" => {
                let mut blocks = Vec::new();
                loop {
                    self.blank();
                    if !self.peek().is_ascii_digit() {
                        break Opt::Sack(blocks);
                    }
                    let from = self.number()? as u32;
                    self.expect(":")?;
                    blocks.push((from, self.number()? as u32));
                }
            }
            "TS" => {
                self.expect("val")?;
                let val = self.number()? as u32;
                self.expect("ecr")?;
                Opt::Ts(val, self.number()? as u32)
            }
            "md5" => Opt::Other(MD5, self.hex()?),
            "FO" => Opt::Fo(self.hex()?, false),
            "FOEXP" => Opt::Fo(self.hex()?, true),
            "kind" => {
                let kind = self.number()? as u8;
                Opt::Other(kind, self.hex()?)
            }
            _ => return self.fail(format!("a TCP option expected, not {w:?}")),
        })
    }

    fn hex(&mut self) -> Result<Vec<u8>> {
        let w = self.word();
        let byte = |i| u8::from_str_radix(w.get(i..i + 2).unwrap_or("x"), 16);
        match (0..w.len()).step_by(2).map(byte).collect() {
            Ok(v) => Ok(v),
            Err(_) => self.fail(format!("{w:?}: pairs of hexadecimal digits expected")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read() {
        let text = "--tolerance_usecs=5000\n// a comment\n`sysctl -q net.ipv4.tcp_sack=0`\n\
            0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n\
            +.1 < [ce] SEWA 0:0(0) win 100 <mss 1000,sackOK,TS val 1 ecr 0,nop,wscale 7>\n\
            +0...0.3 read(3, ..., 10) = -1 EAGAIN (Try again)\n\
            0.5~0.7 > P. 1:11(10) ack 1 <sack 5:6 8:9>\n\
            +0 %{ assert 1 == 1 }%\n\
            +0 < icmp unreachable frag_needed mtu 1100 [1:1001(1000)]\n";
        let s = parse(text).unwrap();
        assert_eq!((s.options.len(), s.init.len(), s.events.len()), (1, 1, 6));
        let What::In(p) = &s.events[1].what else { panic!() };
        assert_eq!((p.ecn, p.flags, p.win), (Some(3), 0x1c2, Some(100)));
        assert_eq!(p.opts.as_ref().unwrap()[2], Opt::Ts(1, 0));
        let What::Call(c) = &s.events[2].what else { panic!() };
        assert_eq!((c.ends, c.errno, c.result), (Some(300_000), Some(11), -1));
        assert_eq!(s.events[3].when, When::Between(500_000, 700_000));
        let What::InIcmp(i) = &s.events[5].what else { panic!() };
        assert_eq!((i.mtu, i.seq, i.code.as_str()), (1100, 1, "frag_needed"));
    }

    #[test]
    fn options_that_have_names() {
        let s = parse("0 < . 1:1(0) ack 1 <md5 00ff,nop>").unwrap();
        let What::In(p) = &s.events[0].what else { panic!() };
        assert_eq!(p.opts, Some(vec![Opt::Other(MD5, vec![0, 255]), Opt::Nop]));
    }

    #[test]
    fn mistakes_have_a_line() {
        assert_eq!(parse("0 < S 0:1(0)\n").unwrap_err().0, 1);
        assert_eq!(parse("\n\n0 frob(3) == 2").unwrap_err().0, 3);
        assert!(parse("0 close(NO_SUCH) = 0").unwrap_err().1.contains("NO_SUCH"));
    }
}
