//! Messages between the program's memory and the stack, as all the send and receive calls need them.
//!
//! Interface: [`gather`], [`Received`], [`control_from_user`], [`put_control`].
//! Linux counterpart: `____sys_sendmsg`, `____sys_recvmsg`, `put_cmsg`.
//! Locks and context: the supervisor's thread.

use super::user::{CONTROL_MAX, UserMsg, total};
use crate::mem::{self, Range};
use crate::pump_udp::MAX_MESSAGE;
use crate::state::State;
use crate::table::Meta;
use kernel::Frag;
use net::core::iov_iter::CMsg;
use std::collections::VecDeque;
use uapi::socket::{MSG_CTRUNC, MSG_TRUNC};
use uapi::{Errno, Result};

/// A message from the program's memory, copied once. One longer than any message can be is cut to one too long.
pub fn gather(st: &mut State, tid: u32, iov: &[Range]) -> Result<VecDeque<Frag>> {
    let len = total(iov).min(MAX_MESSAGE);
    if len == 0 {
        return Ok(VecDeque::new());
    }
    let page = st.page(len);
    let n = mem::read_ranges(tid, iov, &mut page.as_mut_slice()[..len])?;
    if n < len {
        return Err(Errno::EFAULT);
    }
    Ok(VecDeque::from([page.freeze(n)]))
}

/// `struct cmsghdr`: length (of 8 bytes), level, type; then data, padded to 8.
const CMSG_HDR: usize = 16;

pub fn control_from_user(tid: u32, m: &UserMsg) -> Result<Vec<CMsg>> {
    if m.control == 0 || m.controllen < CMSG_HDR {
        return Ok(Vec::new());
    }
    if m.controllen > CONTROL_MAX {
        return Err(Errno::ENOBUFS);
    }
    let mut buf = vec![0; m.controllen];
    mem::read(tid, m.control, &mut buf)?;
    parse_control(&buf)
}

fn parse_control(mut buf: &[u8]) -> Result<Vec<CMsg>> {
    let mut all = Vec::new();
    while let Some((header, _)) = buf.split_at_checked(CMSG_HDR) {
        let word = |at: usize| i32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let len = word(0) as u32 as usize;
        let data = buf.get(CMSG_HDR..len).ok_or(Errno::EINVAL)?;
        all.push(CMsg { level: word(8), kind: word(12), data: data.to_vec() });
        buf = buf.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(all)
}

/// Writes control messages for as long as there is room: how many bytes, and whether some had none.
pub fn put_control(tid: u32, m: &UserMsg, control: &[CMsg]) -> Result<(usize, i32)> {
    let room = if m.control == 0 { 0 } else { m.controllen };
    let mut buf = Vec::new();
    for c in control {
        let len = CMSG_HDR + c.data.len();
        if buf.len() + len > room {
            mem::write(tid, m.control, &buf)?;
            return Ok((buf.len(), MSG_CTRUNC));
        }
        buf.extend_from_slice(&len.to_ne_bytes());
        buf.extend_from_slice(&c.level.to_ne_bytes());
        buf.extend_from_slice(&c.kind.to_ne_bytes());
        buf.extend_from_slice(&c.data);
        buf.resize(buf.len().next_multiple_of(8).min(room), 0);
    }
    mem::write(tid, m.control, &buf)?;
    Ok((buf.len(), 0))
}

/// A message on its way to the program.
pub struct Received {
    pub frags: VecDeque<Frag>,
    pub meta: Meta,
    /// Its length, of which a short receiver gets only a part.
    pub len: usize,
}

impl Received {
    /// Puts its bytes into the program's memory: how many, and the flags to tell.
    pub fn scatter(&self, tid: u32, iov: &[Range]) -> Result<(usize, i32)> {
        let parts: Vec<&[u8]> = self.frags.iter().map(|f| &f[..]).collect();
        let n = mem::write_ranges(tid, iov, &parts)?;
        if n < self.len.min(total(iov)) {
            return Err(Errno::EFAULT);
        }
        Ok((n, if n < self.len { MSG_TRUNC } else { 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_are_read_as_they_are_written() {
        let sent = [CMsg { level: 0, kind: 8, data: vec![1, 2, 3] }, CMsg { level: 41, kind: 50, data: vec![4; 20] }];
        let mut buf = [0u8; 128];
        let m = |len| UserMsg { control: buf.as_ptr() as u64, controllen: len, ..UserMsg::none() };
        let me = std::process::id();
        let (len, flags) = put_control(me, &m(128), &sent).unwrap();
        assert_eq!((len, flags), (24 + 40, 0));
        let got = parse_control(&buf[..len]).unwrap();
        assert_eq!(got.len(), 2);
        assert!(got.iter().zip(&sent).all(|(a, b)| (a.level, a.kind, &a.data) == (b.level, b.kind, &b.data)));
        assert_eq!(put_control(me, &m(30), &sent).unwrap(), (24, MSG_CTRUNC));
        buf[0] = 200;
        assert!(parse_control(&buf).is_err());
    }
}
