//! Docker on a machine: containerd and dockerd, started as on any host, and containers.

use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::agent::Agent;
use crate::command;
use crate::host::{Host, Pod};
use crate::machine::{Daemon, Machine};
use crate::netns::NetNs;

/// The image of containers: busybox and nothing else.
pub const IMAGE: &str = "busybox";
/// How long a daemon may take to start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Where `mk-docker-opts` writes.
const OPTIONS: &str = "/run/docker_opts.env";

/// Which of the two rule sets of the kernel `iptables` on a host works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Iptables {
    /// nftables.
    Nft,
    /// The tables of old.
    Legacy,
}

/// Docker on one host.
#[derive(Debug)]
pub struct Docker {
    machine: Machine,
    containerd: Daemon,
    dockerd: Option<Daemon>,
    flags: Vec<String>,
}

impl Docker {
    /// Starts containerd and dockerd on `host`. All that dockerd is told is `flags`, and what
    /// `mk-docker-opts` makes of the file that `agent` wrote.
    ///
    /// # Errors
    /// A daemon does not come up; the message has its log.
    pub fn start(host: &Host, agent: &Agent, iptables: Iptables, flags: &[&str]) -> Result<Self> {
        let machine = Machine::new(host)?;
        iptables.choose(&machine)?;
        install(&machine, agent.binary())?;
        let file = agent.places.subnet_file.display();
        machine.shell(&format!("mk-docker-opts -f {file}"))?;
        let containerd = machine.daemon("containerd", "exec containerd")?;
        // dockerd starts a containerd of its own where it finds none, and the next dockerd would
        // take this one and miss the containers.
        machine.wait_for(&containerd, "ctr version", START_LIMIT)?;
        let mut docker = Self {
            machine,
            containerd,
            dockerd: None,
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        };
        docker.resume()?;
        Self::import_on(&docker.machine)?;
        Ok(docker)
    }

    /// The machine that it runs on.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Starts dockerd, which must not run, and waits until it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub fn resume(&mut self) -> Result<()> {
        ensure!(self.dockerd.is_none(), "dockerd runs already");
        let line = format!(
            ". {OPTIONS}; exec dockerd $DOCKER_OPTS {}",
            self.flags.join(" ")
        );
        let dockerd = self.machine.daemon("dockerd", &line)?;
        self.machine
            .wait_for(&dockerd, "docker version", START_LIMIT)?;
        self.dockerd = Some(dockerd);
        Ok(())
    }

    /// Ends dockerd with a signal, as `kill` names it; containerd stays.
    ///
    /// # Errors
    /// It does not run, or takes too long.
    pub fn end(&mut self, signal: &str) -> Result<()> {
        let dockerd = self.dockerd.take().context("dockerd does not run")?;
        self.machine.end(&dockerd, signal)
    }

    /// Runs `docker` with `args` and gives what it prints.
    ///
    /// # Errors
    /// It fails; the message has its output.
    pub fn docker(&self, args: &[&str]) -> Result<String> {
        self.machine.run("docker", args)
    }

    /// Starts a container that does `program`, with more options for `docker run`.
    ///
    /// # Errors
    /// Docker cannot start it.
    pub fn container(&self, name: &str, options: &[&str], program: &[&str]) -> Result<Pod> {
        let mut args = vec!["run", "--detach", "--name", name];
        args.extend_from_slice(options);
        args.push(IMAGE);
        args.extend_from_slice(program);
        self.docker(&args)?;
        self.pod(name)
    }

    /// The network of a running container.
    ///
    /// # Errors
    /// There is no such container, or it has no network of Docker's.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let format = "{{.State.Pid}} {{.NetworkSettings.IPAddress}}";
        let text = self.docker(&["inspect", "--format", format, name])?;
        let (pid, address) = text.trim().split_once(' ').context("answer of inspect")?;
        let ns = self.machine.namespace_of(pid.parse()?)?;
        let address: Ipv4Addr = address
            .parse()
            .with_context(|| format!("address in {text}"))?;
        let veth = peer_of_eth0(&ns, self.machine.ns())?;
        Ok(Pod { ns, address, veth })
    }

    /// What the machine's iptables says about a chain of the table `filter`.
    ///
    /// # Errors
    /// iptables fails.
    pub fn chain(&self, chain: &str) -> Result<String> {
        self.machine.run("iptables", &["-S", chain])
    }

    /// Makes the image from busybox: there is no registry to get it from.
    ///
    /// # Errors
    /// dockerd does not answer, or busybox is not installed.
    pub fn import_on(machine: &Machine) -> Result<()> {
        let lines = format!(
            "tree=$(mktemp -d -p /run)
             mkdir $tree/bin $tree/tmp
             cp \"$(command -v busybox)\" $tree/bin/busybox
             for name in $($tree/bin/busybox --list); do
                 [ $name = busybox ] || ln -s busybox $tree/bin/$name
             done
             tar -C $tree -c . | docker import - {IMAGE}
             rm -r $tree"
        );
        machine.shell(&lines).map(drop)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if thread::panicking() {
            for daemon in [Some(&self.containerd), self.dockerd.as_ref()]
                .into_iter()
                .flatten()
            {
                eprintln!("machine {}: {}", self.machine.name, daemon.log());
            }
        }
    }
}

impl Iptables {
    /// Whether the kernel has this one.
    ///
    /// # Errors
    /// The program is not installed.
    pub fn is_usable(self, host: &Host) -> Result<bool> {
        let mut command = host.ns.command("sh");
        command.args([
            "-c",
            &format!(
                "{} -S >/dev/null 2>&1 && echo yes || echo no",
                self.program()
            ),
        ]);
        Ok(command::output(command, None)?.trim() == "yes")
    }

    fn program(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
        }
    }

    fn choose(self, machine: &Machine) -> Result<()> {
        let path = machine.shell(&format!("command -v {}", self.program()))?;
        machine.link_program("iptables", Path::new(path.trim()))
    }
}

/// Puts the agent where a shell of the machine finds it, under both of its names.
///
/// # Errors
/// It is there already.
pub fn install(machine: &Machine, agent: &Path) -> Result<()> {
    machine.link_program("flannel-agent", agent)?;
    machine.link_program("mk-docker-opts", agent)
}

/// Name of the device on the host whose other end is `eth0` in `pod`.
fn peer_of_eth0(pod: &NetNs, host: &NetNs) -> Result<String> {
    let links = |ns: &NetNs| -> Result<Vec<serde_json::Value>> {
        Ok(serde_json::from_str(
            &ns.run("ip", &["-json", "link", "show"])?,
        )?)
    };
    let inside = links(pod)?;
    let eth0 = inside
        .iter()
        .find(|link| link["ifname"] == "eth0")
        .context("no eth0")?;
    let outside = links(host)?;
    let veth = outside
        .iter()
        .find(|link| link["ifindex"] == eth0["link_index"])
        .context("no other end of eth0")?;
    Ok(veth["ifname"].as_str().context("name of veth")?.to_owned())
}
