//! `build`: the BPF object, and the agent that embeds it.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::cargo;
use crate::ebpf::{self, Profile};
use crate::tools::{self, Need, Tools};

/// Compile the BPF programs and the agent.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Use the development profile
    #[arg(long)]
    debug: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let tools = tools::ensure(&[Need::BpfBuild, Need::AgentBuild])?;
    let agent = agent(&tools, Profile::from_debug(options.debug))?;
    println!("{}", agent.display());
    Ok(())
}

/// Builds the BPF object and the agent around it; returns the path of the agent.
pub(crate) fn agent(tools: &Tools, profile: Profile) -> Result<PathBuf> {
    let object = ebpf::build(tools, profile)?;
    let mut command = cargo::host("build");
    tools
        .for_build(&mut command)
        .args([
            "--package",
            "flannel-agent",
            "--bin",
            "flannel-agent",
            "--locked",
        ])
        .env("FLANNEL_EBPF_OBJECT", object);
    if profile == Profile::Release {
        command.arg("--release");
    }
    let executables = cargo::executables(&mut command, "build of the agent", |_| false)?;
    let agent = executables
        .into_iter()
        .find(|built| built.target.name == "flannel-agent");
    Ok(agent
        .context("cargo named no executable for flannel-agent")?
        .executable)
}
