//! Settings of the agent: the command line given meaning, once, before anything starts.
//!
//! Nothing else reads the environment. Every refusal names the flag, its value and the remedy.

mod endpoint;

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use tracing::Level;

pub use self::endpoint::Endpoint;
use crate::cli::{
    DatapathMode, EbpfLogLevel, FastPathMode, OnLeaseLoss, PlaceArgs, RunArgs, TcAttach, XdpMode,
};
use crate::iface::Selection;
use crate::notify;
use crate::rules::{Blackhole, Forward, SourcePorts};
use crate::subnet::hold::OnLoss;

/// Length of a lease in minutes; the margin of its renewal lies within.
const LEASE_MINUTES: i64 = 24 * 60;

/// Everything that the agent needs to know before it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// The lease store.
    pub etcd: EtcdConfig,
    /// Which external interface to take, and what to advertise.
    pub interface: Selection,
    /// Where to write `subnet.env`.
    pub subnet_file: PathBuf,
    /// How long before its end a lease is renewed.
    pub renew_margin: Duration,
    /// What to do when the lease is lost.
    pub on_lease_loss: OnLoss,
    /// Which traffic rules are wanted.
    pub rules: RulesConfig,
    /// Which data path carries the packets.
    pub datapath: DatapathMode,
    /// How TC programs are attached.
    pub tc_attach: TcAttach,
    /// Whether XDP takes tunnel headers off.
    pub xdp: XdpMode,
    /// Whether established flows go around the stack.
    pub fast_path: FastPathMode,
    /// How long until the rules are asked again.
    pub fast_path_bound: Duration,
    /// How many flows may be on the fast path.
    pub fast_path_flows: u32,
    /// What the BPF programs log.
    pub ebpf_log_level: EbpfLogLevel,
    /// Directory for pinned BPF objects.
    pub bpf_pin_path: PathBuf,
    /// Directory of the control socket and of what is kept over restarts.
    pub run_dir: PathBuf,
    /// Where the health endpoints are, if anywhere.
    pub health: Option<SocketAddr>,
    /// Most detailed level that is logged.
    pub log_level: Level,
    /// Socket of the service manager, from `NOTIFY_SOCKET`.
    pub notify_socket: Option<OsString>,
    /// How often the service manager wants a sign of life, from `WATCHDOG_USEC`.
    pub watchdog: Option<Duration>,
}

/// Traffic rules, as far as they do not depend on the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RulesConfig {
    /// Whether, and how, traffic that leaves the overlay is masqueraded.
    pub masquerade: Option<SourcePorts>,
    /// Whether forwarding from and to the network is accepted.
    pub forward: Forward,
    /// Whether packets to pods that do not exist are dropped.
    pub blackhole: Blackhole,
    /// Longest time between two checks.
    pub resync: Duration,
}

/// How to reach etcd.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// Members, in the order given; all with the same scheme.
    pub endpoints: Vec<Endpoint>,
    /// Prefix of all keys, without a slash at its end.
    pub prefix: String,
    /// Files for TLS; used when the endpoints want TLS.
    pub tls: TlsFiles,
    /// User and password.
    pub credentials: Option<Credentials>,
}

/// Files for TLS, PEM each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities that may sign the server's certificate; the system's when absent.
    pub ca: Option<PathBuf>,
    /// The client's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// User name and password; the password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, password: _ } = self;
        write!(f, "{user}:…")
    }
}

/// A setting that cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("--{flag}={value}: {remedy}")]
pub struct ConfigError {
    flag: &'static str,
    value: String,
    remedy: String,
}

impl ConfigError {
    fn new(flag: &'static str, value: impl fmt::Display, remedy: impl Into<String>) -> Self {
        Self {
            flag,
            value: value.to_string(),
            remedy: remedy.into(),
        }
    }
}

