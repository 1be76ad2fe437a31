//! The extension backend with real processes.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

mod bed;
mod peers;
mod process;
mod startup;
