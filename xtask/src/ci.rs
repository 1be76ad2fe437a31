//! `ci`: everything that is checked before a push, and nothing besides.

use anyhow::Result;

use crate::tools::{self, Need};
use crate::{lint, progress, test, verify};

/// Check style, then the cost of the programs, then run all tests.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {}

pub(crate) fn run(_: &Options) -> Result<()> {
    // What the host lacks is fetched at once and first, not between the steps.
    progress::timed("tools", || {
        tools::ensure(&[
            Need::BpfBuild,
            Need::AgentBuild,
            Need::Run,
            Need::Containers,
        ])
    })?;
    progress::timed("lint", || lint::run(&lint::Options {}))?;
    progress::timed("verify", || verify::run(&verify::Options::default()))?;
    progress::timed("test", || test::run(&test::Options::everything()))
}
