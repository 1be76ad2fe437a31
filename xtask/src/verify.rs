//! `verify`: loads every BPF program into the running kernel and holds what the verifier says
//! against a budget, `flannel-ebpf/budget.json`.
//!
//! The budget is there so that a change which makes the way of every packet longer is seen in
//! review, and long before the verifier's own limit. Loading and asking is done by the program
//! `flannel-verify` of the tests package; this builds it, compares and prints.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::{fmt, fs};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::ebpf::{self, Profile};
use crate::tools::{self, Need};
use crate::{cargo, env, progress};

/// Room above what was measured when a budget is written: compilers differ a little.
const ROOM_PERCENT: u32 = 5;
/// Further room on a kernel other than the budget's: each verifier prunes paths, and rewrites
/// calls, in its own way.
const OTHER_KERNEL_PERCENT: u32 = 50;

/// Load the BPF programs and compare their cost with the budget.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Write the budget anew from what this kernel says
    #[arg(long)]
    update: bool,
    /// Print the figures as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// What `flannel-verify` prints.
#[derive(Debug, Deserialize, Serialize)]
struct Report {
    /// Major and minor version.
    kernel: String,
    programs: BTreeMap<String, Figures>,
}

/// What became of a program.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Figures {
    /// Instructions that run, after the verifier has rewritten and removed some.
    instructions: u32,
    /// Bytes of machine code. Not limited: they depend on the machine.
    jited_bytes: u32,
    /// Instructions that the verifier walked, all paths together.
    verified: u32,
    /// The same with the programs' log switched on.
    verified_with_log: u32,
}

/// The budget as committed.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Budget {
    /// Kernel on which it was measured.
    kernel: String,
    programs: BTreeMap<String, Limits>,
}

/// The most that a program may cost.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
struct Limits {
    instructions: u32,
    verified: u32,
}

/// One reason to say no.
#[derive(Debug, PartialEq)]
enum Excess {
    /// A figure is above its limit.
    Over {
        program: String,
        figure: &'static str,
        value: u32,
        limit: u32,
    },
    /// A program has no budget.
    Unknown(String),
    /// A budget has no program.
    Gone(String),
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Over {
                program,
                figure,
                value,
                limit,
            } => write!(f, "{program}: {value} {figure}, the limit is {limit}"),
            Self::Unknown(program) => write!(f, "{program}: has no budget"),
            Self::Gone(program) => write!(f, "{program}: has a budget, but is not in the object"),
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { update, json } = *options;
    if !env::is_root() {
        bail!("programs are loaded into the kernel: run `cargo xtask verify` as root");
    }
    let report = measure()?;
    if update {
        let text = serde_json::to_string_pretty(&Budget::of(&report))? + "\n";
        fs::write(budget_file(), text).context("write the budget")?;
    }
    let text = fs::read_to_string(budget_file())
        .context("read flannel-ebpf/budget.json (`cargo xtask verify --update` writes it)")?;
    let budget: Budget = serde_json::from_str(&text).context("flannel-ebpf/budget.json")?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table(&report, &budget));
    }
    let excess = budget.check(&report);
    if excess.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = excess.iter().map(|e| format!("  {e}")).collect();
    bail!(
        "over budget:\n{}\nif it is worth it: `cargo xtask verify --update`, and say why",
        lines.join("\n")
    )
}

fn budget_file() -> PathBuf {
    env::root().join("flannel-ebpf/budget.json")
}

fn measure() -> Result<Report> {
    let tools = tools::ensure(&[Need::BpfBuild, Need::AgentBuild])?;
    let object = ebpf::build(&tools, Profile::Release)?;
    let built = progress::timed("build flannel-verify", || {
        // The same selection as everywhere, see `test`.
        let mut command = cargo::host("build");
        tools
            .for_build(&mut command)
            .args(["--workspace", "--bins", "--locked"])
            .env("FLANNEL_EBPF_OBJECT", &object);
        cargo::executables(&mut command, "build of flannel-verify", |_| false)
    })?;
    let program = built
        .iter()
        .find(|built| built.target.name == "flannel-verify")
        .context("cargo named no executable for flannel-verify")?;
    let output = Command::new(&program.executable).arg(&object).output();
    let output = output.context("start flannel-verify")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    serde_json::from_slice(&output.stdout).context("read what flannel-verify says")
}

