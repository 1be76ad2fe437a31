//! `flannel-udp-bench`: the udp backend's proxy against one that moves a packet per system call.
//!
//! Needs root. Build it with optimisation, since what is measured runs in user space.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use flannel_tests::udp::compare::compare;
use flannel_tests::wire::Wire;

/// Compare the udp backend's proxy with one that moves a packet per system call.
#[derive(Debug, Parser)]
#[command(name = "flannel-udp-bench")]
struct Options {
    /// Samples of each figure.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Let super-packets cross the wire whole.
    #[arg(long)]
    super_packet: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Fail if TCP on all cores is not this many times the reference's.
    #[arg(long, value_name = "RATIO")]
    at_least: Option<f64>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("udp-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let wire = if options.super_packet {
        Wire::SuperPacket
    } else {
        Wire::Mtu1500
    };
    if cfg!(debug_assertions) {
        eprintln!("udp-bench: not optimised: figures of the proxy are far too low");
    }
    let comparison = compare(wire, options.rounds.max(1), &mut |text| eprintln!("{text}"))?;
    if options.json {
        serde_json::to_writer_pretty(std::io::stdout(), &comparison)?;
        println!();
    } else {
        print!("{comparison}");
    }
    if let Some(least) = options.at_least {
        let ratio = comparison.tcp_ratio();
        ensure!(ratio >= least, "TCP is {ratio:.2} times the reference's");
    }
    Ok(())
}
