//! Network namespaces without names, and how to run something inside of one.
//!
//! A namespace lives as long as a file descriptor or a task holds it. Names (`ip netns add`) are
//! mounts that survive a killed run; descriptors do not. Tools take [`NetNs::path`] where they ask
//! for a namespace, and so can a person: `nsenter --net=PATH`.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;

use crate::command::{self, Running};
use crate::mounts::Mounts;

/// A network namespace, together with the mounts that processes inside of it see.
#[derive(Debug, Clone)]
pub struct NetNs {
    net: Arc<OwnedFd>,
    mounts: Arc<Mounts>,
}

impl NetNs {
    /// Makes a namespace with loopback up, IPv6 off and nothing else in it.
    ///
    /// # Errors
    /// Not root.
    pub fn new(mounts: &Arc<Mounts>) -> Result<Self> {
        let make = || -> Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare network namespace (needs root)")?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        };
        let net = thread::spawn(make)
            .join()
            .map_err(|_| anyhow!("make network namespace: thread panicked"))??;
        let namespace = Self {
            net: Arc::new(net),
            mounts: Arc::clone(mounts),
        };
        // Router solicitations and duplicate address detection would show up in packet counts.
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1")?;
        }
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The namespace that a path names, with the mounts of a bed.
    ///
    /// # Errors
    /// It names none.
    pub fn open(path: &Path, mounts: &Arc<Mounts>) -> Result<Self> {
        let net = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self {
            net: Arc::new(net.into()),
            mounts: Arc::clone(mounts),
        })
    }

    /// A path that names this namespace for as long as this process holds it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd())
    }

    /// The mounts of the bed.
    #[must_use]
    pub fn mounts(&self) -> &Arc<Mounts> {
        &self.mounts
    }

    /// A command that will run in this namespace and die with this process.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let Self { net, mounts } = self.clone();
        let parent = nix::unistd::getpid();
        let enter = move || -> io::Result<()> {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have ended between fork and prctl.
            if nix::unistd::getppid() != parent {
                return Err(io::Error::from(nix::Error::ESRCH));
            }
            setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
            setns(net.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes four system calls and nothing else; it
        // neither allocates nor takes locks.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs `program` to its end and gives its standard output.
    ///
    /// # Errors
    /// It cannot start or fails; the message has the command line and all output.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = self.command(program);
        command.args(args);
        command::output(command, None)
    }

    /// Starts `program`, which is ended when the guard goes.
    ///
    /// # Errors
    /// It cannot start.
    pub fn spawn(&self, program: &str, args: &[&str]) -> Result<Running> {
        let mut command = self.command(program);
        command.args(args);
        command::spawn(command)
    }

    /// Runs `ip` with the words of each line of `lines`, in one process.
    ///
    /// # Errors
    /// A line fails; those before it stay in effect.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut command = self.command("ip");
        command.args(["-batch", "-"]);
        command::output(command, Some(lines))
            .with_context(|| format!("ip:\n{lines}"))
            .map(drop)
    }

    /// Sets a sysctl, named by its path below `/proc/sys`.
    ///
    /// # Errors
    /// The kernel has no such setting or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        ensure!(
            name.starts_with("net/"),
            "sysctl {name} is not one of a network namespace"
        );
        self.enter(|| fs::write(format!("/proc/sys/{name}"), value))?
            .with_context(|| format!("set sysctl {name} to {value}"))
    }

    /// Calls `work` on a thread of its own inside this namespace.
    ///
    /// Sockets that it opens stay in the namespace wherever they are used afterwards.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `work` panicked.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| -> Result<T> {
                    setns(self.net.as_fd(), CloneFlags::CLONE_NEWNET)
                        .context("enter network namespace")?;
                    Ok(work())
                })
                .join()
                .map_err(|panic| anyhow!("in network namespace: {}", panic_text(&*panic)))?
        })
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "panic".to_owned())
}
