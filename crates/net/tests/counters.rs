//! Counters of a CPU's own are written without locked instructions: threads that are CPUs of one kernel must not lose counts.

use host::Host;
use sockeye_net::core::net_namespace::Net;
use sockeye_net::core::snmp::Mib;
use sockeye_net::init::net_init;

#[test]
fn threads_inside_a_kernel_lose_no_count() {
    const THREADS: u64 = 8;
    const EACH: u64 = 10_000;
    const INSIDE: u64 = 200;
    let host = Host::start(1).expect("host");
    let reg = net_init(host.kernel());
    let net = Net::new(&reg);
    let before = net.mib.get(Mib::IpInReceives);
    std::thread::scope(|s| {
        for _ in 0..THREADS {
            s.spawn(|| {
                for i in 0..EACH {
                    // In and out, so that threads are one CPU after the other.
                    let _inside = host.kernel().enter();
                    (0..INSIDE).for_each(|_| net.mib.inc(Mib::IpInReceives));
                    if i % 64 == 0 {
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    assert_eq!(net.mib.get(Mib::IpInReceives) - before, THREADS * EACH * INSIDE);
    host.stop();
}
