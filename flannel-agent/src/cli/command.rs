//! The commands, and the definition of the whole command line.

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use super::{DatapathMode, FastPathMode, PlaceArgs, RunArgs, generate, go};
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
    /// Find out what this host can do.
    Probe {
        /// What an agent would be run with.
        run: Box<RunArgs>,
        /// How to print.
        output: Output,
    },
    /// Switch the fast path of a running agent.
    FastPath {
        /// Where the agent runs.
        place: PlaceArgs,
        /// Whether to use it; none asks for its state.
        mode: Option<FastPathMode>,
        /// How to print.
        output: Output,
    },
    /// Show the flows that are on the fast path.
    Flows {
        /// Where the agent runs, or ran.
        place: PlaceArgs,
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
pub(super) struct Cli {
    #[command(flatten)]
    run: RunArgs,
    /// Print this help
    #[arg(long, short = 'h', global = true, help_heading = "Agent", action = ArgAction::HelpLong)]
    help: Option<bool>,
    /// Print the version
    #[arg(long, help_heading = "Agent", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", hide_default_value = true,
        value_parser = go::parse_bool, action = ArgAction::Set)]
    pub(super) version: bool,
    #[command(subcommand)]
    pub(super) command: Option<Sub>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Sub {
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
    /// Try what this host can do, say what follows, and leave it as it is
    ///
    /// Needs no etcd and no agent; as another user than root it says what could not be tried. The
    /// flags of the agent that stand before the command, and their variables, apply: interface, pin
    /// path, --tc-attach. Ends with 1 if the agent, run as this user, could carry nothing at all.
    Probe {
        /// The external interface, by name or by one of its addresses
        #[arg(long, value_name = "NAME|IP")]
        iface: Option<String>,
        /// Print a JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show or switch the fast path of the running agent; packets go on meanwhile
    ///
    /// The change lasts until the agent is started again: what it then does is said by --fast-path.
    #[command(name = "fast-path")]
    FastPath {
        /// on or off; none shows its state
        mode: Option<FastPathMode>,
        /// Print a JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show the flows that are on the fast path now, with or without a running agent
    Flows {
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
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The subcommand whose words follow getopts(1), not Go, and which ends with 1 for mistakes.
pub(super) const DOCKER_OPTS: &str = "mk-docker-opts";

impl Cli {
    /// What it asks for, once the flags are complete.
    pub(super) fn into_command(self) -> Command {
        let Cli {
            mut run,
            help: _,
            version: _,
            command,
        } = self;
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
            Some(Sub::Probe { iface, json }) => {
                if let Some(iface) = iface {
                    run.iface = vec![iface];
                }
                Command::Probe {
                    run: Box::new(run),
                    output: output(json),
                }
            }
            Some(Sub::FastPath { mode, json }) => Command::FastPath {
                place,
                mode,
                output: output(json),
            },
            Some(Sub::Flows { json }) => Command::Flows {
                place,
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
}
