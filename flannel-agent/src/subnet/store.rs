//! The connection to etcd: calls with deadlines over several endpoints, and raw keys.
//!
//! One lazy client per endpoint. A call that an endpoint does not answer goes to the next one at
//! once, and the one that answered is asked first from then on; etcd-client's own balancing would
//! keep handing calls to a dead member (flannel's default endpoints contain one).
//! A call may therefore be executed twice: every write here is a transaction that compares.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, Identity, KeyValue, TlsOptions,
};
use thiserror::Error;
use tokio::sync::Mutex;
use tracing::warn;

use crate::config::{Credentials, EtcdConfig, TlsFiles};

/// How long a call may take at one endpoint.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection is probed when nothing was heard for so long, and dead after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Answers may be larger than gRPC's 4 MiB: 65 536 leases are some 16 MiB.
const ANSWER_LIMIT: usize = 256 << 20;

/// Where distributions keep the certificates of public authorities.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// gRPC codes (tonic's type is not re-exported): deadline exceeded, internal, unavailable, unknown.
const TRANSIENT_CODES: [i32; 4] = [4, 13, 14, 2];

/// The store cannot be set up from the settings.
#[derive(Debug, Error)]
pub enum SetupError {
    /// A certificate file cannot be read.
    #[error("{flag}: read {}: {source}", path.display())]
    File {
        /// Flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// The client library refuses an endpoint or a certificate.
    #[error("{endpoint}: {reason}")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// What the library says.
        reason: String,
    },
}

/// A call failed.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// No endpoint answered; trying again later makes sense.
    #[error("{operation}: etcd does not answer: {reasons}")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// Each endpoint with what happened there.
        reasons: String,
    },
    /// etcd answered with a refusal.
    #[error("{operation}: {endpoint} refuses: {reason}")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// Who refused.
        endpoint: String,
        /// What it says.
        reason: String,
    },
}

/// A key with its value, as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The part of the key after the listed prefix.
    pub(crate) name: String,
    /// The value.
    pub(crate) value: Vec<u8>,
    /// Revision of the last write.
    pub(crate) mod_revision: i64,
    /// etcd lease; 0 for a key that does not expire.
    pub(crate) lease: i64,
}

/// All keys below a prefix at one revision.
#[derive(Debug, Clone)]
pub struct Listing {
    pub(crate) records: Vec<Record>,
    pub(crate) revision: i64,
}

/// The lease store. Clones share the connections.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    members: Vec<Member>,
    options: ConnectOptions,
    credentials: Option<Credentials>,
    /// Whether it has been said that etcd asks for no credentials.
    is_told: AtomicBool,
    /// Member that answered last.
    current: AtomicUsize,
    prefix: String,
}

struct Member {
    endpoint: String,
    client: Mutex<Option<Client>>,
}

