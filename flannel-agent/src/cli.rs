//! The command line as typed: flanneld's flags and `FLANNELD_*` variables, beside our own.
//!
//! clap reads the flags, after [`go`] has brought them into one spelling. Settings are text here
//! unless flannel's own parser types them; [`crate::config`] gives them meaning. The environment
//! arrives as a function, so nothing here depends on the process.

mod generate;
mod go;
mod inapplicable;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{
    ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::inapplicable::Verdict;
use crate::docker_opts::DockerOptsArgs;

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run the agent.
    Run(Box<RunArgs>),
    /// Show what a running agent tells about itself.
    Status {
        /// Where the agent runs.
        place: PlaceArgs,
        /// How to print.
        output: Output,
    },
    /// Change the data path of a running agent.
    Datapath {
        /// Where the agent runs.
        place: PlaceArgs,
        /// Which one; none asks for the one in use.
        mode: Option<DatapathMode>,
        /// How to print.
        output: Output,
    },
    /// Remove everything that an agent left on this host.
    Cleanup {
        /// Where the agent ran.
        place: PlaceArgs,
        /// Whether to remove, or only to say what would be.
        mode: CleanupMode,
        /// How to print.
        output: Output,
    },
    /// Write options for dockerd.
    MkDockerOpts(DockerOptsArgs),
    /// Print a text that is made from the definitions of the flags.
    Print(Vec<u8>),
}

/// How a subcommand prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Tables and sentences.
    Text,
    /// One JSON document.
    Json,
}

/// What `cleanup` does with what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CleanupMode {
    /// Remove it.
    Remove,
    /// Only name it.
    DryRun,
}

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

/// Which data path to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatapathMode {
    /// eBPF where the kernel can, else the kernel path.
    Auto,
    /// eBPF, or refuse to start.
    Ebpf,
    /// No BPF at all.
    Kernel,
}

/// How TC programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TcAttach {
    /// tcx where the kernel has it (6.6), else clsact.
    Auto,
    /// tcx links.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

/// How much the BPF programs log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum EbpfLogLevel {
    /// Nothing; the logging code is not even loaded.
    Off,
    /// Errors.
    Error,
    /// Also warnings.
    Warn,
    /// Also what an operator would ask about.
    Info,
    /// Also decisions per packet.
    Debug,
    /// Everything.
    Trace,
}

/// What to do when the lease is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnLeaseLoss {
    /// End with exit code 1.
    Exit,
    /// Acquire a lease again, of the same subnet if it is free, and write the subnet file anew.
    Reacquire,
}

macro_rules! shown_as_typed {
    ($($name:ty),*) => {$(
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
            }
        }
    )*};
}
shown_as_typed!(DatapathMode, TcAttach, EbpfLogLevel, OnLeaseLoss);

/// Where an agent keeps what others find it by.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Agent")]
pub struct PlaceArgs {
    /// Directory of the control socket and of the kept VTEP MAC
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/run/flannel"
    )]
    pub run_dir: PathBuf,
    /// Directory for pinned BPF objects, on a bpffs
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/sys/fs/bpf/flannel"
    )]
    pub bpf_pin_path: PathBuf,
}

