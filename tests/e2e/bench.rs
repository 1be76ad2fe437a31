//! `flannel-bench` from its command line to its files, with so few samples that it means nothing
//! but that it works.

use std::fs;
use std::path::Path;
use std::process::Command;

use flannel_tests::agent;
use flannel_tests::bench::whole::report::Report;
use flannel_tests::command;
use flannel_tests::measure::figure::{Figure, Group};
use flannel_tests::wire::Wire;

/// Runs it, and gives what it prints.
fn bench(args: &[&str]) -> String {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_flannel-bench"));
    bench.args(args);
    command::output(bench, None).expect("flannel-bench")
}

fn report(path: &Path) -> Report {
    let text = fs::read_to_string(path).expect("report");
    serde_json::from_str(&text).expect("a report")
}

fn words(path: &Path) -> &str {
    path.to_str().expect("a path of words")
}

#[test]
fn a_short_run_gives_table_json_and_charts() {
    let directory = tempfile::tempdir().expect("directory");
    let json = directory.path().join("report.json");
    let charts = directory.path().join("charts");
    // Any program with flanneld's flags, under a name of its own.
    let peer = format!("other={}", agent::binary().expect("agent").display());
    let table = bench(&[
        "--quick",
        "--rounds=1",
        "--only=bare,vxlan-fast,other-vxlan",
        "--figures=packets,response",
        &format!("--peer={peer}"),
        &format!("--json={}", words(&json)),
        &format!("--charts={}", words(&charts)),
    ]);
    let report = report(&json);
    let paths = report.paths.expect("data paths");
    // Redirects alone are attached to tcx.
    let too_new = |reason: &str| reason.contains("needs Linux 6.6");
    let skipped = &paths.skipped;
    assert!(skipped.iter().all(|it| too_new(&it.reason)), "{skipped:?}");
    let wire = &paths.wires[0];
    assert_eq!(wire.wire, Wire::Mtu1500);
    let names: Vec<&str> = wire.sides.iter().map(|side| side.id.as_str()).collect();
    let all = ["bare", "vxlan-fast", "other-vxlan"];
    assert_eq!(names, all[skipped.len()..]);
    for side in &wire.sides {
        assert!(side.failures.is_empty(), "{}: {:?}", side.id, side.failures);
        assert!(table.contains(&side.name), "{table}");
        for figure in [Figure::Small, Figure::ResponseP50, Figure::Connections] {
            assert!(side.figures[&figure].median > 0.0, "{} {figure:?}", side.id);
        }
        let asked = |figure: &Figure| figure.group() != Group::Tcp;
        assert!(side.figures.keys().all(asked), "{:?}", side.figures);
    }
    let fast = &wire.sides[names.len() - 2];
    assert!(
        fast.shares.iter().all(|share| share.part() > 0.9),
        "{:?}",
        fast.shares
    );
    for name in ["packets", "latency-tcp", "connections"] {
        let svg = fs::read_to_string(charts.join(name).with_extension("svg")).expect("SVG");
        assert!(svg.contains("other vxlan") && svg.ends_with("</svg>\n"));
        let png = fs::read(charts.join(name).with_extension("png")).expect("PNG");
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 4_000);
    }
}

#[test]
fn restarts_are_counted_and_compared_with_an_earlier_report() {
    let directory = tempfile::tempdir().expect("directory");
    let json = directory.path().join("report.json");
    let (file, old) = (
        format!("--json={}", words(&json)),
        format!("--compare={}", words(&json)),
    );
    let args = ["--quick", "--restarts=2", "--figures=restarts"];
    bench(&[&args[..], &[&file]].concat());
    let rows = report(&json).restarts.expect("restarts").rows;
    assert_eq!(rows.len(), 3, "{rows:?}");
    for row in rows {
        let sent = row.sent;
        assert!(row.restarts == 2 && sent > 1_000, "{row:?}");
        // An agent that loses all packets meanwhile would lose far more.
        assert!(row.lost * 10 < sent, "{row:?}");
    }
    let table = bench(&[&args[..], &[&old]].concat());
    assert!(table.contains("against the earlier report"), "{table}");
}

#[test]
fn what_it_does_not_have_is_said() {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_flannel-bench"));
    bench.arg("--only=vxlan-slow");
    let error = command::output(bench, None).expect_err("no such data path");
    let text = format!("{error:#}");
    assert!(text.contains("no data path vxlan-slow"), "{text}");
    assert!(text.contains("vxlan-xdp, host-gw-kernel"), "{text}");
}
