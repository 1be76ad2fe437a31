//! A report as a table for people.

use std::fmt::Write as _;

use crate::report::{BUSY, PathReport, QUIET, Report, Share, Spread, WireReport};

/// The table.
#[must_use]
pub fn table(report: &Report) -> String {
    let Report {
        kernel_release,
        cores,
        repetitions,
        wires,
    } = report;
    let mut text = format!(
        "Linux {kernel_release}, {cores} cores; medians (least–greatest) of {repetitions} samples, \
         taken in turn\n"
    );
    for wire in wires {
        push_wire(&mut text, wire);
    }
    text
}

fn push_wire(text: &mut String, report: &WireReport) {
    let WireReport {
        wire,
        kernel,
        ebpf,
        ratios,
    } = report;
    push_row(
        text,
        &format!("\n{wire}"),
        "kernel path",
        "eBPF path",
        "ratio",
    );
    let pings = |path: &PathReport| {
        let PathReport {
            pings_received,
            pings_sent,
            ping_us,
            ..
        } = path;
        format!("{pings_received}/{pings_sent}, {:.0} µs", ping_us.median)
    };
    push_row(text, "  ping", &pings(kernel), &pings(ebpf), "");
    let mut row = |name: &str, pick: fn(&PathReport) -> &Spread, digits: usize, ratio: f64| {
        let cell = |path: &PathReport| {
            let Spread {
                median,
                min,
                max,
                samples: _,
            } = pick(path);
            format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
        };
        push_row(
            text,
            name,
            &cell(kernel),
            &cell(ebpf),
            &format!("{ratio:.2}"),
        );
    };
    row(
        "  TCP, one stream, Gbit/s",
        |path| &path.tcp_gbps,
        2,
        ratios.tcp,
    );
    row(
        "  TCP, one core, Gbit/s",
        |path| &path.tcp_one_core_gbps,
        2,
        ratios.tcp_one_core,
    );
    row(
        "  64-byte packets, one core, kpps",
        |path| &path.small_kpps,
        0,
        ratios.small,
    );
    row(
        "  request-response p50, µs",
        |path| &path.response_p50_us,
        1,
        ratios.response_p50,
    );
    row(
        "  request-response p99, µs",
        |path| &path.response_p99_us,
        1,
        ratios.response_p99,
    );
    for share in &ebpf.shares {
        push_share(text, share);
    }
    for (name, path) in [("kernel", kernel), ("eBPF", ebpf)] {
        push_doubts(text, name, path);
    }
}

fn push_share(text: &mut String, share: &Share) {
    let part = format!("{:.2} %", share.part() * 100.0);
    push_row(
        text,
        &format!("  {} carried by eBPF", share.direction),
        "–",
        &part,
        "",
    );
    for reason in &share.rest {
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "      left to the kernel: {} {}",
            reason.packets, reason.reason
        );
    }
}

/// Says where a figure is not what it seems.
fn push_doubts(text: &mut String, name: &str, path: &PathReport) {
    if path.core_busy < BUSY {
        let percent = path.core_busy * 100.0;
        let _ = writeln!(
            text,
            "  note: {name} kpps: the core was only {percent:.0} % busy"
        );
    }
    if path.others_busy > QUIET {
        let percent = path.others_busy * 100.0;
        let _ = writeln!(
            text,
            "  note: {name} kpps: other work kept another core {percent:.0} % busy"
        );
    }
    if path.small_arrived < 0.999 {
        let percent = path.small_arrived * 100.0;
        let _ = writeln!(
            text,
            "  note: {name} kpps: {percent:.2} % of the packets arrived"
        );
    }
}

fn push_row(text: &mut String, name: &str, kernel: &str, ebpf: &str, ratio: &str) {
    let _ = writeln!(text, "{name:<34}{kernel:>20}{ebpf:>20}{ratio:>7}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Ratios, Reason};
    use crate::wire::Wire;

    #[test]
    fn rows_fit_a_terminal_and_name_the_reasons() {
        let path = PathReport {
            core_busy: 0.5,
            small_arrived: 1.0,
            ..PathReport::default()
        };
        let share = Share {
            direction: "ingress".to_owned(),
            packets: 200,
            handled: 150,
            rest: vec![Reason {
                reason: "fragment".to_owned(),
                packets: 50,
            }],
        };
        let ebpf = PathReport {
            shares: vec![share],
            ..path.clone()
        };
        let ratios = Ratios {
            tcp: 1.0,
            tcp_one_core: 1.0,
            small: 1.15,
            response_p50: 0.93,
            response_p99: 0.9,
        };
        let wires = vec![WireReport {
            wire: Wire::Mtu1500,
            kernel: path,
            ebpf,
            ratios,
        }];
        let report = Report {
            kernel_release: "6.18".to_owned(),
            cores: 2,
            repetitions: 3,
            wires,
        };
        let text = table(&report);
        assert!(
            text.lines().all(|line| line.chars().count() <= 85),
            "{text}"
        );
        for part in ["75.00 %", "50 fragment", "1.15", "only 50 % busy"] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
}
