//! `--trace`: the tracepoints' records as an indented call tree.
//!
//! Interface: [`TraceText`]: prints in the background until dropped.
//! Linux counterpart: `trace-cmd report`, the function-graph tracer's output.
//! Locks and context: a thread of its own reads the rings.

use kernel::Kernel;
use kernel::trace::{Event, Mode, set_mode};
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the rings are emptied.
const PERIOD: Duration = Duration::from_millis(20);

/// Prints what the tracepoints record.
pub struct TraceText {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TraceText {
    /// Switches all tracepoints on.
    pub fn start(kernel: &Arc<Kernel>, name: &str) -> std::io::Result<TraceText> {
        set_mode(Mode::All);
        let (stop, stopped) = channel::<()>();
        let (kernel, name) = (kernel.clone(), name.to_owned());
        let thread = std::thread::Builder::new().name("trace".into()).spawn(move || {
            let mut out = BufWriter::new(std::io::stderr());
            let _ = writeln!(out, "# {name}: time (ms), CPU, context, duration (us), function, packet, socket, bytes");
            let start = kernel.ktime_get();
            loop {
                let last = stopped.recv_timeout(PERIOD) != Err(RecvTimeoutError::Timeout);
                for e in kernel.tracer().drain() {
                    let _ = print(&mut out, &e, start);
                }
                let _ = out.flush();
                if last {
                    break;
                }
            }
            let lost = kernel.tracer().lost();
            if lost > 0 {
                let _ = writeln!(out, "# {lost} records were overwritten before they could be printed");
            }
        })?;
        Ok(TraceText { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for TraceText {
    fn drop(&mut self) {
        set_mode(Mode::Off);
        drop(self.stop.take());
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

fn print(out: &mut impl Write, e: &Event, start: u64) -> std::io::Result<()> {
    let at = e.time.saturating_sub(start) as f64 / 1e6;
    let indent = "  ".repeat(e.depth as usize);
    write!(out, "{at:12.3} {:3} {:<8}", e.cpu, e.context)?;
    match e.duration {
        0 => write!(out, " {:>9}", "")?,
        d => write!(out, " {:9.1}", d as f64 / 1e3)?,
    }
    write!(out, "  {indent}{}", e.name)?;
    let s = e.subject;
    if s.skb != 0 {
        write!(out, " skb={}", s.skb)?;
    }
    if s.sk != 0 {
        write!(out, " sk={}", s.sk)?;
    }
    if s.len != 0 {
        write!(out, " len={}", s.len)?;
    }
    writeln!(out)
}
