//! What this process may do, and the private namespaces in which it tries things.
//!
//! Devices, qdiscs, rules and pins are made in namespaces that nobody else is in and that the
//! kernel tears down with the process, however it ends.

use std::fs;
use std::io;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::facts::{Isolation, Privileges};

/// Numbers of capabilities (`include/uapi/linux/capability.h`).
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Identity map of the host's own user namespace.
const ALL_USERS: [&str; 3] = ["0", "0", "4294967295"];

/// Reads what this process may do.
///
/// # Errors
/// `/proc` cannot be read.
pub(super) fn read() -> io::Result<Privileges> {
    let status = fs::read_to_string("/proc/self/status")?;
    let users = fs::read_to_string("/proc/self/uid_map")?;
    Ok(parse(&status, &users))
}

fn parse(status: &str, users: &str) -> Privileges {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let has = |number: u32| set.is_some_and(|set| set >> number & 1 != 0);
    Privileges {
        net_admin: has(CAP_NET_ADMIN),
        bpf: has(CAP_BPF) || has(CAP_SYS_ADMIN),
        is_in_user_namespace: !users.split_whitespace().eq(ALL_USERS),
    }
}

/// Moves this process into a network and a mount namespace of its own. A process without the right
/// to do so makes a user namespace along with them, which works only while it has one thread.
///
/// # Errors
/// Neither is allowed.
pub(super) fn isolate() -> io::Result<Isolation> {
    let private = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    let isolation = match unshare(private) {
        Ok(()) => Isolation::Own,
        Err(nix::errno::Errno::EPERM) => {
            let (user, group) = (geteuid(), getegid());
            unshare(private | CloneFlags::CLONE_NEWUSER)?;
            // Root inside: `nft` keeps its capabilities when it is executed.
            fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
            fs::write("/proc/self/setgroups", "deny")?;
            fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
            Isolation::User
        }
        Err(errno) => return Err(errno.into()),
    };
    let none = None::<&str>;
    // What is mounted from here on must not spread.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    Ok(isolation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "         0          0 4294967295\n";

    #[test]
    fn capabilities_are_read_by_number() {
        let of = |hex: &str| parse(&format!("Name:\tx\nCapEff:\t{hex}\nCapBnd:\t0\n"), HOST);
        let privileges = |net_admin, bpf| Privileges {
            net_admin,
            bpf,
            is_in_user_namespace: false,
        };
        assert_eq!(of("000001ffffffffff"), privileges(true, true));
        assert_eq!(of("0000000000000000"), privileges(false, false));
        assert_eq!(of("0000000000001000"), privileges(true, false));
        assert_eq!(of("0000008000000000"), privileges(false, true));
        assert_eq!(of("0000000000200000"), privileges(false, true));
    }

    #[test]
    fn a_user_namespace_is_told_by_its_map() {
        assert!(!parse("", HOST).is_in_user_namespace);
        assert!(parse("", "0 100000 65536\n").is_in_user_namespace);
        assert!(parse("", "").is_in_user_namespace);
    }
}
