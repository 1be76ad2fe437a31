//! What is measured: a program that takes flanneld's flags.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::agent::{self, Datapath};

/// An agent to measure.
#[derive(Debug, Clone)]
pub struct Subject {
    name: String,
    binary: PathBuf,
    datapath: Datapath,
    is_own: bool,
}

impl Subject {
    /// Our agent on this data path: by its default, or by `--datapath`.
    ///
    /// # Errors
    /// It is not built.
    pub fn own(datapath: Datapath) -> Result<Self> {
        Ok(Self {
            name: datapath.to_string(),
            binary: agent::binary()?,
            datapath,
            is_own: true,
        })
    }

    /// Any other, from `NAME=PATH`. Should it be one of ours after all, its data path is `auto`.
    ///
    /// # Errors
    /// Not of that form, or there is no such file.
    pub fn peer(text: &str) -> Result<Self> {
        let (name, path) = text.split_once('=').context("not of the form NAME=PATH")?;
        ensure!(!name.is_empty(), "the name in {text:?} is empty");
        let binary = Path::new(path)
            .canonicalize()
            .with_context(|| format!("the program {path}"))?;
        Ok(Self {
            name: name.to_owned(),
            binary,
            datapath: Datapath::Auto,
            is_own: false,
        })
    }

    /// How the table names it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::bench) fn binary(&self) -> &Path {
        &self.binary
    }

    /// The data path that it is to be on.
    pub(super) fn datapath(&self) -> Datapath {
        self.datapath
    }

    /// What it is started with.
    pub(super) fn setting(&self) -> Datapath {
        match self.datapath {
            // As operators have it. That it is on eBPF is checked.
            Datapath::Ebpf => Datapath::Auto,
            other => other,
        }
    }

    /// Whether it says how many peers eBPF carries.
    pub(super) fn is_own(&self) -> bool {
        self.is_own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_name_and_a_program() {
        let peer = Subject::peer("stock=/bin/sh").unwrap();
        assert_eq!(peer.name(), "stock");
        for wrong in ["/bin/sh", "=/bin/sh", "x=/nowhere/flanneld"] {
            assert!(Subject::peer(wrong).is_err(), "{wrong}");
        }
    }
}
