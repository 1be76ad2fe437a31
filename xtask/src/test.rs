//! `test`: builds everything, runs the rings of tests from the pure to the whole.
//!
//! Test programs are started here and not by `cargo test`, because the outer rings run as root and
//! the build need not: `--no-build` runs what an earlier call has built, without cargo.

mod ring;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cargo::{self, Executable};
use crate::ebpf::{self, Profile};
use crate::libtest::{self, Tally};
use crate::tools::{self, Need, Tools};
use crate::{env, progress};
use ring::Ring;

/// Build the tests and run them.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Run this ring alone; may be given again
    #[arg(long = "ring", value_enum, default_value = "all")]
    rings: Vec<ring::Choice>,
    /// Run only tests whose name contains this
    #[arg(long, value_name = "STR")]
    filter: Option<String>,
    /// Run what was built before
    #[arg(long)]
    no_build: bool,
}

impl Options {
    /// Every ring, built first.
    pub(crate) fn everything() -> Self {
        Self {
            rings: vec![ring::Choice::All],
            filter: None,
            no_build: false,
        }
    }
}

/// What the last build made; kept in a file for `--no-build`.
#[derive(Debug, Deserialize, Serialize)]
struct Built {
    agent: PathBuf,
    programs: Vec<Executable>,
}

/// How a ring went.
struct Outcome {
    ring: Ring,
    tally: Tally,
    /// Why the ring failed, where that is not the tests' own failure.
    trouble: Option<String>,
    seconds: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options {
        rings,
        filter,
        no_build,
    } = options;
    let rings = ring::chosen(rings);
    check_privileges(&rings)?;

    let run_needs = ring::needs(&rings);
    let (tools, built) = if *no_build {
        (tools::ensure(&run_needs)?, Built::load()?)
    } else {
        let needs = [&[Need::BpfBuild, Need::AgentBuild], run_needs.as_slice()].concat();
        let tools = tools::ensure(&needs)?;
        let built = progress::timed("build agent and tests", || build(&tools))?;
        (tools, built)
    };

    let filter = filter.as_deref();
    let mut outcomes = Vec::new();
    for &ring in &rings {
        let mut outcome = run_ring(ring, &tools, &built, filter)?;
        // Examples in the documentation are no programs; only cargo can run them.
        if ring == Ring::Unit && !no_build && filter.is_none() {
            run_doc_tests(&tools, &mut outcome)?;
        }
        outcomes.push(outcome);
    }
    summarize(&outcomes, filter)
}

fn check_privileges(rings: &[Ring]) -> Result<()> {
    if env::is_root() || !ring::any_needs_root(rings) {
        return Ok(());
    }
    let names: Vec<_> = rings
        .iter()
        .filter(|ring| ring.needs_root())
        .map(Ring::name)
        .collect();
    bail!(
        "root is needed for {}: programs are loaded and namespaces made\n  \
         either:  sudo env \"PATH=$PATH\" cargo xtask test\n\
         or, so that root builds nothing:  cargo xtask test --ring unit && sudo {} test --no-build",
        names.join(", "),
        std::env::current_exe()
            .unwrap_or_else(|_| "target/debug/xtask".into())
            .display()
    )
}

/// Builds the BPF object, the agent and all test programs.
fn build(tools: &Tools) -> Result<Built> {
    let object = ebpf::build(tools, Profile::Release)?;
    // One selection of packages for both builds: cargo chooses features by it, and other features
    // are another build of everything.
    let cargo = |subcommand: &str| {
        let mut command = cargo::host(subcommand);
        tools
            .for_build(&mut command)
            .args(["--workspace", "--locked"]);
        command.env("FLANNEL_EBPF_OBJECT", &object);
        command
    };
    let mut agent = cargo("build");
    agent.args(["--bin", "flannel-agent"]);
    let agent = cargo::executables(&mut agent, "build of the agent", |_| false)?;
    let mut tests = cargo("test");
    tests.arg("--no-run");
    let mut programs = cargo::executables(&mut tests, "build of the tests", |_| false)?;

    let agent = agent
        .into_iter()
        .find(|built| built.target.name == "flannel-agent");
    let agent = agent
        .context("cargo named no executable for flannel-agent")?
        .executable;
    programs.retain(|program| program.profile.test);
    // Cargo names them in the order in which they were ready.
    programs.sort_by(|a, b| {
        a.manifest_path
            .cmp(&b.manifest_path)
            .then(a.executable.cmp(&b.executable))
    });
    let built = Built { agent, programs };
    built.store()?;
    Ok(built)
}

