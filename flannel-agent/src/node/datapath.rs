//! Which data path the node takes, and why; changed by `flannel-agent datapath` while it runs.

use std::collections::BTreeMap;

use flannel_ebpf::abi;
use tracing::{info, warn};

use crate::cli::DatapathMode;
use crate::dataplane::maps::Key;
use crate::dataplane::{self, Attachment, Dataplane, Interfaces};
use crate::error::chain;
use crate::status;

/// The eBPF dataplane, if it is in use, and the reason either way.
pub struct Datapath {
    options: dataplane::Options,
    programs: &'static [Attachment],
    requested: DatapathMode,
    reason: String,
    dataplane: Option<Dataplane>,
}

impl Datapath {
    /// Opens what is asked for. A backend without `programs` has nothing for eBPF to carry,
    /// whatever is asked for.
    ///
    /// # Errors
    /// [`DatapathMode::Ebpf`] is asked for and cannot be had.
    pub fn open(
        options: dataplane::Options,
        programs: &'static [Attachment],
        requested: DatapathMode,
    ) -> Result<Self, dataplane::Error> {
        let mut datapath = Self {
            options,
            programs,
            requested,
            reason: String::new(),
            dataplane: None,
        };
        datapath.select(requested)?;
        Ok(datapath)
    }

    /// Takes another mode. Switching to eBPF opens the dataplane, which a pass then has to fill and
    /// attach; switching away is done by [`close`](Self::close).
    ///
    /// # Errors
    /// [`DatapathMode::Ebpf`] is asked for and cannot be had: all stays as it was.
    pub fn select(&mut self, mode: DatapathMode) -> Result<(), dataplane::Error> {
        let reason = if self.programs.is_empty() {
            "the backend has nothing to carry".to_owned()
        } else if mode == DatapathMode::Kernel {
            "asked for".to_owned()
        } else {
            match self.open_dataplane() {
                Ok(()) => "the kernel can".to_owned(),
                Err(error) if mode == DatapathMode::Ebpf => return Err(error),
                Err(error) => {
                    let reason = format!("eBPF cannot be used here: {}", chain(&error));
                    warn!("datapath: kernel ({reason})");
                    reason
                }
            }
        };
        (self.requested, self.reason) = (mode, reason);
        Ok(())
    }

    fn open_dataplane(&mut self) -> Result<(), dataplane::Error> {
        if self.dataplane.is_none() {
            let mut dataplane = Dataplane::open(&self.options, self.programs)?;
            if self.options.log_level > 0 {
                dataplane.start_logging();
            }
            self.dataplane = Some(dataplane);
        }
        Ok(())
    }

    /// Leaves all packets to the kernel path from here on: what was attached is detached.
    pub fn close(&mut self, interfaces: Interfaces<'_>, reason: String) {
        if let Some(dataplane) = self.dataplane.take() {
            dataplane.remove(interfaces);
            info!(reason, "datapath: kernel");
        }
        self.reason = reason;
    }

    /// The dataplane, while it is in use.
    pub fn dataplane(&mut self) -> Option<&mut Dataplane> {
        self.dataplane.as_mut()
    }

    /// Whether the dataplane is in use.
    #[must_use]
    pub fn is_ebpf(&self) -> bool {
        self.dataplane.is_some()
    }

    /// Programs of the dataplane, while it is in use.
    #[must_use]
    pub fn programs(&self) -> &'static [Attachment] {
        match self.dataplane {
            Some(_) => self.programs,
            None => &[],
        }
    }

    /// What went to direct peers and came from them, as far as it is counted; by the address of
    /// their subnet.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn traffic(&self) -> Result<BTreeMap<Key, abi::Traffic>, dataplane::Error> {
        let dataplane = self.dataplane.as_ref();
        dataplane.map_or_else(|| Ok(BTreeMap::new()), Dataplane::traffic)
    }

    /// Its part of the status document, and what is wrong with it.
    #[must_use]
    pub fn status(&self) -> (status::Datapath, Option<String>) {
        let mut status = status::Datapath {
            requested: self.requested.to_string(),
            active: if self.is_ebpf() { "ebpf" } else { "kernel" }.to_owned(),
            reason: self.reason.clone(),
            programs: Vec::new(),
            counters: Vec::new(),
            xdp: None,
        };
        let Some(dataplane) = &self.dataplane else {
            return (status, None);
        };
        status.programs = dataplane.programs();
        status.xdp = Some(dataplane.xdp());
        match dataplane.counters() {
            Ok(counters) => {
                status.counters = counters;
                (status, None)
            }
            Err(error) => (status, Some(chain(&error))),
        }
    }
}
