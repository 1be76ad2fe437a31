//! The health endpoints: `/healthz` tells that the process lives, `/readyz` whether the node works.
//!
//! Paths, codes and the text of success are flannel's. Unlike there the answer is the truth of the
//! moment, from the same source as `flannel-agent status`, and a failure says what is wrong. With
//! `?verbose`, `?json` or `Accept: application/json` the answer is a document.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clients::{Limits, serve_clients};
use crate::status::Status;

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the node may take to answer before it counts as not ready.
const ANSWER: Duration = Duration::from_secs(5);
/// Clients that are served at once.
const CLIENTS: usize = 64;

/// The endpoints cannot be offered.
#[derive(Debug, Error)]
#[error(
    "--healthz-ip={}, --healthz-port={}: cannot listen there; an address of this host and a port \
     that nobody else uses are needed", address.ip(), address.port()
)]
pub struct HealthError {
    address: SocketAddr,
    source: io::Error,
}

/// The listening endpoints.
#[derive(Debug)]
pub struct Health {
    listener: TcpListener,
}

/// What `/readyz` tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Readiness {
    ready: bool,
    problems: Vec<String>,
}

impl Health {
    /// Listens.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn bind(address: SocketAddr) -> Result<Self, HealthError> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| HealthError { address, source })?;
        Ok(Self { listener })
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// As the kernel does.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until cancellation. `status` makes the document, once per question, or says why
    /// there is none.
    pub async fn serve<F>(
        self,
        status: impl Fn() -> F + Send + Sync + 'static,
        cancel: CancellationToken,
    ) where
        F: Future<Output = Result<Status, String>> + Send + 'static,
    {
        let status = Arc::new(status);
        let limits = Limits {
            place: "health endpoints",
            at_once: CLIENTS,
            patience: PATIENCE,
        };
        let accept = || async { self.listener.accept().await.map(|(stream, _)| stream) };
        let serve = |stream| {
            let status = Arc::clone(&status);
            async move {
                let service = service_fn(|request| answer(request, &*status));
                hyper::server::conn::http1::Builder::new()
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service)
                    .await
            }
        };
        serve_clients(limits, accept, serve, &cancel).await;
    }
}

async fn answer<F>(
    request: Request<Incoming>,
    status: &impl Fn() -> F,
) -> Result<Response<Full<Bytes>>, Infallible>
where
    F: Future<Output = Result<Status, String>>,
{
    Ok(match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "flanneld is running"),
        "/readyz" => {
            let status = timeout(ANSWER, status()).await;
            let status = status.unwrap_or_else(|_| Err("the node does not answer".into()));
            let readiness = readiness(status);
            match wants_json(&request) {
                true => readiness.as_json(),
                false => readiness.as_text(),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "/healthz and /readyz are here"),
    })
}

fn readiness(status: Result<Status, String>) -> Readiness {
    match status {
        Ok(Status {
            ready, problems, ..
        }) => Readiness { ready, problems },
        Err(problem) => Readiness {
            ready: false,
            problems: vec![problem],
        },
    }
}

fn wants_json(request: &Request<Incoming>) -> bool {
    let mut parts = request.uri().query().unwrap_or_default().split('&');
    let is_asked =
        parts.any(|part| ["verbose", "json"].contains(&part.split('=').next().unwrap_or("")));
    let accept = request.headers().get(ACCEPT).map(HeaderValue::as_bytes);
    let accept = String::from_utf8_lossy(accept.unwrap_or_default()).to_lowercase();
    is_asked || accept.contains("application/json")
}

impl Readiness {
    fn code(&self) -> StatusCode {
        match self.ready {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn as_text(&self) -> Response<Full<Bytes>> {
        match (self.ready, self.problems.first()) {
            (true, _) => text(self.code(), "flanneld is ready"),
            (false, None) => text(self.code(), "flanneld is not ready yet"),
            (false, Some(problem)) => {
                text(self.code(), format!("flanneld is not ready yet: {problem}"))
            }
        }
    }

    fn as_json(&self) -> Response<Full<Bytes>> {
        // Strings and a boolean can always be written.
        let document = serde_json::to_string(self).unwrap_or_default() + "\n";
        let mut response = text(self.code(), document);
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::watch;

    use super::*;
    use crate::status_view::example;

    /// Endpoints that answer with what the sender holds.
    async fn serve() -> (
        SocketAddr,
        watch::Sender<Result<Status, String>>,
        CancellationToken,
    ) {
        let health = Health::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = health.address().unwrap();
        let (sender, status) = watch::channel(Err("starting: waiting for a lease".to_owned()));
        let cancel = CancellationToken::new();
        let answer = move || std::future::ready(status.borrow().clone());
        tokio::spawn(health.serve(answer, cancel.clone()));
        (address, sender, cancel)
    }

    async fn get(address: SocketAddr, target: &str, header: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (code, body.to_owned())
    }

    #[tokio::test]
    async fn paths_codes_and_bodies_are_those_of_flannel() {
        let (address, status, _cancel) = serve().await;
        let ask = async |target| get(address, target, "").await;
        assert_eq!(ask("/healthz").await, (200, "flanneld is running".into()));
        let starting = "flanneld is not ready yet: starting: waiting for a lease";
        assert_eq!(ask("/readyz").await, (503, starting.into()));
        status
            .send(Ok(Status {
                ready: true,
                problems: Vec::new(),
                ..example()
            }))
            .unwrap();
        assert_eq!(ask("/readyz").await, (200, "flanneld is ready".into()));
        assert_eq!(ask("/").await.0, 404);
    }

    #[tokio::test]
    async fn a_document_names_all_problems() {
        let (address, status, _cancel) = serve().await;
        status.send(Ok(example())).unwrap();
        let expected =
            "{\"ready\":false,\"problems\":[\"the watch is down\",\"a peer is missing\"]}\n";
        for (target, header) in [
            ("/readyz?verbose", ""),
            ("/readyz?a=b&json=1", ""),
            ("/readyz", "Accept: text/html, Application/JSON\r\n"),
        ] {
            let answer = get(address, target, header).await;
            assert_eq!(answer, (503, expected.into()), "{target} {header}");
        }
    }

    #[tokio::test]
    async fn garbage_and_silence_do_not_keep_others_from_being_served() {
        let (address, _status, _cancel) = serve().await;
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut garbage = TcpStream::connect(address).await.unwrap();
        garbage
            .write_all(b"\x16\x03\x01 not HTTP\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(get(address, "/healthz", "").await.0, 200);
    }

    #[tokio::test]
    async fn an_address_in_use_is_an_error_that_names_it() {
        let (address, _status, cancel) = serve().await;
        let error = Health::bind(address).await.unwrap_err().to_string();
        assert!(
            error.contains(&format!("--healthz-port={}", address.port())),
            "{error}"
        );
        cancel.cancel();
        let free = async {
            while Health::bind(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, free).await.unwrap();
    }
}
