//! Readiness for systemd: datagrams to the socket that `NOTIFY_SOCKET` names (sd_notify(3)).
//!
//! The name starts with `/` for a socket in the file system and with `@` for one in the abstract
//! name space. Without the variable everything here does nothing.
//!
//! A watchdog, where the unit asks for one, is told that the agent lives only while the owner of
//! the node answers: a process whose timers run but whose node hangs is restarted.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::status::Status;

/// Between two looks at the status when no watchdog asks for more.
const LOOK: Duration = Duration::from_secs(10);

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

    /// The agent lives; for the watchdog.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
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

/// Tells the status text whenever it changes and, with a watchdog, that the agent lives, as long as
/// `status` answers in time; until cancellation. An answer that says why there is no document
/// counts: an agent that waits for etcd lives.
pub async fn keep_told<F>(
    notifier: &Notifier,
    watchdog: Option<Duration>,
    status: impl Fn() -> F,
    cancel: &CancellationToken,
) where
    F: Future<Output = Result<Status, String>>,
{
    // Asked every third of the watchdog's time, one late answer is forgiven.
    let period = watchdog.map_or(LOOK, |limit| (limit / 3).min(LOOK));
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = String::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Ok(answer) = timeout(period, status()).await else {
            error!(
                ?period,
                "the node does not answer, the watchdog is not told"
            );
            continue;
        };
        if watchdog.is_some() {
            notifier.alive();
        }
        let text = answer.map_or_else(|reason| reason, |status| summary(&status));
        if text != told {
            notifier.status(&text);
            told = text;
        }
    }
}

/// The status in one line.
#[must_use]
pub fn summary(status: &Status) -> String {
    let Status {
        ready,
        problems,
        lease,
        datapath,
        peers,
        ..
    } = status;
    let state = match (ready, problems.first()) {
        (true, _) => "ready".to_owned(),
        (false, None) => "not ready".to_owned(),
        (false, Some(problem)) => format!("not ready: {problem}"),
    };
    format!(
        "{state}; lease {}, data path {}, {} peers ({} by eBPF)",
        lease.subnet, datapath.active, peers.total, peers.ebpf
    )
}

/// How often the watchdog wants to hear from this process, from `WATCHDOG_USEC` and
/// `WATCHDOG_PID`; meant for another process it is no concern of ours.
#[must_use]
pub fn watchdog(usec: Option<&OsStr>, pid: Option<&OsStr>, own_pid: u32) -> Option<Duration> {
    let number = |text: &OsStr| text.to_str()?.parse::<u64>().ok();
    let is_ours = pid.is_none_or(|pid| number(pid) == Some(own_pid.into()));
    let usec = number(usec?).filter(|usec| *usec > 0 && is_ours)?;
    Some(Duration::from_micros(usec))
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
    use crate::status_view::example;

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

    #[test]
    fn the_watchdog_is_that_of_the_variables() {
        let read = |usec, pid: Option<&'static str>| {
            watchdog(Some(OsStr::new(usec)), pid.map(OsStr::new), 4711)
        };
        assert_eq!(read("3000000", None), Some(Duration::from_secs(3)));
        assert_eq!(read("3000000", Some("4711")), Some(Duration::from_secs(3)));
        assert_eq!(read("3000000", Some("4712")), None);
        assert_eq!(read("0", None), None);
        assert_eq!(read("soon", None), None);
        assert_eq!(watchdog(None, None, 4711), None);
    }

    #[test]
    fn the_status_text_tells_lease_data_path_and_peers() {
        assert_eq!(
            summary(&example()),
            "not ready: the watch is down; lease 10.5.34.0/24, data path ebpf, 4 peers (2 by eBPF)"
        );
    }

    #[tokio::test]
    async fn the_watchdog_hears_nothing_while_the_node_does_not_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let notifier = Notifier::new(Some(path.as_os_str()));
        let cancel = CancellationToken::new();
        let drain = || {
            let mut heard = Vec::new();
            let mut buffer = [0; 256];
            while let Ok(length) = socket.recv(&mut buffer) {
                heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            heard
        };
        let limit = Some(Duration::from_millis(30));
        let answers = keep_told(&notifier, limit, async || Ok(example()), &cancel);
        let _ = timeout(Duration::from_millis(200), answers).await;
        let heard = drain();
        assert_eq!(heard[0], "WATCHDOG=1");
        assert!(heard.iter().filter(|text| *text == "WATCHDOG=1").count() > 2);
        let texts = heard.iter().filter(|text| text.starts_with("STATUS="));
        assert_eq!(texts.count(), 1, "{heard:?}");

        let silence = keep_told(&notifier, limit, std::future::pending, &cancel);
        let _ = timeout(Duration::from_millis(200), silence).await;
        assert_eq!(drain(), Vec::<String>::new());
    }
}
