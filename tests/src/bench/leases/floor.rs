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

/// Makes them on a device of their own, by `ip -batch` and `bridge -batch`, and removes it; then the
/// routes again, through next-hop objects.
pub(super) fn measure(bed: &LeaseBed) -> Result<Floor> {
    let device = Device::new(bed)?;
    let fdb_secs = device.batch("bridge", |it| {
        let (mac, remote) = (format_mac(it.mac()), it.public_ip());
        format!("fdb add {mac} dst {remote} self permanent dev {DEVICE}")
    })?;
    let neighbours_secs = device.batch("ip", |it| {
        let (ip, mac) = (it.subnet(), format_mac(it.mac()));
        format!("neigh add {ip} lladdr {mac} nud permanent dev {DEVICE}")
    })?;
    let routes_secs = device.batch("ip", |it| {
        let subnet = it.subnet();
        format!("route add {subnet}/24 via {subnet} onlink dev {DEVICE}")
    })?;
    device.remove()?;
    let device = Device::new(bed)?;
    let objects_secs = device.batch("ip", |it| {
        let subnet = it.subnet();
        let id = u32::from(subnet);
        format!("nexthop add id {id} via {subnet} dev {DEVICE} onlink")
    })?;
    let object_routes_secs = device.batch("ip", |it| {
        let subnet = it.subnet();
        let id = u32::from(subnet);
        format!("route add {subnet}/24 nhid {id}")
    })?;
    device.remove()?;
    Ok(Floor {
        fdb_secs,
        neighbours_secs,
        routes_secs,
        objects_secs,
        object_routes_secs,
    })
}

/// A tunnel device.
struct Device<'a> {
    bed: &'a LeaseBed,
}

impl<'a> Device<'a> {
    fn new(bed: &'a LeaseBed) -> Result<Self> {
        let host = bed.host();
        let Host {
            external, address, ..
        } = host;
        host.ns.ip(&format!(
            "link add {DEVICE} type vxlan id 1 dev {external} local {address} dstport 8472 nolearning\n\
             addr add 10.127.255.0/32 dev {DEVICE}\n\
             link set {DEVICE} up"
        ))?;
        Ok(Self { bed })
    }

    /// Seconds that `program` takes for a line per lease.
    fn batch(&self, program: &str, line: fn(FakeLease) -> String) -> Result<f64> {
        let mut lines = String::new();
        for number in 1..=self.bed.count {
            // Writing into a String cannot fail.
            let _ = writeln!(lines, "{}", line(FakeLease::new(number)));
        }
        let mut command = self.bed.host().ns.command(program);
        command.args(["-batch", "-"]);
        let start = Instant::now();
        command::output(command, Some(&lines))?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn remove(self) -> Result<()> {
        self.bed.host().ns.ip(&format!("link del {DEVICE}"))?;
        Ok(())
    }
}
