//! Conntrack and the packets that it does not see.
//!
//! Of a flow on the fast path conntrack sees one packet in a while, so TCP's sequence numbers run
//! out of the window that it keeps, and it would call the next packet it sees invalid: rules that
//! drop invalid packets (kube-proxy has one) would end a healthy connection. With
//! `nf_conntrack_tcp_be_liberal` only resets outside of the window are invalid, which is what the
//! kernel does by itself for flows of its own flowtable.

use std::fs;
use std::io;

const PATH: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

/// The setting of this network namespace, changed for as long as the fast path is in use.
#[derive(Debug, Default)]
pub(super) struct Liberal {
    /// What it was before, once it has been changed.
    before: Option<String>,
}

impl Liberal {
    /// Sets it, where conntrack is in use at all.
    ///
    /// # Errors
    /// It cannot be set: TCP must not be on the fast path then.
    pub(super) fn set(&mut self) -> io::Result<()> {
        let now = match fs::read_to_string(PATH) {
            Ok(text) => text.trim().to_owned(),
            // No conntrack in this namespace: nothing is called invalid.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if now == "1" {
            return Ok(());
        }
        fs::write(PATH, "1")?;
        tracing::info!(before = now, "conntrack is liberal about TCP windows now");
        self.before = Some(now);
        Ok(())
    }

    /// Sets it back to what it was before [`set`](Self::set) changed it.
    pub(super) fn restore(&mut self) {
        let Some(before) = self.before.take() else {
            return;
        };
        if let Err(error) = fs::write(PATH, &before) {
            tracing::warn!(%error, "{PATH} stays at 1, it was {before}");
        }
    }
}
