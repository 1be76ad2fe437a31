//! A drop-in for flanneld whose data plane is eBPF.

#![deny(unsafe_code)]

pub mod backoff;
pub mod cli;
pub mod config;
pub mod control;
pub mod iface;
mod json;
pub mod lease;
pub mod network;
pub mod notify;
pub mod status;
pub mod status_view;
pub mod subnet;
