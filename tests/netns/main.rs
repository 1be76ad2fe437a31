//! Ring "netns": kernel objects, each test in namespaces and on a bpffs of its own.

mod attach;
mod pins;
mod place;
