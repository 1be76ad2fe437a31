//! TC programs and filters of others at a hook of an interface.

use std::fmt::{self, Display, Formatter};

use aya::programs::SchedClassifier;

use super::Direction;
use crate::backend::ALL_PROGRAMS;
use crate::fast_path::programs::NAMES;
use crate::netlink::nic::Filter;
use crate::netlink::{self, Netlink};

/// Something that sees the packets of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreign {
    /// A program on tcx.
    Tcx {
        /// Which way packets pass it.
        direction: Direction,
        /// Its name.
        name: String,
        /// The kernel's id.
        id: u32,
    },
    /// A filter on clsact.
    Filter {
        /// Which way packets pass it.
        direction: Direction,
        /// Its kind, and the name of its program if it has one.
        filter: Filter,
    },
}

/// Whether a program has the name of one of this agent's.
#[must_use]
pub fn is_own(program: &str) -> bool {
    let mut programs = ALL_PROGRAMS.iter().copied().flatten();
    programs.any(|attachment| attachment.program == program) || NAMES.contains(&program)
}

/// Programs of others on tcx, of an interface with this name.
#[must_use]
pub fn on_tcx(interface: &str, direction: Direction) -> Vec<Foreign> {
    // Without tcx (Linux 6.6) nothing hangs there that this could tell.
    let programs = SchedClassifier::query_tcx(interface, direction.attach_type());
    let programs = programs.map(|(_, programs)| programs).unwrap_or_default();
    let foreign = programs.iter().filter_map(|program| {
        let name = program.name_as_str().unwrap_or_default();
        (!is_own(name)).then(|| Foreign::Tcx {
            direction,
            name: name.to_owned(),
            id: program.id(),
        })
    });
    foreign.collect()
}

/// Filters of others on clsact, of the interface with this index.
///
/// # Errors
/// What the kernel said.
pub async fn on_clsact(
    netlink: &Netlink,
    index: u32,
    direction: Direction,
) -> Result<Vec<Foreign>, netlink::Error> {
    let filters = netlink.filters(index, direction.clsact_side()).await?;
    let foreign = filters.into_iter();
    let foreign = foreign.filter(|filter| !filter.name.as_deref().is_some_and(is_own));
    Ok(foreign
        .map(|filter| Foreign::Filter { direction, filter })
        .collect())
}

impl Display for Foreign {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcx {
                direction,
                name,
                id,
            } => write!(f, "tcx {} {name} (id {id})", direction.name()),
            Self::Filter { direction, filter } => {
                let Filter { kind, name, id: _ } = filter;
                let program = name.as_deref().unwrap_or("filter");
                write!(f, "clsact {} {kind} {program}", direction.name())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_all_backends_and_of_the_fast_path_are_own() {
        for name in ["vxlan_encap", "udp_decap", "direct_egress", "from_pod"] {
            assert!(is_own(name), "{name}");
        }
        assert!(!is_own("cil_from_netdev"));
        assert!(!is_own(""));
    }

    #[test]
    fn they_are_told_by_hook_and_name() {
        let program = Foreign::Tcx {
            direction: Direction::Ingress,
            name: "cil_from_netdev".into(),
            id: 7,
        };
        assert_eq!(program.to_string(), "tcx ingress cil_from_netdev (id 7)");
        let filter = Foreign::Filter {
            direction: Direction::Egress,
            filter: Filter {
                kind: "flower".into(),
                name: None,
                id: None,
            },
        };
        assert_eq!(filter.to_string(), "clsact egress flower filter");
    }
}
