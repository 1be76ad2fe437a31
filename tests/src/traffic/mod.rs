//! Traffic between pods, checked or measured.

pub mod connections;
pub mod iperf;
pub mod latency;
pub mod ping;
pub mod pulse;
pub mod sequence;
pub mod stream;
