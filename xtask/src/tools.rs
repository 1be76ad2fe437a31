//! What the subcommands need from the host, as data, and finding out what is missing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::env as places;
use crate::toolchain::{self, Toolchain, Way};
use crate::{install, linker};

/// What for something is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Compiling the BPF programs.
    BpfBuild,
    /// Compiling the agent and the tests.
    AgentBuild,
    /// Running the demo and the tests.
    Run,
}

/// Something that must be on the host.
struct Tool {
    name: &'static str,
    /// Ends the sentence "is needed because it …".
    why: &'static str,
    needs: &'static [Need],
    found: Found,
    /// Debian's packages. Where they depend on a version, [`survey`] knows them.
    packages: &'static [&'static str],
}

/// How a tool is found.
#[derive(Clone, Copy)]
enum Found {
    /// Every one of these programs is on the search path.
    Programs(&'static [&'static str]),
    /// protoc, and the well-known types where it looks for them.
    Protobuf,
    /// A compiler with `core` for BPF.
    Compiler,
    /// A bpf-linker that fits the compiler.
    Linker,
    /// etcd and etcdctl; Debian's server package would start a service, so it is only unpacked.
    Etcd,
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "C compiler",
        why: "links every host program, and compiles the C in some crates",
        needs: &[Need::BpfBuild, Need::AgentBuild],
        found: Found::Programs(&["cc", "gcc"]),
        packages: &["build-essential"],
    },
    Tool {
        name: "BPF core",
        why: "is a compiler's core library for the BPF target",
        needs: &[Need::BpfBuild],
        found: Found::Compiler,
        packages: &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"],
    },
    Tool {
        name: "bpf-linker",
        why: "turns the compiler's bitcode into a BPF object",
        needs: &[Need::BpfBuild],
        found: Found::Linker,
        packages: &[],
    },
    Tool {
        name: "protoc",
        why: "generates the etcd client's messages",
        needs: &[Need::AgentBuild],
        found: Found::Protobuf,
        packages: &["protobuf-compiler", "libprotobuf-dev"],
    },
    Tool {
        name: "etcd",
        why: "holds the leases",
        needs: &[Need::Run],
        found: Found::Etcd,
        packages: &["etcd-server", "etcd-client"],
    },
    Tool {
        name: "iproute2",
        why: "builds the network namespaces of demo and tests",
        needs: &[Need::Run],
        found: Found::Programs(&["ip", "tc"]),
        packages: &["iproute2"],
    },
    Tool {
        name: "iperf3",
        why: "makes and measures streams",
        needs: &[Need::Run],
        found: Found::Programs(&["iperf3"]),
        packages: &["iperf3"],
    },
    Tool {
        name: "bpftool",
        why: "shows programs and maps",
        needs: &[Need::Run],
        found: Found::Programs(&["bpftool"]),
        packages: &["bpftool"],
    },
    Tool {
        name: "nft",
        why: "sets and shows firewall rules",
        needs: &[Need::Run],
        found: Found::Programs(&["nft"]),
        packages: &["nftables"],
    },
    Tool {
        name: "iptables",
        why: "sets firewall rules as Docker and stock flannel do, of both kinds",
        needs: &[Need::Run],
        found: Found::Programs(&["iptables-nft", "iptables-legacy"]),
        packages: &["iptables"],
    },
    Tool {
        name: "ethtool",
        why: "switches offloads on and off",
        needs: &[Need::Run],
        found: Found::Programs(&["ethtool"]),
        packages: &["ethtool"],
    },
    Tool {
        name: "tcpdump",
        why: "shows what is on the wire",
        needs: &[Need::Run],
        found: Found::Programs(&["tcpdump"]),
        packages: &["tcpdump"],
    },
    Tool {
        name: "openssl",
        why: "makes the certificates of the tests with TLS",
        needs: &[Need::Run],
        found: Found::Programs(&["openssl"]),
        packages: &["openssl"],
    },
    Tool {
        name: "ping",
        why: "sends the first packets",
        needs: &[Need::Run],
        found: Found::Programs(&["ping"]),
        packages: &["iputils-ping"],
    },
    Tool {
        name: "nsenter",
        why: "enters a pod or a host of the demo",
        needs: &[Need::Run],
        found: Found::Programs(&["nsenter"]),
        packages: &["util-linux"],
    },
];

/// How a gap is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fix {
    /// Debian packages to install.
    Install(Vec<String>),
    /// Debian packages to unpack under `target/tools/etcd`, without their services.
    UnpackEtcd(Vec<String>),
    /// bpf-linker to build against this LLVM.
    BuildLinker(u32),
}

/// Something that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) name: String,
    pub(crate) why: &'static str,
    pub(crate) fix: Fix,
}

/// What was found; the environment of programs we start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tools {
    toolchain: Option<Toolchain>,
    linker: Option<PathBuf>,
    protoc: Option<PathBuf>,
}

impl Tools {
    /// Compiler and linker of the BPF programs, present after [`Need::BpfBuild`].
    pub(crate) fn bpf(&self) -> Result<(&Toolchain, &Path)> {
        let toolchain = self
            .toolchain
            .as_ref()
            .context("no compiler for the BPF programs")?;
        let linker = self.linker.as_deref().context("no bpf-linker")?;
        Ok((toolchain, linker))
    }

