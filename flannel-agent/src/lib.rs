//! A drop-in for flanneld whose data plane is eBPF.

#![deny(unsafe_code)]

pub mod backend;
pub mod cleanup;
pub mod dataplane;
pub mod error;
pub mod lease;
pub mod netlink;
pub mod node;
pub mod plan;
pub mod state;
pub mod status;
pub mod underlay;