/// Flags of the agent itself.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// etcd endpoints, separated by commas
    #[arg(
        long,
        help_heading = "etcd",
        value_name = "URLS",
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379"
    )]
    pub etcd_endpoints: String,
    /// Prefix of all keys of the network
    #[arg(
        long,
        help_heading = "etcd",
        value_name = "KEY",
        default_value = "/coreos.com/network"
    )]
    pub etcd_prefix: String,
    /// Key of the client certificate
    #[arg(
        long,
        help_heading = "etcd",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub etcd_keyfile: String,
    /// Client certificate
    #[arg(
        long,
        help_heading = "etcd",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub etcd_certfile: String,
    /// Certificates of the authorities that may sign the server's; the system's unless given
    #[arg(
        long,
        help_heading = "etcd",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub etcd_cafile: String,
    /// User name
    #[arg(
        long,
        help_heading = "etcd",
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub etcd_username: String,
    /// Password; better given as FLANNELD_ETCD_PASSWORD, since others can read command lines
    #[arg(
        long,
        help_heading = "etcd",
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub etcd_password: String,

    /// External interface, by name or by one of its addresses; the first that fits of several
    #[arg(long, help_heading = "External interface", value_name = "NAME|IP", action = ArgAction::Append)]
    pub iface: Vec<String>,
    /// External interface whose address or name matches the expression; may be repeated
    #[arg(long, help_heading = "External interface", value_name = "REGEX", action = ArgAction::Append)]
    pub iface_regex: Vec<String>,
    /// External interface that the kernel would use to reach this address
    #[arg(
        long,
        help_heading = "External interface",
        value_name = "IP",
        default_value = "",
        hide_default_value = true
    )]
    pub iface_can_reach: String,
    /// Address to advertise to other nodes, when it is not that of the interface
    #[arg(
        long,
        help_heading = "External interface",
        value_name = "IP",
        default_value = "",
        hide_default_value = true
    )]
    pub public_ip: String,

    /// File that tells Docker, CNI and scripts about the subnet
    #[arg(
        long,
        help_heading = "Lease",
        value_name = "FILE",
        default_value = "/run/flannel/subnet.env"
    )]
    pub subnet_file: PathBuf,
    /// How many minutes before its end the lease is renewed, 1 to 1439
    #[arg(
        long,
        help_heading = "Lease",
        value_name = "MINUTES",
        default_value_t = 60,
        allow_negative_numbers = true
    )]
    pub subnet_lease_renew_margin: i64,

    /// What to do when the lease is lost: deleted, expired or taken by another node
    #[arg(long, help_heading = "Lease", value_name = "WHAT", default_value_t = OnLeaseLoss::Reacquire)]
    pub on_lease_loss: OnLeaseLoss,

    /// Masquerade what leaves the overlay
    #[arg(long, help_heading = "Traffic rules", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", hide_default_value = true,
        value_parser = go::parse_bool, action = ArgAction::Set)]
    pub ip_masq: bool,
    /// Let masqueraded traffic keep its source port where it is free
    #[arg(long, help_heading = "Traffic rules", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", hide_default_value = true,
        value_parser = go::parse_bool, action = ArgAction::Set)]
    pub ip_masq_fully_random_disable: bool,
    /// Accept forwarding from and to the overlay where iptables would drop it
    #[arg(long, help_heading = "Traffic rules", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "true",
        value_parser = go::parse_bool, action = ArgAction::Set)]
    pub iptables_forward_rules: bool,
    /// Drop packets to pods that do not exist
    #[arg(long, help_heading = "Traffic rules", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", hide_default_value = true,
        value_parser = go::parse_bool, action = ArgAction::Set)]
    pub ip_blackhole_route: bool,
    /// How many seconds lie between two checks of the rules
    #[arg(
        long,
        help_heading = "Traffic rules",
        value_name = "SECONDS",
        default_value_t = 5,
        allow_negative_numbers = true
    )]
    pub iptables_resync: i64,

    /// Which data path carries the packets
    #[arg(long, help_heading = "Data path", value_name = "PATH", default_value_t = DatapathMode::Auto)]
    pub datapath: DatapathMode,
    /// How TC programs are attached
    #[arg(long, help_heading = "Data path", value_name = "HOW", default_value_t = TcAttach::Auto)]
    pub tc_attach: TcAttach,
    /// What the BPF programs log
    #[arg(long, help_heading = "Data path", value_name = "LEVEL", default_value_t = EbpfLogLevel::Off)]
    pub ebpf_log_level: EbpfLogLevel,

    /// Address that /healthz and /readyz are offered on
    #[arg(
        long,
        help_heading = "Agent",
        value_name = "IP",
        default_value = "0.0.0.0"
    )]
    pub healthz_ip: String,
    /// Port of /healthz and /readyz; 0 for none
    #[arg(
        long,
        help_heading = "Agent",
        value_name = "PORT",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub healthz_port: i64,
    /// Log level: 0 for info, 1 to 3 for debug, from 4 on trace
    #[arg(short = None, long = "v", help_heading = "Agent", value_name = "LEVEL", default_value_t = 0, allow_negative_numbers = true)]
    pub v: i64,
    /// Where the agent keeps what others find it by.
    #[command(flatten)]
    pub place: PlaceArgs,
}

