//! A context of execution that can be switched out anywhere: a task, or the work of an interrupt on an idle CPU.
//!
//! Interface: [`Ctx`]: `start`, `resume`, `suspend`; [`Why`], [`Resume`], [`Killed`].
//! Linux counterpart: `context_switch`, `struct thread_struct`; `arch/x86/entry/entry_64.S` (`__switch_to_asm`).
//! Locks and context: the simulation's thread. A context runs from `resume` to `suspend`; who resumes waits.
//!
//! Switching saves the callee-saved registers and the stack pointer and loads the other's (corosensei does it), and exchanges
//! the thread's [`CpuContext`]: what the context has disabled, the kernel it is in.

use crate::stack::TaskStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use kernel::cpu::CpuContext;
use kernel::sched::SchedEntity;
use kernel::task::Task;
use std::backtrace::Backtrace;
use std::cell::{Cell, OnceCell, RefCell, UnsafeCell};
use std::panic;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;

/// Why a context let go of its CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// Asleep until it is woken.
    Sleep,
    /// It lets others of its CPU go first.
    Yield,
    /// Others of its CPU are to go first.
    Preempt,
    /// It waits for something that another context must do, without sleeping.
    Spin,
    /// Other CPUs are to go first.
    Switch,
    /// Its CPU is busy until then.
    Busy(u64),
    /// The interrupts of an idle CPU have been served.
    IrqDone,
}

/// What a context is resumed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resume {
    Go,
    /// To say where it is, and wait on.
    Where,
}

/// What a killed task unwinds with.
pub(crate) struct Killed;

type Coro = Coroutine<Resume, Why, (), TaskStack>;

/// Where a task is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// On a run queue.
    Queued,
    /// Its CPU's current context, running or waiting for its CPU's turn.
    OnCpu,
    Asleep,
    Done,
}

pub(crate) struct Ctx {
    /// Counts up over the run; interrupt work has 0.
    pub serial: u64,
    /// Where the engine keeps it.
    pub slot: u32,
    pub name: Rc<str>,
    pub machine: u32,
    /// The simulation's number of the CPU it is on, or was last.
    pub vcpu: Cell<u32>,
    /// A simulation ends without waiting for it.
    pub daemon: bool,
    pub task: OnceCell<Arc<Task>>,
    pub state: Cell<State>,
    pub se: RefCell<SchedEntity>,
    /// When it wakes by itself, virtual nanoseconds; `u64::MAX`: never.
    pub deadline: Cell<u64>,
    /// The earliest of its deadlines that the event queue holds.
    pub timer_at: Cell<u64>,
    /// Tasks that wait for its end.
    pub joiners: RefCell<Vec<Arc<Task>>>,
    /// Since when it has been waiting for something in a loop; `u64::MAX`: it has not since it slept.
    pub spin_since: Cell<u64>,
    /// Its deadline is one of its machine's clock.
    pub by_clock: Cell<bool>,
    /// It is to end where it next sleeps, and it has begun to.
    pub dying: Cell<bool>,
    pub killed: Cell<bool>,
    cpu: CpuContext,
    coro: UnsafeCell<Option<Coro>>,
    yielder: Cell<*const Yielder<Resume, Why>>,
    /// The answer to [`Resume::Where`].
    place: RefCell<Option<Backtrace>>,
}

impl Ctx {
    pub fn new(
        serial: u64,
        slot: u32,
        name: &str,
        vcpu: (u32, u32),
        daemon: bool,
        se: SchedEntity,
        cpu: CpuContext,
    ) -> Self {
        Ctx {
            serial,
            slot,
            name: name.into(),
            machine: vcpu.0,
            vcpu: Cell::new(vcpu.1),
            daemon,
            task: OnceCell::new(),
            state: Cell::new(State::Queued),
            se: RefCell::new(se),
            deadline: Cell::new(u64::MAX),
            timer_at: Cell::new(u64::MAX),
            joiners: RefCell::default(),
            spin_since: Cell::new(u64::MAX),
            killed: Cell::new(false),
            by_clock: Cell::new(false),
            dying: Cell::new(false),
            cpu,
            coro: UnsafeCell::new(None),
            yielder: Cell::new(ptr::null()),
            place: RefCell::new(None),
        }
    }

