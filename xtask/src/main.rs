//! Build, test and show the project: `cargo xtask <command>`.
//!
//! Each subcommand is one module with `Options` and `run`. What a subcommand needs from the host it
//! asks of [`tools::ensure`], which installs it or says how to.

mod bench;
mod beside;
mod build;
mod cargo;
mod ci;
mod demo;
mod ebpf;
mod env;
mod install;
mod libtest;
mod linker;
mod lint;
mod progress;
mod setup;
mod stock;
mod test;
mod toolchain;
mod tools;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, test and show the project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Setup(setup::Options),
    BuildEbpf(ebpf::Options),
    Build(build::Options),
    Demo(demo::Options),
    Bench(bench::Options),
    Test(test::Options),
    Lint(lint::Options),
    Verify(verify::Options),
    Ci(ci::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(options) => setup::run(&options),
        Command::BuildEbpf(options) => ebpf::run(&options),
        Command::Build(options) => build::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Lint(options) => lint::run(&options),
        Command::Verify(options) => verify::run(&options),
        Command::Ci(options) => ci::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
