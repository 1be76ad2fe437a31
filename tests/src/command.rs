//! Running tools: errors that show command and output, and guards that end what they started.
//!
//! The kernel sends the parent-death signal when the *thread* that forked ends. All children are
//! therefore started by one thread that lives as long as the process.

use std::io::{self, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

struct Order {
    command: Command,
    reply: mpsc::Sender<io::Result<Child>>,
}

fn start(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, queue) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for Order { mut command, reply } in queue {
                // A caller that is gone needs no answer.
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let gone = || io::Error::other("spawning thread is gone");
    let (reply, answer) = mpsc::channel();
    spawner.send(Order { command, reply }).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// The command line for messages.
fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// Runs a command to its end, with `input` on its standard input, and gives its standard output.
///
/// # Errors
/// It cannot start or fails; the message has the command line and all output.
pub fn output(mut command: Command, input: Option<&str>) -> Result<String> {
    let line = line(&command);
    let stdin = if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = start(command).with_context(|| format!("start `{line}`"))?;
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        // A tool that fails early closes the pipe; its own message says more.
        let _ = pipe.write_all(text.as_bytes());
    }
    let result = child
        .wait_with_output()
        .with_context(|| format!("run `{line}`"))?;
    let stdout = String::from_utf8_lossy(&result.stdout).into_owned();
    if !result.status.success() {
        let stderr = String::from_utf8_lossy(&result.stderr);
        bail!("`{line}`: {}\n{stdout}{stderr}", result.status);
    }
    Ok(stdout)
}

/// Starts a command without standard input; its output goes where the command says.
///
/// # Errors
/// It cannot start.
pub fn spawn(mut command: Command) -> Result<Running> {
    let line = line(&command);
    command.stdin(Stdio::null());
    let child = start(command).with_context(|| format!("start `{line}`"))?;
    Ok(Running { child, line })
}

/// A child process; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let Self { child, line } = self;
        wait::until(&format!("the end of `{line}`"), limit, || {
            Ok(child.try_wait()?)
        })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process has ended and was waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).map_err(|_| anyhow!("process id out of range"))?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to `{}`", self.line))
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
