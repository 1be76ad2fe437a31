//! Conntrack and the packets that it does not see.
//!
//! Of a flow on the fast path conntrack sees one packet in a while, so TCP's sequence numbers run
//! out of the window that it keeps, and it would call the next packet it sees invalid: rules that
//! drop invalid packets (kube-proxy has one) would end a healthy connection. With
//! `nf_conntrack_tcp_be_liberal` only resets outside of the window are invalid, which is what the
//! kernel does by itself for flows of its own flowtable. With `nf_conntrack_tcp_ignore_invalid_rst`
//! (Linux 5.15) these are not either: after two gigabytes that it has not seen, conntrack would take
//! the reset that ends a connection for an old one.
//!
//! Conntrack does not find back into the window by itself (`tcp_in_window` in
//! net/netfilter/nf_conntrack_proto_tcp.c leaves what it keeps alone while a packet is outside), so
//! connections that have been on the fast path need the settings until they end, whether or not the
//! fast path is still in use. They are set back by `flannel-agent cleanup` alone. What they were before
//! stands in files of the run directory until then.

use std::path::{Path, PathBuf};
use std::{fs, io};

const PATH: &str = "/proc/sys/net/netfilter";
/// The settings, and what each becomes. A file of the same name in the run directory has what it was.
const SETTINGS: [&str; 2] = [
    "nf_conntrack_tcp_be_liberal",
    "nf_conntrack_tcp_ignore_invalid_rst",
];

/// The settings of this network namespace, changed from the first use of the fast path on.
#[derive(Debug)]
pub struct Liberal {
    /// Where the former values are kept.
    run_dir: PathBuf,
}

impl Liberal {
    /// The settings, with what an earlier run may have kept in the run directory.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
        }
    }

    /// Sets them, where conntrack is in use at all. A namespace may begin to use it any time, with the
    /// first rule that asks it.
    ///
    /// # Errors
    /// One cannot be set, or what it was cannot be kept: TCP must not be on the fast path then.
    pub fn set(&self) -> io::Result<()> {
        for name in SETTINGS {
            let path = Path::new(PATH).join(name);
            let now = match fs::read_to_string(&path) {
                Ok(text) => text.trim().to_owned(),
                // No conntrack in this namespace: nothing is called invalid. Or an older kernel.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if now == "1" {
                continue;
            }
            fs::write(self.run_dir.join(name), &now)?;
            fs::write(path, "1")?;
            tracing::info!(
                before = now,
                "{name} is 1 now: conntrack is liberal about TCP windows"
            );
        }
        Ok(())
    }

    /// Sets them back to what they were before [`set`](Self::set) changed them, in this run or an
    /// earlier one.
    pub fn restore(&self) {
        for name in SETTINGS {
            let file = self.run_dir.join(name);
            let before = match fs::read_to_string(&file) {
                Ok(before) => before,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    let file = file.display();
                    tracing::warn!(%error, "{name} stays at 1: {file} cannot be read");
                    continue;
                }
            };
            if let Err(error) = fs::write(Path::new(PATH).join(name), &before) {
                tracing::warn!(%error, "{name} stays at 1, it was {before}");
            } else if let Err(error) = fs::remove_file(&file) {
                tracing::warn!(%error, "{} stays", file.display());
            }
        }
    }
}
