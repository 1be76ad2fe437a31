//! The BPF object: programs, maps, and the thin layer between them and the kernel.
//!
//! On the host this is an empty program, so that the workspace builds with a stable compiler; the
//! real thing is built for `bpfel-unknown-none` by `cargo xtask build-ebpf`.
#![cfg_attr(any(target_arch = "bpf", ebpf_lint), no_std, no_main)]

#[cfg(any(target_arch = "bpf", ebpf_lint))]
mod bytes;
#[cfg(any(target_arch = "bpf", ebpf_lint))]
mod count;
#[cfg(any(target_arch = "bpf", ebpf_lint))]
mod maps;
#[cfg(any(target_arch = "bpf", ebpf_lint))]
mod packet;
#[cfg(any(target_arch = "bpf", ebpf_lint))]
mod programs;
#[cfg(any(target_arch = "bpf", ebpf_lint))]
mod raw;
#[cfg(any(target_arch = "bpf", ebpf_lint))]
mod table;

/// Licence as the kernel reads it: helpers such as `bpf_skb_adjust_room` are for GPL programs.
#[cfg(any(target_arch = "bpf", ebpf_lint))]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

#[cfg(any(target_arch = "bpf", ebpf_lint))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses a program that could come here.
    loop {}
}

#[cfg(not(any(target_arch = "bpf", ebpf_lint)))]
fn main() {}
