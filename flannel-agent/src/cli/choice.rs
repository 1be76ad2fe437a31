//! Flags with a few words to choose from.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

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

/// Whether established flows between pods go around routing and netfilter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FastPathMode {
    /// Where that is safe.
    #[value(alias = "on")]
    Auto,
    /// Never.
    Off,
}

/// Whether XDP takes tunnel headers off in the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum XdpMode {
    /// On NICs whose driver can.
    Auto,
    /// On whatever device the kernel lets it.
    Native,
    /// Never.
    Off,
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
shown_as_typed!(
    DatapathMode,
    FastPathMode,
    TcAttach,
    XdpMode,
    EbpfLogLevel,
    OnLeaseLoss
);