#[derive(Debug, Parser)]
#[command(
    name = "flannel-agent",
    about = "A drop-in for flanneld whose data plane is eBPF",
    long_about = "A drop-in for flanneld whose data plane is eBPF.\n\n\
        Without a command the agent runs. Flags may be written with one dash or two, as \
        --name value or --name=value. Each flag has a variable: FLANNELD_ and its name in \
        capitals, with - as _ (FLANNELD_ETCD_ENDPOINTS). A flag comes before its variable, an \
        empty variable counts as unset.",
    disable_version_flag = true,
    disable_help_flag = true,
    disable_help_subcommand = true,
    args_override_self = true
)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
    /// Print this help
    #[arg(long, short = 'h', global = true, help_heading = "Agent", action = ArgAction::HelpLong)]
    help: Option<bool>,
    /// Print the version
    #[arg(long, help_heading = "Agent", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", hide_default_value = true,
        value_parser = go::parse_bool, action = ArgAction::Set)]
    version: bool,
    #[command(subcommand)]
    command: Option<Sub>,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Show lease, interface, data path, peers and packets of the running agent
    Status {
        /// Print the JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show or change the data path of the running agent; packets go on meanwhile
    ///
    /// The change lasts until the agent is started again: what it then takes is said by --datapath.
    #[command(name = "datapath")]
    Datapath {
        /// Which data path; none shows the one in use
        mode: Option<DatapathMode>,
        /// Print a JSON document
        #[arg(long)]
        json: bool,
    },
    /// Remove everything that an agent left on this host: devices, routes, programs, pins
    Cleanup {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        /// Print a JSON document
        #[arg(long)]
        json: bool,
    },
    /// Write options for dockerd from the environment file; a link of this name does the same
    #[command(name = DOCKER_OPTS, args_override_self = true)]
    MkDockerOpts(DockerOptsArgs),
    /// Print completions of flags and commands for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, for man(1)
    Man,
}

/// A shell that completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The subcommand whose words follow getopts(1), not Go, and which ends with 1 for mistakes.
const DOCKER_OPTS: &str = "mk-docker-opts";

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
        let command = command(early);
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
        command: command(cli),
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

fn command(cli: Cli) -> Command {
    let Cli {
        run,
        help: _,
        version: _,
        command,
    } = cli;
    let place = run.place.clone();
    let output = |json| if json { Output::Json } else { Output::Text };
    match command {
        None => Command::Run(Box::new(run)),
        Some(Sub::Status { json }) => Command::Status {
            place,
            output: output(json),
        },
        Some(Sub::Datapath { mode, json }) => Command::Datapath {
            place,
            mode,
            output: output(json),
        },
        Some(Sub::MkDockerOpts(args)) => Command::MkDockerOpts(args),
        Some(Sub::Completions { shell }) => Command::Print(generate::completions(shell)),
        Some(Sub::Man) => Command::Print(generate::man()),
        Some(Sub::Cleanup { dry_run, json }) => Command::Cleanup {
            place,
            mode: match dry_run {
                true => CleanupMode::DryRun,
                false => CleanupMode::Remove,
            },
            output: output(json),
        },
    }
}

#[cfg(test)]
mod tests;
