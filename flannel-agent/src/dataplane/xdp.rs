//! The XDP program of a backend: it takes tunnel headers off in the driver of a NIC, in front of the
//! TC program that hands the packets on.
//!
//! It never hangs on an interface without that TC program: it comes after it and goes before it.

use std::thread::sleep;
use std::time::Duration;

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpMode as AttachMode};
use aya::programs::{ProgramError, Xdp, loaded_programs};
use tracing::{info, warn};

use super::Attachment;
use super::pin::Pins;
use crate::cli::XdpMode;
use crate::error::chain;
use crate::netlink::link::Link;
use crate::status;

/// All of them.
const PROGRAMS: [&str; 2] = ["xdp_vxlan", "xdp_udp"];

/// How long frames that have been stripped may be on their way to the TC program: a poll of the
/// driver, with what GRO holds back.
const IN_FLIGHT: Duration = Duration::from_millis(20);

/// The one that goes before one of these TC programs.
#[must_use]
pub fn before(attachments: &[Attachment]) -> Option<&'static str> {
    attachments.iter().find_map(|it| match it.program {
        "vxlan_decap" => Some("xdp_vxlan"),
        "udp_decap" => Some("xdp_udp"),
        _ => None,
    })
}

/// Takes off all that earlier runs have attached, but `kept`. Returns what was removed.
pub fn remove_but(pins: &Pins, kept: Option<&str>) -> Vec<String> {
    let mut removed = Vec::new();
    for program in PROGRAMS.into_iter().filter(|it| Some(*it) != kept) {
        match pins.remove_link(program) {
            Ok(true) => removed.push(format!("pin {program}")),
            Ok(false) => {}
            Err(error) => warn!(program, %error, "an XDP program stays"),
        }
    }
    if !removed.is_empty() {
        sleep(IN_FLIGHT);
    }
    removed
}

/// Why there must be none on this interface, if so. `links` are all of the host, `own` is the kernel
/// id of our program if it is attached, `is_watched` whether TC programs of others look at what
/// arrives.
#[must_use]
pub fn obstacle(
    mode: XdpMode,
    external: &Link,
    links: &[Link],
    own: Option<u32>,
    is_watched: bool,
) -> Option<String> {
    let name = &external.name;
    match (mode, &external.kind, &external.bus) {
        (XdpMode::Off, ..) => return Some("asked for".into()),
        (XdpMode::Auto, Some(kind), _) => {
            return Some(format!("{name} is a device of kind {kind}, not a NIC"));
        }
        (XdpMode::Auto, None, None) => {
            return Some(format!("{name} is not known to be a NIC"));
        }
        (XdpMode::Auto | XdpMode::Native, ..) => {}
    }
    if external.xdp_id.is_some() && external.xdp_id != own {
        return Some(format!("{name} has an XDP program of somebody else"));
    }
    if is_watched {
        return Some(format!(
            "{name} has a TC program of somebody else on ingress, which is to see tunnel packets"
        ));
    }
    let mut vlans = links
        .iter()
        .filter(|link| link.kind.as_deref() == Some("vlan") && link.lower == Some(external.index));
    vlans.next().map(|vlan| {
        format!(
            "{name} has the VLAN device {}: the NIC may take tags off before XDP sees the frames",
            vlan.name
        )
    })
}

/// Whether the program with this kernel id has the name of one of this agent's.
#[must_use]
pub fn is_own(id: u32) -> bool {
    let mut programs = loaded_programs().map_while(Result::ok);
    let found = programs.find(|program| program.id() == id);
    found.is_some_and(|program| program.name_as_str().is_some_and(|n| PROGRAMS.contains(&n)))
}

/// What has become of it in this run.
#[derive(Debug)]
pub(super) struct Stripper {
    mode: XdpMode,
    /// Kernel id of the program, and index of the interface that it was attached to.
    attached: Option<(u32, u32)>,
    reason: String,
}

/// Why it could not be attached.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the BPF object has no such program")]
    Absent,
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("pin the link")]
    Pin(#[source] aya::pin::PinError),
}

impl Stripper {
    /// Nothing is attached yet.
    pub(super) fn new(mode: XdpMode) -> Self {
        Self {
            mode,
            attached: None,
            reason: "not tried yet".into(),
        }
    }