impl Store {
    /// A store for these settings. Certificates are read; nothing is dialled.
    ///
    /// # Errors
    /// A certificate file cannot be read.
    pub fn new(config: &EtcdConfig) -> Result<Self, SetupError> {
        let EtcdConfig {
            endpoints,
            prefix,
            tls,
            credentials,
        } = config;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if endpoints.iter().any(|endpoint| endpoint.wants_tls()) {
            options = options.with_tls(tls_options(tls)?);
        }
        let member = |endpoint: &crate::config::Endpoint| Member {
            endpoint: endpoint.to_string(),
            client: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                members: endpoints.iter().map(member).collect(),
                options,
                credentials: credentials.clone(),
                is_told: AtomicBool::new(false),
                current: AtomicUsize::new(0),
                prefix: prefix.clone(),
            }),
        })
    }

    /// Endpoints as configured.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        let members = self.inner.members.iter();
        members.map(|member| member.endpoint.clone()).collect()
    }

    /// Key of the network config.
    #[must_use]
    pub fn config_key(&self) -> String {
        format!("{}/config", self.inner.prefix)
    }

    /// Prefix of all lease keys, with its slash.
    #[must_use]
    pub fn lease_prefix(&self) -> String {
        format!("{}/subnets/", self.inner.prefix)
    }

    /// Makes a call at the first endpoint that answers.
    pub(crate) async fn call<T, F>(
        &self,
        operation: &'static str,
        call: impl Fn(Client) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let Inner {
            members, current, ..
        } = &*self.inner;
        let first = current.load(Ordering::Relaxed);
        let mut reasons = Vec::new();
        for n in 0..members.len() {
            let index = (first + n) % members.len();
            let member = &members[index];
            let attempt = async {
                match call(self.client(member).await?).await {
                    // Somebody has switched it on or off since the connection was made.
                    Err(error) if is_of_authentication(&error) => {
                        *member.client.lock().await = None;
                        call(self.client(member).await?).await
                    }
                    answer => answer,
                }
            };
            let endpoint = &member.endpoint;
            match tokio::time::timeout(CALL_TIMEOUT, attempt).await {
                Ok(Ok(answer)) => {
                    current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error)) if is_transient(&error) => {
                    reasons.push(format!("{endpoint}: {}", reason(&error)));
                }
                Ok(Err(error)) => {
                    return Err(StoreError::Refused {
                        operation,
                        endpoint: endpoint.clone(),
                        reason: reason(&error),
                    });
                }
                Err(_) => {
                    let secs = CALL_TIMEOUT.as_secs();
                    reasons.push(format!("{endpoint}: no answer within {secs} s"));
                }
            }
        }
        Err(StoreError::Unavailable {
            operation,
            reasons: reasons.join(", "),
        })
    }

    /// The connection to a member, made if there is none.
    async fn client(&self, member: &Member) -> Result<Client, etcd_client::Error> {
        let mut client = member.client.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let made = self.connect(member).await?;
        *client = Some(made.clone());
        Ok(made)
    }

    /// Connects with the credentials, if there are any and etcd asks for them: they are given to nodes
    /// before it does.
    async fn connect(&self, member: &Member) -> Result<Client, etcd_client::Error> {
        let Inner {
            options,
            credentials,
            is_told,
            ..
        } = &*self.inner;
        let connect = |options| Client::connect([&member.endpoint], Some(options));
        let Some(Credentials { user, password }) = credentials else {
            return connect(options.clone()).await;
        };
        let with_user = options.clone().with_user(user, password);
        match connect(with_user.with_auto_token_refresh(true)).await {
            Err(error) if is_of_authentication(&error) => {
                if !is_told.swap(true, Ordering::Relaxed) {
                    let reason = reason(&error);
                    warn!(user, reason, "connecting without the credentials");
                }
                connect(options.clone()).await
            }
            answer => {
                is_told.store(false, Ordering::Relaxed);
                answer
            }
        }
    }

    /// One key, if it exists, and the revision at which it was read.
    pub(crate) async fn get(
        &self,
        operation: &'static str,
        key: &str,
    ) -> Result<(Option<Record>, i64), StoreError> {
        let (records, revision) = self.read(operation, key, GetOptions::new()).await?;
        Ok((records.into_iter().next(), revision))
    }

    /// All keys under a prefix, and the revision at which they were read. Names are relative.
    pub(crate) async fn list(
        &self,
        operation: &'static str,
        prefix: &str,
    ) -> Result<(Vec<Record>, i64), StoreError> {
        self.read(operation, prefix, GetOptions::new().with_prefix())
            .await
    }

    async fn read(
        &self,
        operation: &'static str,
        key: &str,
        options: GetOptions,
    ) -> Result<(Vec<Record>, i64), StoreError> {
        let call = |client: Client| {
            let mut kv = client.kv_client().max_decoding_message_size(ANSWER_LIMIT);
            let options = options.clone();
            async move { kv.get(key, Some(options)).await }
        };
        let answer = self.call(operation, call).await?;
        let revision = answer.header().map_or(0, |header| header.revision());
        let record = |kv: &KeyValue| Record::new(kv, key);
        Ok((answer.kvs().iter().map(record).collect(), revision))
    }
}

