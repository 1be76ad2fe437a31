//! A drop-in for flanneld whose data plane is eBPF.

#![deny(unsafe_code)]

pub mod agent;
pub mod backend;
pub mod backoff;
pub mod cleanup;
pub mod cli;
mod clients;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod docker_opts;
pub mod error;
pub mod fast_path;
pub mod flows;
pub mod health;
pub mod iface;
mod json;
pub mod lease;
pub mod memory;
pub mod netlink;
pub mod network;
pub mod node;
pub mod notify;
pub mod plan;
pub mod probe;
pub mod rules;
pub mod state;
pub mod status;
mod status_source;
pub mod status_view;
pub mod subnet;
pub mod underlay;
