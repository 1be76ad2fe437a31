//! `bench`: builds everything for release, then measures.
//!
//! The benches are the program `flannel-bench` of the tests package, which takes the rest of the
//! command line; this builds it and the agent and takes its place.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cargo;
use crate::ebpf::{self, Profile};
use crate::tools::{self, Need};
use crate::{env, progress};

/// The bench's own options, which it alone reads; `flannel-bench --help` has all of them.
const OPTIONS: &str = "\
Options of the bench:
  --quick               less of everything, in under two minutes
  --only SIDE,…         these data paths: vxlan-fast, or vxlan for all of vxlan
  --figures PART,…      packets, tcp, response, costs, restarts, leases
  --peer NAME=PATH      also any program that takes flanneld's flags
  --rounds N            samples behind each median
  --json FILE           write the figures as JSON, too
  --charts DIR          write charts, as SVG and as PNG
  --markdown FILE       write a page of figures, as docs/performance-figures.md is one
  --from REPORT.json    measure nothing, and show the figures of an earlier --json
  --compare OLD.json    say what is better and what is worse than then

`cargo xtask bench leases` measures agents with many leases at length.";

/// Measure all data paths side by side, and agents with many leases.
#[derive(Debug, clap::Args)]
#[command(override_usage = "cargo xtask bench [OPTIONS]", after_help = OPTIONS)]
pub(crate) struct Options {
    /// Options of the bench
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    bench: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { bench } = options;
    if !env::is_root() {
        bail!("benches make network namespaces and load programs: run them as root");
    }
    let tools = tools::ensure(&[Need::BpfBuild, Need::AgentBuild, Need::Run])?;
    let object = ebpf::build(&tools, Profile::Release)?;
    let built = progress::timed("build agent and benches for release", || {
        let mut command = cargo::host("build");
        tools
            .for_build(&mut command)
            .args(["--release", "--locked"])
            .args(["--package=flannel-agent", "--bin=flannel-agent"])
            .args(["--package=flannel-tests", "--bin=flannel-bench"])
            .env("FLANNEL_EBPF_OBJECT", &object);
        cargo::executables(&mut command, "build of agent and benches", |_| false)
    })?;
    let program = |name: &str| {
        let found = built.iter().find(|built| built.target.name == name);
        let found = found.with_context(|| format!("cargo named no executable for {name}"))?;
        Ok::<_, anyhow::Error>(&found.executable)
    };
    let mut command = Command::new(program("flannel-bench")?);
    tools
        .for_run(&mut command)
        .env("FLANNEL_AGENT", program("flannel-agent")?)
        .args(bench);
    Err(command.exec()).context("start the bench")
}
