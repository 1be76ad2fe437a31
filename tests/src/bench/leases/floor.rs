//! What the kernel takes for the entries of all peers, by the leanest program there is.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::Result;

use super::bed::LeaseBed;
use super::lease::{FakeLease, format_mac};
use super::report::Floor;
use super::start::DEVICE;
use crate::command;
use crate::host::Host;

/// Makes them on a device of their own, by `ip -batch` and `bridge -batch`, and removes it.
pub(super) fn measure(bed: &LeaseBed) -> Result<Floor> {
    let host = bed.host();
    let Host {
        external, address, ..
    } = host;
    host.ns.ip(&format!(
        "link add {DEVICE} type vxlan id 1 dev {external} local {address} dstport 8472 nolearning\n\
         addr add 10.127.255.0/32 dev {DEVICE}\n\
         link set {DEVICE} up"
    ))?;
    let batch = |program: &str, line: fn(FakeLease) -> String| -> Result<f64> {
        let mut lines = String::new();
        for number in 1..=bed.count {
            // Writing into a String cannot fail.
            let _ = writeln!(lines, "{} dev {DEVICE}", line(FakeLease::new(number)));
        }
        let mut command = host.ns.command(program);
        command.args(["-batch", "-"]);
        let start = Instant::now();
        command::output(command, Some(&lines))?;
        Ok(start.elapsed().as_secs_f64())
    };
    let floor = Floor {
        fdb_secs: batch("bridge", |it| {
            let (mac, remote) = (format_mac(it.mac()), it.public_ip());
            format!("fdb add {mac} dst {remote} self permanent")
        })?,
        neighbours_secs: batch("ip", |it| {
            let (ip, mac) = (it.subnet(), format_mac(it.mac()));
            format!("neigh add {ip} lladdr {mac} nud permanent")
        })?,
        routes_secs: batch("ip", |it| {
            let subnet = it.subnet();
            format!("route add {subnet}/24 via {subnet} onlink")
        })?,
    };
    host.ns.ip(&format!("link del {DEVICE}"))?;
    Ok(floor)
}
