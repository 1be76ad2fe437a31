//! Test beds: hosts, pods, wires and a real etcd on one machine, and what measures them.
//!
//! A host is a network namespace. Namespaces, mounts and scratch files of a bed have no name
//! outside of it: they are held by file descriptors of this process, and every child process gets
//! `SIGKILL` from the kernel when this process ends. So nothing is left behind, however a run
//! ends, and runs beside each other cannot collide.
//!
//! - [`netns`], [`mounts`], [`command`]: the isolation, and processes inside of it.
//! - [`bed`], [`host`], [`wire`], [`etcd`]: the topology.
//! - [`machine`], [`dockerd`], [`cni`]: a host that is a whole machine, with Docker or CNI plugins.
//! - [`agent`], [`cluster`], [`clock`]: agents on hosts; [`flanneld`]: others'; [`by_hand`],
//!   [`programs`]: without any.
//! - [`udp`]: hosts with the udp backend's proxy alone, and what it is compared with.
//! - [`exercise`], [`traffic`], [`source`]: packets, checked or measured; [`frame`], [`raw`], [`tun`]:
//!   one at a time.
//! - [`measure`], [`report`], [`render`]: the comparison that the demo shows.
//! - [`mod@bench`]: other figures, beside what they are compared to.

pub mod agent;
pub mod bed;
pub mod bench;
pub mod bpf;
pub mod by_hand;
pub mod clock;
pub mod cluster;
pub mod cni;
pub mod command;
pub mod cpu;
pub mod dockerd;
pub mod etcd;
pub mod exercise;
pub mod flanneld;
pub mod frame;
pub mod host;
pub mod keep;
pub mod machine;
pub mod measure;
pub mod mounts;
pub mod netns;
pub mod programs;
pub mod raw;
pub mod render;
pub mod report;
pub mod source;
pub mod traffic;
pub mod tun;
pub mod udp;
pub mod wait;
pub mod wire;
pub mod wire_watch;
