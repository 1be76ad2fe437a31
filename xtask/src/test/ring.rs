//! The rings of tests: what each contains and needs.

use clap::ValueEnum;

use crate::cargo::Executable;
use crate::tools::Need;

/// Package of the rings that need a kernel; each of them is one test program.
const KERNEL_TESTS: &str = "tests/Cargo.toml";

/// Value of `--ring`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// Pure code, no privileges
    Unit,
    /// Packets through the BPF programs
    Packet,
    /// Kernel objects in private namespaces, and leases in a real etcd
    Netns,
    /// The same packets through eBPF and the kernel path
    Differential,
    /// etcd and several agents
    E2e,
    /// Docker and CNI plugins on the overlay
    Docker,
    /// Clusters with stock flannel's own daemon, built from its sources; not among all
    Mixed,
    /// Every ring that needs Debian's packages alone
    All,
}

/// A ring, from the innermost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ring {
    Unit,
    Packet,
    Netns,
    Differential,
    E2e,
    Docker,
    Mixed,
}

impl Ring {
    const EVERY: [Self; 7] = [
        Self::Unit,
        Self::Packet,
        Self::Netns,
        Self::Differential,
        Self::E2e,
        Self::Docker,
        Self::Mixed,
    ];

    /// As on the command line; for the kernel's rings also the name of the test program.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Packet => "packet",
            Self::Netns => "netns",
            Self::Differential => "differential",
            Self::E2e => "e2e",
            Self::Docker => "docker",
            Self::Mixed => "mixed",
        }
    }

    pub(crate) fn needs_root(&self) -> bool {
        *self != Self::Unit
    }

    /// Tests at once, where fewer than one for each core: every test is a bed of processes.
    pub(crate) fn threads(self) -> Option<&'static str> {
        matches!(
            self,
            Self::Netns | Self::Differential | Self::E2e | Self::Docker | Self::Mixed
        )
        .then_some("2")
    }

    /// Whether `program` belongs to this ring. What is no ring of its own, but a test program of
    /// another package, talks to the kernel or to etcd; everything else is a unit test.
    pub(crate) fn contains(self, program: &Executable) -> bool {
        let is_test_program = program.target.kind.iter().any(|kind| kind == "test");
        let is_ring = program.manifest_path.ends_with(KERNEL_TESTS);
        match self {
            Self::Unit => !is_test_program,
            Self::Netns if is_test_program && !is_ring => true,
            ring => is_test_program && is_ring && program.target.name == ring.name(),
        }
    }
}

/// The rings that were asked for, innermost first, each once.
pub(crate) fn chosen(choices: &[Choice]) -> Vec<Ring> {
    let is_chosen = |ring: &Ring| {
        choices.iter().any(|choice| match choice {
            Choice::All => *ring != Ring::Mixed,
            Choice::Unit => *ring == Ring::Unit,
            Choice::Packet => *ring == Ring::Packet,
            Choice::Netns => *ring == Ring::Netns,
            Choice::Differential => *ring == Ring::Differential,
            Choice::E2e => *ring == Ring::E2e,
            Choice::Docker => *ring == Ring::Docker,
            Choice::Mixed => *ring == Ring::Mixed,
        })
    };
    Ring::EVERY.into_iter().filter(is_chosen).collect()
}

/// What running `rings` needs besides their build.
pub(crate) fn needs(rings: &[Ring]) -> Vec<Need> {
    let mut needs = Vec::new();
    if any_needs_root(rings) {
        needs.push(Need::Run);
    }
    if rings.contains(&Ring::Docker) {
        needs.push(Need::Containers);
    }
    if rings.contains(&Ring::Mixed) {
        needs.push(Need::Stock);
    }
    needs
}

/// Whether root is needed for one of `rings`.
pub(crate) fn any_needs_root(rings: &[Ring]) -> bool {
    rings.iter().any(Ring::needs_root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo::{BuiltFor, Target};

    fn program(manifest: &str, name: &str, kind: &str) -> Executable {
        Executable {
            target: Target {
                name: name.to_owned(),
                kind: vec![kind.to_owned()],
            },
            manifest_path: manifest.into(),
            executable: "/t".into(),
            profile: BuiltFor { test: true },
        }
    }

    #[test]
    fn rings_run_from_the_inside_and_once() {
        let chosen = chosen(&[Choice::E2e, Choice::Unit, Choice::E2e]);
        assert_eq!(chosen, [Ring::Unit, Ring::E2e]);
        let all = super::chosen(&[Choice::All]);
        assert_eq!(super::chosen(&[Choice::Mixed, Choice::All]), Ring::EVERY);
        assert_eq!(all[..], Ring::EVERY[..Ring::EVERY.len() - 1]);
    }

    #[test]
    fn what_takes_long_is_fetched_for_its_ring_only() {
        assert_eq!(needs(&[Ring::Unit]), []);
        assert_eq!(needs(&[Ring::Unit, Ring::E2e]), [Need::Run]);
        let all = [Need::Run, Need::Containers, Need::Stock];
        assert_eq!(needs(&Ring::EVERY), all);
    }

    #[test]
    fn every_program_is_in_one_ring() {
        let programs = [
            (
                Ring::Packet,
                program("/w/tests/Cargo.toml", "packet", "test"),
            ),
            (Ring::E2e, program("/w/tests/Cargo.toml", "e2e", "test")),
            (
                Ring::Unit,
                program("/w/tests/Cargo.toml", "flannel_tests", "lib"),
            ),
            (
                Ring::Unit,
                program("/w/flannel-agent/Cargo.toml", "flannel_agent", "lib"),
            ),
            (
                Ring::Netns,
                program("/w/flannel-agent/Cargo.toml", "packet", "test"),
            ),
        ];
        for (ring, program) in programs {
            let rings: Vec<_> = Ring::EVERY
                .into_iter()
                .filter(|r| r.contains(&program))
                .collect();
            assert_eq!(rings, [ring], "{program:?}");
        }
    }
}
