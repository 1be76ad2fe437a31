//! Stock flannel, with which our agent shares clusters: building it from its own sources.
//!
//! Debian has no package of it. Go fetches the sources of this version, checks them against its
//! public log of checksums, and fetches the version of Go that they ask for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{beside, env, progress};

/// The version that ours is compared with.
pub(crate) const VERSION: &str = "v0.28.9";
const MODULE: &str = "github.com/flannel-io/flannel";
const DAEMON: &str = "flanneld";
const SCRIPT: &str = "mk-docker-opts.sh";
/// The backend for one cloud, which needs that cloud and the largest of all the modules.
const LEFT_OUT: &str = "pkg/backend/tencentvpc";

/// Go is not ours to install: Debian 12's package of it is too old.
const REMEDY: &str = "stock flannel is built with Go, and there is no `go` on PATH; install Go 1.21 or \
                      newer, or name a directory with flanneld and mk-docker-opts.sh in FLANNEL_STOCK";

/// What Go says of a module.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Module {
    dir: PathBuf,
}

/// The directory of stock's programs, if it has them: the caller's, or ours.
pub(crate) fn find() -> Option<PathBuf> {
    let named = std::env::var_os("FLANNEL_STOCK").map(PathBuf::from);
    let folder = named.unwrap_or_else(folder);
    let has_all = env::is_executable(&folder.join(DAEMON)) && folder.join(SCRIPT).is_file();
    // Tests run elsewhere.
    has_all.then(|| folder.canonicalize().ok()).flatten()
}

fn folder() -> PathBuf {
    env::tools_dir().join(format!("flannel-{VERSION}"))
}

/// Builds it into `target/tools`: three minutes on two cores, the first time.
///
/// # Errors
///
/// There is no Go, or Go fails.
pub(crate) fn build() -> Result<()> {
    if let Some(named) = std::env::var_os("FLANNEL_STOCK") {
        bail!(
            "FLANNEL_STOCK is {}, which has no executable {DAEMON} with a {SCRIPT}",
            PathBuf::from(named).display()
        );
    }
    beside::make(&folder(), build_in)
}

fn build_in(partial: &Path) -> Result<PathBuf> {
    let sources = partial.join("sources");
    copy(&fetch()?, &sources)?;
    let left_out = sources.join(LEFT_OUT);
    for file in left_out.read_dir().context("list what is left out")? {
        fs::remove_file(file?.path())?;
    }
    fs::write(left_out.join("none.go"), "package tencentvpc\n")?;

    let built = partial.join("built");
    fs::create_dir(&built)?;
    let mut build = go()?;
    build
        .args(["build", "-trimpath", "-buildvcs=false", "-ldflags"])
        .arg(format!("-X {MODULE}/pkg/version.Version={VERSION}"))
        .arg("-o")
        .arg(built.join(DAEMON))
        .arg(".")
        .current_dir(&sources);
    progress::step(&format!("build stock flannel {VERSION}"), &mut build)?;
    let script = sources.join("dist").join(SCRIPT);
    fs::copy(&script, built.join(SCRIPT)).with_context(|| format!("copy {}", script.display()))?;
    Ok(built)
}

/// The sources, in Go's cache.
fn fetch() -> Result<PathBuf> {
    let mut download = go()?;
    download.args(["mod", "download", "-json"]);
    let output = download
        .arg(format!("{MODULE}@{VERSION}"))
        .current_dir("/")
        .output()
        .context("run go")?;
    if !output.status.success() {
        bail!(
            "fetch the sources of flannel {VERSION}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let module: Module = serde_json::from_slice(&output.stdout).context("read what go says")?;
    Ok(module.dir)
}

/// Copies a tree of Go's cache, which nobody may write to.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("create {}", to.display()))?;
    for entry in from
        .read_dir()
        .with_context(|| format!("list {}", from.display()))?
    {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
        }
    }
    Ok(())
}

fn go() -> Result<Command> {
    let Some(go) = env::find_program("go") else {
        bail!("{REMEDY}");
    };
    let mut command = Command::new(go);
    // cgo: its udp backend is in C. Flags of the user's are for the user's programs.
    command.env("CGO_ENABLED", "1").env("GOFLAGS", "");
    Ok(command)
}
