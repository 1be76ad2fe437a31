//! `bench`: builds everything for release, then measures.
//!
//! The benches are subcommands of the program `flannel-bench` of the tests package, which takes the
//! rest of the command line; this builds it and the agent and takes its place.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cargo;
use crate::ebpf::{self, Profile};
use crate::tools::{self, Need};
use crate::{env, progress};

/// Measure the agent on this machine.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "cargo xtask bench <BENCH> [OPTIONS]",
    after_help = "Benches:\n  leases  start with many leases, follow them, reach the next one\n  \
                  paths   all data paths side by side: packets, TCP, request-response\n\n\
                  `cargo xtask bench <BENCH> --help` names the options of one."
)]
pub(crate) struct Options {
    /// Which bench, and its options
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
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
