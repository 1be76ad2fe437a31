//! `flannel-agent probe`: what this host can do, found out by trying, and what follows for the user.
//!
//! ```text
//! effects: bpf, pins, interface │ isolate │ attach, devices, masquerade ─▶ Facts
//! pure:    Facts ─▶ table (rows), judge (backends, verdict) ─▶ Report ─▶ view or JSON
//! ```
//!
//! What can be tried without making anything is tried on the host; then the process moves into
//! network and mount namespaces of its own, where the agent's own code makes devices, entries,
//! rules, pins and attachments. They end with the process. The host is left as it was, but for
//! modules that the kernel loads when they are first asked for, as it would for the agent.
//!
//! Runs on the thread that it is called on, which must be the only one: a user without privileges
//! tries in a user namespace, and the kernel gives one only to processes with one thread.

mod attach;
mod bpf;
mod devices;
mod facts;
mod interface;
mod judge;
mod masquerade;
mod pins;
mod privileges;
mod table;
mod verifier;
mod view;

use anyhow::{Context as _, Result};
use serde::Serialize;

use self::facts::{Attach, Devices, Facts};
pub use self::facts::{Fact, Holder, Interface, Privileges, There};
pub use self::judge::{Backend, Path};
use self::judge::{KernelPath, Needs};
pub use self::table::Facility;
pub use self::view::render;
use crate::backend;
use crate::config::Config;
use crate::dataplane::pin::Pins;
use crate::dataplane::probe::{BTF, has_btf};
use crate::network::{self, NetworkConfig};

/// What was found, and what follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Release of the kernel.
    pub kernel: String,
    /// What this process may do.
    pub privileges: Privileges,
    /// The table.
    pub facilities: Vec<Facility>,
    /// Each program of the BPF object.
    pub programs: Vec<Program>,
    /// The external interface, if there is one.
    pub interface: Option<Interface>,
    /// What carries the packets of each backend with `--datapath=auto`.
    pub backends: Vec<Backend>,
    /// Whether the agent, started as this user, could carry packets in any way.
    pub can_run: bool,
    /// The same in a sentence.
    pub verdict: String,
}

/// A program of the BPF object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Program {
    /// Name.
    pub name: String,
    /// Whether it loads, and what the verifier says.
    #[serde(flatten)]
    pub fact: Fact,
}

/// Tries everything. The calling process is in other namespaces afterwards, and should end.
///
/// # Errors
/// The host cannot be asked at all.
pub fn run(config: &Config) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let facts = runtime.block_on(read(config))?;
    Ok(report(facts, &needs()?, config))
}

async fn read(config: &Config) -> Result<Facts> {
    let kernel = nix::sys::utsname::uname().context("read the release of the kernel")?;
    let privileges = privileges::read().context("read the privileges of this process")?;
    let pins = Pins::new(&config.bpf_pin_path);
    let (bpf, mut ebpf) = bpf::read(privileges);
    let btf = match has_btf() {
        true => Fact::yes(BTF),
        false => Fact::no(format!("{BTF} is not there")),
    };
    let pin_path = pins::read(&pins);
    let interface = interface::read(&config.interface).await;
    let interface = interface.map_err(|error| format!("{error:#}"));

    let (bpffs, attach, devices, masquerade) = match privileges::isolate() {
        Ok(isolation) => {
            let private = pins::mount_private();
            let bpffs = match &private {
                Ok(_) => Fact::yes("can be mounted (`mount -t bpf bpf /sys/fs/bpf`)"),
                Err(error) => isolation.refused(format!("cannot be mounted: {error}")),
            };
            let attach = attach::read(ebpf.as_mut(), &private, isolation);
            let devices = devices::read(isolation).await;
            (bpffs, attach, devices, masquerade::read(isolation).await)
        }
        Err(error) => {
            let fact = || {
                Fact::unknown(format!(
                    "could not be tried: no private namespace can be made without CAP_SYS_ADMIN ({error})"
                ))
            };
            let attach = Attach {
                tcx: fact(),
                clsact: fact(),
            };
            let devices = Devices {
                vxlan: fact(),
                routes: fact(),
                tun: fact(),
                segments: fact(),
            };
            (fact(), attach, devices, fact())
        }
    };
    Ok(Facts {
        kernel: kernel.release().to_string_lossy().into_owned(),
        privileges,
        bpf,
        btf,
        bpffs,
        pins: pin_path,
        attach,
        interface,
        devices,
        masquerade,
    })
}

/// What each backend needs, as the agent itself says.
fn needs() -> Result<Vec<Needs>> {
    let backends = ["vxlan", "host-gw", "udp", "alloc", "extension"];
    let needs = backends.iter().map(|backend| {
        let document =
            format!(r#"{{"Network": "10.5.0.0/16", "Backend": {{"Type": "{backend}"}}}}"#);
        let (network, _) = NetworkConfig::parse(&document)?;
        Ok(needs_of(&network.backend))
    });
    needs.collect()
}

fn needs_of(kind: &network::Backend) -> Needs {
    let programs = backend::new(kind, None).programs();
    Needs {
        backend: kind.name(),
        programs: programs.iter().map(|program| program.program).collect(),
        kernel_path: match kind {
            network::Backend::Vxlan(_) => KernelPath::Vxlan,
            network::Backend::HostGw => KernelPath::Routes,
            network::Backend::Udp(_) => KernelPath::Tun,
            network::Backend::Alloc | network::Backend::Extension(_) => KernelPath::Nothing,
        },
    }
}

fn report(facts: Facts, needs: &[Needs], config: &Config) -> Report {
    let judge = |needs: &Needs| judge::judge(&facts, needs, config.tc_attach);
    let backends: Vec<Backend> = needs.iter().map(judge).collect();
    let programs = facts.bpf.programs.iter();
    Report {
        facilities: table::rows(&facts),
        programs: programs
            .map(|(name, fact)| Program {
                name: name.clone(),
                fact: fact.clone(),
            })
            .collect(),
        can_run: judge::can_run(&facts, &backends, needs),
        verdict: judge::sentence(&facts, &backends),
        kernel: facts.kernel,
        privileges: facts.privileges,
        interface: facts.interface.ok(),
        backends,
    }
}

#[cfg(test)]
mod tests;
