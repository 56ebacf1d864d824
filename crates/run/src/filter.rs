//! The system-call filter that a program runs under: which calls are told to the supervisor, which are refused.
//!
//! Interface: [`program`] (the instructions), [`Verdict`].
//! Linux counterpart: `include/uapi/linux/{seccomp,filter}.h`; this is the user's side of them.
//! Locks and context: plain data.
//!
//! Only calls that *control* a socket are told. Everything that moves data or waits (`read`, `write`, `send`, `recv`,
//! `poll`, `epoll_wait`, `splice`, …) passes, because what the program holds is a real descriptor of the host's. A system
//! call whose verdict depends on its number alone is answered by the host from a bitmap, so those cost nothing.

use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

const SECCOMP_RET_ALLOW: u32 = 0x7fff_0000;
const SECCOMP_RET_ERRNO: u32 = 0x0005_0000;
const SECCOMP_RET_USER_NOTIF: u32 = 0x7fc0_0000;

#[cfg(target_arch = "x86_64")]
pub const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Bit of a system-call number that marks the x32 ABI.
const X32_SYSCALL_BIT: u32 = 0x4000_0000;
/// Offsets into `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const fn arg_low(i: u32) -> u32 {
    16 + 8 * i + if cfg!(target_endian = "big") { 4 } else { 0 }
}
const fn arg_high(i: u32) -> u32 {
    16 + 8 * i + if cfg!(target_endian = "big") { 0 } else { 4 }
}

/// Socket ioctls: `SIOCATMARK`, interface and routing requests.
const SIOC_FIRST: u32 = 0x8900;
const SIOC_LAST: u32 = 0x89ff;
/// The flags of `recvfrom` that a stand-in descriptor cannot serve by itself.
pub const RECV_FLAGS: u32 = (libc::MSG_TRUNC | libc::MSG_ERRQUEUE) as u32;

/// Calls that always go to the supervisor.
const NOTIFIED: &[libc::c_long] = &[
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
];

/// Families whose `socket` goes to the supervisor, and those that stay the host's own. All others do not exist.
const SERVED: &[i32] = &[libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
const NATIVE: &[i32] = &[libc::AF_UNIX, libc::AF_ALG];

/// i386 calls that make or use sockets: `socketcall`, `recvmmsg`, `sendmmsg`, `socket` to `shutdown`, `io_uring_setup`.
const I386_NETWORK: &[(u32, u32)] = &[(102, 102), (337, 337), (345, 345), (359, 373), (425, 425)];

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Allow,
    Notify,
    Errno(i32),
}

impl Verdict {
    fn encode(self) -> u32 {
        match self {
            Verdict::Allow => SECCOMP_RET_ALLOW,
            Verdict::Notify => SECCOMP_RET_USER_NOTIF,
            Verdict::Errno(e) => SECCOMP_RET_ERRNO | e as u32 & 0xffff,
        }
    }
}

/// Where a jump goes: on, or to a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    Block(Block),
}

/// The blocks a jump can go to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Foreign,
    Socket,
    SendTo,
    RecvFrom,
    Ioctl,
    Allow,
    Notify,
    NoSys,
    NoFamily,
}

#[derive(Clone, Copy)]
struct Insn {
    code: u32,
    jt: To,
    jf: To,
    k: u32,
}

/// A small assembler: instructions with named targets, all of them further down.
#[derive(Default)]
struct Asm {
    insns: Vec<Insn>,
    starts: Vec<(Block, usize)>,
}

impl Asm {
    fn block(&mut self, b: Block) {
        self.starts.push((b, self.insns.len()));
    }
    fn load(&mut self, offset: u32) {
        self.insns.push(Insn { code: BPF_LD | BPF_W | BPF_ABS, jt: To::Next, jf: To::Next, k: offset });
    }
    fn and(&mut self, k: u32) {
        self.insns.push(Insn { code: BPF_ALU | BPF_AND | BPF_K, jt: To::Next, jf: To::Next, k });
    }
    fn if_eq(&mut self, k: u32, then: To, otherwise: To) {
        self.insns.push(Insn { code: BPF_JMP | BPF_JEQ | BPF_K, jt: then, jf: otherwise, k });
    }
    fn if_ge(&mut self, k: u32, then: To, otherwise: To) {
        self.insns.push(Insn { code: BPF_JMP | BPF_JGE | BPF_K, jt: then, jf: otherwise, k });
    }
    fn ret(&mut self, v: Verdict) {
        self.insns.push(Insn { code: BPF_RET | BPF_K, jt: To::Next, jf: To::Next, k: v.encode() });
    }

