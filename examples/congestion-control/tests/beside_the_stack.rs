//! The example at work, between two stacks.

use example_congestion_control::WESTWOOD;
use sockeye::{Impairments, Link, Stack, TcpListener, TcpStream};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

const NAME: &str = "net.ipv4.tcp_congestion_control";

#[test]
fn an_algorithm_from_outside_carries_data_over_a_bad_path() {
    let a = Stack::builder().workers(1).build().expect("stack");
    let b = a.sibling();
    a.register_congestion_control(&WESTWOOD).expect("register");
    assert!(a.register_congestion_control(&WESTWOOD).is_err(), "the name is taken");
    a.set_sysctl_text(NAME, "westwood+").expect("default");
    assert_eq!(b.sysctl_text(NAME).expect("default"), "cubic", "the other stack has its own");
    let bad = Impairments { loss: 0.02, delay_ns: 2_000_000, ..Impairments::default() };
    Link::new().addresses("10.0.0.1/24", "10.0.0.2/24").impair(bad).seed(3).connect(&a, &b).expect("link");
    let l = TcpListener::bind(&b, "10.0.0.2:7").expect("listen");
    let data: Vec<u8> = (0..500_000u32).map(|i| (i ^ i >> 8) as u8).collect();
    let sent = data.clone();
    let writer = thread::spawn(move || {
        let mut c = TcpStream::connect(&a, "10.0.0.2:7").expect("connect");
        c.write_all(&sent).expect("write");
        c.shutdown(Shutdown::Write).expect("shutdown");
        let mut end = Vec::new();
        c.read_to_end(&mut end).expect("the peer's end");
        let lost = a.counter("TcpRetransSegs").expect("a counter");
        assert!(lost > 0, "2 % loss and nothing sent again");
        assert!(a.unregister_congestion_control(&WESTWOOD).is_err(), "it is the default");
        a.set_sysctl_text(NAME, "cubic").expect("default");
        a.unregister_congestion_control(&WESTWOOD).expect("gone");
        assert!(a.set_sysctl_text(NAME, "westwood+").is_err());
    });
    let (mut s, _) = l.accept().expect("accept");
    let mut got = Vec::new();
    s.read_to_end(&mut got).expect("read");
    assert!(got == data, "{} bytes, or not the same", got.len());
    drop(s);
    writer.join().expect("writer");
}
