//! What `flannel-agent flows` shows: the flows that are on the fast path now. Pure, but for
//! [`read`].

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use flannel_ebpf::abi::{FastPath, Flow, FlowKey};
use flannel_ebpf::wire::{PROTOCOL_TCP, PROTOCOL_UDP};
use nix::net::if_::if_indextoname;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::dataplane::flows::{self, Error, Table};
use crate::dataplane::pin::Pins;

/// The document of `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether flows may be on the fast path at all.
    pub active: bool,
    /// Flows that have room in the table.
    pub room: u64,
    /// How long an admission lasts, milliseconds.
    pub bound_ms: u64,
    /// Those that are on the fast path; a conversation is two.
    pub flows: Vec<Row>,
}

/// One direction of a conversation between a pod of this host and one of another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Row {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Who sends.
    pub source: SocketAddrV4,
    /// Who receives.
    pub destination: SocketAddrV4,
    /// Whether the pod of this host sends or receives.
    pub direction: Direction,
    /// The host's end of that pod's interface; its index, if it is gone.
    pub interface: String,
    /// The node that a received flow comes from; none where the sender is looked up for each packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Ipv4Addr>,
    /// The firewall mark of a sent flow, that queues of the external interface may go by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// When its next packet goes past the host's rules again, milliseconds from now.
    pub asked_again_in_ms: u64,
}

/// Which way a flow goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Out of the pod.
    Sent,
    /// Into the pod.
    Received,
}

/// Reads the table of a host.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn read(pins: &Pins) -> Result<Report, Error> {
    let table = flows::read(pins)?;
    // The clock of the programs; a kernel without it has no table either.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::MAX, Duration::from);
    let name = |index| {
        let name = if_indextoname(index).ok();
        let name = name.and_then(|name| name.into_string().ok());
        name.unwrap_or_else(|| index.to_string())
    };
    Ok(report(&table, now, name))
}

fn report(table: &Table, now: Duration, name: impl Fn(u32) -> String) -> Report {
    let Table { settings, flows } = table;
    let rows = flows
        .iter()
        .filter_map(|flow| row(settings, flow, now, &name));
    let mut rows: Vec<Row> = rows.collect();
    rows.sort_unstable();
    Report {
        active: settings.bound != 0,
        room: u64::from(settings.mask) + 1,
        bound_ms: Duration::from_nanos(settings.bound).as_millis() as u64,
        flows: rows,
    }
}

/// A flow, if its admission lasts.
fn row(
    settings: &FastPath,
    flow: &Flow,
    now: Duration,
    name: impl Fn(u32) -> String,
) -> Option<Row> {
    let left = Duration::from_nanos(flow.expires).checked_sub(now)?;
    let is_admitted = settings.bound != 0 && flow.generation == settings.generation;
    if !is_admitted || left.is_zero() {
        return None;
    }
    let FlowKey {
        source,
        destination,
        ports: [a, b, c, d],
        protocol,
    } = flow.key;
    let end = |address: [u8; 4], port| SocketAddrV4::new(address.into(), u16::from_be_bytes(port));
    const TCP: u32 = PROTOCOL_TCP as u32;
    const UDP: u32 = PROTOCOL_UDP as u32;
    let is_received = flow.is_received != 0;
    let direction = match is_received {
        true => Direction::Received,
        false => Direction::Sent,
    };
    let beside = Some(flow.beside).filter(|beside| *beside != [0; 4]);
    Some(Row {
        protocol: match protocol {
            TCP => "tcp",
            UDP => "udp",
            // The programs admit no other.
            _ => "?",
        },
        source: end(source, [a, b]),
        destination: end(destination, [c, d]),
        direction,
        interface: name(flow.ifindex),
        node: beside.filter(|_| is_received).map(Ipv4Addr::from),
        mark: beside.filter(|_| !is_received).map(u32::from_ne_bytes),
        asked_again_in_ms: left.as_millis() as u64,
    })
}

