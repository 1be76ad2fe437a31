//! Closing gaps: Debian packages, those with services unpacked only, bpf-linker, stock flannel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::toolchain::{self, numbers};
use crate::tools::{Bundle, Fix, Gap};
use crate::{beside, env, linker, progress, stock};

/// Says what is missing, why it is needed and what will be done about it.
pub(crate) fn describe(gaps: &[Gap]) {
    eprintln!("missing:");
    for Gap { name, why, fix } in gaps {
        eprintln!("  {name}, which {why}\n      {}", remedy(fix));
    }
}

fn remedy(fix: &Fix) -> String {
    match fix {
        Fix::Install(packages) => format!("install {} with apt-get", packages.join(" ")),
        Fix::Unpack(bundle) => {
            format!(
                "unpack {} into target/tools/{}; no service is set up",
                bundle.packages.join(" "),
                bundle.folder
            )
        }
        Fix::BuildLinker(llvm) => format!(
            "build bpf-linker {} for LLVM {llvm} into target/tools, about 70 s on two cores",
            linker::VERSION
        ),
        Fix::BuildStock => format!(
            "build flannel {} with Go into target/tools, about three minutes on two cores",
            stock::VERSION
        ),
    }
}

/// Does what [`describe`] announced.
///
/// # Errors
///
/// Where packages are missing and cannot be installed, the message has the commands to type.
pub(crate) fn close(gaps: &[Gap]) -> Result<()> {
    let packages = packages(gaps);
    let host = Host::detect();
    if let Some(instructions) = instructions(host, gaps, &packages) {
        bail!("{instructions}");
    }
    let fetches = gaps
        .iter()
        .any(|gap| matches!(gap.fix, Fix::Install(_) | Fix::Unpack(_)));
    if fetches && host == Host::DebianRoot {
        progress::step("apt-get update", apt_get().arg("update"))?;
    }
    if !packages.is_empty() {
        if packages.iter().any(|package| package == "rustc-web") {
            check_compiler_candidate()?;
        }
        let title = format!("apt-get install {}", packages.join(" "));
        let mut command = apt_get();
        // Removing something of the user's, say rustup or another rustc, is not ours to decide.
        command.args(["install", "--yes", "--no-install-recommends", "--no-remove"]);
        progress::step(&title, command.args(&packages))?;
    }
    for Gap { fix, .. } in gaps {
        match fix {
            Fix::Install(_) => {}
            Fix::Unpack(bundle) => unpack(bundle)?,
            Fix::BuildLinker(llvm) => build_linker(*llvm)?,
            Fix::BuildStock => stock::build()?,
        }
    }
    Ok(())
}

/// All packages to install, each once.
fn packages(gaps: &[Gap]) -> Vec<String> {
    let mut all = Vec::new();
    for gap in gaps {
        if let Fix::Install(packages) = &gap.fix {
            for package in packages {
                if !all.contains(package) {
                    all.push(package.clone());
                }
            }
        }
    }
    all
}

/// What we may do on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    DebianRoot,
    DebianUser,
    Other,
}

impl Host {
    fn detect() -> Self {
        let has_apt = ["apt-get", "dpkg-deb"]
            .iter()
            .all(|name| env::find_program(name).is_some());
        match (has_apt, env::is_root()) {
            (true, true) => Self::DebianRoot,
            (true, false) => Self::DebianUser,
            (false, _) => Self::Other,
        }
    }
}

