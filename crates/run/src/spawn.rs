//! Starts the program: forks, sets the child apart, puts it under the filter, executes.
//!
//! Interface: [`Spawn`], [`Spawn::start`] → [`Child`], [`SpawnError`].
//! Linux counterpart: none.
//! Locks and context: once a run. Between `fork` and `execve` the child only makes system calls, because other threads of
//! sockeye may have held any lock.
//!
//! The child gets a user namespace of its own where the host allows it. The supervisor then rules over it, so that also
//! programs that guard their memory (`PR_SET_DUMPABLE`) are within reach; and in a mount namespace `/etc/resolv.conf` can
//! name the stack's name server. The program sees the user and group it was started by.

use crate::sys;
use libc::{c_char, sock_filter};
use std::ffi::{CString, OsStr, OsString};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use uapi::{Errno, Result};

const SECCOMP_SET_MODE_FILTER: u32 = 1;
const SECCOMP_FILTER_FLAG_NEW_LISTENER: u32 = 1 << 3;

/// What to start.
pub struct Spawn<'a> {
    pub program: &'a OsStr,
    pub args: &'a [OsString],
    /// Variables beside those that sockeye has itself.
    pub env: &'a [(OsString, OsString)],
    pub filter: &'a [sock_filter],
    /// What the program finds in `/etc/resolv.conf`.
    pub resolv_conf: Option<&'a str>,
    /// The limit of descriptors that the program gets.
    pub nofile: libc::rlimit,
}

/// A program that runs, or stands at its `execve`.
pub struct Child {
    pub pid: u32,
    /// The filter's listener.
    pub listener: OwnedFd,
    /// Whether it has a user namespace of its own.
    pub user_namespace: bool,
    /// Whether it sees the given `/etc/resolv.conf`.
    pub resolv_conf: bool,
}

/// Why there is no program.
#[derive(Debug)]
pub enum SpawnError {
    NotFound,
    NotExecutable(Errno),
    /// What we did, and what the host said.
    Setup(&'static str, Errno),
}

/// What the child tells: a step, and a number that belongs to it.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The listener's number in the child.
    Listener = 1,
    UserNamespace,
    ResolvConf,
    Filter,
    Exec,
}

const REPORT: usize = 8;

/// Everything that the child needs, made before the fork.
struct Prepared {
    candidates: Vec<CString>,
    argv: Vec<*const c_char>,
    /// For a file without a header: `/bin/sh`, its name, and the arguments.
    sh_argv: Vec<*const c_char>,
    _strings: Vec<CString>,
    environ: Vec<*const c_char>,
    report: RawFd,
    go: RawFd,
    uid_map: CString,
    gid_map: CString,
    resolv_conf: Option<CString>,
    root: bool,
}

impl Spawn<'_> {
    pub fn start(&self) -> std::result::Result<Child, SpawnError> {
        let candidates = candidates(self.program)?;
        let setup = |e| SpawnError::Setup("make a pipe", e);
        let (report, report_w) = sys::pipe(0).map_err(setup)?;
        let (go_r, go) = sys::pipe(0).map_err(setup)?;
        let resolv = self.resolv_conf.and_then(TempFile::new);
        let prep = self.prepare(candidates, report_w.as_raw_fd(), go_r.as_raw_fd(), resolv.as_ref())?;
        // SAFETY: the child only makes system calls on what was prepared, and then executes or exits.
        let pid = match unsafe { libc::fork() } {
            0 => self.child(&prep),
            n => u32::try_from(n).map_err(|_| SpawnError::Setup("fork", last()))?,
        };
        drop((report_w, go_r));
        let child = follow(pid, report.as_fd(), go.as_fd());
        if child.is_err() {
            // It has ended, or ends when it finds its pipe closed.
            drop(go);
            let mut status = 0;
            // SAFETY: room for an `int`.
            unsafe { libc::waitpid(pid as i32, &mut status, 0) };
        }
        child
    }

    fn prepare(
        &self,
        candidates: Vec<CString>,
        report: RawFd,
        go: RawFd,
        resolv: Option<&TempFile>,
    ) -> std::result::Result<Prepared, SpawnError> {
        let c =
            |s: &OsStr| CString::new(s.as_bytes()).map_err(|_| SpawnError::Setup("pass an argument", Errno::EINVAL));
        let mut strings = vec![c(self.program)?];
        for a in self.args {
            strings.push(c(a)?);
        }
        let args = strings.len();
        let inherited = std::env::vars_os().filter(|(k, _)| !self.env.iter().any(|(e, _)| e == k));
        for (k, v) in inherited.chain(self.env.iter().cloned()) {
            strings.push(c(&[k, v].join(OsStr::new("=")))?);
        }
        let null = [std::ptr::null()];
        let list = |s: &[CString]| s.iter().map(|s| s.as_ptr()).chain(null).collect::<Vec<_>>();
        let (argv, environ) = (list(&strings[..args]), list(&strings[args..]));
        let sh_argv = std::iter::once(c"sh".as_ptr()).chain(argv.iter().copied()).collect();
        // SAFETY: neither takes memory.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let map = |id: u32| CString::new(format!("{id} {id} 1")).unwrap_or_default();
        Ok(Prepared {
            candidates,
            argv,
            sh_argv,
            _strings: strings,
            environ,
            report,
            go,
            uid_map: map(uid),
            gid_map: map(gid),
            resolv_conf: resolv.and_then(|t| c(t.0.as_os_str()).ok()),
            root: uid == 0,
        })
    }

    /// Runs in the child.
    fn child(&self, p: &Prepared) -> ! {
        // SAFETY: system calls only; every pointer is to something prepared before the fork, or on this stack.
        unsafe {
            // Without its supervisor every socket call would fail.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            libc::setrlimit(libc::RLIMIT_NOFILE, &self.nofile);
            if let Err(e) = set_apart(p) {
                tell(p.report, Step::UserNamespace, e.0);
            }
            if let Some(from) = &p.resolv_conf {
                let r = bind_mount(from);
                tell(p.report, Step::ResolvConf, r.map_or_else(|e| e.0, |()| 0));
            }
            // Rust ignores it; programs expect its default.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            match install_filter(self.filter, p.root) {
                Ok(listener) => tell(p.report, Step::Listener, listener),
                Err(e) => {
                    tell(p.report, Step::Filter, e.0);
                    libc::_exit(125);
                }
            }
            // Our listener must be held by the supervisor before it closes here.
            let mut b = 0u8;
            if libc::read(p.go, (&raw mut b).cast(), 1) != 1 {
                libc::_exit(125);
            }
            let e = exec(p);
            tell(p.report, Step::Exec, e);
            libc::_exit(126);
        }
    }
}

