//! `flannel-bench`: one subcommand per bench, a table for people and `--json` for programs.
//!
//! `cargo xtask bench` builds the agent for release and runs this. It needs root. Whatever ends it,
//! nothing is left behind: see the library's first page.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use flannel_tests::agent::Datapath;
use flannel_tests::bench::leases::{self, Subject};
use flannel_tests::bench::paths::{self, Kind};
use serde::Serialize;

/// Measure agents on this machine.
#[derive(Debug, Parser)]
#[command(name = "flannel-bench")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Start with many leases, follow their changes, and reach the next one
    Leases(Leases),
    /// All data paths side by side: packets per second, TCP, request-response
    Paths(Paths),
}

#[derive(Debug, clap::Args)]
struct Leases {
    /// Also measure a program that takes flanneld's flags; may be given several times
    #[arg(long, value_name = "NAME=PATH", value_parser = Subject::peer)]
    peer: Vec<Subject>,
    /// Numbers of leases
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=16_000))]
    leases: Option<Vec<u32>>,
    /// Starts of each agent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct Paths {
    /// Measure only these data paths
    #[arg(long, value_name = "SIDE", value_delimiter = ',')]
    only: Option<Vec<Kind>>,
    /// Samples behind each median
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    #[command(flatten)]
    output: Output,
}

/// What every bench takes.
#[derive(Debug, clap::Args)]
struct Output {
    /// Few samples: shows that it works
    #[arg(long)]
    quick: bool,
    /// Write the figures as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Cli::parse().bench) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(bench: Bench) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("namespaces and BPF need root: run it with sudo");
    }
    match bench {
        Bench::Leases(options) => run_leases(options),
        Bench::Paths(options) => run_paths(options),
    }
}

fn run_leases(options: Leases) -> Result<()> {
    let Leases {
        peer,
        leases,
        rounds,
        output,
    } = options;
    let mut subjects = vec![
        Subject::own(Datapath::Ebpf)?,
        Subject::own(Datapath::Kernel)?,
    ];
    subjects.extend(peer);
    let mut options = if output.quick {
        leases::Options::quick(subjects)
    } else {
        leases::Options::full(subjects)
    };
    options.counts = leases.unwrap_or(options.counts);
    options.rounds = rounds.map_or(options.rounds, |rounds| rounds as usize);
    let report = leases::run(&options)?;
    show(&report, &leases::render::table(&report), &output)
}

fn run_paths(options: Paths) -> Result<()> {
    let Paths {
        only,
        rounds,
        output,
    } = options;
    let mut sides = only.unwrap_or_else(|| Kind::ALL.to_vec());
    sides.sort_unstable();
    sides.dedup();
    let mut options = if output.quick {
        paths::Options::quick(sides)
    } else {
        paths::Options::full(sides)
    };
    options.rounds = rounds.map_or(options.rounds, |rounds| rounds as usize);
    let report = paths::run(&options)?;
    show(&report, &paths::render::table(&report), &output)
}

fn show(report: &impl Serialize, table: &str, output: &Output) -> Result<()> {
    let mut stdout = io::stdout().lock();
    write!(stdout, "{table}")?;
    stdout.flush()?;
    if let Some(path) = &output.json {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        serde_json::to_writer_pretty(file, report)?;
    }
    Ok(())
}
