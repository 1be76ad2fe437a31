//! Conntrack and the packets that it does not see.
//!
//! Of a flow on the fast path conntrack sees one packet in a while, so TCP's sequence numbers run
//! out of the window that it keeps, and it would call the next packet it sees invalid: rules that
//! drop invalid packets (kube-proxy has one) would end a healthy connection. With
//! `nf_conntrack_tcp_be_liberal` only resets outside of the window are invalid, which is what the
//! kernel does by itself for flows of its own flowtable.
//!
//! Conntrack does not find back into the window by itself (`tcp_in_window` in
//! net/netfilter/nf_conntrack_proto_tcp.c leaves what it keeps alone while a packet is outside), so
//! connections that have been on the fast path need the setting until they end, whether or not the
//! fast path is still in use. It is set back by `flannel-agent cleanup` alone. What it was before
//! stands in a file of the run directory until then.

use std::path::{Path, PathBuf};
use std::{fs, io};

const PATH: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";
/// Name of the file in the run directory.
const FILE: &str = "nf_conntrack_tcp_be_liberal";

/// The setting of this network namespace, changed from the first use of the fast path on.
#[derive(Debug)]
pub struct Liberal {
    /// Where the former value is kept.
    file: PathBuf,
}

impl Liberal {
    /// The setting, with what an earlier run may have kept in the run directory.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self {
            file: run_dir.join(FILE),
        }
    }

    /// Sets it, where conntrack is in use at all. A namespace may begin to use it any time, with the
    /// first rule that asks it.
    ///
    /// # Errors
    /// It cannot be set, or what it was cannot be kept: TCP must not be on the fast path then.
    pub fn set(&self) -> io::Result<()> {
        let now = match fs::read_to_string(PATH) {
            Ok(text) => text.trim().to_owned(),
            // No conntrack in this namespace: nothing is called invalid.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if now == "1" {
            return Ok(());
        }
        fs::write(&self.file, &now)?;
        fs::write(PATH, "1")?;
        tracing::info!(before = now, "conntrack is liberal about TCP windows now");
        Ok(())
    }

    /// Sets it back to what it was before [`set`](Self::set) changed it, in this run or an earlier
    /// one.
    pub fn restore(&self) {
        let before = match fs::read_to_string(&self.file) {
            Ok(before) => before,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                let file = self.file.display();
                tracing::warn!(%error, "{PATH} stays at 1: {file} cannot be read");
                return;
            }
        };
        if let Err(error) = fs::write(PATH, &before) {
            tracing::warn!(%error, "{PATH} stays at 1, it was {before}");
        } else if let Err(error) = fs::remove_file(&self.file) {
            tracing::warn!(%error, "{} stays", self.file.display());
        }
    }
}
