//! What a script says of the stack's counters: `nstat -asz NAME | grep -q " N "`, a line that a shell understands as well; with a `!`
//! before it the counter has any other value.
//!
//! Interface: [`expectation`], [`Expectation`].
//! Linux counterpart: `nstat(8)`.
//! Locks and context: pure functions.

/// What a counter is to be, or with `not` is not to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Expectation<'a> {
    pub name: &'a str,
    pub not: bool,
    pub value: u64,
}

impl Expectation<'_> {
    pub fn check(&self, text: &str) -> Result<(), String> {
        let Expectation { name, not, value } = *self;
        match counter(text, name) {
            None => Err(format!("there is no counter {name}")),
            Some(v) if (v == value) == not => {
                Err(format!("{name} is {v}{}", if not { String::new() } else { format!(", not {value}") }))
            }
            Some(_) => Ok(()),
        }
    }
}

/// What such a line says; `None`: it is no such line.
pub fn expectation(line: &str) -> Option<Expectation<'_>> {
    let (nstat, grep) = line.split_once('|')?;
    let positive = nstat.trim().strip_prefix('!');
    let name = positive.unwrap_or(nstat).trim().strip_prefix("nstat -asz ")?.trim();
    let pattern = grep.trim().strip_prefix("grep -q ")?.trim().strip_prefix('"')?.strip_suffix('"')?;
    // Without the blanks 1 would be found in 11.
    let value = pattern.strip_prefix(' ')?.strip_suffix(' ')?.parse().ok()?;
    Some(Expectation { name, not: positive.is_some(), value })
}

/// The counter of that name in `/proc/net/netstat` or `/proc/net/snmp`: a line of names and one of numbers for each group.
fn counter(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let (group, names) = names.split_once(':')?;
        let Some(want) = name.strip_prefix(group) else { continue };
        let (_, values) = values.split_once(':')?;
        if let Some((_, v)) = names.split_whitespace().zip(values.split_whitespace()).find(|(n, _)| *n == want) {
            return v.parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let line = "nstat -asz TcpExtTCPLossProbes | grep -q \" 12 \"";
        let want = |not| Some(Expectation { name: "TcpExtTCPLossProbes", not, value: 12 });
        assert_eq!((expectation(line), expectation(&format!("! {line}"))), (want(false), want(true)));
        assert_eq!(expectation("nstat -asz TcpExtTCPLossProbes | grep -q \"12\""), None);
        assert_eq!(expectation("sysctl -q net.ipv4.tcp_sack=1"), None);
        let text = "Tcp: InErrs OutRsts\nTcp: 1 2\nTcpExt: A TCPLossProbes\nTcpExt: 3 4\n";
        assert_eq!(counter(text, "TcpExtTCPLossProbes"), Some(4));
        let holds = |not, value| Expectation { name: "TcpOutRsts", not, value }.check(text).is_ok();
        assert_eq!([holds(false, 2), holds(true, 2), holds(false, 3), holds(true, 3)], [true, false, false, true]);
        assert_eq!((counter(text, "TcpOutRsts"), counter(text, "TcpExtB")), (Some(2), None));
    }
}
