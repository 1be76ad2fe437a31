//! Docker and CNI's plugins on the overlay, as operators run them.
//!
//! Needs root, a built agent (`FLANNEL_AGENT`, or the one beside this program), Docker, a static
//! busybox and CNI's reference plugins; `cargo xtask setup` brings them. Every test has a bed of
//! its own.

mod containers;
mod end;
mod pods;
mod restart;
mod setting;
mod tutorial;
