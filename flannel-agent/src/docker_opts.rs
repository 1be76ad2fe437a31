//! `mk-docker-opts`: options for dockerd from `subnet.env`, as flannel's shell script of that name
//! makes them.
//!
//! The script sources the environment file, so variables of its own environment count as well; the
//! file comes first. Unlike the script this replaces the output in one step: whoever starts Docker
//! meanwhile reads the old options or the new ones, never half of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use clap::Args;
use ipnetwork::Ipv4Network;
use rand::Rng;
use thiserror::Error;

use crate::subnet::file::{FileError, assignments, replace_file};

/// Variables by name.
pub type Variables = BTreeMap<String, String>;

/// Prefix of a variable that holds one option.
const OPTION: &str = "DOCKER_OPT_";

/// The IPv4 routes of the main table, as the kernel shows them.
const ROUTES: &str = "/proc/net/route";

/// Routes through a gateway have this flag (linux/route.h).
const RTF_GATEWAY: u32 = 0x2;

/// Options of the command.
#[derive(Debug, Clone, Args)]
pub struct DockerOptsArgs {
    /// Environment file that the agent has written
    #[arg(
        short = 'f',
        value_name = "FILE",
        default_value = "/run/flannel/subnet.env",
        allow_hyphen_values = true
    )]
    pub subnet_file: PathBuf,
    /// File to write
    #[arg(
        short = 'd',
        value_name = "FILE",
        default_value = "/run/docker_opts.env",
        allow_hyphen_values = true
    )]
    pub output: PathBuf,
    /// Write each option as a variable of its own; with neither -i nor -c both are written
    #[arg(short = 'i')]
    pub individual: bool,
    /// Write all options as one variable
    #[arg(short = 'c')]
    pub combined: bool,
    /// Leave --ip-masq out
    #[arg(short = 'm')]
    pub without_ip_masq: bool,
    /// Name of the variable with all options
    #[arg(
        short = 'k',
        value_name = "NAME",
        default_value = "DOCKER_OPTS",
        allow_hyphen_values = true
    )]
    pub combined_name: String,
    /// Ignored, as by the script.
    #[arg(hide = true, trailing_var_arg = true)]
    pub rest: Vec<std::ffi::OsString>,
}

/// Why there are no options, or why Docker should not be started with them.
#[derive(Debug, Error)]
pub enum DockerOptsError {
    /// A value that is no boolean.
    #[error("FLANNEL_IPMASQ is {0:?}: true or false is expected")]
    IpMasq(String),
    /// A file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] FileError),
    /// Docker's bridge would get a subnet that is routed elsewhere (flannel pull request 1546).
    #[error(
        "{subnet} is routed through {gateway}, so this host cannot have it: delete that route, \
         or let the agent run, which removes routes of leases that are gone"
    )]
    Routed {
        /// The subnet.
        subnet: Ipv4Network,
        /// Where it is routed.
        gateway: Ipv4Addr,
    },
}

/// Reads the environment file, writes the options, and looks for a route in Docker's way.
///
/// # Errors
/// See [`DockerOptsError`]; the output is there already when a route is in the way.
pub fn run(
    args: &DockerOptsArgs,
    environment: Variables,
    rng: &mut impl Rng,
) -> Result<(), DockerOptsError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| DockerOptsError::Read { path, source }
    };
    let file = match std::fs::read(&args.subnet_file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(&args.subnet_file)(error)),
    };
    let variables = merge(environment, &file);
    write(&args.output, &render(args, variables.clone())?, rng)?;
    let Some(subnet) = own_subnet(&variables) else {
        return Ok(());
    };
    let routes = std::fs::read_to_string(ROUTES).map_err(failed(Path::new(ROUTES)))?;
    match gateway_to(subnet, &routes) {
        Some(gateway) => Err(DockerOptsError::Routed { subnet, gateway }),
        None => Ok(()),
    }
}

/// Replaces a file, or writes to what is none (`/dev/stdout`).
fn write(path: &Path, text: &str, rng: &mut impl Rng) -> Result<(), FileError> {
    if path.symlink_metadata().is_err() {
        return replace_file(path, text, rng);
    }
    // A link stays. That of /dev/stdout leads to a pipe, which has a type but no path.
    match path.canonicalize() {
        Ok(target) if target.is_file() => replace_file(&target, text, rng),
        _ => std::fs::write(path, text).map_err(|source| FileError::new("write", path, source)),
    }
}

/// What the shell knows after it has sourced the file.
fn merge(mut environment: Variables, file: &str) -> Variables {
    for (name, value) in assignments(file) {
        environment.insert(name.to_owned(), value.to_owned());
    }
    environment
}

/// The text of the output. Options are in the order of their variables' names.
fn render(args: &DockerOptsArgs, mut variables: Variables) -> Result<String, DockerOptsError> {
    let given = |name: &str| variables.get(name).filter(|value| !value.is_empty());
    let bip = given("FLANNEL_SUBNET").map(|subnet| format!("--bip={subnet}"));
    let mtu = given("FLANNEL_MTU").map(|mtu| format!("--mtu={mtu}"));
    let ip_masq = match given("FLANNEL_IPMASQ").map(String::as_str) {
        _ if args.without_ip_masq => None,
        None => None,
        // Who masquerades: the agent or Docker, not both.
        Some("true") => Some("--ip-masq=false".to_owned()),
        Some("false") => Some("--ip-masq=true".to_owned()),
        Some(other) => return Err(DockerOptsError::IpMasq(other.to_owned())),
    };
    for (name, option) in [("BIP", bip), ("MTU", mtu), ("IPMASQ", ip_masq)] {
        if let Some(option) = option {
            variables.insert(format!("{OPTION}{name}"), option);
        }
    }
    let name = &args.combined_name;
    // What is there already ends with a space of its own.
    let earlier = variables.get(name).filter(|value| !value.is_empty());
    let mut combined = earlier.map(|value| format!("{value} ")).unwrap_or_default();
    let both = !args.individual && !args.combined;
    let mut text = String::new();
    for (name, value) in &variables {
        if !name.starts_with(OPTION) {
            continue;
        }
        // Writing to a string cannot fail.
        if both || args.individual {
            let _ = writeln!(text, "{name}=\"{value}\"");
        }
        let _ = write!(combined, " {value}");
    }
    if both || args.combined {
        let _ = writeln!(text, "{name}=\"{combined}\"");
    }
    Ok(text)
}

/// The subnet of Docker's bridge, host bits zero.
fn own_subnet(variables: &Variables) -> Option<Ipv4Network> {
    let bridge: Ipv4Network = variables.get("FLANNEL_SUBNET")?.parse().ok()?;
    Ipv4Network::new_checked(bridge.network(), bridge.prefix())
}

/// The gateway to exactly this subnet, in a table of routes as `/proc/net/route` has it: columns
/// of hexadecimal numbers, addresses as the words that the CPU sees.
fn gateway_to(subnet: Ipv4Network, routes: &str) -> Option<Ipv4Addr> {
    let address = |hex: &str| {
        let word = u32::from_str_radix(hex, 16).ok()?;
        Some(Ipv4Addr::from(word.to_ne_bytes()))
    };
    let mut gateways = routes.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let &[_, to, gateway, flags, _, _, _, mask, ..] = columns.as_slice() else {
            return None;
        };
        let is_ours = address(to)? == subnet.network() && address(mask)? == subnet.mask();
        let flags = u32::from_str_radix(flags, 16).ok()?;
        (is_ours && flags & RTF_GATEWAY != 0).then_some(address(gateway)?)
    });
    gateways.next()
}

#[cfg(test)]
mod tests;