/// The report as a table for people; ends with a line break.
#[must_use]
pub fn render(report: &Report) -> String {
    let Report {
        active,
        room,
        bound_ms,
        flows,
    } = report;
    if !active {
        return "no flows: the fast path is off, see `flannel-agent fast-path`\n".into();
    }
    let heading = [
        "",
        "source",
        "destination",
        "",
        "interface",
        "node",
        "asked again",
    ];
    let mut lines = vec![heading.map(str::to_owned)];
    lines.extend(flows.iter().map(|row| {
        let direction = match row.direction {
            Direction::Sent => "sent",
            Direction::Received => "received",
        };
        [
            row.protocol.to_owned(),
            row.source.to_string(),
            row.destination.to_string(),
            direction.to_owned(),
            row.interface.clone(),
            row.node.map_or_else(String::new, |node| node.to_string()),
            format!("in {} ms", row.asked_again_in_ms),
        ]
    }));
    let mut text = String::new();
    if !flows.is_empty() {
        text = table(&lines);
    }
    let count = flows.len();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{count} of at most {room} flows; each asks the rules again every {bound_ms} ms"
    );
    text
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(lines: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.len());
        }
    }
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn settings() -> FastPath {
        FastPath {
            bound: SECOND,
            generation: 7,
            mask: 1_023,
            seed: 5,
        }
    }

    fn flow(port: u16) -> Flow {
        let [a, b] = port.to_be_bytes();
        Flow {
            key: FlowKey {
                source: [10, 5, 1, 2],
                destination: [10, 5, 20, 2],
                ports: [a, b, 0, 80],
                protocol: PROTOCOL_TCP.into(),
            },
            expires: 100 * SECOND + SECOND / 4,
            generation: 7,
            ifindex: 3,
            ..Flow::zeroed()
        }
    }

    fn report_of(settings: FastPath, flows: Vec<Flow>) -> Report {
        let table = Table { settings, flows };
        report(&table, Duration::from_secs(100), |index| {
            format!("veth{index}")
        })
    }

    #[test]
    fn flows_are_shown_as_the_programs_judge_them() {
        let received = Flow {
            is_received: 1,
            beside: [192, 168, 7, 11],
            ..flow(40_001)
        };
        let over = Flow {
            expires: 100 * SECOND,
            ..flow(40_002)
        };
        let earlier = Flow {
            generation: 6,
            ..flow(40_003)
        };
        let report = report_of(settings(), vec![received, over, earlier, flow(40_000)]);
        assert_eq!(
            render(&report),
            "     source          destination             interface  node          asked again\n\
             tcp  10.5.1.2:40000  10.5.20.2:80  sent      veth3                    in 250 ms\n\
             tcp  10.5.1.2:40001  10.5.20.2:80  received  veth3      192.168.7.11  in 250 ms\n\
             2 of at most 1024 flows; each asks the rules again every 1000 ms\n"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["flows"][1]["node"], "192.168.7.11");
        assert_eq!(json["flows"][0]["source"], "10.5.1.2:40000");
        assert_eq!(json["flows"][0]["direction"], "sent");
        assert_eq!(json["flows"][0].get("node"), None);
        let marked = Flow {
            beside: 0x20_u32.to_ne_bytes(),
            ..flow(1)
        };
        let row = report_of(settings(), vec![marked]).flows.remove(0);
        assert_eq!((row.mark, row.node), (Some(0x20), None));
    }

    #[test]
    fn none_is_shown_while_the_fast_path_is_off() {
        let off = FastPath {
            bound: 0,
            ..settings()
        };
        let report = report_of(off, vec![flow(1)]);
        assert!(!report.active && report.flows.is_empty());
        assert!(render(&report).contains("off"));
        let report = report_of(settings(), Vec::new());
        let text = "0 of at most 1024 flows; each asks the rules again every 1000 ms\n";
        assert_eq!(render(&report), text);
    }
}
