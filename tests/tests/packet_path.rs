//! The order of functions that a segment goes through, both ways, as the tracepoints record it; and one payload copy each way.
//!
//! Interface: tests.
//! Linux counterpart: the function-graph tracer over `net/`.
//! Locks and context: one process, two namespaces joined by veth. One test: tracing is switched for the process.

use host::Host;
use kernel::trace::{Event, Mode, set_mode};
use net::core::dev::dev_open;
use net::core::net_namespace::Net;
use net::drivers::veth::veth_pair;
use net::init::net_init;
use net::ipv4::devinet::inet_addr_add;
use net::syscall::FdTable;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use uapi::SockAddr;
use uapi::socket::{AF_INET, SOCK_STREAM};

const SENT: &[&str] = &[
    "__sys_sendto",
    "sock_sendmsg",
    "security_socket_sendmsg",
    "inet_sendmsg",
    "tcp_sendmsg",
    "copy_from_iter",
    "tcp_write_xmit",
    "tcp_transmit_skb",
    "ip_queue_xmit",
    "ip_local_out",
    "ip_output",
    "ip_finish_output",
    "neigh_output",
    "dev_queue_xmit",
    "dev_hard_start_xmit",
    "veth_xmit",
];

const RECEIVED: &[&str] = &[
    "net_rx_action",
    "netif_receive_skb",
    "ip_rcv",
    "ip_local_deliver",
    "ip_local_deliver_finish",
    "tcp_v4_rcv",
    "__inet_lookup_skb",
    "tcp_v4_do_rcv",
    "tcp_rcv_established",
    "tcp_queue_rcv",
    "sock_def_readable",
];

const READ: &[&str] =
    &["__sys_recvfrom", "sock_recvmsg", "security_socket_recvmsg", "inet_recvmsg", "tcp_recvmsg", "copy_to_iter"];

/// The names of `events` contain `path` in its order; says where it broke off otherwise.
fn assert_path(path: &[&str], events: &[Event]) {
    let mut rest = path.iter();
    let mut want = rest.next();
    for e in events {
        if Some(&e.name) == want {
            want = rest.next();
        }
    }
    let names: Vec<&str> = events.iter().map(|e| e.name).collect();
    assert!(want.is_none(), "`{}` does not follow in {names:#?}", want.unwrap_or(&""));
}

fn count(name: &str, events: &[Event]) -> usize {
    events.iter().filter(|e| e.name == name && e.subject.len == PAYLOAD.len()).count()
}

const PAYLOAD: &[u8; 1000] = &[0x5a; 1000];

fn namespace(host: &Host) -> (Arc<Net>, Arc<Net>) {
    let reg = net_init(host.kernel());
    let _inside = host.kernel().enter();
    let (a, b) = (Net::new(&reg), Net::new(&reg));
    let (da, db) = veth_pair(&a, "eth0", &b, "eth0").unwrap();
    for (dev, n) in [(&da, 1), (&db, 2)] {
        inet_addr_add(dev, Ipv4Addr::new(192, 0, 2, n), 24).unwrap();
        dev_open(dev).unwrap();
    }
    (a, b)
}

#[test]
fn a_segment_walks_straight_through() {
    let host = Host::start(1).unwrap();
    let (a, b) = namespace(&host);
    let at = SockAddr::from(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 2), 7)));
    let server = FdTable::new(&b, 64);
    let listener = server.socket(AF_INET, SOCK_STREAM, 0).unwrap();
    server.bind(listener, &at).unwrap();
    server.listen(listener, 1).unwrap();
    let client = FdTable::new(&a, 64);
    let fd = client.socket(AF_INET, SOCK_STREAM, 0).unwrap();
    client.connect(fd, &at).unwrap();
    let (conn, _) = server.accept(listener).unwrap();
    // The first exchange settles neighbours and routes.
    client.send(fd, b"x", 0).unwrap();
    let mut buf = [0; 2000];
    assert_eq!(server.recv(conn, &mut buf, 0).unwrap(), 1);

    set_mode(Mode::All);
    host.kernel().tracer().drain();
    assert_eq!(client.send(fd, PAYLOAD, 0).unwrap(), PAYLOAD.len());
    let sent = host.kernel().tracer().drain();
    assert_eq!(server.recv(conn, &mut buf, 0).unwrap(), PAYLOAD.len());
    let read = host.kernel().tracer().drain();
    set_mode(Mode::Off);

    // One thread, one chain: the sender's own thread runs the receive softirq when it leaves the transmit path.
    assert_path(&[SENT, RECEIVED].concat(), &sent);
    assert_path(READ, &read);
    assert_eq!(count("copy_from_iter", &sent), 1, "the sender copies once");
    assert_eq!(count("copy_to_iter", &sent), 0, "nothing is copied on the way");
    assert_eq!(count("copy_to_iter", &read), 1, "the receiver copies once");
    assert_eq!(&buf[..PAYLOAD.len()], PAYLOAD);
    let packet = sent.iter().find(|e| e.name == "veth_xmit").map(|e| e.subject.skb);
    let received: Vec<_> =
        sent.iter().filter(|e| Some(e.subject.skb) == packet && RECEIVED.contains(&e.name)).collect();
    assert!(received.len() > 5 && received.iter().all(|e| e.context == "softirq"), "{received:#?}");
    host.stop();
}
