//! Legacy iptables and ebtables, over the socket options by which their own programs read them.
//!
//! Asking for a table that the kernel does not have in this network namespace would make it, so
//! only those that it has are asked for.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::sys::read_ip_option;
use crate::fast_path::ip_tables::{self, Description, Table};

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES` (`include/uapi/linux/netfilter_ipv4/ip_tables.h`).
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// `EBT_SO_GET_INFO` (`include/uapi/linux/netfilter_bridge/ebtables.h`).
const EBT_GET_INFO: libc::c_int = 128;
/// Length of a table's name, in both (`XT_TABLE_MAXNAMELEN`).
const NAME_LEN: usize = 32;
/// Name and size of a table, before its entries (`struct ipt_get_entries`).
const HEADER_LEN: usize = (NAME_LEN + 4).next_multiple_of(align_of::<u64>());
/// Length of `struct ebt_replace`: name, three numbers, six chains, a number, two pointers.
const EBT_REPLACE_LEN: usize =
    (NAME_LEN + 12).next_multiple_of(size_of::<usize>()) + 9 * size_of::<usize>();
/// Attempts at a table that is replaced between question and answer.
const ATTEMPTS: usize = 5;

/// The table of legacy iptables that does not matter.
const NAT: &str = "nat";
/// Tables of legacy ebtables.
const EBTABLES: [&str; 3] = ["filter", "nat", "broute"];

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("open a socket for legacy iptables")]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("read table {table} of legacy {program}")]
    Refused {
        /// The program that the table is of.
        program: &'static str,
        /// The table.
        table: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer cannot be read.
    #[error(transparent)]
    Unreadable(#[from] ip_tables::Unreadable),
}

/// A table as the kernel hands it out, without counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    name: String,
    description: Description,
    entries: Vec<u8>,
}

impl Block {
    pub(super) fn parse(&self) -> Result<Table, Error> {
        let Self {
            name,
            description,
            entries,
        } = self;
        Ok(ip_tables::parse(name, description, entries)?)
    }
}

/// All that legacy programs have set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Legacy {
    pub(super) ip_tables: Vec<Block>,
    /// Names of tables of ebtables and the number of their rules.
    pub(super) ebtables: Vec<(String, u32)>,
}

/// A socket by which tables are read.
#[derive(Debug)]
pub(super) struct Tables(OwnedFd);

impl Tables {
    pub(super) fn open() -> Result<Self, Error> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None);
        socket.map(Self).map_err(|errno| Error::Open(errno.into()))
    }

    /// Everything there is.
    pub(super) fn read(&self) -> Result<Legacy, Error> {
        let mut legacy = Legacy::default();
        for name in crate::rules::legacy_tables() {
            // Asked once per connection, which no change of rules alters.
            if name == NAT {
                continue;
            }
            legacy.ip_tables.push(self.block(&name)?);
        }
        for name in EBTABLES {
            legacy.ebtables.extend(self.ebtable(name)?);
        }
        Ok(legacy)
    }

    fn block(&self, name: &str) -> Result<Block, Error> {
        let refused = |source| Error::Refused {
            program: "iptables",
            table: name.to_owned(),
            source,
        };
        let mut attempts = 1;
        loop {
            let mut info = [0; Description::LEN];
            put_name(&mut info, name);
            read_ip_option(&self.0, GET_INFO, &mut info).map_err(refused)?;
            let description = Description::parse(&info);

            let mut entries = vec![0; HEADER_LEN + description.size as usize];
            put_name(&mut entries, name);
            entries[NAME_LEN..NAME_LEN + 4].copy_from_slice(&description.size.to_ne_bytes());
            match read_ip_option(&self.0, GET_ENTRIES, &mut entries) {
                Ok(_) => {}
                // The size is another one by now.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && attempts < ATTEMPTS => {
                    attempts += 1;
                    continue;
                }
                Err(error) => return Err(refused(error)),
            }
            entries.drain(..HEADER_LEN);
            ip_tables::clear_counters(&mut entries)?;
            return Ok(Block {
                name: name.to_owned(),
                description,
                entries,
            });
        }
    }

    /// Number of rules in a table of ebtables; none if the kernel has no such table.
    fn ebtable(&self, name: &str) -> Result<Option<(String, u32)>, Error> {
        // Where ebtables is a module, so are its tables. Where it is not, asking for a table makes
        // an empty one at worst.
        let is_module = |module: &str| Path::new("/sys/module").join(module).exists();
        if is_module("ebtables") && !is_module(&format!("ebtable_{name}")) {
            return Ok(None);
        }
        let mut buffer = [0; EBT_REPLACE_LEN];
        put_name(&mut buffer, name);
        match read_ip_option(&self.0, EBT_GET_INFO, &mut buffer) {
            Ok(_) => {}
            // No ebtables, or not that table.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::ENOENT)) =>
            {
                return Ok(None);
            }
            Err(source) => {
                return Err(Error::Refused {
                    program: "ebtables",
                    table: name.to_owned(),
                    source,
                });
            }
        }
        // Behind the name and the hooks.
        let mut count = [0; 4];
        count.copy_from_slice(&buffer[NAME_LEN + 4..NAME_LEN + 8]);
        Ok(Some((name.to_owned(), u32::from_ne_bytes(count))))
    }
}

/// Whether connection tracking of this network namespace chooses helpers by port (up to 5.19).
pub(super) fn has_automatic_helpers() -> bool {
    let value = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_helper");
    value.is_ok_and(|value| value.trim() != "0")
}

fn put_name(buffer: &mut [u8], name: &str) {
    let octets = name.as_bytes();
    // With a NUL behind. The kernel's own names are shorter.
    let len = octets.len().min(NAME_LEN - 1);
    buffer[..len].copy_from_slice(&octets[..len]);
}
