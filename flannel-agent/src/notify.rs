//! Readiness for systemd: datagrams to the socket that `NOTIFY_SOCKET` names (sd_notify(3)).
//!
//! The name starts with `/` for a socket in the file system and with `@` for one in the abstract
//! name space. Without the variable everything here does nothing.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

/// Sends state changes to the service manager.
#[derive(Debug, Default)]
pub struct Notifier {
    target: Option<(UnixDatagram, SocketAddr)>,
}

impl Notifier {
    /// A notifier for the value of `NOTIFY_SOCKET`; a value that cannot be used is logged.
    #[must_use]
    pub fn new(notify_socket: Option<&OsStr>) -> Self {
        let Some(name) = notify_socket.filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        match open(name) {
            Ok(target) => Self {
                target: Some(target),
            },
            Err(error) => {
                warn!(socket = %name.display(), %error, "NOTIFY_SOCKET cannot be used, systemd is not told");
                Self::default()
            }
        }
    }

    /// The node works: lease held, `subnet.env` written, peers being followed.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// A line of text for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", text.replace('\n', " ")));
    }

    /// The agent is about to end.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.target else {
            return;
        };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            warn!(%error, message, "systemd could not be notified");
        }
    }
}

fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A full queue of the manager must not hold the agent up.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn messages_reach_a_socket_in_the_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(Some(path.as_os_str()));
        notifier.ready();
        notifier.status("3 peers\nall well");
        notifier.stopping();
        assert_eq!(receive(&socket), "READY=1");
        assert_eq!(receive(&socket), "STATUS=3 peers all well");
        assert_eq!(receive(&socket), "STOPPING=1");
    }

    #[test]
    fn messages_reach_an_abstract_socket() {
        let name = format!("flannel-agent-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Notifier::new(Some(OsStr::new(&format!("@{name}")))).ready();
        assert_eq!(receive(&socket), "READY=1");
    }

    #[test]
    fn nobody_listening_is_no_failure() {
        Notifier::new(None).ready();
        Notifier::new(Some(OsStr::new(""))).ready();
        Notifier::new(Some(OsStr::new("/nonexistent/socket"))).ready();
    }
}
