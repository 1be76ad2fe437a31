//! `subnet.env`: what Docker, CNI and scripts read about this node's subnet, and what the next
//! start of the agent reads to ask for the same subnet again.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ipnetwork::{Ipv4Network, Ipv6Network};
use rand::Rng;
use thiserror::Error;

use crate::lease::Subnet;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetEnv {
    /// The IPv4 overlay and this node's part of it.
    pub v4: Option<(Ipv4Network, Ipv4Network)>,
    /// The IPv6 overlay and this node's part of it.
    pub v6: Option<(Ipv6Network, Ipv6Network)>,
    /// MTU for pods, bytes.
    pub mtu: u32,
    /// Whether the agent masquerades traffic that leaves the overlay.
    pub ip_masq: bool,
}

/// The file cannot be written or read.
#[derive(Debug, Error)]
#[error("{operation} {}", path.display())]
pub struct FileError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What of an earlier `subnet.env` can serve as a wish for the next lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PreviousSubnet {
    /// IPv4 subnet, host bits zero.
    pub v4: Option<Ipv4Network>,
    /// IPv6 subnet, host bits zero.
    pub v6: Option<Ipv6Network>,
}

impl SubnetEnv {
    /// The text of the file; subnets appear as their first host address.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Self {
            v4,
            v6,
            mtu,
            ip_masq,
        } = self;
        let mut text = String::new();
        // Writing to a string cannot fail.
        if let Some((network, subnet)) = v4 {
            let host = std::net::Ipv4Addr::from(u32::from(subnet.network()).wrapping_add(1));
            let _ = writeln!(text, "FLANNEL_NETWORK={network}");
            let _ = writeln!(text, "FLANNEL_SUBNET={host}/{}", subnet.prefix());
        }
        if let Some((network, subnet)) = v6 {
            let host = std::net::Ipv6Addr::from(u128::from(subnet.network()).wrapping_add(1));
            let _ = writeln!(text, "FLANNEL_IPV6_NETWORK={network}");
            let _ = writeln!(text, "FLANNEL_IPV6_SUBNET={host}/{}", subnet.prefix());
        }
        let _ = writeln!(text, "FLANNEL_MTU={mtu}\nFLANNEL_IPMASQ={ip_masq}");
        text
    }

    /// Writes the file so that a reader sees the old or the new text, also after a power cut.
    /// Missing directories are made with mode 0755; the file has mode 0644 whatever the umask.
    ///
    /// # Errors
    /// A file operation failed; no temporary file is left then.
    pub fn write(&self, path: &Path, rng: &mut impl Rng) -> Result<(), FileError> {
        let dir = directory(path);
        let made = DirBuilder::new().recursive(true).mode(0o755).create(dir);
        made.map_err(|source| FileError::new("create directory", dir, source))?;
        replace_file(path, &self.to_text(), rng)
    }
}

impl FileError {
    pub(crate) fn new(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            operation,
            path: path.to_owned(),
            source,
        }
    }
}

fn directory(path: &Path) -> &Path {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    dir.unwrap_or(Path::new("."))
}

/// Writes a file, mode 0644 whatever the umask, so that a reader sees the old or the new text,
/// also after a power cut.
///
/// # Errors
/// A file operation failed; no temporary file is left then.
pub(crate) fn replace_file(path: &Path, text: &str, rng: &mut impl Rng) -> Result<(), FileError> {
    let at = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| FileError::new(operation, &path, source)
    };
    let dir = directory(path);
    let name = path.file_name().unwrap_or_default().display();
    let temporary = dir.join(format!(".{name}.{:016x}", rng.random::<u64>()));
    let written = write_synced(&temporary, text);
    let renamed = written
        .map_err(at("write", &temporary))
        .and_then(|()| fs::rename(&temporary, path).map_err(at("rename to", path)));
    if renamed.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    renamed?;
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(at("sync directory", dir))
}

fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