    pub fn is_task(&self) -> bool {
        self.serial != 0
    }

    /// Gives it a stack and what to do. It first runs at the first `resume`.
    pub fn start(self: &Rc<Self>, stack: TaskStack, body: impl FnOnce() + 'static) {
        let me: *const Ctx = &**self;
        let coro = Coro::with_stack(stack, move |yielder, how| {
            // SAFETY: whoever resumes holds the `Rc`.
            unsafe { (*me).yielder.set(yielder) };
            if how == Resume::Go {
                body();
            }
        });
        // SAFETY: not started, so nothing runs on it and nobody else looks.
        unsafe { *self.coro.get() = Some(coro) };
    }

    /// Runs it until it suspends; `None` when it has ended. The caller holds it by an `Rc`.
    #[inline]
    pub fn resume(&self, how: Resume) -> Option<Why> {
        // SAFETY: the coroutine below switches stacks; this and the one after it bracket its run.
        unsafe { self.cpu.switch() };
        // SAFETY: one thread, and a context is not resumed while it runs: nobody else holds this borrow.
        let r = unsafe { (*self.coro.get()).as_mut().expect("started").resume(how) };
        // SAFETY: as above: the run is over, so the context is put away again.
        unsafe { self.cpu.switch() };
        match r {
            CoroutineResult::Yield(why) => Some(why),
            CoroutineResult::Return(()) => None,
        }
    }

    /// Called in the context itself: back to whoever resumed it. Returns when it is resumed.
    #[inline]
    pub fn suspend(&self, why: Why) {
        loop {
            // SAFETY: set when the coroutine started, and this runs on it.
            match unsafe { (*self.yielder.get()).suspend(why) } {
                Resume::Go => return,
                Resume::Where => *self.place.borrow_mut() = Some(Backtrace::force_capture()),
            }
        }
    }

    /// Ends the task here, if that has been asked for: unwinds it, once.
    pub fn die_if_asked(&self) {
        if self.dying.get() && !self.killed.replace(true) {
            panic::resume_unwind(Box::new(Killed));
        }
    }

    /// Where it is suspended: the functions that called, the innermost first.
    pub fn backtrace(&self) -> Option<Backtrace> {
        // SAFETY: one thread; it does not run.
        let started = unsafe { (*self.coro.get()).as_ref() }.is_some_and(|c| c.started() && !c.done());
        if started {
            self.resume(Resume::Where);
        }
        self.place.take()
    }

    /// Whether it may be put to sleep where it is suspended.
    pub fn is_atomic(&self) -> bool {
        self.cpu.is_atomic()
    }

    pub fn irqs_disabled(&self) -> bool {
        self.cpu.irqs_disabled()
    }

    /// Whether it is inside a kernel, as the CPU that it runs on.
    pub fn has_cpu(&self) -> bool {
        self.cpu.has_cpu()
    }

    /// The stack of an ended context.
    pub fn take_stack(&self) -> Option<TaskStack> {
        // SAFETY: one thread; it does not run.
        let coro = unsafe { (*self.coro.get()).take() }?;
        if !coro.done() {
            // SAFETY: as above.
            unsafe { *self.coro.get() = Some(coro) };
            return None;
        }
        Some(coro.into_stack())
    }

    /// Gives up on a context that cannot be unwound: whatever its stack holds is lost, and so is the stack, to which others
    /// may hold pointers.
    pub fn forget(&self) {
        // SAFETY: one thread; it does not run.
        let coro = unsafe { (*self.coro.get()).take() };
        if let Some(coro) = coro.filter(|c| c.started() && !c.done()) {
            std::mem::forget(coro);
        }
    }
}

impl Drop for Ctx {
    fn drop(&mut self) {
        self.forget();
    }
}
