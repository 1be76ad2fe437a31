//! What the subcommands need from the host, as data, and finding out what is missing.

use std::env;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::env as places;
use crate::toolchain::{self, Toolchain, Way};
use crate::{install, linker, stock};

/// What for something is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Compiling the BPF programs.
    BpfBuild,
    /// Compiling the agent and the tests.
    AgentBuild,
    /// Running the demo and the tests.
    Run,
    /// Running the tests with Docker and CNI, besides [`Need::Run`].
    Containers,
    /// Running the tests with stock flannel, besides [`Need::Run`].
    Stock,
}

/// Something that must be on the host.
struct Tool {
    name: &'static str,
    /// Ends the sentence "is needed because it …".
    why: &'static str,
    needs: &'static [Need],
    found: Found,
    remedy: Remedy,
}

/// What is done where a tool is missing.
#[derive(Clone, Copy)]
enum Remedy {
    /// Debian's packages are installed.
    Install(&'static [&'static str]),
    /// Debian's packages are unpacked: installed they would start services on the host, or take
    /// the place of another package.
    Unpack(&'static Bundle),
    /// It depends on a version; [`survey`] knows it.
    Build,
    /// It is built from its sources.
    BuildStock,
}

/// Packages that are unpacked into a folder of ours.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bundle {
    /// Name of the folder under `target/tools`.
    pub(crate) folder: &'static str,
    pub(crate) packages: &'static [&'static str],
    /// Programs that must be in it, by their path.
    pub(crate) programs: &'static [&'static str],
}

static ETCD: Bundle = Bundle {
    folder: "etcd",
    packages: &["etcd-server", "etcd-client"],
    programs: &["usr/bin/etcd", "usr/bin/etcdctl"],
};

static DOCKER: Bundle = Bundle {
    folder: "docker",
    packages: &["docker.io", "containerd", "runc", "tini"],
    programs: &[
        "usr/bin/docker",
        "usr/sbin/dockerd",
        "usr/bin/containerd",
        "usr/sbin/runc",
    ],
};

static BUSYBOX: Bundle = Bundle {
    folder: "busybox",
    packages: &["busybox-static"],
    programs: &["bin/busybox"],
};

static CNI: Bundle = Bundle {
    folder: "cni",
    packages: &["containernetworking-plugins"],
    programs: &["usr/lib/cni/bridge", "usr/lib/cni/host-local"],
};

