//! A traced function being inside: from the tracepoint to the end of its scope.
//!
//! Interface: [`tp!`](crate::tp), [`Span`], [`TaskSpan`].
//! Linux counterpart: the function-graph tracer's return hooks.
//! Locks and context: any context; writes to the ring of the CPU.

use crate::cpu::{context_name, current_kernel, smp_processor_id, trace_depth};
use crate::kernel::Kernel;
use crate::trace::{Event, Subject, Traceable, enabled, only_marked};

/// The kernel the thread is inside.
fn current<'k>() -> Option<&'k Kernel> {
    // SAFETY: non-null only while the thread is inside that kernel, which is borrowed for as long; only a `Kernel` makes
    // threads its CPUs, and the callers keep the reference for less than a span's life.
    unsafe { current_kernel().cast::<Kernel>().as_ref() }
}

/// A function being inside; its drop notes how long.
pub struct Span {
    cpu: usize,
    seq: u64,
}

impl Span {
    /// Records the entry, unless the mode or the subject says not to.
    #[cold]
    pub fn enter(name: &'static str, subjects: &[&dyn Traceable]) -> Option<Span> {
        let mut subject = Subject::default();
        for s in subjects {
            s.describe(&mut subject);
        }
        if only_marked() && !subject.marked {
            return None;
        }
        let kernel = current()?;
        let depth = trace_depth(|d| d.replace(d.get() + 1));
        let cpu = smp_processor_id();
        let time = kernel.arch().ktime_get();
        let context = context_name();
        let seq = kernel.tracer().record(Event { time, duration: 0, seq: 0, name, cpu, context, depth, subject });
        Some(Span { cpu, seq })
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        trace_depth(|d| d.set(d.get().saturating_sub(1)));
        if let Some(k) = current() {
            k.tracer().finish(self.cpu, self.seq, k.arch().ktime_get());
        }
    }
}

/// A task being asleep, or whatever else it does outside of the CPU.
pub struct TaskSpan<'k> {
    kernel: &'k Kernel,
    span: Span,
}

impl<'k> TaskSpan<'k> {
    /// Records that the calling task, which is not inside the kernel, enters `name`; `None` unless everything is recorded.
    pub fn enter(kernel: &'k Kernel, name: &'static str) -> Option<TaskSpan<'k>> {
        if !enabled() || only_marked() {
            return None;
        }
        let (time, cpu, context) = (kernel.ktime_get(), kernel.arch().smp_processor_id().unwrap_or(0), context_name());
        let depth = trace_depth(|d| d.replace(d.get() + 1));
        let subject = Subject::default();
        let seq = kernel.tracer().record(Event { time, duration: 0, seq: 0, name, cpu, context, depth, subject });
        // The ring is that of the CPU which records; from outside it is the first one's.
        Some(TaskSpan { kernel, span: Span { cpu: smp_processor_id(), seq } })
    }
}

impl Drop for TaskSpan<'_> {
    fn drop(&mut self) {
        self.kernel.tracer().finish(self.span.cpu, self.span.seq, self.kernel.ktime_get());
    }
}

/// A tracepoint: `tp!(tcp_v4_rcv, skb)`. Lasts to the end of the enclosing block.
#[macro_export]
macro_rules! tp {
    ($name:ident $(, $subject:expr)*) => {
        $crate::cpu::checkpoint();
        let _span = if $crate::trace::enabled() {
            $crate::span::Span::enter(stringify!($name), &[$(&*$subject as &dyn $crate::trace::Traceable),*])
        } else {
            None
        };
    };
}
