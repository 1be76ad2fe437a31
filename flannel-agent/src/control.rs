//! The control socket `<run-dir>/agent.sock`: how `flannel-agent status` asks a running agent.
//!
//! A client sends one line, a [`Request`] such as `{"request":"status"}`, and gets one line of JSON
//! back: a document of [`crate::status`], or `{"error":"…"}`. Only root can connect.
//! The socket also makes sure that one agent runs per run directory: a socket that nobody answers
//! is left over from an agent that died and is replaced.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cli::{DatapathMode, FastPathMode};
use crate::clients::{Limits, serve_clients};

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest request.
const REQUEST_LIMIT: u64 = 4096;

/// Clients that are served at once.
const CLIENTS: usize = 16;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase")]
pub enum Request {
    /// [`crate::status::Status`].
    Status,
    /// The fast path, or none; the answer is the [`crate::status::FastPath`] then in use.
    #[serde(rename = "fast-path")]
    FastPath {
        /// Which.
        mode: FastPathMode,
    },
    /// Another data path; the answer is the [`crate::status::Datapath`] then in use.
    Datapath {
        /// Which one.
        mode: DatapathMode,
    },
}

/// An answer: a line of JSON, or why there is none.
pub type Answer = Result<String, String>;

/// An answer that is no document.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    error: String,
}

/// The control socket cannot be served or asked.
#[derive(Debug, Error)]
pub enum ControlError {
    /// An agent answers on the socket already.
    #[error(
        "another agent runs with this run directory ({} is in use): stop it, or give this one \
         its own --run-dir", path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Nobody answers on the socket.
    #[error(
        "no agent is running here: nobody listens on {} (an agent with another --run-dir has \
         another socket)", path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// A file or socket operation failed.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The socket or its directory.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The agent did not answer in time.
    #[error("the agent does not answer on {}", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
    },
    /// The agent refused, or its answer is not understood.
    #[error("the agent answers: {0}")]
    Answer(String),
}

/// The socket of an agent with this run directory.
#[must_use]
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.sock")
}

/// The listening socket; its file is removed on drop.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Takes the socket of this run directory, which is made if need be.
    ///
    /// # Errors
    /// Another agent answers there, or a file operation failed.
    pub async fn bind(run_dir: &Path) -> Result<Self, ControlError> {
        let path = socket_path(run_dir);
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(run_dir);
        made.map_err(failed("create", run_dir))?;
        match fs::symlink_metadata(&path) {
            Ok(found) if found.file_type().is_socket() => match UnixStream::connect(&path).await {
                Ok(_) => return Err(ControlError::InUse { path }),
                Err(_) => fs::remove_file(&path).map_err(failed("remove", &path))?,
            },
            Ok(_) => {
                let source = io::Error::from(io::ErrorKind::AlreadyExists);
                return Err(failed("listen on", &path)(source));
            }
            Err(_) => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed("listen on", &path))?;
        let only_root = fs::set_permissions(&path, Permissions::from_mode(0o600));
        only_root.map_err(failed("protect", &path))?;
        Ok(Self { listener, path })
    }

    /// Answers requests until cancellation, by what `handle` says.
    pub async fn serve<F>(
        self,
        handle: impl Fn(Request) -> F + Send + Sync + 'static,
        cancel: CancellationToken,
    ) where
        F: Future<Output = Answer> + Send + 'static,
    {
        let handle = Arc::new(handle);
        let limits = Limits {
            place: "control socket",
            at_once: CLIENTS,
            patience: PATIENCE,
        };
        let accept = || async { self.listener.accept().await.map(|(stream, _)| stream) };
        let serve = |stream| {
            let handle = Arc::clone(&handle);
            async move { answer(stream, &*handle).await }
        };
        serve_clients(limits, accept, serve, &cancel).await;
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Nothing is lost if it stays: the next agent replaces it.
        let _ = fs::remove_file(&self.path);
    }
}

