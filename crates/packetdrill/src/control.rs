//! A script's set-up commands reach the stack: packetdrill runs them as processes of their own, and they ask here.
//!
//! Interface: [`serve`], [`ask`], [`tool`].
//! Linux counterpart: netlink, ioctls and `/proc` of the network namespace that the tools would change.
//! Locks and context: a thread of its own serves, while packetdrill waits for the command to end.
//!
//! The library listens on an abstract UNIX socket, whose name it is given (`control=NAME`), in the network namespace of the
//! script. The tools have it from the environment ([`CONTROL`]): stand-ins for `ip`, `tc` and `ethtool` that come first in `PATH`
//! pass their command line on; any other program that opens a file of `/proc/net` with this library preloaded reads the stack's.

use crate::commands::command;
use crate::device::RawIp;
use net::core::net_namespace::Net;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::Arc;

/// The variable that has the socket's name.
pub const CONTROL: &str = "SOCKEYE_CONTROL";

/// The tools that there are stand-ins for.
pub const TOOLS: [&str; 3] = ["ip", "tc", "ethtool"];

/// Serves the namespace under `name` until the process ends.
pub fn serve(net: &Arc<Net>, raw: &Arc<RawIp>, name: &str) -> io::Result<()> {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    let (net, raw) = (net.clone(), raw.clone());
    std::thread::Builder::new().name("control".to_owned()).spawn(move || {
        for client in listener.incoming().flatten() {
            // A tool that has gone misses its answer.
            let _ = answer(&net, &raw, client);
        }
    })?;
    Ok(())
}

/// Words end with a zero byte; the answer is a status and the text.
fn answer(net: &Arc<Net>, raw: &RawIp, mut client: UnixStream) -> io::Result<()> {
    let mut line = String::new();
    client.read_to_string(&mut line)?;
    let argv: Vec<&str> = line.split_terminator('\0').collect();
    let (status, text) = match command(net, raw, &argv) {
        Ok(text) => (0, text),
        Err(complaint) => (2, complaint + "\n"),
    };
    client.write_all(&[status])?;
    client.write_all(text.as_bytes())
}

/// Has a command carried out by the stack that serves under `name`: its status, and what it prints.
pub fn ask<'a>(name: &str, argv: impl IntoIterator<Item = &'a str>) -> io::Result<(u8, String)> {
    let mut s = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
    for word in argv {
        s.write_all(word.as_bytes())?;
        s.write_all(&[0])?;
    }
    s.shutdown(Shutdown::Write)?;
    let (mut status, mut text) = ([1], String::new());
    s.read_exact(&mut status)?;
    s.read_to_string(&mut text)?;
    Ok((status[0], text))
}

/// The stand-in that this program is when it is called by a tool's name.
pub fn tool(name: &str, args: &[String]) -> ExitCode {
    let argv = std::iter::once(name).chain(args.iter().map(String::as_str));
    let answer = std::env::var(CONTROL).map_err(io::Error::other).and_then(|control| ask(&control, argv));
    match answer {
        Ok((0, text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok((status, text)) => {
            eprint!("{text}");
            ExitCode::from(status)
        }
        Err(e) => {
            eprintln!("{name}: no stack to ask: {e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Flags, Machine};

    #[test]
    fn tools_are_answered() {
        let m = Machine::new(&Flags::default()).unwrap();
        let name = format!("sockeye-control-test-{}", std::process::id());
        serve(&m.net, &m.raw, &name).unwrap();
        let (status, text) = ask(&name, ["cat", "/proc/net/tcp"]).unwrap();
        assert!(status == 0 && text.starts_with("  sl  local_address"), "{text}");
        assert_eq!(ask(&name, ["tc", "qdisc", "add", "dev", "tun0", "root", "pfifo"]).unwrap(), (0, String::new()));
        let (status, text) = ask(&name, ["ip", "link", "show"]).unwrap();
        assert!(status != 0 && text.contains("not understood"), "{text}");
    }
}
