//! A host with processes, mounts and control groups of its own: enough of a machine for Docker.
//!
//! Daemons start processes that outlive them, mount file systems and write to `/run`, `/etc` and
//! `/var/lib`. A machine has a PID namespace, whose first process takes all others with it; a
//! mount namespace, in which those directories are private and programs use them as on any host;
//! and a control group that is the root of what is seen inside. The first process ends with this
//! process, however that ends, and a janitor removes the empty control groups then.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::command::{self, Running};
use crate::host::Host;
use crate::netns::NetNs;
use crate::{agent, wait};

/// How long namespaces and mounts may take on a busy machine.
const SET_UP_LIMIT: Duration = Duration::from_secs(10);
/// How long a daemon may take to end after a signal.
const END_LIMIT: Duration = Duration::from_secs(20);
/// Programs that come first, and logs; the machine's own.
const PROGRAMS: &str = "/run/machine";

/// From the namespaces of the bed into a control group, and on into the namespaces of the machine.
///
/// The janitor moves itself out of the control group and thereby outlives it. The parent-death
/// signal of this process is not inherited by it, but `unshare` keeps its own.
const OUTER: &str = r#"
    mount -t tmpfs machine /sys/fs/cgroup
    mount -t cgroup2 machine /sys/fs/cgroup
    group=/sys/fs/cgroup/$GROUP
    mkdir "$group"
    echo $$ >"$group/cgroup.procs"
    trap '' INT
    sh -c 'echo $$ >/sys/fs/cgroup/cgroup.procs
           while sleep 0.5; do
               grep -q "populated 1" "$0/cgroup.events" && continue
               find "$0" -depth -type d -exec rmdir {} + && exit
           done' "$group" </dev/null >/dev/null 2>&1 &
    trap - INT
    exec unshare --cgroup --mount --pid --fork --kill-child --mount-proc -- sh -ec "$INNER"
"#;

/// The first process, before it becomes a reaper of orphans.
///
/// Docker raises a limit below `/proc/sys/kernel`, which is the whole host's: only `net` is
/// writable, as that belongs to the namespace.
const INNER: &str = r#"
    mount -t sysfs machine /sys
    mount -t bpf machine /sys/fs/bpf
    mount -t cgroup2 machine /sys/fs/cgroup
    mount --bind /proc/sys /proc/sys
    mount --bind /proc/sys/net /proc/sys/net
    mount -o remount,bind,ro /proc/sys
    mount -t tmpfs machine /run
    for place in etc var/lib; do
        mkdir -p "/run/machine/layers/$place/upper" "/run/machine/layers/$place/work"
        layers=/run/machine/layers/$place
        mount -t overlay -o "lowerdir=/$place,upperdir=$layers/upper,workdir=$layers/work" \
            machine "/$place"
    done
    for place in docker containerd; do
        mkdir -p "/var/lib/$place"
        mount -t tmpfs machine "/var/lib/$place"
    done
    echo up >/run/machine/up
    exec docker-init -- sleep infinity
"#;

/// A machine. Everything in it ends when this goes.
#[derive(Debug)]
pub struct Machine {
    /// Name of the host.
    pub name: String,
    ns: NetNs,
    /// `unshare`, which is in the namespaces that it made, all but the one of processes.
    keeper: Running,
    group: String,
    path: OsString,
}