    /// Makes the external interface have the program, or not have it. The TC programs must be
    /// attached.
    pub(super) fn keep(
        &mut self,
        ebpf: &mut Ebpf,
        pins: &Pins,
        attachments: &[Attachment],
        external: &Link,
        links: &[Link],
        is_watched: bool,
    ) {
        let wanted = before(attachments);
        remove_but(pins, wanted);
        let Some(program) = wanted else {
            self.reason = "the backend has no headers to take off".into();
            return;
        };
        if self.attached == external.xdp_id.map(|id| (id, external.index))
            && self.attached.is_some()
            && obstacle(self.mode, external, links, external.xdp_id, is_watched).is_none()
        {
            return;
        }
        let link = open_pin(pins, program);
        let own = link
            .as_ref()
            .and_then(|link| Some(link.info().ok()?.program_id()));
        let reason = match obstacle(self.mode, external, links, own, is_watched) {
            Some(reason) => {
                drop(link);
                remove_but(pins, None);
                self.attached = None;
                reason
            }
            None => {
                let there = link.filter(|_| own.is_some() && own == external.xdp_id);
                match attach(ebpf, pins, program, external, there) {
                    Ok(id) => {
                        self.attached = Some((id, external.index));
                        "the driver can".into()
                    }
                    Err(error) => {
                        self.attached = None;
                        chain(&error)
                    }
                }
            }
        };
        if reason != self.reason {
            let is_active = self.attached.is_some();
            info!(program, interface = external.name, is_active, reason, "XDP");
            self.reason = reason;
        }
    }

    /// Its part of the status document.
    pub(super) fn status(&self) -> status::Xdp {
        status::Xdp {
            requested: self.mode.to_string(),
            active: self.attached.is_some(),
            reason: self.reason.clone(),
        }
    }
}

/// The link that an earlier run has left.
fn open_pin(pins: &Pins, program: &str) -> Option<FdLink> {
    PinnedLink::from_pin(pins.link(program))
        .ok()
        .map(FdLink::from)
}

/// Attaches the program, in the place of the one behind `there`; its kernel id.
fn attach(
    ebpf: &mut Ebpf,
    pins: &Pins,
    name: &str,
    external: &Link,
    there: Option<FdLink>,
) -> Result<u32, Error> {
    let program = ebpf.program_mut(name).ok_or(Error::Absent)?;
    let program: &mut Xdp = program.try_into()?;
    if program.fd().is_err() {
        program.load()?;
    }
    let id = program.info()?.id();
    if let Some(link) = there {
        let replaced = program.attach_to_link(XdpLink::try_from(link)?)?;
        // The pin holds the link; taking it here keeps aya from detaching it on drop.
        drop(FdLink::try_from(program.take_link(replaced)?)?);
        return Ok(id);
    }
    remove_but(pins, None);
    let attached = program.attach_to_if_index(external.index, AttachMode::Driver)?;
    let link = FdLink::try_from(program.take_link(attached)?)?;
    link.pin(pins.link(name)).map_err(Error::Pin)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic() -> Link {
        Link {
            index: 2,
            name: "eth0".into(),
            mtu: 1500,
            mac: None,
            kind: None,
            bus: Some("pci".into()),
            is_up: true,
            lower: None,
            controller: None,
            has_end_elsewhere: false,
            max_mtu: None,
            qdisc: None,
            xdp_id: None,
            vxlan: None,
        }
    }

    #[test]
    fn a_nic_is_taken_and_everything_else_by_force_only() {
        let why = |mode, link: &Link| obstacle(mode, link, &[], Some(7), false);
        assert_eq!(why(XdpMode::Auto, &nic()), None);
        assert!(why(XdpMode::Off, &nic()).is_some());
        let veth = Link {
            kind: Some("veth".into()),
            ..nic()
        };
        let reason = why(XdpMode::Auto, &veth).unwrap();
        assert!(reason.contains("eth0 is a device of kind veth"), "{reason}");
        assert_eq!(why(XdpMode::Native, &veth), None);
        let unknown = Link { bus: None, ..nic() };
        assert!(why(XdpMode::Auto, &unknown).is_some());
        assert_eq!(why(XdpMode::Native, &unknown), None);
    }

    #[test]
    fn programs_of_others_and_vlans_are_left_alone() {
        let with = |xdp_id| Link { xdp_id, ..nic() };
        let native =
            |link: &Link, links: &[Link]| obstacle(XdpMode::Native, link, links, Some(7), false);
        assert_eq!(native(&with(Some(7)), &[]), None);
        assert!(
            native(&with(Some(8)), &[])
                .unwrap()
                .contains("somebody else")
        );
        assert!(obstacle(XdpMode::Native, &nic(), &[], None, true).is_some());
        let vlan = Link {
            index: 3,
            name: "eth0.5".into(),
            kind: Some("vlan".into()),
            lower: Some(2),
            ..nic()
        };
        assert!(native(&nic(), &[nic(), vlan]).unwrap().contains("eth0.5"));
    }
}
