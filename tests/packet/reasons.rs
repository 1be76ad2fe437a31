//! Every reason of every program has a row in the tables, or a reason why it can have none.

use flannel_ebpf::abi::{EgressOutcome, FastOutcome, IngressOutcome};

/// A program, and the text of its tables.
struct Tables {
    program: &'static str,
    direction: &'static str,
    texts: &'static [&'static str],
    /// Outcomes without a row, and why.
    without: &'static [(&'static str, &'static str)],
}

/// Lost between two steps of the kernel, of which the second does not fail after the first.
const FAILED: (&str, &str) = ("failed", "the kernel does not do it");
/// Counted by `direct_egress` and `direct_ingress`.
const DIRECT: (&str, &str) = ("direct", "another program's");
/// Of the fast path: comes only to what a pod sends.
const SENT: &str = "nothing is sent";
/// Of the fast path: happens at the end of the standard one.
const ADMITTED: (&str, &str) = ("admitted", "nothing is admitted at the start");
const TABLE_FULL: (&str, &str) = ("table_full", ADMITTED.1);

const ALL: [Tables; 9] = [
    Tables {
        program: "vxlan_encap",
        direction: "egress",
        texts: &[include_str!("vxlan_encap.rs"), include_str!("devices.rs")],
        without: &[
            ("ttl", "the tunnel is no hop"),
            ("unproven", "the kernel at the other end reads its note"),
            FAILED,
            DIRECT,
        ],
    },
    Tables {
        program: "udp_encap",
        direction: "egress",
        texts: &[include_str!("udp_encap.rs")],
        without: &[
            ("vlan", "the device has no link layer"),
            ("other_mac", "the device has no link layer"),
            FAILED,
            DIRECT,
        ],
    },
    Tables {
        program: "vxlan_decap",
        direction: "ingress",
        texts: &[
            include_str!("vxlan_decap.rs"),
            include_str!("outer.rs"),
            include_str!("checksum.rs"),
            include_str!("devices.rs"),
            include_str!("pod_devices.rs"),
        ],
        without: &[
            ("inner_length", "the kernel that routes the packet looks"),
            ("ttl", "the tunnel is no hop"),
            (
                "no_room",
                "nothing is taken in which the kernel could refuse",
            ),
            FAILED,
            DIRECT,
        ],
    },
    Tables {
        program: "udp_decap",
        direction: "ingress",
        texts: &[
            include_str!("udp_decap.rs"),
            include_str!("outer.rs"),
            include_str!("checksum.rs"),
            include_str!("devices.rs"),
            include_str!("pod_devices.rs"),
        ],
        without: &[
            ("vxlan_flags", "no such header"),
            ("other_vni", "no such header"),
            ("inner_mac", "no such header"),
            ("ecn", "the outer mark is nobody's"),
            FAILED,
            DIRECT,
        ],
    },
    Tables {
        program: "direct_egress",
        direction: "egress",
        texts: &[include_str!("direct.rs")],
        without: &[],
    },
    Tables {
        program: "direct_ingress",
        direction: "ingress",
        texts: &[include_str!("direct.rs"), include_str!("to_us.rs")],
        without: &[],
    },
    Tables {
        program: "from_pod",
        direction: "fast",
        texts: &[include_str!("from_pod.rs")],
        without: &[
            ("delivered", "nothing is received"),
            ("queued", "counted where it went in"),
            ("mark", "nothing is received"),
            ADMITTED,
            TABLE_FULL,
            FAILED,
        ],
    },
    // And the others that receive: the rows are for all of them.
    Tables {
        program: "vxlan_decap",
        direction: "fast",
        texts: &[include_str!("to_us.rs")],
        without: &[
            ("sent", SENT),
            ("other_place", SENT),
            ("unresolved", SENT),
            ("too_big", SENT),
            ("unproven", SENT),
            ("no_room", SENT),
            ADMITTED,
            TABLE_FULL,
            FAILED,
        ],
    },
    // And the other ends of the standard path.
    Tables {
        program: "to_pod",
        direction: "fast",
        texts: &[include_str!("admission.rs")],
        without: &[],
    },
];

/// Whether a table has a row of an outcome: by its full name, or by the short one at the end.
fn has_row(tables: &Tables, outcome: &str) -> bool {
    let full = format!("\"{} {outcome}\"", tables.direction);
    let last = [")", ",)"].map(|end| format!("\"{outcome}\"{end}"));
    tables.texts.iter().any(|text| {
        let dense: String = text.split_whitespace().collect();
        text.contains(&full) || last.iter().any(|last| dense.contains(last))
    })
}

#[test]
fn every_reason_of_every_program_has_a_row_or_can_have_none() {
    let egress: Vec<_> = EgressOutcome::ALL.iter().map(|o| o.name()).collect();
    let ingress: Vec<_> = IngressOutcome::ALL.iter().map(|o| o.name()).collect();
    let fast: Vec<_> = FastOutcome::ALL.iter().map(|o| o.name()).collect();
    for tables in &ALL {
        let program = tables.program;
        assert!(
            tables.texts.iter().any(|text| text.contains(program)),
            "no table runs {program}"
        );
        let outcomes = match (program, tables.direction) {
            ("direct_egress", _) => &vec!["direct"],
            ("direct_ingress", _) => &vec!["direct"],
            ("to_pod", _) => &vec!["admitted", "table_full"],
            (_, "fast") => &fast,
            (_, "egress") => &egress,
            _ => &ingress,
        };
        for outcome in outcomes {
            let mut without = tables.without.iter();
            let is_without = without.any(|(name, _)| name == outcome);
            assert_ne!(
                has_row(tables, outcome),
                is_without,
                "{program}, {outcome}: one of a row and a reason to have none"
            );
        }
        for (name, _) in tables.without {
            assert!(outcomes.contains(name), "{program} knows no {name}");
        }
    }
}
