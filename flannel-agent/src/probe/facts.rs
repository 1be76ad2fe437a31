//! What trying has shown. Pure.

use std::io;

use serde::Serialize;

/// Whether something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum There {
    /// It was tried, and works.
    Yes,
    /// It was tried, and does not.
    No,
    /// It could not be tried.
    Unknown,
}

/// One thing that was tried, or could not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Whether it is there.
    pub there: There,
    /// What was seen.
    pub detail: String,
}

impl Fact {
    /// It works.
    pub(super) fn yes(detail: impl Into<String>) -> Self {
        Self::new(There::Yes, detail)
    }

    /// It does not.
    pub(super) fn no(detail: impl Into<String>) -> Self {
        Self::new(There::No, detail)
    }

    /// It could not be tried.
    pub(super) fn unknown(detail: impl Into<String>) -> Self {
        Self::new(There::Unknown, detail)
    }

    fn new(there: There, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { there, detail }
    }
}

/// What this process may do. In a user namespace of a container, capabilities are those that reach
/// its network, not those that bpf(2) asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Privileges {
    /// `CAP_NET_ADMIN`: devices, routes, rules.
    pub net_admin: bool,
    /// `CAP_BPF`, or `CAP_SYS_ADMIN`, which includes it.
    pub bpf: bool,
    /// Whether this is a user namespace other than the host's.
    pub is_in_user_namespace: bool,
}

/// The private namespaces in which things are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Made with the capabilities of this process.
    Own,
    /// Made together with a user namespace, in which this process has capabilities that it lacks
    /// on the host. The kernel may refuse there what it grants to root.
    User,
}

impl Isolation {
    /// What a refusal means.
    pub(super) fn refused(self, detail: impl Into<String>) -> Fact {
        match self {
            Self::Own => Fact::no(detail),
            Self::User => Fact::unknown(format!(
                "refused to the root of a user namespace: {}",
                detail.into()
            )),
        }
    }
}

/// Everything that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// Release of the kernel.
    pub(super) kernel: String,
    pub(super) privileges: Privileges,
    pub(super) bpf: Bpf,
    pub(super) btf: Fact,
    /// Whether a BPF file system can be mounted.
    pub(super) bpffs: Fact,
    /// `--bpf-pin-path`.
    pub(super) pins: Fact,
    pub(super) attach: Attach,
    /// The external interface, or why there is none.
    pub(super) interface: Result<Interface, String>,
    pub(super) devices: Devices,
    pub(super) masquerade: Fact,
}

/// What bpf(2) can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bpf {
    /// The system call itself.
    pub(super) call: Fact,
    /// All maps of the object.
    pub(super) maps: Fact,
    /// Each program of the object, by name.
    pub(super) programs: Vec<(String, Fact)>,
    /// What some programs need of helpers beyond the verifier's checks, by name of the program.
    pub(super) helpers: Vec<(&'static str, Fact)>,
    pub(super) jit: Fact,
}

/// How programs can hang on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attach {
    pub(super) tcx: Fact,
    pub(super) clsact: Fact,
}

/// What the kernel path is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Devices {
    /// The vxlan device with the entries of a peer.
    pub(super) vxlan: Fact,
    /// The route of a peer of host-gw.
    pub(super) routes: Fact,
    /// The TUN device of udp.
    pub(super) tun: Fact,
    /// `UDP_SEGMENT` and `UDP_GRO`.
    pub(super) segments: Fact,
}

/// The external interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Kernel index.
    pub index: u32,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Driver of its hardware, or kind of a virtual one.
    pub driver: Option<String>,
    /// What the driver says it can do with XDP; absent below Linux 6.3.
    pub xdp_features: Option<Vec<&'static str>>,
    /// Programs that hang there already.
    pub programs: Vec<Holder>,
    /// What could not be asked.
    pub unknown: Vec<String>,
}

/// A program on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Where, for example `tcx ingress` or `native XDP`.
    pub hook: String,
    /// Name, as far as the kernel keeps and shows it.
    pub name: Option<String>,
    /// The kernel's id.
    pub id: u32,
    /// Whether it is one of this agent's.
    pub is_ours: bool,
}

/// Whether an error says that a privilege is missing.
pub(super) fn is_denied(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}
