//! The `flannel-agent` program: command line, logging, exit code.
//!
//! Exit codes: 0 done, 1 failed (for `probe`: the agent could carry nothing here), 2 wrong command
//! line, 3 no agent to ask.

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::process::ExitCode;

use flannel_agent::cli::{
    self, CleanupMode, Command, DatapathMode, FastPathMode, Output, PlaceArgs, RunArgs, Stop,
};
use flannel_agent::config::Config;
use flannel_agent::control::{ControlError, ControlSocket, Request, request};
use flannel_agent::dataplane::pin::Pins;
use flannel_agent::status::{Datapath, FastPath, Status};
use flannel_agent::{agent, cleanup, docker_opts, flows, memory, probe, status_view};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

fn main() -> ExitCode {
    let parsed = match cli::parse(cli::words(std::env::args_os()), |name| {
        std::env::var_os(name)
    }) {
        Ok(parsed) => parsed,
        Err(Stop { code, text }) => {
            // Nobody is left to be told when this fails.
            let _ = match code {
                0 => std::io::stdout().write_all(text.as_bytes()),
                _ => std::io::stderr().write_all(text.as_bytes()),
            };
            return ExitCode::from(code);
        }
    };
    // Before there are threads, see `probe`.
    if let Command::Probe { run, output } = parsed.command {
        return probe(*run, output).unwrap_or_else(|error| {
            complain(&error);
            ExitCode::FAILURE
        });
    }
    memory::use_one_heap();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&anyhow::Error::new(error).context("start the runtime"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(dispatch(parsed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            match error.downcast_ref() {
                Some(ControlError::NotRunning { .. }) => ExitCode::from(3),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn dispatch(parsed: cli::Parsed) -> anyhow::Result<()> {
    match parsed.command {
        Command::Run(args) => {
            let (config, unusual) = Config::new(*args, |name| std::env::var_os(name))?;
            tracing_subscriber::fmt()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal())
                .with_max_level(config.log_level)
                // It would be said on standard error, which is what cannot be written.
                .log_internal_errors(false)
                .init();
            for warning in parsed.warnings.into_iter().chain(unusual) {
                warn!("{warning}");
            }
            run(config).await
        }
        Command::Status { place, output } => {
            let status: Status = request(&place.run_dir, Request::Status).await?;
            let text = match output {
                Output::Text => status_view::render(&status),
                Output::Json => serde_json::to_string_pretty(&status)? + "\n",
            };
            print(text.as_bytes())
        }
        // Has a life of its own, see `main`.
        Command::Probe { .. } => Ok(()),
        Command::FastPath {
            place,
            mode,
            output,
        } => show_fast_path(&place, mode, output).await,
        Command::Datapath {
            place,
            mode,
            output,
        } => show_datapath(&place, mode, output).await,
        Command::Flows { place, output } => {
            let flows = flows::read(&Pins::new(&place.bpf_pin_path))?;
            let text = match output {
                Output::Text => flows::render(&flows),
                Output::Json => serde_json::to_string_pretty(&flows)? + "\n",
            };
            print(text.as_bytes())
        }
        Command::Cleanup {
            place,
            mode,
            output,
        } => clean_up(&place, mode, output).await,
        Command::Print(text) => print(&text),
        Command::MkDockerOpts(args) => {
            let text = |text: OsString| text.to_string_lossy().into_owned();
            let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
            docker_opts::run(&args, variables.collect(), &mut rand::rng())?;
            Ok(())
        }
    }
}

/// Says why the program ends, if anybody can be told.
fn complain(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
}

/// Prints a text to its end, or as far as somebody reads.
fn print(text: &[u8]) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Tries what the host can do, and ends with 1 if that is nothing.
fn probe(args: RunArgs, output: Output) -> anyhow::Result<ExitCode> {
    let (config, _) = Config::new(args, |name| std::env::var_os(name))?;
    let report = probe::run(&config)?;
    let text = match output {
        Output::Text => probe::render(&report),
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    print(text.as_bytes())?;
    Ok(match report.can_run {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Runs the agent until a signal ends it. A second signal has its default effect.
async fn run(config: Config) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let asked = stop.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        };
        info!(signal = name, "stopping; the data path stays as it is");
        asked.cancel();
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        std::process::exit(1);
    });
    agent::run(config, stop).await
}

/// Asks the agent for another data path, if one is given, and shows the one in use.
async fn show_datapath(
    place: &PlaceArgs,
    mode: Option<DatapathMode>,
    output: Output,
) -> anyhow::Result<()> {
    let datapath: Datapath = match mode {
        Some(mode) => request(&place.run_dir, Request::Datapath { mode }).await?,
        None => {
            let status: Status = request(&place.run_dir, Request::Status).await?;
            status.datapath
        }
    };
    let text = match output {
        Output::Text => format!("{} ({})\n", datapath.active, datapath.reason),
        Output::Json => serde_json::to_string_pretty(&datapath)? + "\n",
    };
    print(text.as_bytes())
}

/// Switches the fast path, if that is asked for, and shows its state.
async fn show_fast_path(
    place: &PlaceArgs,
    mode: Option<FastPathMode>,
    output: Output,
) -> anyhow::Result<()> {
    let fast_path: FastPath = match mode {
        Some(mode) => request(&place.run_dir, Request::FastPath { mode }).await?,
        None => {
            let status: Status = request(&place.run_dir, Request::Status).await?;
            status.fast_path
        }
    };
    let text = match output {
        Output::Text => status_view::fast_path(&fast_path) + "\n",
        Output::Json => serde_json::to_string_pretty(&fast_path)? + "\n",
    };
    print(text.as_bytes())
}

async fn clean_up(place: &PlaceArgs, mode: CleanupMode, output: Output) -> anyhow::Result<()> {
    let PlaceArgs {
        run_dir,
        bpf_pin_path,
    } = place;
    // Held meanwhile, so that no agent starts in between.
    let _socket = match mode {
        CleanupMode::Remove => Some(ControlSocket::bind(run_dir).await?),
        CleanupMode::DryRun => None,
    };
    let done = cleanup::run(run_dir, bpf_pin_path, mode).await?;
    let text = match output {
        Output::Text => done.to_string(),
        Output::Json => serde_json::to_string_pretty(&done)? + "\n",
    };
    print(text.as_bytes())
}
