//! `flannel-bench`: everything that is measured, as a table for people and `--json` for programs.
//!
//! `cargo xtask bench` builds the agent for release and runs this. It needs root. Whatever ends it,
//! nothing is left behind: see the library's first page.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use flannel_tests::agent::Datapath;
use flannel_tests::bench::leases::{self, Subject};
use flannel_tests::bench::paths::plan::Depth;
use flannel_tests::bench::paths::{self, Choice};
use flannel_tests::bench::progress::Progress;
use flannel_tests::bench::{charts, compare, costs, restarts, whole};
use flannel_tests::measure::figure::Group;
use serde::Serialize;

/// Measure all data paths and agents on this machine, side by side in one run.
#[derive(Debug, Parser)]
#[command(
    name = "flannel-bench",
    args_conflicts_with_subcommands = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    bench: Option<Bench>,
    #[command(flatten)]
    whole: Whole,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Start with many leases, follow their changes, and reach the next one; longer than as a part
    Leases(Leases),
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
struct Whole {
    /// Also measure a program that takes flanneld's flags; may be given several times
    #[arg(long, value_name = "NAME=PATH", value_parser = Subject::peer)]
    peer: Vec<Subject>,
    /// Measure only these data paths: vxlan-fast, or vxlan for all of vxlan
    #[arg(long, value_name = "SIDE", value_delimiter = ',')]
    only: Vec<String>,
    /// Measure only this
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    figures: Vec<Part>,
    /// Samples behind each median
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// How often an agent is killed and started again
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    restarts: u32,
    /// Write a chart of each figure, as SVG and as PNG, into this directory
    #[arg(long, value_name = "DIR")]
    charts: Option<PathBuf>,
    /// Write the figures as a page of documentation into this file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Measure nothing, and show the figures of an earlier --json
    #[arg(long, value_name = "REPORT.json")]
    from: Option<PathBuf>,
    /// Say what is better and what is worse than in an earlier --json
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Packets per second on one core
    Packets,
    /// TCP throughput
    Tcp,
    /// Request-response times, connections per second
    Response,
    /// What many peers, flows and pods cost a packet
    Costs,
    /// Loss while agents are restarted
    Restarts,
    /// Agents with many leases
    Leases,
}

/// What every bench takes.
#[derive(Debug, clap::Args)]
struct Output {
    /// Less of everything, in under two minutes
    #[arg(long)]
    quick: bool,
    /// Write the figures as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("namespaces and BPF need root: run it with sudo");
    }
    let Cli { bench, whole } = cli;
    match bench {
        Some(Bench::Leases(options)) => run_leases(options),
        None => run_whole(&whole),
    }
}

/// Our agent on both data paths, and the others.
fn subjects(peers: Vec<Subject>) -> Result<Vec<Subject>> {
    let own = [Datapath::Ebpf, Datapath::Kernel].map(Subject::own);
    let others = peers.into_iter().map(Ok);
    own.into_iter().chain(others).collect()
}

fn run_leases(options: Leases) -> Result<()> {
    let Leases {
        peer,
        leases,
        rounds,
        output,
    } = options;
    let subjects = subjects(peer)?;
    let mut options = if output.quick {
        leases::Options::quick(subjects)
    } else {
        leases::Options::full(subjects)
    };
    options.counts = leases.unwrap_or(options.counts);
    options.rounds = rounds.map_or(options.rounds, |rounds| rounds as usize);
    let report = leases::run(&options, &mut Progress::new(options.time()))?;
    show(&report, &leases::render::table(&report), &output)
}

fn run_whole(options: &Whole) -> Result<()> {
    // What cannot be read is said before half an hour of measuring, not after.
    let old = options.compare.as_deref().map(read).transpose()?;
    let report = match &options.from {
        Some(path) => read(path)?,
        None => whole::run(&plan(options)?)?,
    };
    let mut text = whole::render::table(&report);
    if let Some(old) = &old {
        text += &compare::table(&compare::compare(old, &report));
    }
    show(&report, &text, &options.output)?;
    if let Some(path) = &options.markdown {
        let page = whole::markdown::page(&report);
        fs::write(path, page).with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(directory) = &options.charts {
        let files = charts::write(&report, directory)?;
        eprintln!("{}: {}", directory.display(), files.join(", "));
    }
    Ok(())
}

fn read(path: &Path) -> Result<whole::report::Report> {
    let what = || format!("read the earlier report {}", path.display());
    let text = fs::read_to_string(path).with_context(what)?;
    serde_json::from_str(&text).with_context(what)
}

/// What the command line asks for.
fn plan(options: &Whole) -> Result<whole::Options> {
    let Whole {
        peer,
        only,
        figures,
        rounds,
        restarts,
        charts: _,
        markdown: _,
        from: _,
        compare: _,
        output,
    } = options;
    let depth = if output.quick {
        Depth::Quick
    } else {
        Depth::Full
    };
    // Without a word: of a quick run the data paths alone, else everything.
    let asked = |part: Part| match figures.as_slice() {
        [] => {
            depth == Depth::Full
                || part == Part::Packets
                || part == Part::Tcp
                || part == Part::Response
        }
        parts => parts.contains(&part),
    };
    let all = Choice::all(peer);
    let sides = if only.is_empty() {
        paths::plan::in_a_run(all, depth)
    } else {
        Choice::select(all, only)?
    };
    let groups: Vec<Group> = [
        (Part::Packets, Group::Packets),
        (Part::Tcp, Group::Tcp),
        (Part::Response, Group::Response),
    ]
    .into_iter()
    .filter_map(|(part, group)| asked(part).then_some(group))
    .collect();
    let mut paths = paths::Options::new(sides, groups, depth);
    paths.rounds = rounds.map_or(paths.rounds, |rounds| rounds as usize);
    let leases = asked(Part::Leases).then(|| -> Result<_> {
        let subjects = subjects(peer.clone())?;
        Ok(match depth {
            Depth::Quick => leases::Options::quick(subjects),
            Depth::Full => leases::Options::short(subjects),
        })
    });
    Ok(whole::Options {
        paths: (!paths.groups.is_empty()).then_some(paths),
        costs: asked(Part::Costs).then(|| match depth {
            Depth::Quick => costs::Options::quick(),
            Depth::Full => costs::Options::full(),
        }),
        restarts: asked(Part::Restarts).then(|| restarts::Options {
            peers: peer.clone(),
            restarts: *restarts as usize,
        }),
        leases: leases.transpose()?,
    })
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
