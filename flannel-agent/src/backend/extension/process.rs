//! One run of a command, from its text to its end.
//!
//! A command is the leader of a process group of its own, so that all that it has started can be
//! ended with it. It has ended when its process has and nobody holds its output any more, as in
//! flannel: what is to stay in the background has to redirect its output.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ipnetwork::Ipv4Network;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::field::display;
use tracing::info;

use super::failure::{Failure, Reason};
use super::output::Said;
use super::words::words;

/// Between the request to end and the end, of a process group whose time is over.
const GRACE: Duration = Duration::from_secs(2);

/// How commands are run.
#[derive(Debug)]
pub(super) struct Runner {
    /// What reads their text; without one it is split into words.
    pub(super) shell: Option<PathBuf>,
    /// Longest run.
    pub(super) limit: Duration,
    /// The agent's environment.
    pub(super) environment: Vec<(OsString, OsString)>,
}

/// One run.
#[derive(Debug)]
pub(super) struct Run<'a> {
    /// Key of the command in the network config.
    pub(super) key: &'static str,
    /// The command.
    pub(super) text: &'a str,
    /// The peer that it is about, if it is about one.
    pub(super) peer: Option<Ipv4Network>,
    /// What comes to the agent's environment, or in its place.
    pub(super) variables: &'a [(&'static str, String)],
    /// What stands on its standard input, before a newline.
    pub(super) input: &'a str,
}

impl Runner {
    /// Runs a command to its end; returns what it has printed on its standard output.
    pub(super) async fn run(
        &self,
        run: &Run<'_>,
        stop: &CancellationToken,
    ) -> Result<Said, Failure> {
        let failure = |reason| Failure::new(run.key, run.text, reason);
        self.attempt(run, stop).await.map_err(failure)
    }

    async fn attempt(&self, run: &Run<'_>, stop: &CancellationToken) -> Result<Said, Reason> {
        if stop.is_cancelled() {
            return Err(Reason::Stopped);
        }
        let mut command = self.command(run);
        let child = command.spawn().map_err(|error| Reason::Start {
            program: command.as_std().get_program().to_owned(),
            may_need_shell: self.shell.is_none() && error.kind() == io::ErrorKind::NotFound,
            error,
        })?;
        let mut group = Group(child);
        let talk = talk(&mut group.0, run);
        tokio::pin!(talk);
        let mut heard = None;
        let ended = async {
            heard = Some(talk.as_mut().await);
            group.0.wait().await
        };
        let cut = tokio::select! {
            status = ended => return judge(status, heard),
            () = sleep(self.limit) => Cut::Limit,
            () = stop.cancelled() => Cut::Stop,
        };
        // The leader is waited for last: until then no other group can get its number.
        group.signal(Signal::SIGTERM);
        if heard.is_some() {
            sleep(GRACE).await;
        } else {
            heard = timeout(GRACE, talk.as_mut()).await.ok();
        }
        group.signal(Signal::SIGKILL);
        if heard.is_none() {
            heard = timeout(GRACE, talk).await.ok();
        }
        // Killed, it ends at once, unless the kernel holds it; then it is left to the runtime.
        let _ = timeout(GRACE, group.0.wait()).await;
        let said = heard.and_then(Result::ok);
        Err(match cut {
            Cut::Stop => Reason::Stopped,
            Cut::Limit => Reason::Limit {
                limit: self.limit,
                said: said.map(|(_, errors)| errors.last()).unwrap_or_default(),
            },
        })
    }

    fn command(&self, run: &Run<'_>) -> Command {
        let given = |name: &OsStr| {
            let found = run.variables.iter().find(|(key, _)| *key == name)?;
            Some(OsString::from(&found.1))
        };
        let inherited = |name: &OsStr| {
            let found = self.environment.iter().find(|(key, _)| key == name)?;
            Some(found.1.clone())
        };
        let variable = |name: &str| given(name.as_ref()).or_else(|| inherited(name.as_ref()));
        let mut command = if let Some(shell) = &self.shell {
            let mut command = Command::new(shell);
            command.arg("-c").arg(run.text);
            command
        } else {
            let mut words = words(run.text, variable).into_iter();
            let mut command = Command::new(words.next().unwrap_or_default());
            command.args(words);
            command
        };
        command
            .env_clear()
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .envs(run.variables.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

/// Why a run did not come to its own end.
enum Cut {
    Limit,
    Stop,
}

/// What both streams of a command have said.
type Talk = (Said, Said);

fn judge(status: io::Result<ExitStatus>, heard: Option<io::Result<Talk>>) -> Result<Said, Reason> {
    let heard = heard.transpose().map_err(Reason::Follow)?;
    let (output, errors) = heard.unwrap_or_default();
    let status = status.map_err(Reason::Follow)?;
    if status.success() {
        return Ok(output);
    }
    let said = errors.last();
    Err(Reason::Status { status, said })
}

/// Gives a command its input and hears it out.
fn talk<'a>(child: &mut Child, run: &'a Run<'_>) -> impl Future<Output = io::Result<Talk>> + 'a {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let log = move |stream: &'static str| {
        let peer = run.peer.map(display);
        move |line: &str| info!(command = run.key, peer, stream, "{line}")
    };
    async move {
        let hear =
            async { tokio::try_join!(hear(stdout, log("output")), hear(stderr, log("error"))) };
        tokio::select! {
            said = hear => said,
            never = feed(stdin, run.input) => match never {},
        }
    }
}

async fn hear(stream: Option<impl AsyncRead + Unpin>, log: impl FnMut(&str)) -> io::Result<Said> {
    match stream {
        Some(stream) => Said::read(stream, log).await,
        None => Ok(Said::default()),
    }
}

/// Writes the input with a newline. A command need not read it, so that errors mean nothing, nor
/// does it have to be written before the command has ended.
async fn feed(stdin: Option<impl AsyncWrite + Unpin>, input: &str) -> Infallible {
    if let Some(mut stdin) = stdin {
        let line = format!("{input}\n");
        let _ = stdin.write_all(line.as_bytes()).await;
    }
    std::future::pending().await
}

/// A process group, by its leader; killed when dropped before the leader was waited for.
struct Group(Child);

impl Group {
    fn signal(&self, signal: Signal) {
        // There is no id any more once the leader was waited for.
        let leader = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(leader) = leader {
            // ESRCH: all of them have ended.
            let _ = killpg(Pid::from_raw(leader), signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}