/// The text for somebody who has to act, or nothing where we can.
fn instructions(host: Host, gaps: &[Gap], packages: &[String]) -> Option<String> {
    match host {
        Host::DebianRoot => None,
        Host::DebianUser if packages.is_empty() => None,
        Host::DebianUser => Some(format!(
            "packages are missing, and installing them needs root; type:\n  \
             sudo apt-get update\n  \
             sudo apt-get install --yes --no-install-recommends --no-remove {}\n  \
             cargo xtask setup",
            packages.join(" ")
        )),
        Host::Other => {
            let mut text = String::new();
            for gap in gaps {
                let debian = match &gap.fix {
                    Fix::Install(packages) => packages.join(" "),
                    Fix::Unpack(bundle) => bundle.packages.join(" "),
                    Fix::BuildLinker(_) | Fix::BuildStock => continue,
                };
                text.push_str(&format!("\n  {} (Debian calls it {debian})", gap.name));
            }
            if text.is_empty() {
                return None;
            }
            Some(format!(
                "packages are missing, and there is no apt-get here; install them in your \
                 distribution's way, then type `cargo xtask setup`:{text}\n\
                 for the BPF core:  rustup toolchain install nightly --component rust-src\n\
                 for LLVM outside /usr/lib/llvm-N:  set LLVM_PREFIX"
            ))
        }
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args([
            "--quiet",
            "--option",
            "DPkg::Lock::Timeout=300",
            "--option",
            "Dpkg::Use-Pty=0",
        ])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("NEEDRESTART_SUSPEND", "1");
    command
}

/// Releases before Debian 12 with updates have a `rustc-web` that is too old for us.
fn check_compiler_candidate() -> Result<()> {
    let output = Command::new("apt-cache")
        .args(["policy", "rustc-web"])
        .output();
    let output = output.context("run apt-cache")?;
    let minimum = env!("CARGO_PKG_RUST_VERSION");
    let candidate = candidate_version(&String::from_utf8_lossy(&output.stdout));
    match candidate {
        Some(version) if numbers(&version) >= numbers(minimum) => Ok(()),
        Some(version) => bail!(
            "the distribution's rustc-web is {version}, and {minimum} is needed\n{}",
            toolchain::REMEDY
        ),
        None => bail!("the distribution has no rustc-web\n{}", toolchain::REMEDY),
    }
}

/// The version that `apt-cache policy` would install.
fn candidate_version(policy: &str) -> Option<String> {
    let line = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (line != "(none)").then(|| line.to_owned())
}

/// Debian's `etcd-server`, `docker.io` and `containerd` start services on the host when they are
/// installed, and the second brings its own firewall policy; only their files are wanted.
fn unpack(bundle: &Bundle) -> Result<()> {
    beside::make(&env::tools_dir().join(bundle.folder), |partial| {
        unpack_into(partial, bundle)
    })
}

fn unpack_into(partial: &Path, bundle: &Bundle) -> Result<PathBuf> {
    let Bundle {
        folder: _,
        packages,
        programs,
    } = bundle;
    let mut download = apt_get();
    download
        .arg("download")
        .args(*packages)
        .current_dir(partial);
    if env::is_root() {
        // apt's own user may not write to our folder.
        download.args(["--option", "APT::Sandbox::User=root"]);
    }
    progress::step(
        &format!("apt-get download {}", packages.join(" ")),
        &mut download,
    )?;
    let root = partial.join("root");
    for entry in partial.read_dir().context("list the downloaded packages")? {
        let file = entry.context("list the downloaded packages")?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("--extract").arg(&file).arg(&root);
            progress::step(&format!("unpack {}", file.display()), &mut unpack)?;
        }
    }
    for program in *programs {
        if !env::is_executable(&root.join(program)) {
            bail!("the packages {} hold no {program}", packages.join(" "));
        }
    }
    Ok(root)
}

fn build_linker(llvm: u32) -> Result<()> {
    let title = format!("build bpf-linker {} for LLVM {llvm}", linker::VERSION);
    progress::step(&title, &mut linker::install_command(llvm))?;
    let objects = linker::build_dir();
    fs::remove_dir_all(&objects).with_context(|| format!("remove {}", objects.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    static ETCD: Bundle = Bundle {
        folder: "etcd",
        packages: &["etcd-server"],
        programs: &[],
    };

    fn gap(name: &str, fix: Fix) -> Gap {
        Gap {
            name: name.to_owned(),
            why: "is there for a test",
            fix,
        }
    }

    fn install(packages: &[&str]) -> Fix {
        Fix::Install(packages.iter().map(|&package| package.to_owned()).collect())
    }

    #[test]
    fn each_package_is_installed_once() {
        let gaps = [
            gap("a", install(&["x", "y"])),
            gap("etcd", Fix::Unpack(&ETCD)),
            gap("b", install(&["y", "z"])),
        ];
        assert_eq!(packages(&gaps), ["x", "y", "z"]);
    }

    #[test]
    fn ordinary_user_gets_commands_only_for_packages() {
        let gaps = [gap("ping", install(&["iputils-ping"]))];
        let text = instructions(Host::DebianUser, &gaps, &packages(&gaps)).unwrap();
        assert!(
            text.contains("sudo apt-get install") && text.contains("iputils-ping"),
            "{text}"
        );
        let gaps = [gap("bpf-linker", Fix::BuildLinker(22))];
        assert_eq!(instructions(Host::DebianUser, &gaps, &[]), None);
        assert_eq!(instructions(Host::Other, &gaps, &[]), None);
    }

    #[test]
    fn foreign_distribution_gets_names() {
        let gaps = [gap("etcd", Fix::Unpack(&ETCD))];
        let text = instructions(Host::Other, &gaps, &[]).unwrap();
        assert!(
            text.contains("etcd (Debian calls it etcd-server)"),
            "{text}"
        );
    }

    #[test]
    fn reads_the_candidate_of_apt() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n";
        assert_eq!(
            candidate_version(policy).as_deref(),
            Some("1.96.0+dfsg1-1~deb12u2")
        );
        assert_eq!(candidate_version("rustc-web:\n  Candidate: (none)\n"), None);
        assert_eq!(candidate_version(""), None);
    }
}
