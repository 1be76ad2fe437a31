//! Pictures of a report, each as SVG and as PNG.
//!
//! A chart is a [`scene`]: rectangles, dots and text, laid out with the measures of one font that is
//! part of this program. [`svg`] writes it as it is; [`png`] paints it, so that it looks the same
//! on a machine without fonts.

mod bars;
mod font;
mod percentiles;
mod png;
mod scene;
mod style;
mod svg;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use self::font::Fonts;
use self::scene::Scene;
use super::paths::report::WireReport;
use super::whole::report::{Machine, Report};
use crate::measure::figure::Figure;
use crate::wire::Wire;

/// A picture of one figure.
struct Chart {
    file: &'static str,
    wire: Wire,
    figure: Figure,
    title: &'static str,
    unit: &'static str,
}

const BARS: [Chart; 6] = [
    Chart {
        file: "packets",
        wire: Wire::Mtu1500,
        figure: Figure::Small,
        title: "64-byte packets from pod to pod, both hosts on one core",
        unit: "kpps",
    },
    Chart {
        file: "packets-mtu",
        wire: Wire::Mtu1500,
        figure: Figure::Large,
        title: "Packets of MTU size from pod to pod, both hosts on one core",
        unit: "kpps",
    },
    Chart {
        file: "tcp-one-core",
        wire: Wire::Mtu1500,
        figure: Figure::TcpOneCore,
        title: "One TCP stream from pod to pod, both hosts on one core",
        unit: "Gbit/s",
    },
    Chart {
        file: "tcp",
        wire: Wire::Mtu1500,
        figure: Figure::Tcp,
        title: "One TCP stream from pod to pod on free cores",
        unit: "Gbit/s",
    },
    Chart {
        file: "tcp-super-packet",
        wire: Wire::SuperPacket,
        figure: Figure::Tcp,
        title: "One TCP stream from pod to pod on free cores, super-packets on the wire",
        unit: "Gbit/s",
    },
    Chart {
        file: "connections",
        wire: Wire::Mtu1500,
        figure: Figure::Connections,
        title: "TCP connections one after the other, both hosts on one core",
        unit: "thousand/s",
    },
];

/// Three percentiles of one time.
struct Percentiles {
    file: &'static str,
    figures: [Figure; 3],
    title: &'static str,
}

const TIMES: [Percentiles; 2] = [
    Percentiles {
        file: "latency-tcp",
        figures: [
            Figure::ResponseP50,
            Figure::ResponseP99,
            Figure::ResponseP999,
        ],
        title: "Round trip of one octet over TCP, both hosts on one core",
    },
    Percentiles {
        file: "latency-udp",
        figures: [
            Figure::UdpResponseP50,
            Figure::UdpResponseP99,
            Figure::UdpResponseP999,
        ],
        title: "Round trip of one octet over UDP, both hosts on one core",
    },
];

/// Writes a chart of every figure that was measured into a directory, and gives their names.
///
/// # Errors
/// A file cannot be written.
pub fn write(report: &Report, directory: &Path) -> Result<Vec<String>> {
    let Some(paths) = &report.paths else {
        return Ok(Vec::new());
    };
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let fonts = Fonts::new()?;
    let find = |wire| paths.wires.iter().find(|report| report.wire == wire);
    let mut scenes: Vec<(&str, Scene)> = Vec::new();
    for chart in &BARS {
        let Some(wire) = find(chart.wire) else {
            continue;
        };
        if has(wire, chart.figure) {
            let about = about(&report.machine, chart.wire, paths.rounds);
            scenes.push((chart.file, bars::scene(chart, wire, &about, &fonts)));
        }
    }
    for chart in &TIMES {
        if let Some(wire) = find(Wire::Mtu1500)
            && has(wire, chart.figures[0])
        {
            let about = about(&report.machine, Wire::Mtu1500, paths.rounds);
            scenes.push((chart.file, percentiles::scene(chart, wire, &about, &fonts)));
        }
    }
    let mut written = Vec::new();
    for (file, scene) in scenes {
        for (kind, bytes) in [
            ("svg", svg::write(&scene).into_bytes()),
            ("png", png::paint(&scene, &fonts)?),
        ] {
            let name = format!("{file}.{kind}");
            let path = directory.join(&name);
            fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
            written.push(name);
        }
    }
    Ok(written)
}

/// Whether any side has a figure.
fn has(wire: &WireReport, figure: Figure) -> bool {
    let mut sides = wire.sides.iter();
    sides.any(|side| side.figures.contains_key(&figure))
}

/// What a reader of the picture alone has to know.
fn about(machine: &Machine, wire: Wire, rounds: usize) -> String {
    let Machine {
        kernel_release,
        cores,
        ..
    } = machine;
    // The numbers of a version, without what a vendor adds to them.
    let version = kernel_release.split('-').next().unwrap_or_default();
    format!("{wire}, Linux {version}, {cores} cores; medians of {rounds} samples")
}
