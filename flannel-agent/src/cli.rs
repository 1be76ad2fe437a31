//! The command line as typed: flanneld's flags and `FLANNELD_*` variables, beside our own.
//!
//! clap reads the flags, after [`go`] has brought them into one spelling. Settings are text here
//! unless flannel's own parser types them; [`crate::config`] gives them meaning. The environment
//! arrives as a function, so nothing here depends on the process.

mod choice;
mod command;
mod generate;
mod go;
mod inapplicable;
mod run;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _};
use thiserror::Error;

pub use self::choice::{DatapathMode, EbpfLogLevel, FastPathMode, OnLeaseLoss, TcAttach, XdpMode};
pub use self::command::{CleanupMode, Command, Output};
use self::command::{Cli, DOCKER_OPTS, Shell, Sub};
use self::inapplicable::Verdict;
pub use self::run::{PlaceArgs, RunArgs};

/// A command line that asks for something, and remarks to be logged.
#[derive(Debug)]
pub struct Parsed {
    /// What is asked for.
    pub command: Command,
    /// Variables that were not understood and are not applied.
    pub warnings: Vec<String>,
}

/// A command line that ends the program: help, version, or a mistake.
#[derive(Debug, Error)]
#[error("{text}")]
pub struct Stop {
    /// Exit code: 0 for help and version (standard output), 2 for mistakes (standard error).
    pub code: u8,
    /// What to print.
    pub text: String,
}

/// The words of a command line, program name included. A link named as flannel's script stands for
/// the subcommand.
pub fn words(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let program = PathBuf::from(args.next().unwrap_or_default());
    let name = program.file_stem().filter(|name| *name == DOCKER_OPTS);
    let is_script = program.extension().is_none_or(|kind| kind == "sh");
    let command = name.filter(|_| is_script).map(OsStr::to_owned);
    command.into_iter().chain(args).collect()
}

/// Reads the command line (without the program's name) and the variables behind `variable`.
///
/// # Errors
/// Help or version is asked for, or something is wrong with the flags.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Parsed, Stop> {
    let definition = Cli::command();
    let mut line = go::normalize(args, &definition)?;
    for (name, value) in &line.inapplicable {
        inapplicable::check(name, value).into_result(&format!("--{name}={value}"))?;
    }

    // Help and version come before the environment, as in flanneld.
    let is_docker_opts = line.rest.first().is_some_and(|word| word == DOCKER_OPTS);
    let early = read(&definition, line.words()).map_err(|stop| match is_docker_opts {
        true => Stop { code: 1, ..stop },
        false => stop,
    })?;
    if early.version {
        let text = format!("flannel-agent {}\n", env!("CARGO_PKG_VERSION"));
        return Err(Stop { code: 0, text });
    }
    let mut warnings = Vec::new();
    if let Some(Sub::MkDockerOpts(_) | Sub::Completions { .. } | Sub::Man) = early.command {
        let command = early.into_command();
        return Ok(Parsed { command, warnings });
    }
    for (name, value) in &line.inapplicable {
        warnings.extend(inapplicable::remark(name, value));
    }
    for name in go::flag_names(&definition) {
        if line.has_flag(&name) || name == "version" || name == "help" {
            continue;
        }
        let Some((variable, value)) = go::lookup(&name, &variable) else {
            continue;
        };
        let word = go::assignment(&name, &value);
        match definition
            .clone()
            .try_get_matches_from([OsStr::new(""), &word])
        {
            Ok(_) => line.flags.push(word),
            Err(_) => warnings.push(format!(
                "{variable}={} is not a value for --{name}; the default is used",
                value.display()
            )),
        }
    }
    for name in inapplicable::names() {
        if line.inapplicable.iter().any(|(given, _)| given == name) {
            continue;
        }
        if let Some((variable, value)) = go::lookup(name, &variable) {
            let value = value.to_string_lossy();
            match inapplicable::check(name, &value) {
                Verdict::NotBool => warnings.push(format!("{variable}={value} is not a boolean")),
                verdict => verdict.into_result(&format!("{variable}={value}"))?,
            }
            warnings.extend(inapplicable::remark(name, &value));
        }
    }

    let cli = read(&definition, line.words())?;
    Ok(Parsed {
        command: cli.into_command(),
        warnings,
    })
}

fn read(definition: &clap::Command, words: Vec<OsString>) -> Result<Cli, Stop> {
    let words = std::iter::once("flannel-agent".into()).chain(words);
    definition
        .clone()
        .try_get_matches_from(words)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| Stop {
            code: match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
                _ => 2,
            },
            text: error.render().to_string(),
        })
}

#[cfg(test)]
mod tests;