impl Budget {
    /// The budget that this report just fits in, with room.
    fn of(report: &Report) -> Self {
        let limits = |figures: &Figures| Limits {
            instructions: with_room(figures.instructions, ROOM_PERCENT),
            verified: with_room(figures.verified, ROOM_PERCENT),
        };
        let programs = report.programs.iter();
        Self {
            kernel: report.kernel.clone(),
            programs: programs.map(|(n, f)| (n.clone(), limits(f))).collect(),
        }
    }

    /// The limits of a program on a kernel.
    fn limits(&self, program: &str, kernel: &str) -> Option<Limits> {
        let limits = self.programs.get(program)?;
        let room = if kernel == self.kernel {
            0
        } else {
            OTHER_KERNEL_PERCENT
        };
        Some(Limits {
            instructions: with_room(limits.instructions, room),
            verified: with_room(limits.verified, room),
        })
    }

    fn check(&self, report: &Report) -> Vec<Excess> {
        let mut excess = Vec::new();
        for (program, figures) in &report.programs {
            let Some(limits) = self.limits(program, &report.kernel) else {
                excess.push(Excess::Unknown(program.clone()));
                continue;
            };
            for (figure, value, limit) in [
                ("instructions", figures.instructions, limits.instructions),
                ("verified instructions", figures.verified, limits.verified),
            ] {
                if value > limit {
                    excess.push(Excess::Over {
                        program: program.clone(),
                        figure,
                        value,
                        limit,
                    });
                }
            }
        }
        let gone = self.programs.keys();
        let gone = gone.filter(|program| !report.programs.contains_key(*program));
        excess.extend(gone.cloned().map(Excess::Gone));
        excess
    }
}

/// `value` and so many per cent of it more, rounded up.
fn with_room(value: u32, percent: u32) -> u32 {
    value + (value * percent).div_ceil(100)
}

fn table(report: &Report, budget: &Budget) -> String {
    let mut text = format!(
        "Linux {}, budget of Linux {}\n{:<16} {:>12} {:>6}   {:>8} {:>6}   {:>8} {:>8}\n",
        report.kernel,
        budget.kernel,
        "program",
        "instructions",
        "limit",
        "verified",
        "limit",
        "with log",
        "machine",
    );
    for (program, figures) in &report.programs {
        let limits = budget.limits(program, &report.kernel);
        let limit = |of: fn(Limits) -> u32| limits.map_or("-".into(), |l| of(l).to_string());
        text += &format!(
            "{program:<16} {:>12} {:>6}   {:>8} {:>6}   {:>8} {:>7}B\n",
            figures.instructions,
            limit(|limits| limits.instructions),
            figures.verified,
            limit(|limits| limits.verified),
            figures.verified_with_log,
            figures.jited_bytes,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(kernel: &str, programs: &[(&str, u32, u32)]) -> Report {
        let figures = |&(name, instructions, verified): &(&str, u32, u32)| {
            let figures = Figures {
                instructions,
                jited_bytes: 5 * instructions,
                verified,
                verified_with_log: 2 * verified,
            };
            (name.to_owned(), figures)
        };
        Report {
            kernel: kernel.into(),
            programs: programs.iter().map(figures).collect(),
        }
    }

    #[test]
    fn what_was_measured_fits_with_little_room() {
        let budget = Budget::of(&report("6.18", &[("encap", 100, 1_000)]));
        assert_eq!(budget.check(&report("6.18", &[("encap", 105, 1_050)])), []);
        let over = budget.check(&report("6.18", &[("encap", 105, 1_051)]));
        let over: Vec<_> = over.iter().map(ToString::to_string).collect();
        assert_eq!(
            over,
            ["encap: 1051 verified instructions, the limit is 1050"]
        );
    }

    #[test]
    fn another_kernel_gets_more_room() {
        let budget = Budget::of(&report("6.18", &[("encap", 100, 1_000)]));
        assert_eq!(budget.check(&report("6.1", &[("encap", 157, 1_575)])), []);
        let over = budget.check(&report("6.1", &[("encap", 159, 1_576)]));
        assert_eq!(over.len(), 2, "{over:?}");
    }

    #[test]
    fn every_program_has_a_budget_and_every_budget_a_program() {
        let budget = Budget::of(&report("6.18", &[("encap", 100, 1_000)]));
        let excess = budget.check(&report("6.18", &[("decap", 1, 1)]));
        assert_eq!(
            excess,
            [
                Excess::Unknown("decap".into()),
                Excess::Gone("encap".into())
            ]
        );
    }
}
