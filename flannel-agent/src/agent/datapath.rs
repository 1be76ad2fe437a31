//! The data path as the command line asks for it.

use anyhow::{Context as _, Result};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::warn;

use crate::cli::DatapathMode;
use crate::config::Config;
use crate::dataplane::{self, Attachment};
use crate::error::chain;
use crate::fast_path::earlier;
use crate::node::Datapath;

/// With `--datapath=ebpf`, refuses before anything is touched on a host that cannot.
///
/// # Errors
/// What the host lacks.
pub(super) fn check(config: &Config) -> Result<()> {
    if config.datapath != DatapathMode::Ebpf {
        return Ok(());
    }
    dataplane::check(&options(config)).map_err(refusal)
}

/// Gets ready for opening a data path, on a thread of its own, while etcd is asked what to open.
pub(super) fn prepare(config: &Config) {
    if config.datapath != DatapathMode::Kernel {
        // Whoever opens the data path waits for it.
        drop(spawn_blocking(dataplane::prepare));
    }
}

/// A data path on its way. To load the programs takes a core as long as etcd takes to list thousands
/// of leases, on a thread of its own; beside the list both would take longer.
pub(super) enum Opening {
    NotBegun(Wanted),
    Begun(JoinHandle<Result<Datapath, dataplane::Error>>),
    Done(Box<Datapath>),
}

/// What to open.
pub(super) struct Wanted {
    options: dataplane::Options,
    programs: &'static [Attachment],
    mode: DatapathMode,
}

impl Wanted {
    fn begin(self) -> JoinHandle<Result<Datapath, dataplane::Error>> {
        let Self {
            options,
            programs,
            mode,
        } = self;
        spawn_blocking(move || Datapath::open(options, programs, mode))
    }
}

impl Opening {
    /// That of a backend's programs. With the first start of a run somebody waits for the lease and the
    /// subnet file, and it is not begun yet. With others pods wait for their way to be right again; and
    /// one that may be refused has to be known before the lease.
    pub(super) fn new(config: &Config, programs: &'static [Attachment], is_first: bool) -> Self {
        let wanted = Wanted {
            options: options(config),
            programs,
            mode: config.datapath,
        };
        match config.datapath {
            DatapathMode::Auto | DatapathMode::Kernel if is_first => Self::NotBegun(wanted),
            _ => Self::Begun(wanted.begin()),
        }
    }

    /// Begins, if that has not been done.
    pub(super) fn begin(self) -> Self {
        match self {
            Self::NotBegun(wanted) => Self::Begun(wanted.begin()),
            Self::Begun(_) | Self::Done(_) => self,
        }
    }

    /// Waits for it, if it may be refused.
    ///
    /// # Errors
    /// `--datapath=ebpf` is asked for and cannot be had.
    pub(super) async fn not_refused(self, config: &Config) -> Result<Self> {
        match config.datapath {
            DatapathMode::Ebpf => Ok(Self::Done(Box::new(self.done().await?))),
            DatapathMode::Auto | DatapathMode::Kernel => Ok(self),
        }
    }

    /// Waits until it is open.
    ///
    /// # Errors
    /// As [`not_refused`](Self::not_refused).
    pub(super) async fn done(self) -> Result<Datapath> {
        let task = match self {
            Self::NotBegun(wanted) => wanted.begin(),
            Self::Begun(task) => task,
            Self::Done(datapath) => return Ok(*datapath),
        };
        task.await.context("open the data path")?.map_err(refusal)
    }
}

/// Lets the table of flows have the room that is asked for now.
pub(super) async fn make_room(config: &Config) {
    if config.datapath != DatapathMode::Kernel
        && let Err(error) = earlier::make_room(&options(config)).await
    {
        warn!(error = chain(&error), "the table of flows stays as it is");
    }
}

fn refusal(error: dataplane::Error) -> anyhow::Error {
    anyhow::Error::from(error).context("--datapath=ebpf cannot be used here")
}

pub(super) fn options(config: &Config) -> dataplane::Options {
    dataplane::Options {
        pin_path: config.bpf_pin_path.clone(),
        tc_attach: config.tc_attach,
        xdp: config.xdp,
        log_level: config.ebpf_log_level as u8,
        flows: config.fast_path_flows.next_power_of_two(),
    }
}
