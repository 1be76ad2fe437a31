//! `flannel-demo`: two pairs of hosts, one pair on each data path, and the figures side by side.
//!
//! `cargo xtask demo` builds the agent and runs this. It needs root. Whatever ends it, Ctrl-C and
//! `SIGKILL` included, nothing is left behind: see the library's first page.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use flannel_tests::agent::Datapath;
use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::Cluster;
use flannel_tests::measure::{Side, compare};
use flannel_tests::{keep, render};

/// Show two hosts whose pods talk over a VXLAN overlay: by the kernel's device, and by eBPF.
#[derive(Debug, Parser)]
#[command(name = "flannel-demo")]
struct Options {
    /// Leave the eBPF hosts up until Enter, and print what to type to look around.
    #[arg(long)]
    keep: bool,
    /// Seconds to measure for, about; more seconds are more samples, and never fewer than three.
    #[arg(long, default_value_t = 33, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let mut progress = |text: &str| eprintln!("[{:5.1} s] {text}", start.elapsed().as_secs_f64());
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("namespaces and BPF need root: run it with sudo");
    }
    let start_pair = |datapath: Datapath| -> Result<Cluster> {
        progress(&format!(
            "two hosts, etcd, two agents with --datapath={datapath}, two pods"
        ));
        Cluster::new(BedOptions::default(), &[datapath; 2])
            .with_context(|| format!("start the hosts with --datapath={datapath}"))
    };
    let kernel = start_pair(Datapath::Kernel)?;
    let ebpf = start_pair(Datapath::Ebpf)?;
    let sides = [("kernel", &kernel), ("eBPF", &ebpf)].map(|(name, cluster)| Side {
        name,
        bed: &cluster.bed,
        agents: &cluster.agents,
    });
    let report = compare(
        sides[0],
        sides[1],
        Duration::from_secs(options.seconds),
        &mut progress,
    )?;
    progress("measured");

    let mut stdout = io::stdout().lock();
    if options.json {
        serde_json::to_writer_pretty(&mut stdout, &report)?;
        writeln!(stdout)?;
    } else {
        write!(stdout, "{}", render::table(&report))?;
    }
    stdout.flush()?;
    if options.keep {
        drop(kernel);
        eprintln!("\nThe eBPF hosts are up. As root, in another terminal:\n");
        eprint!("{}", keep::commands(&ebpf)?);
        wait_for_enter()?;
    }
    Ok(())
}

fn wait_for_enter() -> Result<()> {
    if io::stdin().is_terminal() {
        eprintln!("Enter ends the demo and removes everything.");
    }
    io::stdin()
        .read_line(&mut String::new())
        .context("read standard input")
        .map(drop)
}