/// Tells the supervisor. Async-signal-safe.
// SAFETY: for the child between `fork` and `execve` only; it makes nothing but system calls on what was prepared.
unsafe fn tell(fd: RawFd, step: Step, value: i32) {
    let mut msg = [0u8; REPORT];
    msg[..4].copy_from_slice(&(step as i32).to_ne_bytes());
    msg[4..].copy_from_slice(&value.to_ne_bytes());
    // SAFETY: the message is readable for its length.
    unsafe { libc::write(fd, msg.as_ptr().cast(), REPORT) };
}

/// Enters namespaces: as root of mounts only, otherwise of users and mounts.
// SAFETY: for the child between `fork` and `execve` only; it makes nothing but system calls on what was prepared.
unsafe fn set_apart(p: &Prepared) -> Result<()> {
    // SAFETY: system calls on prepared strings.
    unsafe {
        if p.root && libc::unshare(libc::CLONE_NEWNS) == 0 {
            return Ok(());
        }
        if libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) != 0 {
            return Err(last());
        }
        put(c"/proc/self/setgroups", c"deny")?;
        put(c"/proc/self/uid_map", &p.uid_map)?;
        put(c"/proc/self/gid_map", &p.gid_map)
    }
}

// SAFETY: for the child between `fork` and `execve` only; it makes nothing but system calls on what was prepared.
unsafe fn put(path: &std::ffi::CStr, what: &std::ffi::CStr) -> Result<()> {
    // SAFETY: C strings.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        let n = libc::write(fd, what.as_ptr().cast(), what.count_bytes());
        let r = if n < 0 { Err(last()) } else { Ok(()) };
        libc::close(fd);
        r
    }
}

/// Lays the file over `/etc/resolv.conf`, in this mount namespace only.
// SAFETY: for the child between `fork` and `execve` only; it makes nothing but system calls on what was prepared.
unsafe fn bind_mount(from: &std::ffi::CStr) -> Result<()> {
    let none = std::ptr::null::<c_char>();
    // SAFETY: C strings, and null where the call allows it.
    unsafe {
        if libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) != 0 {
            return Err(last());
        }
        match libc::mount(from.as_ptr(), c"/etc/resolv.conf".as_ptr(), none, libc::MS_BIND, none.cast()) {
            0 => Ok(()),
            _ => Err(last()),
        }
    }
}

/// The listener's number. Root keeps the right to gain privileges; everybody else gives it up, as the host demands.
// SAFETY: for the child between `fork` and `execve` only; it makes nothing but system calls on what was prepared.
unsafe fn install_filter(filter: &[sock_filter], root: bool) -> Result<i32> {
    let prog = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: a valid program; `prctl` takes numbers.
    unsafe {
        if !root {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        }
        for _ in 0..2 {
            let flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
            let fd = libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
            if fd >= 0 {
                return Ok(fd as i32);
            }
            // Root in a container may lack the capability.
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        }
    }
    Err(last())
}

/// Executes; answers with what the last attempt said.
// SAFETY: for the child between `fork` and `execve` only; it makes nothing but system calls on what was prepared.
unsafe fn exec(p: &Prepared) -> i32 {
    let mut e = libc::ENOENT;
    for path in &p.candidates {
        // SAFETY: C strings and null-terminated lists, all prepared.
        unsafe {
            libc::execve(path.as_ptr(), p.argv.as_ptr(), p.environ.as_ptr());
            e = *libc::__errno_location();
            if e == libc::ENOEXEC {
                // A script without a header, as `execvp` runs it.
                let mut argv = [std::ptr::null(); 256];
                let n = p.sh_argv.len().min(argv.len() - 1);
                argv[..n].copy_from_slice(&p.sh_argv[..n]);
                argv[1] = path.as_ptr();
                libc::execve(c"/bin/sh".as_ptr(), argv.as_ptr(), p.environ.as_ptr());
            }
        }
    }
    e
}

