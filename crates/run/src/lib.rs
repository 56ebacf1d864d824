//! Unmodified programs on a sockeye stack.
//!
//! Interface: [`run()`], [`RunOptions`], [`ExitStatus`], [`RunError`].
//! Linux counterpart: none.
//! Locks and context: [`run()`] takes the calling thread until the program and its descendants have ended. Once a process
//! at a time: it handles the process's signals and adopts its orphans.
//!
//! The program runs under a seccomp filter that tells a supervisor of every call that makes or steers a socket. The
//! supervisor makes the socket in the stack and gives the program one end of an AF_UNIX pair; data then flows through
//! the pair without any call being stopped, and everything that programs do with descriptors (`dup`, `fork`, `epoll`,
//! `sendfile`, passing them on) is the host's own. Read the files from [`filter`] upwards; each only looks down.

mod calls;
mod filter;
pub mod gateway;
mod holder;
mod mem;
mod notif;
mod parked;
mod pump;
mod pump_tcp;
mod pump_udp;
mod replay;
mod signals;
mod spawn;
mod state;
mod supervisor;
mod sys;
mod table;
mod wake;

use net::core::net_namespace::Net;
use spawn::{Spawn, SpawnError};
use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;
use uapi::Errno;

/// What to run, and how.
#[derive(Default)]
pub struct RunOptions {
    /// A path, or a name that is looked for in `PATH`.
    pub program: OsString,
    pub args: Vec<OsString>,
    /// Variables for the program, beside those of the caller.
    pub env: Vec<(OsString, OsString)>,
    /// What the program finds in `/etc/resolv.conf`. Needs a mount namespace; without one the host's file is seen.
    pub resolv_conf: Option<String>,
    /// Notes on standard error about what the host did not allow.
    pub verbose: bool,
}

/// How the program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExitStatus {
    status: i32,
}

impl ExitStatus {
    /// The program's own exit code; `None` if a signal ended it.
    pub fn code(self) -> Option<i32> {
        libc::WIFEXITED(self.status).then(|| libc::WEXITSTATUS(self.status))
    }

    /// The signal that ended it.
    pub fn signal(self) -> Option<i32> {
        libc::WIFSIGNALED(self.status).then(|| libc::WTERMSIG(self.status))
    }

    /// As a shell reports it in `$?`: the code, or 128 and the signal.
    pub fn shell_code(self) -> i32 {
        self.code().or(self.signal().map(|s| 128 + s)).unwrap_or(125)
    }
}

/// Why there is no exit status.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{}: no such program; give its path, or install it", .0.display())]
    NotFound(OsString),
    #[error("{}: cannot be executed: {}", .0.display(), Reason(*.1))]
    NotExecutable(OsString, Errno),
    #[error("cannot {what}: {}{}", Reason(*.errno), .hint)]
    Failed { what: &'static str, errno: Errno, hint: &'static str },
}

impl RunError {
    /// As `env` and `nohup` use them: 127, 126, 125.
    pub fn exit_code(&self) -> i32 {
        match self {
            RunError::NotFound(_) => 127,
            RunError::NotExecutable(..) => 126,
            RunError::Failed { .. } => 125,
        }
    }
}

/// The host's words for an error, without its number.
struct Reason(Errno);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0.0).to_string();
        f.write_str(text.split(" (os error").next().unwrap_or(&text))
    }
}

fn failed(what: &'static str, errno: Errno) -> RunError {
    let hint = match errno {
        Errno::ENOSYS | Errno::EINVAL if what.contains("seccomp") => "; seccomp notification needs Linux 5.14 or newer",
        Errno::EPERM if what.contains("seccomp") || what.contains("listener") => {
            "; inside a container allow seccomp(2) and pidfd_getfd(2) in its own filter"
        }
        Errno::EBUSY if what.contains("seccomp") => "; another supervisor has this process under its filter already",
        Errno::EMFILE => "; raise the limit of open files (ulimit -n)",
        _ => "",
    };
    RunError::Failed { what, errno, hint }
}

/// Runs a program on `net` and serves it and its descendants until the last of them has ended. Background processes that
/// outlive the program are served on; a signal to the caller is then passed to all of them.
pub fn run(net: &Arc<Net>, opts: RunOptions) -> Result<ExitStatus, RunError> {
    let nofile = sys::raise_nofile();
    sys::become_subreaper();
    let signals = signals::Signals::install().map_err(|e| failed("handle signals", e))?;
    let spawn = Spawn {
        program: &opts.program,
        args: &opts.args,
        env: &opts.env,
        filter: &filter::program(),
        resolv_conf: opts.resolv_conf.as_deref(),
        nofile,
    };
    let child = spawn.start().map_err(|e| match e {
        SpawnError::NotFound => RunError::NotFound(opts.program.clone()),
        SpawnError::NotExecutable(e) => RunError::NotExecutable(opts.program.clone(), e),
        SpawnError::Setup(what, e) => failed(what, e),
    })?;
    let pid = child.pid;
    let notif = notif::Notif::new(child.listener);
    let st = state::State::new(net.clone(), notif, opts.verbose).map_err(|e| failed("set up the supervisor", e))?;
    if !child.user_namespace && sys::geteuid() != 0 {
        st.note(|| "no user namespace allowed: programs that guard their memory are out of reach".into());
    }
    if opts.resolv_conf.is_some() && !child.resolv_conf {
        st.note(|| "no mount namespace allowed: names are resolved as the host's /etc/resolv.conf says".into());
    }
    let supervisor = supervisor::Supervisor::new(st, signals, pid).map_err(|e| failed("set up the supervisor", e))?;
    let status = supervisor.run().map_err(|e| failed("serve the program", e))?;
    Ok(ExitStatus { status })
}
