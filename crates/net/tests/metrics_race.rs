//! Many CPUs note something about one pair of addresses. The clock was once read before the lock, so another CPU's stamp could
//! be later than now, and the subtraction panicked.

use host::Host;
use sockeye_net::core::net_namespace::Net;
use sockeye_net::init::net_init;
use sockeye_net::ipv4::inet_hashtables::tcp_hashinfo;
use std::net::{IpAddr, Ipv4Addr};

#[test]
fn stamps_never_run_ahead() {
    let host = Host::start(1).expect("host");
    let reg = net_init(host.kernel());
    let net = Net::new(&reg);
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let net = net.clone();
            std::thread::spawn(move || {
                let _cpu = net.kernel().enter();
                for _ in 0..50_000 {
                    tcp_hashinfo(&net).metrics.with(&net, ip, ip, true, |_| ());
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().expect("no panic"));
    host.stop();
}
