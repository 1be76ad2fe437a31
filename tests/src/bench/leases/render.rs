//! The report as a table: a block per number of leases, a column per agent.

use std::fmt::Write as _;

use super::report::{AgentRow, FirstPacket, Floor, Followed, Report, Scale, Start};
use crate::report::Spread;

/// Columns of a row's name and of a figure.
const NAME: usize = 46;
const CELL: usize = 24;

/// The table.
#[must_use]
pub fn table(report: &Report) -> String {
    let Report {
        kernel_release,
        cores,
        rounds,
        rate,
        scales,
    } = report;
    let mut text = format!(
        "Linux {kernel_release}, {cores} cores; medians (least–greatest) of {rounds} starts, taken \
         in turn\n"
    );
    for scale in scales {
        push_scale(&mut text, scale, *rate);
    }
    text
}

fn push_scale(text: &mut String, scale: &Scale, rate: u32) {
    let Scale {
        leases,
        floor,
        agents,
    } = scale;
    let mut row = |name: &str, cells: Vec<String>| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{name:<NAME$}");
        for cell in cells {
            let _ = write!(text, "{cell:>CELL$}");
        }
        text.push('\n');
    };
    let names = agents.iter().map(|agent| agent.name.clone()).collect();
    row(&format!("\n{leases} leases"), names);
    type Starts = fn(&AgentRow) -> &Vec<Start>;
    let starts: [(&str, Starts); 2] = [("start", |row| &row.cold), ("restart", |row| &row.warm)];
    for (name, pick) in starts {
        let mut figure = |what: &str, digits, value: fn(&Start) -> f64| {
            let cells = agents.iter().map(|agent| {
                let samples = pick(agent).iter().map(value);
                spread(&Spread::of(samples.collect()), digits)
            });
            row(&format!("  {name} {what}"), cells.collect());
        };
        figure("→ subnet.env, s", 3, |start| start.subnet_file_secs);
        figure("→ all peers, ready, s", 3, |start| start.peers_secs);
        figure("CPU, s", 2, |start| start.cpu_secs);
        figure("peak memory, MiB", 1, |start| start.peak_mib);
        figure("changes notified", 0, |start| start.changes as f64);
    }
    type Part = fn(&Floor) -> f64;
    let parts: [(&str, Part); 6] = [
        ("FDB", |floor| floor.fdb_secs),
        ("neighbours", |floor| floor.neighbours_secs),
        ("routes", |floor| floor.routes_secs),
        ("all", Floor::total_secs),
        ("routes by objects", Floor::through_objects_secs),
        ("all, by objects", Floor::total_through_objects_secs),
    ];
    for (name, value) in parts {
        let samples = Spread::of(floor.iter().map(value).collect());
        row(
            &format!("  same entries by ip -batch: {name}, s"),
            vec![spread(&samples, 3)],
        );
    }
    type Churn = fn(&AgentRow) -> &Followed;
    let kinds: [(&str, Churn); 2] = [
        ("change", |row| &row.change),
        ("come and go", |row| &row.come_and_go),
    ];
    for (name, pick) in kinds {
        let mut figure = |what: &str, show: fn(&Followed) -> String| {
            let cells = agents.iter().map(|agent| show(pick(agent))).collect();
            row(&format!("  {rate}/s {name}: {what}"), cells);
        };
        figure("done/s", |it| format!("{:.0}", it.rate));
        figure("lag p50 / p99, ms", |it| {
            format!("{:.1} / {:.1}", it.lag_p50_ms, it.lag_p99_ms)
        });
        figure("left at the end", |it| {
            format!("{} for {:.0} ms", it.backlog, it.caught_up_ms)
        });
        figure("CPU of one core", |it| {
            format!("{:.0} %", it.cpu_share * 100.0)
        });
    }
    type Time = fn(&FirstPacket) -> f64;
    let times: [(&str, Time); 4] = [
        ("after the answer, p50", |it| it.p50_ms),
        ("after the answer, p99", |it| it.p99_ms),
        ("after the put, p50", |it| it.since_put_p50_ms),
        ("after the put, p99", |it| it.since_put_p99_ms),
    ];
    for (what, value) in times {
        let cells = agents.iter().map(|agent| {
            let samples = agent.first_packets.iter().map(value);
            spread(&Spread::of(samples.collect()), 2)
        });
        row(&format!("  first packet {what}, ms"), cells.collect());
    }
}

fn spread(spread: &Spread, digits: usize) -> String {
    let Spread {
        median, min, max, ..
    } = spread;
    if min == max {
        format!("{median:.digits$}")
    } else {
        format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_has_a_column_and_every_figure_a_row() {
        let mut scale = Scale::new(1_000, ["ebpf", "stock"].into_iter());
        scale.floor.push(Floor {
            routes_secs: 2.5,
            ..Floor::default()
        });
        for agent in &mut scale.agents {
            agent.cold = [0.5, 0.25, 1.0]
                .map(|peers_secs| Start {
                    peers_secs,
                    ..Start::default()
                })
                .to_vec();
        }
        for agent in &mut scale.agents {
            agent.first_packets = [1.5, 1.25, 2.0]
                .map(|p99_ms| FirstPacket {
                    p99_ms,
                    ..FirstPacket::default()
                })
                .to_vec();
        }
        let report = Report {
            kernel_release: "6.18".to_owned(),
            cores: 2,
            rounds: 3,
            rate: 1_000,
            scales: vec![scale],
        };
        let text = table(&report);
        for part in ["0.500 (0.250–1.000)", "2.500", "1.50 (1.25–2.00)", "stock"] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert!(
            text.lines()
                .all(|line| line.chars().count() <= NAME + 2 * CELL),
            "{text}"
        );
    }
}