    /// Lets a build find protoc. Nothing else is set: cargo would take it for a change.
    pub(crate) fn for_build<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if let Some(protoc) = &self.protoc {
            command.env("PROTOC", protoc);
        }
        command
    }

    /// Lets a program, and what it starts, find the tools.
    pub(crate) fn for_run<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("PATH", places::path_variable())
    }
}

/// Makes sure that what `needs` ask for is there: the part of `setup` for a subcommand.
///
/// Takes about 0.1 s when nothing is missing. What is missing is announced and installed, or the
/// commands to type are in the error.
pub(crate) fn ensure(needs: &[Need]) -> Result<Tools> {
    ensure_with(needs, None)
}

/// [`ensure`] with the choice of the compiler narrowed to `way`.
pub(crate) fn ensure_with(needs: &[Need], way: Option<Way>) -> Result<Tools> {
    let mut tried: Vec<Gap> = Vec::new();
    loop {
        let (tools, gaps) = survey(needs, way)?;
        if let Some(Gap { name, .. }) = gaps.iter().find(|gap| tried.contains(gap)) {
            bail!("{name} is not found after its installation; is its folder on PATH?");
        }
        if gaps.is_empty() {
            return Ok(tools);
        }
        install::describe(&gaps);
        install::close(&gaps)?;
        // Once more: a compiler that came may have another LLVM than the linker was built for.
        tried.extend(gaps);
    }
}

/// What is there and what is missing.
///
/// # Errors
///
/// The compiler that the caller insists on cannot be used.
pub(crate) fn survey(needs: &[Need], way: Option<Way>) -> Result<(Tools, Vec<Gap>)> {
    let mut tools = Tools::default();
    let mut gaps = Vec::new();
    for tool in TOOLS
        .iter()
        .filter(|tool| tool.needs.iter().any(|need| needs.contains(need)))
    {
        let Tool {
            name,
            why,
            needs: _,
            found,
            packages,
        } = *tool;
        let owned = || packages.iter().map(|&package| package.to_owned()).collect();
        let fix = match found {
            Found::Programs(programs) if have(programs) => continue,
            Found::Programs(_) => Fix::Install(owned()),
            Found::Etcd if have(&["etcd", "etcdctl"]) => continue,
            Found::Etcd => Fix::UnpackEtcd(owned()),
            Found::Protobuf => match find_protoc() {
                Some(protoc) => {
                    tools.protoc = Some(protoc);
                    continue;
                }
                None => Fix::Install(owned()),
            },
            Found::Compiler => match toolchain::find(way) {
                Ok(toolchain) => {
                    tools.toolchain = Some(toolchain);
                    continue;
                }
                // Debian's packages would not help who asked for another compiler.
                Err(error) if toolchain::is_chosen_by_caller(way) => return Err(error),
                Err(_) => Fix::Install(owned()),
            },
            Found::Linker => {
                let llvm = tools
                    .toolchain
                    .as_ref()
                    .map_or(toolchain::DEBIAN_LLVM, |t| t.version.llvm);
                tools.linker = linker::find(llvm);
                if tools.linker.is_some() {
                    continue;
                }
                if !linker::has_llvm(llvm) {
                    gaps.push(Gap {
                        name: format!("LLVM {llvm}"),
                        why: "is what bpf-linker is built on",
                        fix: Fix::Install(linker::llvm_packages(llvm)),
                    });
                }
                Fix::BuildLinker(llvm)
            }
        };
        gaps.push(Gap {
            name: name.to_owned(),
            why,
            fix,
        });
    }
    Ok((tools, gaps))
}

fn have(programs: &[&str]) -> bool {
    programs
        .iter()
        .all(|name| places::find_program(name).is_some())
}

/// protoc, if the well-known types are where it looks: `../include` or `PROTOC_INCLUDE`.
fn find_protoc() -> Option<PathBuf> {
    let named = env::var_os("PROTOC")
        .map(PathBuf::from)
        .filter(|file| places::is_executable(file));
    let protoc = named.or_else(|| places::find_program("protoc"))?;
    // A link in /usr/local/bin counts from where it points to.
    let real = protoc.canonicalize().ok()?;
    let beside = real.parent()?.with_file_name("include");
    let includes = env::var_os("PROTOC_INCLUDE")
        .map(PathBuf::from)
        .into_iter()
        .chain([beside]);
    includes
        .map(|folder| folder.join("google/protobuf/timestamp.proto"))
        .any(|file| file.is_file())
        .then_some(protoc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_has_tools_and_every_tool_a_remedy() {
        for need in [Need::BpfBuild, Need::AgentBuild, Need::Run] {
            assert!(
                TOOLS.iter().any(|tool| tool.needs.contains(&need)),
                "{need:?}"
            );
        }
        for tool in TOOLS {
            let is_built = matches!(tool.found, Found::Linker);
            assert!(is_built || !tool.packages.is_empty(), "{}", tool.name);
            assert!(!tool.why.ends_with('.'), "{}", tool.name);
        }
    }

    #[test]
    fn compiler_is_looked_for_before_the_linker_that_depends_on_it() {
        let place = |wanted: fn(&Found) -> bool| TOOLS.iter().position(|tool| wanted(&tool.found));
        let compiler = place(|found| matches!(found, Found::Compiler));
        let linker = place(|found| matches!(found, Found::Linker));
        assert!(compiler.is_some() && compiler < linker);
    }

    #[test]
    fn absent_program_is_missed() {
        assert!(have(&["sh"]));
        assert!(!have(&["sh", "no-such-program-here"]));
    }
}
