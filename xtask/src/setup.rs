//! `setup`: finds what is missing on the host and installs it.

use anyhow::Result;
use clap::ValueEnum;

use crate::install;
use crate::tools::{self, Need};

/// Find what is missing on this host and install it.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// What the host is to be made ready for
    #[arg(long = "for", value_enum, default_value_t = Purpose::All)]
    purpose: Purpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Purpose {
    /// `build` and `build-ebpf`
    Build,
    /// `test`
    Test,
    /// Everything
    All,
}

impl Purpose {
    fn needs(self) -> &'static [Need] {
        match self {
            Self::Build => &[Need::BpfBuild, Need::AgentBuild],
            Self::Test | Self::All => &[
                Need::BpfBuild,
                Need::AgentBuild,
                Need::Run,
                Need::Containers,
            ],
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { dry_run, purpose } = *options;
    if dry_run {
        let (_, gaps) = tools::survey(purpose.needs(), None)?;
        if !gaps.is_empty() {
            install::describe(&gaps);
            return Ok(());
        }
    }
    let tools = tools::ensure(purpose.needs())?;
    let (toolchain, linker) = tools.bpf()?;
    println!("nothing is missing");
    println!("  BPF programs: {toolchain}");
    println!("  linked by {}", linker.display());
    Ok(())
}