/// Plugins that the tests drive.
const CNI_PLUGINS: [&str; 4] = ["bridge", "host-local", "portmap", "ptp"];

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
    /// A program on the search path that needs no library: it will run in an empty container.
    Static(&'static str),
    /// This library, where the dynamic linker looks.
    Library(&'static str),
    /// CNI's plugins, in a folder that is not on the search path.
    CniPlugins,
    /// Stock flannel's programs, in a folder of their own.
    Stock,
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "C compiler",
        why: "links every host program, and compiles the C in some crates",
        needs: &[Need::BpfBuild, Need::AgentBuild],
        found: Found::Programs(&["cc", "gcc"]),
        remedy: Remedy::Install(&["build-essential"]),
    },
    Tool {
        name: "BPF core",
        why: "is a compiler's core library for the BPF target",
        needs: &[Need::BpfBuild],
        found: Found::Compiler,
        remedy: Remedy::Install(&["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"]),
    },
    Tool {
        name: "bpf-linker",
        why: "turns the compiler's bitcode into a BPF object",
        needs: &[Need::BpfBuild],
        found: Found::Linker,
        remedy: Remedy::Build,
    },
    Tool {
        name: "protoc",
        why: "generates the etcd client's messages",
        needs: &[Need::AgentBuild],
        found: Found::Protobuf,
        remedy: Remedy::Install(&["protobuf-compiler", "libprotobuf-dev"]),
    },
    Tool {
        name: "etcd",
        why: "holds the leases",
        needs: &[Need::Run],
        found: Found::Programs(&["etcd", "etcdctl"]),
        remedy: Remedy::Unpack(&ETCD),
    },
    Tool {
        name: "iproute2",
        why: "builds the network namespaces of demo and tests",
        needs: &[Need::Run],
        found: Found::Programs(&["ip", "tc"]),
        remedy: Remedy::Install(&["iproute2"]),
    },
    Tool {
        name: "iperf3",
        why: "makes and measures streams",
        needs: &[Need::Run],
        found: Found::Programs(&["iperf3"]),
        remedy: Remedy::Install(&["iperf3"]),
    },
    Tool {
        name: "bpftool",
        why: "shows programs and maps",
        needs: &[Need::Run],
        found: Found::Programs(&["bpftool"]),
        remedy: Remedy::Install(&["bpftool"]),
    },
    Tool {
        name: "nft",
        why: "sets and shows firewall rules",
        needs: &[Need::Run],
        found: Found::Programs(&["nft"]),
        remedy: Remedy::Install(&["nftables"]),
    },
    Tool {
        name: "iptables",
        why: "sets firewall rules as Docker and stock flannel do, of both kinds",
        needs: &[Need::Run],
        found: Found::Programs(&["iptables-nft", "iptables-legacy"]),
        remedy: Remedy::Install(&["iptables"]),
    },
    Tool {
        name: "ethtool",
        why: "switches offloads on and off",
        needs: &[Need::Run],
        found: Found::Programs(&["ethtool"]),
        remedy: Remedy::Install(&["ethtool"]),
    },
    Tool {
        name: "tcpdump",
        why: "shows what is on the wire",
        needs: &[Need::Run],
        found: Found::Programs(&["tcpdump"]),
        remedy: Remedy::Install(&["tcpdump"]),
    },
    Tool {
        name: "openssl",
        why: "makes the certificates of the tests with TLS",
        needs: &[Need::Run],
        found: Found::Programs(&["openssl"]),
        remedy: Remedy::Install(&["openssl"]),
    },
    Tool {
        name: "ping",
        why: "sends the first packets",
        needs: &[Need::Run],
        found: Found::Programs(&["ping"]),
        remedy: Remedy::Install(&["iputils-ping"]),
    },
    Tool {
        name: "nsenter",
        why: "enters a pod or a host of the demo",
        needs: &[Need::Run],
        found: Found::Programs(&["nsenter"]),
        remedy: Remedy::Install(&["util-linux"]),
    },
    Tool {
        name: "unshare",
        why: "gives a machine with Docker its own processes and mounts",
        needs: &[Need::Containers],
        found: Found::Programs(&["unshare"]),
        remedy: Remedy::Install(&["util-linux"]),
    },
    Tool {
        name: "libdevmapper",
        why: "is linked by Debian's dockerd",
        needs: &[Need::Containers],
        found: Found::Library("libdevmapper.so.1.02.1"),
        remedy: Remedy::Install(&["libdevmapper1.02.1"]),
    },
    Tool {
        name: "docker",
        why: "runs containers on the overlay",
        needs: &[Need::Containers],
        found: Found::Programs(&["docker", "dockerd", "docker-init", "containerd", "runc"]),
        remedy: Remedy::Unpack(&DOCKER),
    },
    Tool {
        name: "busybox",
        why: "is what runs in the containers",
        needs: &[Need::Containers],
        found: Found::Static("busybox"),
        remedy: Remedy::Unpack(&BUSYBOX),
    },
    Tool {
        name: "CNI plugins",
        why: "attach pods to the overlay",
        needs: &[Need::Containers],
        found: Found::CniPlugins,
        remedy: Remedy::Unpack(&CNI),
    },
    Tool {
        name: "stock flannel",
        why: "shares clusters with ours",
        needs: &[Need::Stock],
        found: Found::Stock,
        remedy: Remedy::BuildStock,
    },
];

