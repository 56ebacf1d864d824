//! `ioctl(2)` on sockets.
//!
//! Interface: [`ioctl`].
//! Linux counterpart: `sock_ioctl`, `inet_ioctl`, `dev_ioctl`.
//! Locks and context: the supervisor's thread.

use crate::notif::Call;
use crate::state::{Answer, State};
use crate::{mem, pump};
use net::core::dev::{NetDevice, dev_get_by_index, dev_get_by_name};
use std::sync::Arc;
use uapi::{Errno, Result};

const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
/// Requests about interfaces and routes.
const INTERFACE: std::ops::RangeInclusive<u32> = 0x8910..=0x8970;

const IFNAMSIZ: usize = 16;
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;

pub fn ioctl(st: &mut State, call: &Call) -> Option<Answer> {
    let cmd = call.args[1] as u32;
    let id = match st.lookup(call) {
        Ok((id, _)) => id,
        Err(a) => return Some(a),
    };
    pump::drain(st, id);
    // The socket first: `SIOCOUTQNSD` has a number among those about interfaces.
    let r = match st.sock(id).and_then(|s| s.ioctl(cmd)) {
        Err(Errno::ENOIOCTLCMD) if INTERFACE.contains(&cmd) => interface(st, call, cmd),
        r => r.and_then(|v| mem::write_value(call.tid, call.args[2], v)),
    };
    Some(r.into())
}

/// A `struct ifreq`: a name of 16 bytes, then what is asked.
fn interface(st: &mut State, call: &Call, cmd: u32) -> Result<()> {
    let mut req = [0u8; 40];
    mem::read(call.tid, call.args[2], &mut req)?;
    let (name, value) = req.split_at_mut(IFNAMSIZ);
    if cmd == SIOCGIFNAME {
        let index = u32::from_ne_bytes([value[0], value[1], value[2], value[3]]);
        let dev = dev_get_by_index(&st.net, index).ok_or(Errno::ENODEV)?;
        name.fill(0);
        let n = dev.name.len().min(IFNAMSIZ - 1);
        name[..n].copy_from_slice(&dev.name.as_bytes()[..n]);
        return mem::write(call.tid, call.args[2], &req);
    }
    let end = name.iter().position(|&b| b == 0).unwrap_or(IFNAMSIZ);
    let text = std::str::from_utf8(&name[..end]).map_err(|_| Errno::ENODEV)?;
    let dev = dev_get_by_name(&st.net, text).ok_or(Errno::ENODEV)?;
    answer(&dev, cmd, value)?;
    mem::write(call.tid, call.args[2], &req)
}

fn answer(dev: &Arc<NetDevice>, cmd: u32, value: &mut [u8]) -> Result<()> {
    let mut put = |b: &[u8]| {
        let n = b.len().min(value.len());
        value[..n].copy_from_slice(&b[..n]);
    };
    match cmd {
        SIOCGIFINDEX => put(&dev.ifindex.to_ne_bytes()),
        SIOCGIFFLAGS => put(&(dev.flags().bits() as u16).to_ne_bytes()),
        SIOCGIFMTU => put(&dev.mtu().to_ne_bytes()),
        SIOCGIFTXQLEN => put(&1000u32.to_ne_bytes()),
        SIOCGIFHWADDR => {
            let kind = if dev.hard_header_len == 0 { ARPHRD_LOOPBACK } else { ARPHRD_ETHER };
            put(&[&kind.to_ne_bytes()[..], &dev.addr].concat());
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}