    fn assemble(self) -> Vec<sock_filter> {
        let distance = |at: usize, to: To| match to {
            To::Next => 0,
            To::Block(b) => {
                let start = self.starts.iter().find(|(x, _)| *x == b).map_or(at + 1, |s| s.1);
                debug_assert!(start > at && start - at - 1 < 256, "a jump goes down, and not far");
                (start - at - 1) as u8
            }
        };
        let encode = |(at, i): (usize, &Insn)| sock_filter {
            code: i.code as u16,
            jt: distance(at, i.jt),
            jf: distance(at, i.jf),
            k: i.k,
        };
        self.insns.iter().enumerate().map(encode).collect()
    }
}

/// The filter's instructions, for `seccomp(SECCOMP_SET_MODE_FILTER)`.
pub fn program() -> Vec<sock_filter> {
    use Block::*;
    let mut a = Asm::default();
    a.load(ARCH);
    a.if_eq(AUDIT_ARCH, To::Next, To::Block(Foreign));
    a.load(NR);
    if cfg!(target_arch = "x86_64") {
        a.if_ge(X32_SYSCALL_BIT, To::Block(NoSys), To::Next);
    }
    for &nr in NOTIFIED {
        a.if_eq(nr as u32, To::Block(Notify), To::Next);
    }
    for (nr, block) in [
        (libc::SYS_socket, Socket),
        (libc::SYS_sendto, SendTo),
        (libc::SYS_recvfrom, RecvFrom),
        (libc::SYS_ioctl, Ioctl),
        (libc::SYS_io_uring_setup, NoSys),
    ] {
        a.if_eq(nr as u32, To::Block(block), To::Next);
    }
    a.ret(Verdict::Allow);

    // `A` is the family.
    a.block(Socket);
    a.load(arg_low(0));
    for &f in SERVED {
        a.if_eq(f as u32, To::Block(Notify), To::Next);
    }
    for &f in NATIVE {
        a.if_eq(f as u32, To::Block(Allow), To::Next);
    }
    a.block(NoFamily);
    a.ret(Verdict::Errno(libc::EAFNOSUPPORT));

    // Flags first, then what `sendto` tests too: is there an address?
    a.block(RecvFrom);
    a.load(arg_low(3));
    a.and(RECV_FLAGS);
    a.if_eq(0, To::Next, To::Block(Notify));
    a.block(SendTo);
    a.load(arg_low(4));
    a.if_eq(0, To::Next, To::Block(Notify));
    a.load(arg_high(4));
    a.if_eq(0, To::Block(Allow), To::Block(Notify));

    a.block(Ioctl);
    a.load(arg_low(1));
    a.if_eq(libc::TIOCOUTQ as u32, To::Block(Notify), To::Next);
    a.if_ge(SIOC_FIRST, To::Next, To::Block(Allow));
    a.if_ge(SIOC_LAST + 1, To::Block(Allow), To::Block(Notify));

    // Another ABI of the same machine: its other calls may pass, its sockets may not pass unseen.
    a.block(Foreign);
    if cfg!(target_arch = "x86_64") {
        a.load(NR);
        // In ascending order: a number below a range is in none of those that follow.
        for &(first, last) in I386_NETWORK {
            a.if_ge(first, To::Next, To::Block(Allow));
            a.if_ge(last + 1, To::Next, To::Block(NoSys));
        }
    }
    a.ret(if cfg!(target_arch = "x86_64") { Verdict::Allow } else { Verdict::Errno(libc::ENOSYS) });

    a.block(Allow);
    a.ret(Verdict::Allow);
    a.block(Notify);
    a.ret(Verdict::Notify);
    a.block(NoSys);
    a.ret(Verdict::Errno(libc::ENOSYS));
    a.assemble()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the host would.
    fn run(arch: u32, nr: i64, args: [u64; 6]) -> u32 {
        let mut data = [0u8; 64];
        data[..4].copy_from_slice(&(nr as u32).to_ne_bytes());
        data[4..8].copy_from_slice(&arch.to_ne_bytes());
        for (i, a) in args.iter().enumerate() {
            data[16 + 8 * i..24 + 8 * i].copy_from_slice(&a.to_ne_bytes());
        }
        let (prog, mut acc, mut pc) = (program(), 0u32, 0usize);
        loop {
            let i = prog[pc];
            pc += 1;
            let jump = |yes: bool| if yes { i.jt } else { i.jf } as usize;
            match i.code as u32 {
                c if c == BPF_LD | BPF_W | BPF_ABS => {
                    let at = i.k as usize;
                    acc = u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
                }
                c if c == BPF_ALU | BPF_AND | BPF_K => acc &= i.k,
                c if c == BPF_JMP | BPF_JEQ | BPF_K => pc += jump(acc == i.k),
                c if c == BPF_JMP | BPF_JGE | BPF_K => pc += jump(acc >= i.k),
                c if c == BPF_RET | BPF_K => return i.k,
                c => panic!("unknown instruction {c:#x}"),
            }
        }
    }

    fn verdict(nr: i64, args: [u64; 6]) -> u32 {
        run(AUDIT_ARCH, nr, args)
    }

    const ALLOW: u32 = SECCOMP_RET_ALLOW;
    const NOTIFY: u32 = SECCOMP_RET_USER_NOTIF;

    #[test]
    fn data_calls_pass_and_control_calls_are_told() {
        for nr in [libc::SYS_read, libc::SYS_write, libc::SYS_epoll_wait, libc::SYS_close, libc::SYS_execve] {
            assert_eq!(verdict(nr, [0; 6]), ALLOW);
        }
        for &nr in NOTIFIED {
            assert_eq!(verdict(nr, [0; 6]), NOTIFY);
        }
    }

    #[test]
    fn families_are_told_native_or_refused() {
        let family = |f: i32| verdict(libc::SYS_socket, [f as u64, 0, 0, 0, 0, 0]);
        assert_eq!(family(libc::AF_INET), NOTIFY);
        assert_eq!(family(libc::AF_INET6), NOTIFY);
        assert_eq!(family(libc::AF_UNIX), ALLOW);
        for f in [libc::AF_PACKET, libc::AF_VSOCK, libc::AF_BLUETOOTH, 255] {
            assert_eq!(family(f), SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32);
        }
    }

    #[test]
    fn an_address_or_a_flag_decides_about_sendto_and_recvfrom() {
        let with_addr = |a: u64| [3, 0, 0, 0, a, 0];
        for nr in [libc::SYS_sendto, libc::SYS_recvfrom] {
            assert_eq!(verdict(nr, with_addr(0)), ALLOW);
            assert_eq!(verdict(nr, with_addr(0x1000)), NOTIFY);
            assert_eq!(verdict(nr, with_addr(0x7fff_0000_0000)), NOTIFY);
        }
        assert_eq!(verdict(libc::SYS_recvfrom, [3, 0, 0, libc::MSG_TRUNC as u64, 0, 0]), NOTIFY);
        assert_eq!(verdict(libc::SYS_recvfrom, [3, 0, 0, libc::MSG_PEEK as u64, 0, 0]), ALLOW);
    }

    #[test]
    fn socket_ioctls_are_told_and_others_pass() {
        let ioctl = |cmd: u64| verdict(libc::SYS_ioctl, [3, cmd, 0, 0, 0, 0]);
        assert_eq!(ioctl(libc::TIOCOUTQ), NOTIFY);
        assert_eq!(ioctl(0x8912), NOTIFY);
        assert_eq!(ioctl(0x8a00), ALLOW);
        assert_eq!(ioctl(libc::FIONBIO), ALLOW);
        assert_eq!(ioctl(libc::TCGETS), ALLOW);
    }

    #[test]
    fn ways_around_the_filter_are_closed() {
        let nosys = SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        assert_eq!(verdict(libc::SYS_io_uring_setup, [0; 6]), nosys);
        if cfg!(target_arch = "x86_64") {
            assert_eq!(verdict(libc::SYS_connect | X32_SYSCALL_BIT as i64, [0; 6]), nosys);
            const I386: u32 = 0x4000_0003;
            for nr in [102, 337, 345, 359, 361, 373, 425] {
                assert_eq!(run(I386, nr, [0; 6]), nosys, "{nr}");
            }
            for nr in [1, 3, 101, 103, 338, 358, 374, 424, 426] {
                assert_eq!(run(I386, nr, [0; 6]), ALLOW, "{nr}");
            }
        }
    }
}
