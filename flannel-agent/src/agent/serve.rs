//! The running phase: the node beside what feeds it.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::Result;
use ipnetwork::Ipv4Network;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::info;

use super::begin::{Begun, write_subnet_file};
use super::{Agent, datapath, earlier, external};
use crate::cli::DatapathMode;
use crate::fast_path::{self, FastPath};
use crate::netlink::Netlink;
use crate::node;
use crate::node::run::{Fallback, Inputs};
use crate::notify::summary;
use crate::rules::Rules;
use crate::status;
use crate::status_source::{LeaseView, Phase, StatusSource};
use crate::subnet::hold::{Holder, LeaseEvent};
use crate::subnet::settings::watch_network;
use crate::subnet::watch::watch_leases;

/// Changes of leases that wait for the node.
const LEASE_QUEUE: usize = 1_024;
/// Requests that wait for the node.
const REQUEST_QUEUE: usize = 16;

/// How the running phase ends.
pub(super) enum Outcome {
    /// For good.
    End,
    /// The agent is to start over.
    Again,
}

/// Runs the node beside what feeds it, until it ends or the lease is lost.
///
/// # Errors
/// The lease is lost for good, or the dataplane that was asked for cannot be attached.
pub(super) async fn serve(agent: &Agent, begun: Begun) -> Result<Outcome> {
    let Agent {
        config,
        store,
        timing,
        notifier,
        phase,
        end,
    } = agent;
    let Begun {
        network,
        external,
        state,
        wish,
        leases: known,
        lease,
        rules,
        spec,
        pod_mtu,
        mut node,
        netlink,
        monitor,
    } = begun;
    let (changes, leases) = mpsc::channel(LEASE_QUEUE);
    let (request, requests) = mpsc::channel(REQUEST_QUEUE);
    let (ready, is_ready) = oneshot::channel();
    let (became_ready, ready_flag) = watch::channel(false);
    let (term, lease_term) = watch::channel(lease.term);
    let (view, lease_view) = watch::channel(LeaseView {
        subnet: spec.subnet,
        problem: None,
    });
    let (notice, network_notice) = watch::channel(None);
    let (own_subnet, subnet) = watch::channel(spec.subnet);
    let (moved, has_moved) = watch::channel(false);
    let (became_ebpf, is_ebpf) = watch::channel(false);
    let (fast_path_switch, fast_path_requests) = mpsc::channel(REQUEST_QUEUE);
    let (fast_path_told, fast_path_status) = watch::channel(status::FastPath::default());
    let (health, store_health) = watch::channel(status::Store {
        endpoints: store.endpoints(),
        ..status::Store::default()
    });
    let programs = node.programs();
    phase.send_replace(Phase::Running(Box::new(StatusSource {
        started: Instant::now(),
        ready: ready_flag,
        spec: spec.clone(),
        lease: lease_view,
        notice: network_notice,
        term: lease_term,
        store: store_health,
        rules: rules.problems(),
        node: request,
        fast_path: fast_path_status,
        fast_path_switch,
    })));

    let fallback = match config.datapath {
        DatapathMode::Ebpf => Fallback::Refuse,
        DatapathMode::Auto | DatapathMode::Kernel => Fallback::Kernel,
    };
    let inputs = Inputs {
        leases,
        monitor,
        requests,
        subnet: subnet.clone(),
        ready,
        moved,
        is_ebpf: became_ebpf,
    };
    let fast_path = FastPath::new(
        fast_path::Spec {
            dataplane: datapath::options(config),
            mode: config.fast_path,
            bound: config.fast_path_bound,
            external: spec.external.clone(),
            device: state.device.as_ref().map(|device| device.name.clone()),
            run_dir: config.run_dir.clone(),
        },
        // The kernel makes one dump at a time for a socket.
        Netlink::open()?,
    );
    let fast_path_inputs = fast_path::run::Inputs {
        subnet: subnet.clone(),
        is_ebpf,
        requests: fast_path_requests,
        status: fast_path_told,
    };
    let holder = Holder {
        store,
        network: &network,
        wish: &wish,
        timing,
        on_loss: config.on_lease_loss,
        term: &term,
    };
    let follow_lease = |event: LeaseEvent<'_>| match event {
        LeaseEvent::Lost(loss) => view.send_modify(|view| {
            view.problem = Some(format!("{loss}, acquiring a lease again"));
        }),
        LeaseEvent::Held(lease) => {
            let subnet = lease.subnet.v4;
            own_subnet.send_if_modified(|own| std::mem::replace(own, subnet) != subnet);
            let written = write_subnet_file(config, spec.network, lease, pod_mtu);
            let problem = written.err().map(|error| format!("{error:#}"));
            view.send_replace(LeaseView { subnet, problem });
        }
    };
    let mut rng = StdRng::from_os_rng();
    let announce = async {
        if is_ready.await.is_ok() {
            earlier::remove_unused(config, &netlink, state, programs).await;
            became_ready.send_replace(true);
            notifier.ready();
            let phase = phase.borrow().clone();
            if let Ok(status) = phase.status().await {
                notifier.status(&summary(&status));
            }
            info!("ready");
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        result = node::run::run(&mut node, inputs, fallback, end.clone()) => result?,
        held = holder.hold(lease, &mut rng, follow_lease, end) => held?,
        () = watch_network(store, &network, timing, &notice, end) => {}
        () = watch_leases(store, timing, Some(known), changes, health, end) => {}
        () = external::moved(config, &network.backend, &external, has_moved) => return Ok(Outcome::Again),
        never = fast_path::run::run(fast_path, fast_path_inputs) => match never {},
        never = keep_rules(rules, config.rules.resync, subnet) => match never {},
        never = announce => match never {},
    }
    Ok(Outcome::End)
}

/// Keeps the traffic rules for the own subnet as it is.
async fn keep_rules(
    mut rules: Rules,
    period: Duration,
    mut subnet: watch::Receiver<Ipv4Network>,
) -> Infallible {
    loop {
        tokio::select! {
            never = rules.keep(period) => match never {},
            Ok(()) = subnet.changed() => {}
        }
        let subnet = *subnet.borrow_and_update();
        rules.set_subnet(subnet).await;
    }
}