impl PreviousSubnet {
    /// Reads an earlier file; one that does not exist wishes for nothing.
    ///
    /// # Errors
    /// The file is there but cannot be read.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        match fs::read(path) {
            Ok(bytes) => Ok(Self::from_text(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(FileError {
                operation: "read",
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Reads the text of an earlier file. What cannot be used is no wish: a list of several
    /// subnets (v0.21 to v0.22.3 wrote such), or something that is not a subnet.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let v4: Option<Ipv4Network> = variable(text, "FLANNEL_SUBNET").and_then(|v| v.parse().ok());
        let v6: Option<Ipv6Network> =
            variable(text, "FLANNEL_IPV6_SUBNET").and_then(|v| v.parse().ok());
        Self {
            v4: v4.and_then(|net| Ipv4Network::new_checked(net.network(), net.prefix())),
            v6: v6.and_then(|net| Ipv6Network::new_checked(net.network(), net.prefix())),
        }
    }

    /// The wish as a subnet, if it has an IPv4 part.
    #[must_use]
    pub fn subnet(&self) -> Option<Subnet> {
        let Self { v4, v6 } = *self;
        v4.map(|v4| Subnet { v4, v6 })
    }
}

/// The value of a variable; the last assignment wins.
fn variable<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut found = assignments(text).filter(|(key, _)| *key == name);
    found.next_back().map(|(_, value)| value)
}

/// All assignments, with the values as a shell would read them.
pub(crate) fn assignments(text: &str) -> impl DoubleEndedIterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(is_name) {
            return None;
        }
        let quoted = |quote| value.strip_prefix(quote)?.split(quote).next();
        let bare = || value.split([' ', '\t', '#']).next().unwrap_or("");
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or_else(bare);
        Some((name, value))
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn dual() -> SubnetEnv {
        SubnetEnv {
            v4: Some((
                "10.5.0.0/16".parse().unwrap(),
                "10.5.34.0/24".parse().unwrap(),
            )),
            v6: Some((
                "fd00:5::/48".parse().unwrap(),
                "fd00:5:0:22::/64".parse().unwrap(),
            )),
            mtu: 1450,
            ip_masq: true,
        }
    }

    #[test]
    fn the_text_is_the_one_of_flannel() {
        assert_eq!(
            dual().to_text(),
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.34.1/24\n\
             FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET=fd00:5:0:22::1/64\n\
             FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        let v4_only = SubnetEnv {
            v6: None,
            ip_masq: false,
            ..dual()
        };
        assert_eq!(
            v4_only.to_text(),
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.34.1/24\n\
             FLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
        );
    }

    #[test]
    fn writing_makes_the_directory_replaces_the_file_and_leaves_nothing_else() {
        let mut rng = StdRng::seed_from_u64(1);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/flannel/subnet.env");
        dual().write(&path, &mut rng).unwrap();
        let changed = SubnetEnv {
            mtu: 1400,
            ..dual()
        };
        changed.write(&path, &mut rng).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), changed.to_text());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o644
        );
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_names_the_path_and_leaves_no_temporary_file() {
        let mut rng = StdRng::seed_from_u64(1);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subnet.env");
        fs::create_dir(&path).unwrap();
        let error = dual().write(&path, &mut rng).unwrap_err();
        assert_eq!(error.to_string(), format!("rename to {}", path.display()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_previous_subnet_is_read_back_with_host_bits_masked() {
        let previous = PreviousSubnet::from_text(&dual().to_text());
        assert_eq!(previous.v4, Some("10.5.34.0/24".parse().unwrap()));
        assert_eq!(previous.v6, Some("fd00:5:0:22::/64".parse().unwrap()));
    }

    #[test]
    fn quotes_comments_and_exports_are_read() {
        let wish = Some("10.5.34.0/24".parse().unwrap());
        for text in [
            "export FLANNEL_SUBNET=\"10.5.34.1/24\"",
            "# FLANNEL_SUBNET=10.9.9.1/24\nFLANNEL_SUBNET='10.5.34.1/24' # mine",
            "FLANNEL_SUBNET=10.7.7.1/24\r\nFLANNEL_SUBNET = 10.5.34.1/24 # mine\r\n",
        ] {
            assert_eq!(PreviousSubnet::from_text(text).v4, wish, "{text}");
        }
    }

    #[test]
    fn what_is_no_subnet_is_no_wish() {
        for text in [
            "",
            "garbage",
            "FLANNEL_SUBNET=",
            "FLANNEL_SUBNET=10.5.34.1/99",
            "FLANNEL_SUBNET=10.5.34.1/24,10.6.34.1/24",
        ] {
            assert_eq!(
                PreviousSubnet::from_text(text),
                PreviousSubnet::default(),
                "{text}"
            );
        }
        let missing = PreviousSubnet::load(Path::new("/nonexistent/subnet.env"));
        assert_eq!(missing.unwrap(), PreviousSubnet::default());
    }
}
