//! Serving clients that connect, so that none of them can hold up the others or the agent.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// After a client could not be accepted, for want of descriptors for example: do not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// What clients are allowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// What they connect to, for the log.
    pub(crate) place: &'static str,
    /// How many are served at once; more are turned away.
    pub(crate) at_once: usize,
    /// How long each may take.
    pub(crate) patience: Duration,
}

/// Accepts clients and serves them beside each other until cancellation, which ends them too.
pub(crate) async fn serve_clients<S, A, F, E>(
    limits: Limits,
    accept: impl Fn() -> A,
    serve: impl Fn(S) -> F,
    cancel: &CancellationToken,
) where
    A: Future<Output = io::Result<S>>,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Display + Send,
{
    let Limits {
        place,
        at_once,
        patience,
    } = limits;
    let slots = Arc::new(Semaphore::new(at_once));
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = accept() => accepted,
        };
        // Reaps what is done.
        while clients.try_join_next().is_some() {}
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                warn!(%error, place, "a client is lost");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            debug!(place, "too many clients");
            continue;
        };
        let served = serve(stream);
        clients.spawn(async move {
            let _slot = slot;
            match timeout(patience, served).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, place, "a client went away"),
                Err(_) => debug!(place, "a client says nothing"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use tokio::sync::{Mutex, mpsc, oneshot};

    use super::*;

    const LIMITS: Limits = Limits {
        place: "test",
        at_once: 2,
        patience: Duration::from_millis(300),
    };

    /// A client is told when it was served; whoever is turned away or given up hears nothing.
    struct Client {
        is_silent: bool,
        told: oneshot::Sender<()>,
    }

    #[tokio::test]
    async fn silent_clients_cost_their_slots_for_a_while_and_no_more() {
        let (door, clients) = mpsc::unbounded_channel();
        let clients = Mutex::new(clients);
        let accept = || async {
            clients
                .lock()
                .await
                .recv()
                .await
                .ok_or(io::ErrorKind::Other.into())
        };
        let serve = |client: Client| async move {
            if client.is_silent {
                pending::<()>().await;
            }
            let _ = client.told.send(());
            Ok::<_, io::Error>(())
        };
        let come = |is_silent| {
            let (told, hears) = oneshot::channel();
            door.send(Client { is_silent, told }).unwrap();
            hears
        };
        let cancel = CancellationToken::new();
        let test = async {
            let mut silent = [come(true), come(true)];
            assert!(come(false).await.is_err(), "turned away");
            let still_there = |hears: &mut oneshot::Receiver<()>| {
                hears.try_recv() == Err(oneshot::error::TryRecvError::Empty)
            };
            assert!(silent.iter_mut().all(still_there));
            for hears in silent {
                assert!(hears.await.is_err(), "given up");
            }
            assert!(come(false).await.is_ok(), "served");
            let late = come(true);
            assert!(come(false).await.is_ok(), "served beside a silent one");
            cancel.cancel();
            assert!(late.await.is_err(), "ended by cancellation");
        };
        tokio::join!(serve_clients(LIMITS, accept, serve, &cancel), test);
    }

    #[tokio::test]
    async fn a_listener_that_fails_does_not_spin() {
        let cancel = CancellationToken::new();
        let tries = Cell::new(0);
        let accept = || {
            tries.set(tries.get() + 1);
            std::future::ready(Err::<(), _>(io::ErrorKind::Other.into()))
        };
        let serve = |()| async { Ok::<_, io::Error>(()) };
        let served = serve_clients(LIMITS, accept, serve, &cancel);
        assert!(timeout(3 * PAUSE + PAUSE / 2, served).await.is_err());
        assert!((1..=4).contains(&tries.get()), "{}", tries.get());
    }
}
