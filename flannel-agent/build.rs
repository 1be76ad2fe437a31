//! Finds the compiled BPF object that the agent carries inside.
//!
//! `cargo xtask build` names it in `FLANNEL_EBPF_OBJECT`; otherwise the place where
//! `cargo xtask build-ebpf` leaves it is looked at. Where there is none the agent is built without,
//! so that `cargo check`, clippy and the unit tests need no BPF toolchain; such an agent says so
//! and runs on the kernel path only.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-env-changed=FLANNEL_EBPF_OBJECT");
    println!("cargo::rustc-check-cfg=cfg(no_ebpf_object)");
    let default = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/dataplane.o");
    let object = std::env::var_os("FLANNEL_EBPF_OBJECT").map_or(default, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(path) => println!("cargo::rustc-env=FLANNEL_EBPF_OBJECT={}", path.display()),
        Err(_) => println!("cargo::rustc-cfg=no_ebpf_object"),
    }
}
