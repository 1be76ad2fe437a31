//! Clusters of our agent and of stock flannel's own daemon.
//!
//! Needs root, a built agent (`FLANNEL_AGENT`, or the one beside this program), and in `FLANNEL_STOCK`
//! a directory with stock's `flanneld` and `mk-docker-opts.sh`; `cargo xtask test --ring mixed` builds
//! them from its sources. Every test has a bed of its own.

mod configs;
mod docker_opts;
mod files;
mod leases;
mod neighbours;
mod pairings;
mod peers;
mod takeover;
