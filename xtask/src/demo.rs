//! `demo`: builds everything, then shows the kernel path and the eBPF path side by side.
//!
//! The show itself is the program `flannel-demo` of the tests package; this builds it and the agent
//! and takes its place, so that Ctrl-C and its exit code are its own.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cargo;
use crate::ebpf::{self, Profile};
use crate::tools::{self, Need};
use crate::{env, progress};

/// Two hosts, a real etcd, an agent on each, pods, and figures.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Leave the two hosts up until Enter, and print how to look into them
    #[arg(long)]
    keep: bool,
    /// About how long to measure; more samples make steadier figures
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Print the figures as JSON on standard output
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options {
        keep,
        seconds,
        json,
    } = options;
    if !env::is_root() {
        bail!("the demo makes network namespaces and loads programs: run it as root");
    }
    let tools = tools::ensure(&[Need::BpfBuild, Need::AgentBuild, Need::Run])?;
    let object = ebpf::build(&tools, Profile::Release)?;
    let built = progress::timed("build agent and demo", || {
        let mut command = cargo::host("build");
        tools
            .for_build(&mut command)
            .args(["--workspace", "--bins", "--locked"])
            .env("FLANNEL_EBPF_OBJECT", &object);
        cargo::executables(&mut command, "build of agent and demo", |_| false)
    })?;
    let program = |name: &str| {
        let found = built.iter().find(|built| built.target.name == name);
        let found = found.with_context(|| format!("cargo named no executable for {name}"))?;
        Ok::<_, anyhow::Error>(&found.executable)
    };
    let mut demo = Command::new(program("flannel-demo")?);
    tools
        .for_run(&mut demo)
        .env("FLANNEL_AGENT", program("flannel-agent")?);
    if *keep {
        demo.arg("--keep");
    }
    if let Some(seconds) = seconds {
        demo.arg(format!("--seconds={seconds}"));
    }
    if *json {
        demo.arg("--json");
    }
    Err(demo.exec()).context("start the demo")
}
