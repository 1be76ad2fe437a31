//! Benchmarks: figures with what they are compared to, taken in turn in one run.
//!
//! Each bench is a module with `Options`, a `run` that gives a report, and the report's table;
//! `flannel-bench` is the program around them. Nothing here asserts a time: a figure is a figure
//! of the machine that took it.

pub mod leases;
pub mod paths;
pub mod progress;
