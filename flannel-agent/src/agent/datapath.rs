//! Which data path a run takes, and why.

use anyhow::Result;
use tracing::warn;

use crate::backend::Backend;
use crate::cli::DatapathMode;
use crate::config::Config;
use crate::dataplane::{self, Dataplane};
use crate::error::chain;
use crate::status;

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

/// The dataplane that is to be used, if any, and why.
///
/// # Errors
/// It was asked for with `--datapath=ebpf` and cannot be had.
pub(super) fn open(
    config: &Config,
    backend: &dyn Backend,
) -> Result<(Option<Dataplane>, status::Datapath)> {
    let datapath = |active: &str, reason: String| status::Datapath {
        requested: config.datapath.to_string(),
        active: active.to_owned(),
        reason,
        programs: Vec::new(),
        counters: Vec::new(),
    };
    let programs = backend.programs();
    if programs.is_empty() {
        let reason = format!("backend {} has nothing to carry", backend.name());
        return Ok((None, datapath("kernel", reason)));
    }
    if config.datapath == DatapathMode::Kernel {
        let reason = "asked for by --datapath=kernel".to_owned();
        return Ok((None, datapath("kernel", reason)));
    }
    let options = options(config);
    match Dataplane::open(&options, programs) {
        Ok(mut dataplane) => {
            if options.log_level > 0 {
                dataplane.start_logging();
            }
            let reason = "the kernel can".to_owned();
            Ok((Some(dataplane), datapath("ebpf", reason)))
        }
        Err(error) if config.datapath == DatapathMode::Ebpf => Err(refusal(error)),
        Err(error) => {
            let reason = format!("eBPF cannot be used here: {}", chain(&error));
            warn!("datapath: kernel ({reason})");
            Ok((None, datapath("kernel", reason)))
        }
    }
}

fn refusal(error: dataplane::Error) -> anyhow::Error {
    anyhow::Error::from(error).context("--datapath=ebpf cannot be used here")
}

fn options(config: &Config) -> dataplane::Options {
    dataplane::Options {
        pin_path: config.bpf_pin_path.clone(),
        tc_attach: config.tc_attach,
        log_level: config.ebpf_log_level as u8,
    }
}
