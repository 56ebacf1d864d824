//! The gateway's namespace: its devices and routes, and the hook that takes packets for the rest of the world.
//!
//! Interface: [`set_up`], [`install`], [`remove`], [`steer`] (who accepts a connection).
//! Linux counterpart: an nftables rule with `queue` and `tproxy`.
//! Locks and context: the hook runs in softirq context.

use super::{GatewayConfig, Shared, Work};
use net::core::dev::dev_open;
use net::core::net_namespace::Net;
use net::core::netfilter::{HookPoint, Verdict};
use net::core::skbuff::Skb;
use net::drivers::veth::veth_pair;
use net::hdr::{IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, IcmpHdr, IpHdr, TcpHdr, UdpHdr, tcp_flag};
use net::ipv4::devinet::inet_addr_add;
use net::ipv4::fib_frontend::{RouteSpec, ip_route_add};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use uapi::Result;

const ICMP_ECHO: u8 = 8;

/// Two namespaces, one link, addresses, routes: the program's default route, and "everything is local" in the gateway.
pub fn set_up(user: &Arc<Net>, config: &GatewayConfig) -> Result<Arc<Net>> {
    let kernel = user.kernel().clone();
    let _inside = kernel.enter();
    let gw = Net::new(&user.reg);
    let (eth0, gw0) = veth_pair(user, "eth0", &gw, "gw0")?;
    let (addr, len) = config.user;
    inet_addr_add(&gw0, config.gateway, len)?;
    inet_addr_add(&gw0, config.dns, 32)?;
    inet_addr_add(&eth0, addr, len)?;
    dev_open(&gw0)?;
    dev_open(&eth0)?;
    ip_route_add(user, RouteSpec::default_via(config.gateway))?;
    ip_route_add(&gw, RouteSpec::local(Ipv4Addr::UNSPECIFIED, 0, gw0.ifindex))?;
    Ok(gw)
}

/// Puts the hook in place.
pub fn install(shared: &Arc<Shared>) {
    let s = Arc::downgrade(shared);
    let hook = move |_net: &Arc<Net>, skb: Box<Skb>| match s.upgrade() {
        Some(s) => divert(&s, skb),
        None => Verdict::Accept(skb),
    };
    shared.net.nf.set(HookPoint::LocalIn, Some(Box::new(hook)));
}

pub fn remove(shared: &Arc<Shared>) {
    shared.net.nf.set(HookPoint::LocalIn, None);
}

/// Keeps what is for the rest of the world, and lets the gateway's own go on up the stack.
fn divert(s: &Shared, mut skb: Box<Skb>) -> Verdict {
    let Some((src, dst, proto, ihl)) = addresses(&mut skb) else { return Verdict::Accept(skb) };
    match proto {
        IPPROTO_TCP => divert_tcp(s, skb, src, dst, ihl),
        IPPROTO_UDP => divert_udp(s, skb, src, dst, ihl),
        IPPROTO_ICMP if dst != s.config.gateway && dst != s.config.dns => divert_echo(s, skb, src, dst, ihl),
        _ => Verdict::Accept(skb),
    }
}

fn addresses(skb: &mut Skb) -> Option<(Ipv4Addr, Ipv4Addr, u8, usize)> {
    if !skb.may_pull(IpHdr::LEN) {
        return None;
    }
    let ip = IpHdr::read(skb.data())?;
    Some((ip.src(), ip.dst(), ip.protocol, ip.ihl()))
}

fn divert_tcp(s: &Shared, mut skb: Box<Skb>, src: Ipv4Addr, dst: Ipv4Addr, ihl: usize) -> Verdict {
    if !skb.may_pull(ihl + TcpHdr::LEN) {
        return Verdict::Accept(skb);
    }
    let Some(th) = skb.data().get(ihl..).and_then(TcpHdr::read) else { return Verdict::Accept(skb) };
    let (sport, dport) = (th.source.get(), th.dest.get());
    let first = th.has(tcp_flag::SYN) && !th.has(tcp_flag::ACK | tcp_flag::RST);
    let own =
        (dst == s.config.gateway && dport == super::page::PORT) || (dst == s.config.dns && dport == super::dns::PORT);
    if !first || own {
        return Verdict::Accept(skb);
    }
    s.push(Work::Syn { src: v4(src, sport), dst: v4(dst, dport), skb });
    Verdict::Stolen
}

fn divert_udp(s: &Shared, mut skb: Box<Skb>, src: Ipv4Addr, dst: Ipv4Addr, ihl: usize) -> Verdict {
    if !skb.may_pull(ihl + UdpHdr::LEN) {
        return Verdict::Accept(skb);
    }
    let Some(uh) = skb.data().get(ihl..).and_then(UdpHdr::read) else { return Verdict::Accept(skb) };
    let (sport, dport, len) = (uh.source.get(), uh.dest.get(), uh.len.get() as usize);
    if len < UdpHdr::LEN || ihl + len > skb.len() {
        return Verdict::Stolen;
    }
    let mut payload = vec![0; len - UdpHdr::LEN];
    skb.copy_bits(ihl + UdpHdr::LEN, &mut payload);
    s.push(Work::Datagram { src: v4(src, sport), dst: v4(dst, dport), payload });
    Verdict::Stolen
}

fn divert_echo(s: &Shared, mut skb: Box<Skb>, src: Ipv4Addr, dst: Ipv4Addr, ihl: usize) -> Verdict {
    if !skb.may_pull(ihl + IcmpHdr::LEN) || skb.data().get(ihl) != Some(&ICMP_ECHO) {
        return Verdict::Accept(skb);
    }
    let mut packet = vec![0; skb.len() - ihl];
    skb.copy_bits(ihl, &mut packet);
    s.push(Work::Echo { src: IpAddr::V4(src), dst: IpAddr::V4(dst), packet });
    Verdict::Stolen
}

fn v4(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ip), port)
}
