//! The counters and TCP's sockets as the files of `/proc/net` show them.
//!
//! Interface: [`proc_net`].
//! Linux counterpart: `net/ipv4/proc.c`, `net/ipv6/proc.c`, `tcp4_seq_show` in `net/ipv4/tcp_ipv4.c`.
//! Locks and context: process context; listeners and connections are looked at under RCU.

use crate::core::net_namespace::Net;
use crate::core::snmp::Mib;
use crate::ipv4::inet_hashtables::{EhashSock, inet_listeners, tcp_hashinfo};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use uapi::tcp::TcpState;

/// The groups of `/proc/net/snmp`, of `netstat` and of `snmp6`. A longer name comes before one that it begins with.
const GROUPS: [(&str, &str); 9] = [
    ("IpExt", "netstat"),
    ("TcpExt", "netstat"),
    ("Ip6", "snmp6"),
    ("Icmp6", "snmp6"),
    ("Udp6", "snmp6"),
    ("Ip", "snmp"),
    ("Icmp", "snmp"),
    ("Tcp", "snmp"),
    ("Udp", "snmp"),
];

/// What `/proc/net/NAME` says of the namespace; `None` if there is no such file here.
pub fn proc_net(net: &Net, name: &str) -> Option<String> {
    match name {
        "snmp" | "netstat" => Some(in_two_lines(net, name)),
        "snmp6" => Some(one_by_one(net)),
        "tcp" => Some(tcp_seq_show(net, false)),
        "tcp6" => Some(tcp_seq_show(net, true)),
        "softnet_stat" => Some(crate::core::dev::softnet_stat(&net.reg.softnet)),
        _ => None,
    }
}

fn group_of(m: Mib) -> Option<(&'static str, &'static str)> {
    GROUPS.into_iter().find(|(g, _)| m.name().starts_with(g))
}

/// For each group a line of names and one of numbers (`snmp_seq_show`, `netstat_seq_show`).
fn in_two_lines(net: &Net, file: &str) -> String {
    let mut text = String::new();
    for (group, _) in GROUPS.into_iter().filter(|(_, f)| *f == file) {
        let (mut names, mut values) = (format!("{group}:"), format!("{group}:"));
        for &m in Mib::ALL.iter().filter(|&&m| group_of(m) == Some((group, file))) {
            let _ = write!(names, " {}", &m.name()[group.len()..]);
            let _ = write!(values, " {}", net.mib.get(m));
        }
        let _ = writeln!(text, "{names}\n{values}");
    }
    text
}

/// `snmp6_seq_show`.
fn one_by_one(net: &Net) -> String {
    let of_file = Mib::ALL.iter().filter(|&&m| group_of(m).is_some_and(|(_, f)| f == "snmp6"));
    of_file.map(|&m| format!("{:<32}\t{}\n", m.name(), net.mib.get(m))).collect()
}

/// An address as the kernel prints it: words of the machine's byte order, and the port.
fn hex(ip: IpAddr, port: u16, v6: bool) -> String {
    let bytes = match (ip, v6) {
        (IpAddr::V4(a), false) => a.octets().to_vec(),
        (IpAddr::V4(a), true) if a.is_unspecified() => vec![0; 16],
        (IpAddr::V4(a), true) => a.to_ipv6_mapped().octets().to_vec(),
        (IpAddr::V6(a), _) => a.octets().to_vec(),
    };
    let word = |w: &[u8]| w.try_into().map_or(0, u32::from_ne_bytes);
    let words: String = bytes.chunks(4).map(|w| format!("{:08X}", word(w))).collect();
    format!("{words}:{port:04X}")
}

/// Listeners, then everything that has a peer. What only its owner may look at, or what there is not here (timers, users,
/// inodes), is 0.
fn tcp_seq_show(net: &Net, v6: bool) -> String {
    let width = if v6 { 32 } else { 8 };
    let mut text = format!(
        "  sl  {:<w$} {:<w$}  st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n",
        "local_address",
        if v6 { "remote_address" } else { "rem_address" },
        w = width + 5
    );
    let mut n = 0;
    let mut line = |local: String, remote: String, state: TcpState, tx: usize, rx: usize| {
        let _ = writeln!(
            text,
            "{n:4}: {local} {remote} {:02X} {tx:08X}:{rx:08X} 00:00000000 00000000     0        0 0",
            state as u8
        );
        n += 1;
    };
    let any =
        if v6 { IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED) };
    for (sk, addr, port) in inet_listeners(net) {
        if addr.v6 == v6 {
            line(hex(addr.addr, port, v6), hex(any, 0, v6), TcpState::Listen, 0, sk.rare.ack_backlog() as usize);
        }
    }
    tcp_hashinfo(net).ehash.for_each(|e| {
        let (of_v6, state, queued) = match &e.sock {
            EhashSock::Sock(sk) => {
                (i32::from(sk.family) == uapi::socket::AF_INET6, sk.state(), sk.rmem_alloc.load(Relaxed))
            }
            EhashSock::Request(_) => (e.tuple().laddr.is_ipv6(), TcpState::SynRecv, 0),
            EhashSock::Timewait(_) => (e.tuple().laddr.is_ipv6(), TcpState::TimeWait, 0),
        };
        if of_v6 == v6 {
            let t = e.tuple();
            line(hex(t.laddr, t.lport, v6), hex(t.faddr, t.fport, v6), state, 0, queued);
        }
        true
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipv4::test_support::TestNet;

    #[test]
    fn every_counter_of_linux_is_in_one_file() {
        let t = TestNet::new();
        t.net.mib.add(Mib::TcpExtOutOfWindowIcmps, 3);
        let file = |name| proc_net(&t.net, name).unwrap();
        let names = |text: &str| text.lines().step_by(2).map(|l| l.split(' ').count() - 1).sum::<usize>();
        let shown = names(&file("snmp")) + names(&file("netstat")) + file("snmp6").lines().count();
        // All but what is our own.
        assert_eq!(shown, Mib::ALL.len() - 1);
        let netstat = file("netstat");
        let lines: Vec<Vec<&str>> = netstat.lines().map(|l| l.split(' ').collect()).collect();
        let (names, values) = (&lines[2], &lines[3]);
        let at = names.iter().position(|n| *n == "OutOfWindowIcmps").unwrap();
        assert_eq!((names[0], values[0], values[at]), ("TcpExt:", "TcpExt:", "3"));
        assert!(proc_net(&t.net, "no_such").is_none());
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn addresses_are_words_of_the_machine() {
        assert_eq!(hex("127.0.0.1".parse().unwrap(), 8080, false), "0100007F:1F90");
        assert_eq!(hex("127.0.0.1".parse().unwrap(), 80, true), "0000000000000000FFFF00000100007F:0050");
        assert_eq!(hex("::".parse().unwrap(), 0, true), "00000000000000000000000000000000:0000");
    }
}
