//! A small runner for scripts in packetdrill's grammar, against sockeye in virtual time or the kernel of this machine.
//!
//! Interface: [`run_file`], [`Variant`], [`Target`]; random stories: [`differ()`], [`recorded`].
//! Linux counterpart: packetdrill.
//! Locks and context: the thread that runs a script drives the time; calls that the script lets block have threads of their own.

mod code;
mod counters;
mod differ;
mod exec;
mod kernel;
mod packet;
mod parser;
mod script;
mod sockeye;
mod story;
mod symbols;
mod target;

pub use differ::{Outcome, differ, recorded};
pub use exec::Variant;
pub use target::Target;

use std::path::Path;
use std::sync::Arc;

/// What a script is run against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Against {
    Sockeye,
    /// The kernel of this machine; needs the right to make network namespaces and TUN devices.
    Kernel,
}

/// Runs the script at `path` once. The error has file and line.
pub fn run_file(path: &Path, variant: Variant, against: Against) -> Result<(), String> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| format!("{name}: {e}"))?;
    let script = parser::parse(&text).map_err(|(line, e)| format!("{name}:{line}: {e}"))?;
    let target: Arc<dyn Target> = match against {
        Against::Sockeye => Arc::new(sockeye::Sockeye::new(variant.mtu())?),
        Against::Kernel => Arc::new(kernel::Kernel::new(variant.mtu())?),
    };
    exec::run(&script, variant, &target).map_err(|(line, e)| format!("{name}:{line}: {e}"))
}

/// The variants that a script is for, by its name: `…v4.pkt` and `…v6.pkt` are for one version of IP.
pub fn variants(path: &Path) -> Vec<Variant> {
    let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let all = [Variant::Ipv4, Variant::Ipv6, Variant::Mapped];
    let fits = |v: &Variant| match v {
        Variant::Ipv6 => !name.ends_with("v4"),
        _ => !name.ends_with("v6"),
    };
    all.into_iter().filter(fits).collect()
}

/// Why scripts cannot be run against this machine's kernel here, if they cannot.
pub fn kernel_unavailable() -> Option<String> {
    kernel::Kernel::new(1500).err()
}
