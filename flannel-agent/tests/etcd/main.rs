//! The subnet modules against a real etcd (3.4 or later on the path), one server per test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod acquire;
mod connection;
mod hold;
mod keep;
mod node;
mod server;
mod settings;
mod watch;
