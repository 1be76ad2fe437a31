//! `flannel-verify OBJECT`: loads every program of a BPF object and prints what the verifier and
//! the compiler of this kernel made of it, as JSON. `cargo xtask verify` holds it against the budget.
//! It needs root; nothing is attached or pinned, and all is gone with the process.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use aya::EbpfLoader;
use aya::programs::{Program, ProgramError};
use flannel_tests::bpf;
use serde_json::{Map, Value, json};

/// Level of the programs' log with an agent at trace; 0 is off.
const TRACE: u8 = 5;

fn main() -> ExitCode {
    let run = || {
        let object = std::env::args_os().nth(1);
        run(Path::new(&object.context("usage: flannel-verify OBJECT")?))
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("verify: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &Path) -> Result<()> {
    let object = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let quiet = figures(&object, 0)?;
    // With the log statements in, programs are larger, and have to load all the same.
    let chatty = figures(&object, TRACE).context("with the log at trace")?;
    let programs: Map<String, Value> = quiet
        .into_iter()
        .zip(chatty)
        .map(|((name, figures), (_, with_log))| {
            let Figures {
                instructions,
                jited_bytes,
                verified,
            } = figures;
            let value = json!({
                "instructions": instructions,
                "jited_bytes": jited_bytes,
                "verified": verified,
                "verified_with_log": with_log.verified,
            });
            (name, value)
        })
        .collect();
    let report = json!({ "kernel": kernel()?, "programs": programs });
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// What became of a program.
struct Figures {
    /// Instructions that the verifier left and rewrote; what runs.
    instructions: u32,
    /// Bytes of machine code.
    jited_bytes: u32,
    /// Instructions that the verifier walked, all paths together.
    verified: u32,
}

fn figures(object: &[u8], log_level: u8) -> Result<Vec<(String, Figures)>> {
    let mut ebpf = EbpfLoader::new()
        .override_global("AYA_LOG_LEVEL", &log_level, false)
        .load(object)
        .context("load the maps")?;
    let mut all = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        let figures = load(program).with_context(|| format!("load {name}"))?;
        all.push((name.to_owned(), figures));
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(all)
}

fn load(program: &mut Program) -> Result<Figures> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => bail!("a kind of program that this does not know"),
    }
    .map_err(last_words)?;
    let info = program.info()?;
    let bytes = info.size_translated().context("translated size")?;
    Ok(Figures {
        instructions: bytes / size_of::<bpf::Instruction>() as u32,
        jited_bytes: bpf::jited_bytes(program.fd()?)?,
        verified: info
            .verified_instruction_count()
            .context("verified instructions (needs Linux 5.16)")?,
    })
}

/// The end of the verifier's log, where the reason is; all of it is thousands of lines.
fn last_words(error: ProgramError) -> anyhow::Error {
    const LINES: usize = 20;
    if let ProgramError::LoadError { verifier_log, .. } = &error {
        let log = verifier_log.to_string();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LINES)..].join("\n");
        return anyhow!("the verifier refuses it:\n{last}");
    }
    error.into()
}

/// Major and minor version: what decides on the verifier's work.
fn kernel() -> Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let numbers: Vec<_> = release.split(['.', '-']).take(2).collect();
    Ok(numbers.join(".").trim().to_owned())
}