impl Machine {
    /// Makes `host` a machine.
    ///
    /// # Errors
    /// Not root, the kernel lacks overlayfs or control groups v2, or a tool is missing.
    pub fn new(host: &Host) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let group = format!("flannel-tests-{}-{number}", std::process::id());
        let path = search_path()?;
        let mut command = host.ns.command("unshare");
        command
            .args(["--mount", "--", "sh", "-ec", OUTER])
            .env("GROUP", &group)
            .env("INNER", INNER)
            .env("PATH", &path);
        let mut keeper = command::spawn(command)?;
        let up = root_of(&keeper).join("run/machine/up");
        wait::until("a machine", SET_UP_LIMIT, || {
            if let Some(status) = keeper.ended()? {
                bail!(wait::Hopeless(format!("its set-up ended: {status}")));
            }
            Ok(up.exists().then_some(()))
        })?;
        Ok(Self {
            name: host.name.clone(),
            ns: host.ns.clone(),
            keeper,
            group,
            path,
        })
    }

    /// The namespace of its network.
    #[must_use]
    pub fn ns(&self) -> &NetNs {
        &self.ns
    }

    /// A path inside of the machine, as this process reaches it.
    #[must_use]
    pub fn outside(&self, inside: &str) -> PathBuf {
        root_of(&self.keeper).join(inside.trim_start_matches('/'))
    }

    /// Name of its control group.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// A command that will run in the machine.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let pid = self.keeper.pid();
        let mut command = self.ns.command("nsenter");
        command
            .args(["--target", &pid.to_string(), "--mount", "--cgroup"])
            .arg(format!("--pid=/proc/{pid}/ns/pid_for_children"))
            .args(["--", program])
            .env("PATH", &self.path);
        command
    }

    /// Runs `program` to its end and gives its standard output.
    ///
    /// # Errors
    /// It cannot start or fails; the message has the command line and all output.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = self.command(program);
        command.args(args);
        command::output(command, None).with_context(|| format!("on machine {}", self.name))
    }

    /// Runs `lines` as a person's shell would, but stops at the first that fails.
    ///
    /// # Errors
    /// A line fails; the message has all output.
    pub fn shell(&self, lines: &str) -> Result<String> {
        self.run("sh", &["-ec", lines])
    }

    /// Makes a file that programs of the machine find first: a link, or a file with a text.
    ///
    /// # Errors
    /// It is there.
    pub fn link_program(&self, name: &str, target: &Path) -> Result<()> {
        let link = self.outside(PROGRAMS).join(name);
        std::os::unix::fs::symlink(target, &link)
            .with_context(|| format!("link {} to {}", link.display(), target.display()))
    }

    /// Starts a daemon by lines for a shell, the last of which should be an `exec`.
    ///
    /// # Errors
    /// The shell fails; the daemon itself may fail later.
    pub fn daemon(&self, name: &str, lines: &str) -> Result<Daemon> {
        let log = format!("{PROGRAMS}/{name}.log");
        // Who enters the namespace of control groups is in none of its groups yet. The outer
        // shell ends at once, so the daemon becomes a child of the machine's first process.
        let start =
            format!("echo $$ >/sys/fs/cgroup/cgroup.procs; exec </dev/null >>{log} 2>&1; {lines}");
        let pid = self.run(
            "sh",
            &[
                "-ec",
                "setsid sh -c \"$0\" >/dev/null 2>&1 & echo $!",
                &start,
            ],
        )?;
        Ok(Daemon {
            name: name.to_owned(),
            pid: pid
                .trim()
                .parse()
                .with_context(|| format!("process id: {pid}"))?,
            log: self.outside(&log),
        })
    }

    /// Asks a daemon to end, and waits.
    ///
    /// # Errors
    /// It has ended already, or takes too long.
    pub fn end(&self, daemon: &Daemon, signal: &str) -> Result<()> {
        let Daemon { name, pid, .. } = daemon;
        self.shell(&format!("kill -{signal} {pid}"))?;
        wait::until(&format!("the end of {name}"), END_LIMIT, || {
            Ok((!self.is_running(daemon)).then_some(()))
        })
        .with_context(|| daemon.log())
    }

    /// Whether a daemon runs.
    #[must_use]
    pub fn is_running(&self, daemon: &Daemon) -> bool {
        self.outside(&format!("/proc/{}", daemon.pid)).exists()
    }

    /// Waits until `probe`, a line for a shell, succeeds and gives what it prints.
    ///
    /// # Errors
    /// It does not within `limit`, or `daemon` ended.
    pub fn wait_for(&self, daemon: &Daemon, probe: &str, limit: Duration) -> Result<String> {
        wait::until(&format!("`{probe}`"), limit, || {
            ensure!(
                self.is_running(daemon),
                wait::Hopeless(format!("{} ended", daemon.name))
            );
            self.shell(probe).map(Some)
        })
        .with_context(|| daemon.log())
    }

    /// The network namespace of a process, by its id inside of the machine.
    ///
    /// # Errors
    /// There is no such process.
    pub fn namespace_of(&self, pid: u32) -> Result<NetNs> {
        NetNs::open(
            &self.outside(&format!("/proc/{pid}/ns/net")),
            self.ns.mounts(),
        )
    }
}

/// A process that was started in a machine and runs on its own.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    pid: u32,
    log: PathBuf,
}

impl Daemon {
    /// The last lines of its log.
    #[must_use]
    pub fn log(&self) -> String {
        let Self { name, pid: _, log } = self;
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(30)..];
        format!("log of {name}:\n{}", tail.join("\n"))
    }
}

/// Root directory of the machine, seen from outside.
fn root_of(keeper: &Running) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root", keeper.pid()))
}

/// The machine's own programs, ours, those of the distribution, then whatever else there is.
///
/// What somebody installed by hand comes late: a docker of one origin may refuse to speak to a
/// dockerd of another.
fn search_path() -> Result<OsString> {
    let tools = agent::build_directory()?.join("../tools");
    let ours = [
        "docker/usr/bin",
        "docker/usr/sbin",
        "busybox/bin",
        "etcd/usr/bin",
    ];
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let folders = [PathBuf::from(PROGRAMS)]
        .into_iter()
        .chain(ours.iter().map(|folder| tools.join(folder)))
        .chain(system.iter().map(PathBuf::from))
        .chain(std::env::split_paths(&inherited));
    std::env::join_paths(folders).context("search path of a machine")
}
