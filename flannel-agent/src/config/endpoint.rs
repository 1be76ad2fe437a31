//! One etcd endpoint: `http://host:port`, `https://host:port`, or `host:port`.

use std::fmt;

/// Where an etcd member listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    is_tls: Option<bool>,
    authority: String,
}

impl Endpoint {
    /// Reads an endpoint; the error says what would be right.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let example = "http://127.0.0.1:2379";
        let (is_tls, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(false), rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some(true), rest),
            Some((scheme, _)) => {
                return Err(format!(
                    "scheme {scheme} is not known: http:// or https:// is expected"
                ));
            }
            None => (None, text),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err("user and password go into --etcd-username and --etcd-password".into());
        }
        if authority.contains(['/', '?', '#']) {
            return Err(format!("nothing may follow the port, as in {example}"));
        }
        let (host, port) = split_port(authority);
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(format!("a URL such as {example} is expected"));
        }
        let port_fits = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
        match port {
            Some(port) if !port_fits(port) => {
                return Err(format!("port {port} is not a number from 1 to 65535"));
            }
            None if is_tls.is_none() => return Err(format!("a port is missing, as in {example}")),
            _ => {}
        }
        Ok(Self {
            is_tls,
            authority: authority.to_owned(),
        })
    }

    /// Whether the endpoint wants TLS; unknown when it came without a scheme.
    pub(super) fn is_tls(&self) -> Option<bool> {
        self.is_tls
    }

    pub(super) fn set_tls(&mut self, is_tls: bool) {
        self.is_tls = Some(is_tls);
    }

    /// Whether connections are made with TLS.
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.is_tls == Some(true)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.wants_tls() { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

/// Host (IPv6 in brackets) and port.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let after_bracket = authority.rfind(']').unwrap_or(0);
    match authority.rfind(':').filter(|colon| *colon >= after_bracket) {
        Some(colon) => (&authority[..colon], Some(&authority[colon + 1..])),
        None => (authority, None),
    }
}

#[cfg(test)]
impl Endpoint {
    pub(crate) fn for_tests(text: &str) -> Self {
        Self::parse(text).unwrap()
    }
}
