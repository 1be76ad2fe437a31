//! Where the answer to `flannel-agent status` comes from.

use std::time::Instant;

use ipnetwork::Ipv4Network;
use tokio::sync::{mpsc, oneshot, watch};

use crate::cli::{DatapathMode, FastPathMode};
use crate::fast_path;
use crate::node::NodeSpec;
use crate::node::run::Request;
use crate::status::{Datapath, FastPath, OwnLease, Status, Store};
use crate::subnet::acquire::Term;

/// How far the agent has come.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// It waits for something, as said.
    Starting(&'static str),
    /// It has a lease and a node.
    Running(Box<StatusSource>),
}

impl Phase {
    /// The document, or why there is none.
    pub(crate) async fn status(self) -> Result<Status, String> {
        match self {
            Self::Starting(waits_for) => Err(format!("starting: waiting for {waits_for}")),
            Self::Running(source) => source.status().await.ok_or_else(|| "ending".into()),
        }
    }
}

impl Phase {
    /// Asks the node for another data path; returns the one then in use.
    pub(crate) async fn set_datapath(self, mode: DatapathMode) -> Result<Datapath, String> {
        let source = match self {
            Self::Starting(waits_for) => {
                return Err(format!("starting: waiting for {waits_for}"));
            }
            Self::Running(source) => source,
        };
        let ending = || "ending".to_owned();
        let (answer, done) = oneshot::channel();
        let request = Request::Datapath(mode, answer);
        source.node.send(request).await.map_err(|_| ending())?;
        done.await.map_err(|_| ending())??;
        let (answer, report) = oneshot::channel();
        let request = Request::Report(answer);
        source.node.send(request).await.map_err(|_| ending())?;
        Ok(report.await.map_err(|_| ending())?.datapath)
    }
}

impl Phase {
    /// Asks for the fast path, or for none; returns what came of it.
    pub(crate) async fn set_fast_path(self, mode: FastPathMode) -> Result<FastPath, String> {
        let source = match self {
            Self::Starting(waits_for) => {
                return Err(format!("starting: waiting for {waits_for}"));
            }
            Self::Running(source) => source,
        };
        let ending = || "ending".to_owned();
        let (answer, done) = oneshot::channel();
        let request = (mode, answer);
        let sent = source.fast_path_switch.send(request).await;
        sent.map_err(|_| ending())?;
        done.await.map_err(|_| ending())
    }
}

/// The own lease, but for its time.
#[derive(Debug, Clone)]
pub(crate) struct LeaseView {
    /// What is leased, or was last.
    pub(crate) subnet: Ipv4Network,
    /// What is wrong with it.
    pub(crate) problem: Option<String>,
}

/// Views of every part that has something to say.
#[derive(Debug, Clone)]
pub(crate) struct StatusSource {
    pub(crate) started: Instant,
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) spec: NodeSpec,
    pub(crate) lease: watch::Receiver<LeaseView>,
    pub(crate) notice: watch::Receiver<Option<String>>,
    pub(crate) term: watch::Receiver<Term>,
    pub(crate) store: watch::Receiver<Store>,
    pub(crate) rules: watch::Receiver<Vec<String>>,
    pub(crate) node: mpsc::Sender<Request>,
    pub(crate) fast_path: watch::Receiver<FastPath>,
    pub(crate) fast_path_switch: mpsc::Sender<fast_path::run::Request>,
}

impl StatusSource {
    /// The document, now; `None` when the node has ended.
    async fn status(self) -> Option<Status> {
        let Self {
            started,
            ready,
            spec,
            lease,
            notice,
            term,
            store,
            rules,
            node,
            fast_path,
            fast_path_switch: _,
        } = self;
        let (answer, report) = oneshot::channel();
        node.send(Request::Report(answer)).await.ok()?;
        let report = report.await.ok()?;
        let (is_ready, store, term) = (*ready.borrow(), store.borrow().clone(), *term.borrow());
        let LeaseView { subnet, problem } = lease.borrow().clone();
        let mut problems = report.problems;
        problems.extend(problem);
        problems.extend(rules.borrow().iter().cloned());
        if !is_ready {
            problems.push("the peers are not programmed yet".into());
        }
        if !store.connected {
            let reason = store.error.as_deref().unwrap_or("not connected yet");
            problems.push(format!("leases are not followed: {reason}"));
        }
        let expires_in_secs = match term {
            Term::Reserved => None,
            Term::Until(end) => Some(
                end.saturating_duration_since(tokio::time::Instant::now())
                    .as_secs(),
            ),
        };
        if expires_in_secs == Some(0) {
            problems.push("the lease has run out".into());
        }
        Some(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_secs: started.elapsed().as_secs(),
            ready: is_ready && problems.is_empty(),
            problems,
            notices: notice
                .borrow()
                .iter()
                .cloned()
                .chain(report.notices)
                .collect(),
            backend: report.backend,
            interface: report.interface,
            lease: OwnLease {
                subnet: subnet.to_string(),
                network: spec.network.to_string(),
                public_ip: spec.public_ip,
                expires_in_secs,
            },
            device: report.device,
            datapath: report.datapath,
            proxy: report.proxy,
            fast_path: fast_path.borrow().clone(),
            peers: report.peers,
            store,
        })
    }
}
