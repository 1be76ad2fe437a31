//! The data path as the command line asks for it.

use anyhow::{Context as _, Result};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::warn;

use crate::backend::Backend;
use crate::cli::DatapathMode;
use crate::config::Config;
use crate::dataplane;
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

/// A data path that is being opened.
pub(super) struct Opening(JoinHandle<Result<Datapath, dataplane::Error>>);

/// Opens the data path for a backend, on a thread of its own: to load the programs takes as long as
/// etcd takes to list thousands of leases.
pub(super) fn open(config: &Config, backend: &dyn Backend) -> Opening {
    let (options, programs) = (options(config), backend.programs());
    let mode = config.datapath;
    Opening(spawn_blocking(move || {
        Datapath::open(options, programs, mode)
    }))
}

impl Opening {
    /// Waits until it is open.
    ///
    /// # Errors
    /// `--datapath=ebpf` is asked for and cannot be had.
    pub(super) async fn done(self) -> Result<Datapath> {
        let opened = self.0.await.context("open the data path")?;
        opened.map_err(refusal)
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