async fn answer<F>(stream: UnixStream, handle: &impl Fn(Request) -> F) -> io::Result<()>
where
    F: Future<Output = Answer>,
{
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(REQUEST_LIMIT));
    reader.read_line(&mut line).await?;
    let answered = match serde_json::from_str(&line) {
        Ok(request) => handle(request).await,
        Err(error) => Err(format!("request not understood: {error}")),
    };
    let answer = answered
        .or_else(|error| serde_json::to_string(&Refusal { error }))
        .map_err(io::Error::other)?
        + "\n";
    writer.write_all(answer.as_bytes()).await?;
    writer.shutdown().await
}

/// Asks the agent of this run directory.
///
/// # Errors
/// No agent runs there, it refuses, or it does not answer as expected.
pub async fn request<T: DeserializeOwned>(
    run_dir: &Path,
    request: Request,
) -> Result<T, ControlError> {
    let path = socket_path(run_dir);
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ControlError::NotRunning { path }
                }
                _ => failed("connect to", &path)(error),
            });
        }
    };
    let line = timeout(PATIENCE, exchange(stream, request)).await;
    let line = line.map_err(|_| ControlError::Silent { path: path.clone() })?;
    let line = line.map_err(failed("ask the agent on", &path))?;
    serde_json::from_str(&line).map_err(|error| {
        let refusal: Option<Refusal> = serde_json::from_str(&line).ok();
        let text = refusal.map(|refusal| refusal.error);
        ControlError::Answer(
            text.unwrap_or_else(|| format!("not the document that was asked for: {error}")),
        )
    })
}

async fn exchange(stream: UnixStream, request: Request) -> io::Result<String> {
    let (mut reader, mut writer) = stream.into_split();
    let request = serde_json::to_string(&request).map_err(io::Error::other)? + "\n";
    writer.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    reader.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ControlError {
    let path = path.to_owned();
    move |source| ControlError::Io {
        operation,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Status;
    use crate::status_view::example;

    async fn serve(run_dir: &Path) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        let socket = ControlSocket::bind(run_dir).await.unwrap();
        let cancel = CancellationToken::new();
        let served = socket.serve(
            async |request| {
                assert_eq!(request, Request::Status);
                serde_json::to_string(&example()).map_err(|error| error.to_string())
            },
            cancel.clone(),
        );
        (cancel, tokio::spawn(served))
    }

    #[tokio::test]
    async fn a_running_agent_answers_and_a_stopped_one_is_said_to_be_none() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("flannel");
        let (cancel, task) = serve(&run_dir).await;
        let status = request::<Status>(&run_dir, Request::Status).await.unwrap();
        assert_eq!(status.lease.subnet, "10.5.34.0/24");
        let mode = fs::metadata(socket_path(&run_dir))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        cancel.cancel();
        task.await.unwrap();
        assert!(!socket_path(&run_dir).exists());
        let error = request::<Status>(&run_dir, Request::Status)
            .await
            .unwrap_err();
        assert!(matches!(error, ControlError::NotRunning { .. }), "{error}");
        assert!(error.to_string().contains("agent.sock"), "{error}");
    }

    #[tokio::test]
    async fn one_agent_per_run_directory_and_the_socket_of_a_dead_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        // Dropped without its file being removed, as by a kill.
        drop(std::os::unix::net::UnixListener::bind(socket_path(dir.path())).unwrap());
        let (_cancel, _task) = serve(dir.path()).await;
        let second = ControlSocket::bind(dir.path()).await.unwrap_err();
        assert!(matches!(second, ControlError::InUse { .. }), "{second}");
        assert!(request::<Status>(dir.path(), Request::Status).await.is_ok());
    }

    #[tokio::test]
    async fn an_unknown_request_is_answered_with_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (_cancel, _task) = serve(dir.path()).await;
        let mut stream = UnixStream::connect(socket_path(dir.path())).await.unwrap();
        stream
            .write_all(b"{\"request\":\"dance\"}\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with(r#"{"error":"request not understood"#),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(socket_path(dir.path()), "mine").unwrap();
        let error = ControlSocket::bind(dir.path()).await.unwrap_err();
        assert!(matches!(error, ControlError::Io { .. }), "{error}");
        assert_eq!(fs::read(socket_path(dir.path())).unwrap(), b"mine");
    }
}
