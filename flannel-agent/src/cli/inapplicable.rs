//! Flags of flannel that this version does not act on.
//!
//! A value that asks for nothing is accepted, so that the command lines of existing deployments
//! go on working where they can; any other is refused by name instead of being silently ignored.

use super::{Stop, go};

/// What may be accepted of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepts {
    /// A boolean that must not be set, since leases come from etcd.
    NoKubernetes,
    /// A boolean that means something only beside another flag of this table.
    AnyBool,
    /// Nothing but the empty value.
    Empty,
    /// A value that means something only beside another flag of this table.
    Any,
    /// Anything: it tunes the log of flannel's logging library.
    LogTuning,
    /// Nothing: flannel itself has dropped the flag, in this version.
    Gone(&'static str),
    /// The same for a boolean.
    GoneBool(&'static str),
}

/// A flag of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag(Accepts);

/// The table: flannel v0.28.9, and what older versions had.
const FLAGS: [(&str, Accepts); 21] = [
    ("public-ipv6", Accepts::Empty),
    ("kube-subnet-mgr", Accepts::NoKubernetes),
    ("kube-api-url", Accepts::Any),
    ("kubeconfig-file", Accepts::Any),
    ("kube-annotation-prefix", Accepts::Any),
    ("net-config-path", Accepts::Any),
    ("set-node-network-unavailable", Accepts::AnyBool),
    ("vmodule", Accepts::LogTuning),
    ("log_backtrace_at", Accepts::LogTuning),
    ("alsologtostderr", Accepts::AnyBool),
    ("logtostderr", Accepts::AnyBool),
    ("stderrthreshold", Accepts::Any),
    ("listen", Accepts::Gone("v0.8.0")),
    ("remote", Accepts::Gone("v0.8.0")),
    ("remote-keyfile", Accepts::Gone("v0.8.0")),
    ("remote-certfile", Accepts::Gone("v0.8.0")),
    ("remote-cafile", Accepts::Gone("v0.8.0")),
    ("networks", Accepts::Gone("v0.8.0")),
    ("subnet-dir", Accepts::Gone("v0.8.0")),
    ("watch-networks", Accepts::GoneBool("v0.8.0")),
    ("use-multi-cluster-cidr", Accepts::GoneBool("v0.23.0")),
];

/// What a value of such a flag amounts to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It asks for nothing.
    Harmless,
    /// It asks for something that is not there yet.
    NotYet,
    /// It asks for leases from Kubernetes.
    Kubernetes,
    /// It asks for something that flannel has dropped in this version.
    Dropped(&'static str),
    /// It is no boolean, but the flag is one.
    NotBool,
}

impl Flag {
    /// Whether the flag takes a value only after `=`.
    pub(super) fn is_bool(self) -> bool {
        matches!(
            self.0,
            Accepts::NoKubernetes | Accepts::AnyBool | Accepts::GoneBool(_)
        )
    }
}

impl Verdict {
    /// Turns a refusal into the end of the program; `setting` is the flag or variable as given.
    pub(super) fn into_result(self, setting: &str) -> Result<(), Stop> {
        let text = match self {
            Self::Harmless => return Ok(()),
            Self::NotYet => format!("error: {setting}: this version cannot do that yet\n"),
            Self::Kubernetes => format!(
                "error: {setting}: leases from the Kubernetes API are not supported by this \
                 version; use etcd (--etcd-endpoints) with a network config under --etcd-prefix, \
                 or keep flanneld on this node\n"
            ),
            Self::Dropped(version) => {
                format!(
                    "error: {setting}: flannel {version} has dropped it, and it is not here either\n"
                )
            }
            Self::NotBool => format!("error: {setting}: true or false is expected\n"),
        };
        Err(Stop { code: 2, text })
    }
}

/// The entry of a flag, if the table has it.
pub(super) fn find(name: &str) -> Option<Flag> {
    let found = FLAGS.iter().find(|(flag, _)| *flag == name);
    found.map(|(_, accepts)| Flag(*accepts))
}

/// Names of all flags of the table.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FLAGS.iter().map(|(name, _)| *name)
}

/// Judges a value.
pub(super) fn check(name: &str, value: &str) -> Verdict {
    let Some(Flag(accepts)) = find(name) else {
        return Verdict::Harmless;
    };
    let refused = match accepts {
        Accepts::Gone(version) => Verdict::Dropped(version),
        Accepts::GoneBool(version) => Verdict::Dropped(version),
        Accepts::NoKubernetes => Verdict::Kubernetes,
        _ => Verdict::NotYet,
    };
    let harmless = match accepts {
        Accepts::Any | Accepts::LogTuning => true,
        Accepts::Empty | Accepts::Gone(_) => value.is_empty(),
        Accepts::NoKubernetes | Accepts::AnyBool | Accepts::GoneBool(_) => {
            match go::parse_bool(value) {
                Ok(set) => !set || accepts == Accepts::AnyBool,
                Err(_) => return Verdict::NotBool,
            }
        }
    };
    if harmless { Verdict::Harmless } else { refused }
}

/// What to tell of a value that is accepted and has no effect.
pub(super) fn remark(name: &str, value: &str) -> Option<String> {
    let Flag(accepts) = find(name)?;
    let is_tuning = accepts == Accepts::LogTuning && !value.is_empty();
    is_tuning.then(|| format!("--{name}={value} has no effect here; --v sets the log level"))
}