/// How a gap is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fix {
    /// Debian packages to install.
    Install(Vec<String>),
    /// Debian packages to unpack under `target/tools`, without their services.
    Unpack(&'static Bundle),
    /// bpf-linker to build against this LLVM.
    BuildLinker(u32),
    /// Stock flannel to build.
    BuildStock,
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
    cni_plugins: Option<PathBuf>,
    stock: Option<PathBuf>,
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

    /// Version of LLVM that the linker must have.
    fn llvm(&self) -> u32 {
        let toolchain = self.toolchain.as_ref();
        toolchain.map_or(toolchain::DEBIAN_LLVM, |t| t.version.llvm)
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
        if let Some(folder) = &self.cni_plugins {
            command.env("CNI_PATH", folder);
        }
        if let Some(folder) = &self.stock {
            command.env("FLANNEL_STOCK", folder);
        }
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
            remedy,
        } = *tool;
        let is_there = match found {
            Found::Programs(programs) => have(programs),
            Found::Static(program) => {
                places::find_program(program).is_some_and(|file| is_static(&file))
            }
            Found::Library(library) => has_library(library),
            Found::CniPlugins => {
                tools.cni_plugins = find_cni_plugins();
                tools.cni_plugins.is_some()
            }
            Found::Stock => {
                tools.stock = stock::find();
                tools.stock.is_some()
            }
            Found::Protobuf => {
                tools.protoc = find_protoc();
                tools.protoc.is_some()
            }
            Found::Compiler => {
                let compiler = toolchain::find(way);
                // Debian's packages would not help who asked for another compiler.
                if compiler.is_err() && toolchain::is_chosen_by_caller(way) {
                    return compiler.map(|_| (tools, gaps));
                }
                tools.toolchain = compiler.ok();
                tools.toolchain.is_some()
            }
            Found::Linker => {
                tools.linker = linker::find(tools.llvm());
                tools.linker.is_some()
            }
        };
        if is_there {
            continue;
        }
        let fix = match remedy {
            Remedy::Install(packages) => {
                Fix::Install(packages.iter().map(|&package| package.to_owned()).collect())
            }
            Remedy::Unpack(bundle) => Fix::Unpack(bundle),
            Remedy::BuildStock => Fix::BuildStock,
            Remedy::Build => {
                let llvm = tools.llvm();
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

/// Whether `file` names no dynamic linker: an ELF file does that within its first page.
fn is_static(file: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(file).and_then(|file| file.take(4096).read_to_end(&mut head));
    let names_linker = || head.windows(4).any(|octets| octets == b"/ld-");
    read.is_ok() && head.starts_with(b"\x7fELF") && !names_linker()
}

fn has_library(name: &str) -> bool {
    let output = places::find_program("ldconfig")
        .and_then(|ldconfig| Command::new(ldconfig).arg("--print-cache").output().ok());
    output.is_some_and(|output| {
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .any(|line| line.trim_start().starts_with(name))
    })
}

/// Ours, or where the distributions have them.
fn find_cni_plugins() -> Option<PathBuf> {
    let ours = places::tools_dir().join("cni/usr/lib/cni");
    let theirs = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];
    [ours]
        .into_iter()
        .chain(theirs.map(PathBuf::from))
        .find(|folder| {
            CNI_PLUGINS
                .iter()
                .all(|plugin| places::is_executable(&folder.join(plugin)))
        })
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
        for need in [
            Need::BpfBuild,
            Need::AgentBuild,
            Need::Run,
            Need::Containers,
            Need::Stock,
        ] {
            assert!(
                TOOLS.iter().any(|tool| tool.needs.contains(&need)),
                "{need:?}"
            );
        }
        for tool in TOOLS {
            let has_remedy = match tool.remedy {
                Remedy::Install(packages) => !packages.is_empty(),
                Remedy::Unpack(bundle) => !bundle.packages.is_empty(),
                Remedy::Build => matches!(tool.found, Found::Linker),
                Remedy::BuildStock => matches!(tool.found, Found::Stock),
            };
            assert!(has_remedy, "{}", tool.name);
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