impl Built {
    fn file() -> PathBuf {
        env::target_dir().join("xtask/tests.json")
    }

    fn store(&self) -> Result<()> {
        let file = Self::file();
        let text = serde_json::to_string_pretty(self).context("write the list of test programs")?;
        fs::create_dir_all(env::target_dir().join("xtask"))
            .and_then(|()| fs::write(&file, text))
            .with_context(|| format!("write {}", file.display()))
    }

    fn load() -> Result<Self> {
        let file = Self::file();
        let text = fs::read_to_string(&file)
            .with_context(|| format!("read {}; build first, without --no-build", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("parse {}", file.display()))
    }
}

fn run_ring(ring: Ring, tools: &Tools, built: &Built, filter: Option<&str>) -> Result<Outcome> {
    let start = Instant::now();
    let mut outcome = Outcome {
        ring,
        tally: Tally::default(),
        trouble: None,
        seconds: 0.0,
    };
    for program in built
        .programs
        .iter()
        .filter(|program| ring.contains(program))
    {
        let name = program.target.name.as_str();
        eprintln!("==> ring {}: {name}", ring.name());
        let mut command = Command::new(&program.executable);
        command.args(filter);
        if let Some(threads) = ring.threads() {
            command.args(["--test-threads", threads]);
        }
        let folder = program.manifest_path.parent().unwrap_or(Path::new("/"));
        cargo::leave(&mut command);
        tools
            .for_run(&mut command)
            .current_dir(folder)
            .env("CARGO_MANIFEST_DIR", folder)
            .env("FLANNEL_AGENT", &built.agent)
            .env("FLANNEL_EBPF_OBJECT", env::ebpf_object());
        outcome.add(libtest::run(&mut command, name)?);
    }
    if outcome.tally.is_empty() && outcome.trouble.is_none() && filter.is_none() {
        outcome.trouble = Some(format!("ring {} has no tests", ring.name()));
    }
    outcome.seconds = start.elapsed().as_secs_f64();
    Ok(outcome)
}

fn run_doc_tests(tools: &Tools, unit: &mut Outcome) -> Result<()> {
    eprintln!(
        "==> ring {}: examples in the documentation",
        unit.ring.name()
    );
    let start = Instant::now();
    let mut command = cargo::host("test");
    tools
        .for_build(&mut command)
        .args(["--workspace", "--locked", "--doc", "--quiet"]);
    command.env("FLANNEL_EBPF_OBJECT", env::ebpf_object());
    unit.add(libtest::run(&mut command, "examples in the documentation")?);
    unit.seconds += start.elapsed().as_secs_f64();
    Ok(())
}

impl Outcome {
    fn add(&mut self, (tally, trouble): (Tally, Option<String>)) {
        self.tally += tally;
        self.trouble = self.trouble.take().or(trouble);
    }

    fn failed(&self) -> bool {
        self.tally.failed > 0 || self.trouble.is_some()
    }
}

/// Prints a line per ring and, last and alone, the sum.
fn summarize(outcomes: &[Outcome], filter: Option<&str>) -> Result<()> {
    let mut sum = Tally::default();
    println!();
    for outcome in outcomes {
        let Outcome {
            ring,
            tally,
            trouble,
            seconds,
        } = outcome;
        let Tally { passed, failed } = tally;
        let word = if outcome.failed() { "FAILED" } else { "ok" };
        print!(
            "ring {:<12} {word:<6} {passed:>4} passed {failed:>4} failed",
            ring.name()
        );
        println!(
            "  {seconds:>6.1} s{}",
            trouble.as_ref().map_or(String::new(), |t| format!("  {t}"))
        );
        sum += *tally;
        // What kept a ring from telling is a failure, too.
        sum.failed += u64::from(trouble.is_some());
    }
    println!("{} passed, {} failed", sum.passed, sum.failed);
    match filter {
        _ if sum.failed > 0 => {
            let failed = outcomes.iter().filter(|outcome| outcome.failed());
            let names: Vec<_> = failed.map(|outcome| outcome.ring.name()).collect();
            bail!("tests failed in ring {}", names.join(", "))
        }
        Some(filter) if sum.is_empty() => bail!("no test has {filter:?} in its name"),
        _ => Ok(()),
    }
}
