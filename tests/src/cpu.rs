//! Cores: pinning, keeping one awake, and how busy they were.

use std::fs;
use std::hint;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Pins the calling thread to a core.
///
/// # Errors
/// There is no such core.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("pin to core {core}"))
}

/// Pins the calling thread to a core and lets it go before all ordinary work there.
///
/// For threads that measure: other work on the machine then costs about a hundredth, not half.
///
/// # Errors
/// There is no such core, or not root.
pub fn claim(core: usize) -> Result<()> {
    pin(core)?;
    // SAFETY: no pointer is involved; 0 is the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    ensure!(
        result == 0,
        "raise priority: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

/// Number of cores.
#[must_use]
pub fn count() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Keeps a core from sleeping, with a thread that runs only when nothing else wants to.
///
/// A sleeping core of a virtual machine is woken by an interrupt that costs several times what a
/// packet does; with the spinner a request-response pair measures the path instead.
#[derive(Debug)]
pub struct Spinner {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Spinner {
    /// Starts spinning on a core.
    #[must_use]
    pub fn start(core: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            // Without its pin or its class the spinner would take time from what is measured.
            if pin(core).is_ok() && become_idle() {
                while !flag.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Puts the calling thread into the scheduling class that runs when nothing else does.
fn become_idle() -> bool {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a live, initialised structure, and the call keeps none.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) == 0 }
}

/// Time that cores spent, in ticks since boot.
#[derive(Debug, Clone)]
pub struct Times(Vec<Core>);

#[derive(Debug, Clone, Copy)]
struct Core {
    busy: u64,
    total: u64,
}

impl Times {
    /// Reads `/proc/stat`.
    ///
    /// # Errors
    /// The file is not there.
    pub fn now() -> Result<Self> {
        Ok(Self(parse(
            &fs::read_to_string("/proc/stat").context("read /proc/stat")?,
        )))
    }

    /// Share of the time since `earlier` in which `core` was busy.
    #[must_use]
    pub fn busy_since(&self, earlier: &Self, core: usize) -> f64 {
        let (Some(now), Some(then)) = (self.0.get(core), earlier.0.get(core)) else {
            return 0.0;
        };
        let total = now.total.saturating_sub(then.total).max(1);
        now.busy.saturating_sub(then.busy) as f64 / total as f64
    }
}

/// Columns 4 and 5 of a core's line are idle and waiting for input or output; 9 and 10 are
/// contained in 1 and 2 (`proc_stat(5)`).
fn parse(text: &str) -> Vec<Core> {
    let cores = text
        .lines()
        .filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    cores
        .map(|line| {
            let ticks: Vec<u64> = line
                .split_whitespace()
                .skip(1)
                .take(8)
                .flat_map(str::parse)
                .collect();
            let total: u64 = ticks.iter().sum();
            let idle: u64 = ticks.iter().skip(3).take(2).sum();
            Core {
                busy: total - idle,
                total,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_counts_as_idle() {
        let before = Times(parse("cpu  0 0 0 0\ncpu0 10 0 0 0 0 0 0 0 0 0\nintr 5\n"));
        let after = Times(parse(
            "cpu  0 0 0 0\ncpu0 40 0 0 20 40 0 10 0 0 0\nintr 5\n",
        ));
        assert!((after.busy_since(&before, 0) - 0.4).abs() < 1e-9);
        assert!(
            (after.busy_since(&before, 7)).abs() < 1e-9,
            "an unknown core is not busy"
        );
    }
}
