//! Receive packet steering: packets of an interface that wait for another processor than the one
//! they came by.
//!
//! What the fast path says about order (`flannel-ebpf/src/programs/fast/mod.rs`) holds where a packet
//! stays on its processor. The setting is in sysfs alone, which shows the interfaces of the network
//! namespace that it was mounted in: where that is another one, nothing is known.

use std::fs;
use std::path::Path;

/// Whether packets of an interface are spread over processors.
#[must_use]
pub fn is_spread(name: &str, index: u32) -> bool {
    is_spread_in(Path::new("/sys/class/net"), name, index)
}

fn is_spread_in(root: &Path, name: &str, index: u32) -> bool {
    let interface = root.join(name);
    let is_ours = fs::read_to_string(interface.join("ifindex"))
        .is_ok_and(|text| text.trim().parse() == Ok(index));
    let queues = fs::read_dir(interface.join("queues"));
    is_ours
        && queues.into_iter().flatten().flatten().any(|queue| {
            // Sent queues have no such file.
            let mask = fs::read_to_string(queue.path().join("rps_cpus"));
            mask.is_ok_and(|mask| mask.chars().any(|digit| !matches!(digit, '0' | ',' | '\n')))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_processor_in_any_queue_counts() {
        let root = tempfile::tempdir().unwrap();
        let queue = |number: u8| root.path().join(format!("veth0/queues/rx-{number}"));
        for number in 0..2 {
            fs::create_dir_all(queue(number)).unwrap();
            fs::write(queue(number).join("rps_cpus"), "0000,00000000\n").unwrap();
        }
        fs::create_dir_all(root.path().join("veth0/queues/tx-0")).unwrap();
        fs::write(root.path().join("veth0/ifindex"), "7\n").unwrap();
        assert!(!is_spread_in(root.path(), "veth0", 7));
        fs::write(queue(1).join("rps_cpus"), "0000,00000002\n").unwrap();
        assert!(is_spread_in(root.path(), "veth0", 7));
        // An interface of another namespace.
        assert!(!is_spread_in(root.path(), "veth0", 8));
        assert!(!is_spread_in(root.path(), "veth1", 7));
    }
}
