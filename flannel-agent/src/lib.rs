//! A drop-in for flanneld whose data plane is eBPF.

#![deny(unsafe_code)]

pub mod backoff;
mod json;
pub mod lease;
pub mod network;
pub mod notify;
pub mod status;
pub mod subnet;
