//! Flags of the agent itself: flanneld's, and our own.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use flannel_ebpf::abi::MAX_FLOWS;

use super::go;
use super::{DatapathMode, EbpfLogLevel, FastPathMode, OnLeaseLoss, TcAttach, XdpMode};

/// Where an agent keeps what others find it by.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Agent")]
pub struct PlaceArgs {
    /// Directory of the control socket and of the kept VTEP MAC
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/run/flannel"
    )]
    pub run_dir: PathBuf,
    /// Directory for pinned BPF objects, on a bpffs
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/sys/fs/bpf/flannel"
    )]
    pub bpf_pin_path: PathBuf,
}

/// Flags of the agent itself.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// etcd endpoints, separated by commas
    #[arg(
        long,
        help_heading = "etcd",
        value_name = "URLS",
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379"
    )]
    pub etcd_endpoints: String,
    /// Prefix of all keys of the network
    #[arg(
        long,
        help_heading = "etcd",
        value_name = "KEY",
        default_value = "/coreos.com/network"
    )]
    pub etcd_prefix: String,
    /// Key of the client certificate
    #[arg(
        long,
        help_heading = "etcd",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub etcd_keyfile: String,
    /// Client certificate
    #[arg(
        long,
        help_heading = "etcd",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub etcd_certfile: String,
    /// Certificates of the authorities that may sign the server's; the system's unless given
    #[arg(
        long,
        help_heading = "etcd",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub etcd_cafile: String,
    /// User name
    #[arg(
        long,
        help_heading = "etcd",
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub etcd_username: String,
    /// Password; better given as FLANNELD_ETCD_PASSWORD, since others can read command lines
    #[arg(
        long,
        help_heading = "etcd",
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub etcd_password: String,

    /// External interface, by name or by one of its addresses; the first that fits of several
    #[arg(long, help_heading = "External interface", value_name = "NAME|IP", action = ArgAction::Append)]
    pub iface: Vec<String>,
    /// External interface whose address or name matches the expression; may be repeated
    #[arg(long, help_heading = "External interface", value_name = "REGEX", action = ArgAction::Append)]
    pub iface_regex: Vec<String>,
    /// External interface that the kernel would use to reach this address
    #[arg(
        long,
        help_heading = "External interface",
        value_name = "IP",
        default_value = "",
        hide_default_value = true
    )]
    pub iface_can_reach: String,
    /// Address to advertise to other nodes, when it is not that of the interface
    #[arg(
        long,
        help_heading = "External interface",
        value_name = "IP",
        default_value = "",
        hide_default_value = true
    )]
    pub public_ip: String,

    /// File that tells Docker, CNI and scripts about the subnet
    #[arg(
        long,
        help_heading = "Lease",
        value_name = "FILE",
        default_value = "/run/flannel/subnet.env"
    )]
    pub subnet_file: PathBuf,
    /// How many minutes before its end the lease is renewed, 1 to 1439
    #[arg(
        long,
        help_heading = "Lease",
        value_name = "MINUTES",
        default_value_t = 60,
        allow_negative_numbers = true
    )]
    pub subnet_lease_renew_margin: i64,

    /// What to do when the lease is lost: deleted, expired or taken by another node
    #[arg(long, help_heading = "Lease", value_name = "WHAT", default_value_t = OnLeaseLoss::Reacquire)]
    pub on_lease_loss: OnLeaseLoss,

    /// Masquerade what leaves the overlay
    #[arg(long, help_heading = "Traffic rules", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", hide_default_value = true,
        value_parser = go::parse_bool, action = ArgAction::Set)]
    pub ip_masq: bool,
    /// Let masqueraded traffic keep its source port where it is free
    #[arg(long, help_heading = "Traffic rules", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", hide_default_value = true,
        value_parser = go::parse_bool, action = ArgAction::Set)]
    pub ip_masq_fully_random_disable: bool,
    /// Accept forwarding from and to the overlay where iptables would drop it
    #[arg(long, help_heading = "Traffic rules", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "true",
        value_parser = go::parse_bool, action = ArgAction::Set)]
    pub iptables_forward_rules: bool,
    /// Drop packets to pods that do not exist
    #[arg(long, help_heading = "Traffic rules", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", hide_default_value = true,
        value_parser = go::parse_bool, action = ArgAction::Set)]
    pub ip_blackhole_route: bool,
    /// How many seconds lie between two checks of the rules
    #[arg(
        long,
        help_heading = "Traffic rules",
        value_name = "SECONDS",
        default_value_t = 5,
        allow_negative_numbers = true
    )]
    pub iptables_resync: i64,

    /// Which data path carries the packets
    #[arg(long, help_heading = "Data path", value_name = "PATH", default_value_t = DatapathMode::Auto)]
    pub datapath: DatapathMode,
    /// Whether established flows between pods go around routing and netfilter
    #[arg(long, help_heading = "Data path", value_name = "WHEN", default_value_t = FastPathMode::Auto)]
    pub fast_path: FastPathMode,
    /// How many milliseconds a flow stays on the fast path before the rules are asked again, 10 to
    /// 10000
    #[arg(long, help_heading = "Data path", value_name = "MS", default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(10..=10_000))]
    pub fast_path_bound: u64,
    /// How many flows may be on the fast path at once, 64 to 16777216, rounded up to a power of two;
    /// others take the standard path. Each has 64 bytes of the kernel's memory
    #[arg(long, help_heading = "Data path", value_name = "FLOWS", default_value_t = MAX_FLOWS as u32,
        value_parser = clap::value_parser!(u32).range(64..=16_777_216))]
    pub fast_path_flows: u32,
    /// Whether XDP takes tunnel headers off in the NIC's driver, before GRO
    #[arg(long, help_heading = "Data path", value_name = "WHERE", default_value_t = XdpMode::Auto)]
    pub xdp: XdpMode,
    /// How TC programs are attached
    #[arg(long, help_heading = "Data path", value_name = "HOW", default_value_t = TcAttach::Auto)]
    pub tc_attach: TcAttach,
    /// What the BPF programs log
    #[arg(long, help_heading = "Data path", value_name = "LEVEL", default_value_t = EbpfLogLevel::Off)]
    pub ebpf_log_level: EbpfLogLevel,

    /// Address that /healthz and /readyz are offered on
    #[arg(
        long,
        help_heading = "Agent",
        value_name = "IP",
        default_value = "0.0.0.0"
    )]
    pub healthz_ip: String,
    /// Port of /healthz and /readyz; 0 for none
    #[arg(
        long,
        help_heading = "Agent",
        value_name = "PORT",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub healthz_port: i64,
    /// Log level: 0 for info, 1 to 3 for debug, from 4 on trace
    #[arg(short = None, long = "v", help_heading = "Agent", value_name = "LEVEL", default_value_t = 0, allow_negative_numbers = true)]
    pub v: i64,
    /// Where the agent keeps what others find it by.
    #[command(flatten)]
    pub place: PlaceArgs,
}