impl Record {
    /// A record whose name is relative to `prefix`.
    pub(crate) fn new(kv: &KeyValue, prefix: &str) -> Self {
        let key = String::from_utf8_lossy(kv.key());
        Self {
            name: key.strip_prefix(prefix).unwrap_or(&key).to_owned(),
            value: kv.value().to_vec(),
            mod_revision: kv.mod_revision(),
            lease: kv.lease(),
        }
    }
}

fn tls_options(files: &TlsFiles) -> Result<TlsOptions, SetupError> {
    let read = |flag, path: &Path| {
        std::fs::read(path).map_err(|source| SetupError::File {
            flag,
            path: path.to_owned(),
            source,
        })
    };
    let mut options = TlsOptions::new();
    let authorities = match &files.ca {
        Some(path) => Some(read("--etcd-cafile", path)?),
        None => SYSTEM_AUTHORITIES
            .iter()
            .find_map(|path| std::fs::read(path).ok()),
    };
    if let Some(pem) = authorities {
        options = options.ca_certificate(Certificate::from_pem(pem));
    }
    if let Some((cert, key)) = &files.identity {
        let cert = read("--etcd-certfile", cert)?;
        let key = read("--etcd-keyfile", key)?;
        options = options.identity(Identity::from_pem(cert, key));
    }
    Ok(options)
}

/// Whether another endpoint, or a later moment, may do better.
fn is_transient(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => TRANSIENT_CODES.contains(&(status.code() as i32)),
        etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => true,
        _ => false,
    }
}

/// Whether etcd asks for no credentials where some are given, or the other way round.
fn is_of_authentication(error: &etcd_client::Error) -> bool {
    /// As etcd words it (api/v3rpc/rpctypes/error.go); a wrong password is none of these.
    const WORDS: [&str; 3] = [
        "authentication is not enabled",
        "user name is empty",
        "invalid auth token",
    ];
    let etcd_client::Error::GRpcStatus(status) = error else {
        return false;
    };
    WORDS.iter().any(|words| status.message().contains(words))
}

/// The part of an error that tells an operator most: the innermost cause.
pub(crate) fn reason(error: &etcd_client::Error) -> String {
    fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
        let mut error = error;
        while let Some(source) = error.source() {
            error = source;
        }
        error.to_string()
    }
    match error {
        etcd_client::Error::GRpcStatus(status) => match std::error::Error::source(status) {
            Some(source) => innermost(source),
            None => status.message().to_owned(),
        },
        etcd_client::Error::TransportError(error) => innermost(error),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;

    fn config(endpoint: &str, tls: TlsFiles) -> EtcdConfig {
        EtcdConfig {
            endpoints: vec![Endpoint::for_tests(endpoint)],
            prefix: "/coreos.com/network".into(),
            tls,
            credentials: None,
        }
    }

    #[test]
    fn keys_are_under_the_prefix() {
        let store = Store::new(&config("http://127.0.0.1:1", TlsFiles::default())).unwrap();
        assert_eq!(store.config_key(), "/coreos.com/network/config");
        assert_eq!(store.lease_prefix(), "/coreos.com/network/subnets/");
    }

    #[test]
    fn a_missing_certificate_file_is_named_with_its_flag() {
        let tls = TlsFiles {
            ca: Some("/nonexistent/ca.pem".into()),
            identity: None,
        };
        let error = Store::new(&config("https://127.0.0.1:1", tls)).map(|_| ());
        let error = error.unwrap_err().to_string();
        assert!(
            error.starts_with("--etcd-cafile: read /nonexistent/ca.pem: "),
            "{error}"
        );
    }

    #[tokio::test]
    async fn nobody_listening_is_told_with_the_endpoint_and_the_reason() {
        let store = Store::new(&config("http://127.0.0.1:1", TlsFiles::default())).unwrap();
        let error = store
            .get("read config", "/x")
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("http://127.0.0.1:1: Connection refused"),
            "{error}"
        );
    }
}