/// Listens to the child until it has executed.
fn follow(pid: u32, report: BorrowedFd<'_>, go: BorrowedFd<'_>) -> std::result::Result<Child, SpawnError> {
    let mut listener = None;
    let (mut user_namespace, mut resolv_conf) = (sys::geteuid() != 0, false);
    while let Some((step, value)) = next_report(report) {
        match step {
            s if s == Step::UserNamespace as i32 => user_namespace = false,
            s if s == Step::ResolvConf as i32 => resolv_conf = value == 0,
            s if s == Step::Filter as i32 => return Err(SpawnError::Setup("install a seccomp filter", Errno(value))),
            s if s == Step::Exec as i32 => return Err(not_executed(Errno(value))),
            _ => {
                let fd = take_listener(pid, value).map_err(|e| SpawnError::Setup("take the filter's listener", e))?;
                listener = Some(fd);
                let _ = sys::write(go, &[1]);
            }
        }
    }
    match listener {
        Some(listener) => Ok(Child { pid, listener, user_namespace, resolv_conf }),
        None => Err(SpawnError::Setup("start a process", Errno::EIO)),
    }
}

fn not_executed(e: Errno) -> SpawnError {
    match e {
        Errno::ENOENT => SpawnError::NotFound,
        e => SpawnError::NotExecutable(e),
    }
}

fn take_listener(pid: u32, fd: i32) -> Result<OwnedFd> {
    // SAFETY: takes no memory.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if pidfd < 0 {
        return Err(last());
    }
    // SAFETY: the host has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd as RawFd) };
    sys::pidfd_getfd(pidfd.as_fd(), fd)
}

/// `None` when the child's end is closed: it has executed or ended.
fn next_report(fd: BorrowedFd<'_>) -> Option<(i32, i32)> {
    let mut b = [0u8; REPORT];
    let n = loop {
        match sys::read(fd, &mut b) {
            Err(Errno::EINTR) => continue,
            r => break r,
        }
    };
    let word = |at: usize| Some(i32::from_ne_bytes(b.get(at..at + 4)?.try_into().ok()?));
    n.ok().filter(|&n| n == REPORT).and_then(|_| Some((word(0)?, word(4)?)))
}

/// The files that `program` may name, as the shell looks for it.
fn candidates(program: &OsStr) -> std::result::Result<Vec<CString>, SpawnError> {
    let c = |p: PathBuf| CString::new(p.into_os_string().into_vec()).ok();
    let by_path = program.as_bytes().contains(&b'/');
    let paths: Vec<CString> = if by_path {
        c(program.into()).into_iter().collect()
    } else if program.is_empty() {
        Vec::new()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/bin:/usr/bin".into());
        std::env::split_paths(&path).filter_map(|dir| c(dir.join(program))).collect()
    };
    let mut denied = None;
    let mut found = Vec::new();
    for p in paths {
        match sys::executable(&p) {
            Ok(()) => found.push(p),
            Err(Errno::ENOENT | Errno(libc::ENOTDIR)) => {}
            // A directory of `PATH` that may not be searched holds nothing for this user.
            Err(Errno::EACCES) if !by_path && !sys::exists(&p) => {}
            Err(e) => denied = denied.or(Some(e)),
        }
    }
    match (found.is_empty(), denied) {
        (false, _) => Ok(found),
        (true, Some(e)) => Err(SpawnError::NotExecutable(e)),
        (true, None) => Err(SpawnError::NotFound),
    }
}

/// A file for the mount: its name goes when the child has it, its content stays with the mount.
struct TempFile(PathBuf);

impl TempFile {
    fn new(content: &str) -> Option<TempFile> {
        let name = format!("sockeye-resolv-{}", std::process::id());
        let path = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from).join(name);
        let _ = std::fs::remove_file(&path);
        let mut file = std::fs::File::create_new(&path).ok()?;
        let tmp = TempFile(path);
        file.write_all(content.as_bytes()).ok()?;
        // Readable by whatever user the program becomes.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.set_permissions(mode).ok()?;
        Some(tmp)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn last() -> Errno {
    Errno::from_io(&std::io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_missing_program_from_one_that_cannot_be_executed() {
        assert!(matches!(candidates("/no/such/program".as_ref()), Err(SpawnError::NotFound)));
        assert!(matches!(candidates("no-such-program-anywhere".as_ref()), Err(SpawnError::NotFound)));
        assert!(matches!(candidates("".as_ref()), Err(SpawnError::NotFound)));
        assert!(matches!(candidates("/etc".as_ref()), Err(SpawnError::NotExecutable(_))));
        assert!(candidates("sh".as_ref()).is_ok_and(|c| !c.is_empty()));
    }
}