impl Config {
    /// Gives the flags meaning; the strings are warnings for the operator.
    ///
    /// # Errors
    /// A setting cannot be used.
    pub fn new(
        args: RunArgs,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let mut warnings = Vec::new();
        let etcd = etcd(&args, &mut warnings)?;
        let rules = rules(&args, &mut warnings);
        let RunArgs {
            iface,
            iface_regex,
            iface_can_reach,
            public_ip,
            subnet_file,
            subnet_lease_renew_margin: margin,
            on_lease_loss,
            datapath,
            tc_attach,
            xdp,
            fast_path,
            fast_path_bound,
            fast_path_flows,
            ebpf_log_level,
            healthz_ip,
            healthz_port,
            v,
            place: PlaceArgs {
                run_dir,
                bpf_pin_path,
            },
            ..
        } = args;
        if !(1..LEASE_MINUTES).contains(&margin) {
            let remedy = format!(
                "a number of minutes from 1 to {} is expected",
                LEASE_MINUTES - 1
            );
            return Err(ConfigError::new(
                "subnet-lease-renew-margin",
                margin,
                remedy,
            ));
        }
        if subnet_file.file_name().is_none() {
            let remedy = "the path of a file is expected, such as /run/flannel/subnet.env";
            let value = subnet_file.display();
            return Err(ConfigError::new("subnet-file", value, remedy));
        }
        for (flag, dir) in [("run-dir", &run_dir), ("bpf-pin-path", &bpf_pin_path)] {
            if !dir.is_absolute() {
                let remedy = "an absolute path is expected";
                return Err(ConfigError::new(flag, dir.display(), remedy));
            }
        }
        let config = Self {
            etcd,
            interface: Selection {
                ifaces: iface,
                regexes: iface_regex,
                can_reach: address("iface-can-reach", &iface_can_reach)?,
                public_ip: address("public-ip", &public_ip)?,
            },
            subnet_file,
            renew_margin: Duration::from_secs(margin.unsigned_abs() * 60),
            on_lease_loss: match on_lease_loss {
                OnLeaseLoss::Exit => OnLoss::Exit,
                OnLeaseLoss::Reacquire => OnLoss::Reacquire,
            },
            rules,
            datapath,
            tc_attach,
            xdp,
            fast_path,
            fast_path_bound: Duration::from_millis(fast_path_bound),
            fast_path_flows,
            ebpf_log_level,
            bpf_pin_path,
            run_dir,
            health: health(&healthz_ip, healthz_port)?,
            log_level: match v {
                ..=0 => Level::INFO,
                1..=3 => Level::DEBUG,
                4.. => Level::TRACE,
            },
            notify_socket: variable("NOTIFY_SOCKET"),
            watchdog: notify::watchdog(
                variable("WATCHDOG_USEC").as_deref(),
                variable("WATCHDOG_PID").as_deref(),
                std::process::id(),
            ),
        };
        Ok((config, warnings))
    }
}

fn etcd(args: &RunArgs, warnings: &mut Vec<String>) -> Result<EtcdConfig, ConfigError> {
    let flag = "etcd-endpoints";
    let given = &args.etcd_endpoints;
    let endpoints = given.split(',').map(|text| {
        let text = text.trim();
        Endpoint::parse(text).map_err(|remedy| ConfigError::new(flag, text, remedy))
    });
    let mut endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
    let tls = tls_files(args)?;
    // Of several schemes flannel lets the first one decide, silently.
    let is_tls = endpoints.first().and_then(Endpoint::is_tls);
    if endpoints.iter().any(|endpoint| endpoint.is_tls() != is_tls) {
        let remedy = "all endpoints must be http://, or all https://";
        return Err(ConfigError::new(flag, given, remedy));
    }
    let is_tls = is_tls.unwrap_or(tls.identity.is_some() || tls.ca.is_some());
    for endpoint in &mut endpoints {
        endpoint.set_tls(is_tls);
    }
    if !is_tls && tls != TlsFiles::default() {
        warnings.push(format!(
            "--{flag}={given}: etcd is reached without TLS, so the certificate files are not \
             used; write https:// to use them"
        ));
    }
    let credentials = match (&args.etcd_username, &args.etcd_password) {
        (user, password) if user.is_empty() && password.is_empty() => None,
        (user, _) if user.is_empty() => {
            let remedy = "a password is given, so a user name is needed as well";
            return Err(ConfigError::new("etcd-username", user, remedy));
        }
        (user, password) => Some(Credentials {
            user: user.clone(),
            password: password.clone(),
        }),
    };
    Ok(EtcdConfig {
        endpoints,
        prefix: clean_prefix(&args.etcd_prefix)?,
        tls,
        credentials,
    })
}

