//! Benchmarks: figures with what they are compared to, taken in turn in one run.
//!
//! Each bench is a module with `Options`, a `run` that gives a report, and the report's table;
//! [`whole`] is all of them in one run, and `flannel-bench` the program around them. Nothing here
//! asserts a time: a figure is a figure of the machine that took it.
//!
//! - [`paths`]: data paths side by side.
//! - [`costs`]: what many peers, flows and pods cost each packet.
//! - [`restarts`]: what is lost while agents are restarted.
//! - [`leases`]: agents with many leases.
//! - [`compare`]: two reports of [`whole`]; [`charts`]: pictures of one.

pub mod charts;
pub mod compare;
pub mod costs;
pub mod leases;
pub mod paths;
pub mod progress;
pub mod restarts;
pub mod whole;
