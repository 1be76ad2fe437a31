//! Backends: how packets for a peer's subnet get to the peer over the kernel path.

pub mod extension;
pub mod vxlan;
