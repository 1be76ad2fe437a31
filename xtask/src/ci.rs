//! `ci`: everything that is checked before a push, and nothing besides.

use anyhow::Result;

use crate::{lint, progress, test};

/// Check style, then run all tests.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {}

pub(crate) fn run(_: &Options) -> Result<()> {
    progress::timed("lint", || lint::run(&lint::Options {}))?;
    progress::timed("test", || test::run(&test::Options::everything()))
}