fn rules(args: &RunArgs, warnings: &mut Vec<String>) -> RulesConfig {
    let resync = match args.iptables_resync {
        seconds @ 1.. => seconds.unsigned_abs(),
        // Flannel takes it and checks without a pause.
        seconds => {
            warnings.push(format!(
                "--iptables-resync={seconds}: a number of seconds from 1 is expected; the rules \
                 are checked each second"
            ));
            1
        }
    };
    let ports = match args.ip_masq_fully_random_disable {
        true => SourcePorts::Kept,
        false => SourcePorts::FullyRandom,
    };
    RulesConfig {
        masquerade: args.ip_masq.then_some(ports),
        forward: match args.iptables_forward_rules {
            true => Forward::Accept,
            false => Forward::Leave,
        },
        blackhole: match args.ip_blackhole_route {
            true => Blackhole::Route,
            false => Blackhole::None,
        },
        resync: Duration::from_secs(resync),
    }
}

/// The address of the health endpoints; as in flannel a port of 0 or below means none.
fn health(ip: &str, port: i64) -> Result<Option<SocketAddr>, ConfigError> {
    if port <= 0 {
        return Ok(None);
    }
    let port = u16::try_from(port).map_err(|_| {
        let remedy = "a port from 1 to 65535 is expected, or 0 for no health endpoints";
        ConfigError::new("healthz-port", port, remedy)
    })?;
    let ip: IpAddr = ip.parse().map_err(|_| {
        let remedy = "an address such as 0.0.0.0 or 127.0.0.1 is expected";
        ConfigError::new("healthz-ip", ip, remedy)
    })?;
    Ok(Some((ip, port).into()))
}

fn tls_files(args: &RunArgs) -> Result<TlsFiles, ConfigError> {
    let file = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
    let identity = match (file(&args.etcd_certfile), file(&args.etcd_keyfile)) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => {
            let remedy = "the certificate needs its key: give --etcd-keyfile as well";
            return Err(ConfigError::new(
                "etcd-certfile",
                &args.etcd_certfile,
                remedy,
            ));
        }
        (None, Some(_)) => {
            let remedy = "the key needs its certificate: give --etcd-certfile as well";
            return Err(ConfigError::new("etcd-keyfile", &args.etcd_keyfile, remedy));
        }
    };
    Ok(TlsFiles {
        ca: file(&args.etcd_cafile),
        identity,
    })
}

/// Joins the parts of the prefix as Go's `path.Join` does.
fn clean_prefix(prefix: &str) -> Result<String, ConfigError> {
    let mut parts = Vec::new();
    for part in prefix.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    if parts.is_empty() && prefix.starts_with('/') {
        return Ok(String::new());
    }
    if parts.is_empty() {
        let remedy = "a prefix such as /coreos.com/network is expected";
        return Err(ConfigError::new("etcd-prefix", prefix, remedy));
    }
    let root = if prefix.starts_with('/') { "/" } else { "" };
    Ok(format!("{root}{}", parts.join("/")))
}

fn address(flag: &'static str, text: &str) -> Result<Option<Ipv4Addr>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = text.parse().ok();
    let error = || {
        ConfigError::new(
            flag,
            text,
            "an IPv4 address such as 192.168.7.11 is expected",
        )
    };
    address.map(Some).ok_or_else(error)
}

#[cfg(test)]
mod tests;
