//! Tests of the choice of a compiler.

use super::*;

const VERBOSE: &str = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\n\
    host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

fn version(release: &str, llvm: u32) -> Version {
    Version {
        release: release.to_owned(),
        llvm,
    }
}

fn system() -> Probe {
    Probe {
        rustc: "/usr/bin/rustc".into(),
        version: version("1.96.0", 22),
        has_cargo: true,
        has_bpf_core: true,
        has_rust_src: false,
    }
}

fn nightly() -> Probe {
    Probe {
        rustc: "/rustup/nightly/bin/rustc".into(),
        version: version("1.97.0-nightly", 22),
        has_cargo: true,
        has_bpf_core: false,
        has_rust_src: true,
    }
}

/// A host where nightly and the system's compiler are as given.
fn host(nightly: Probe, system: Probe) -> impl Fn(&Candidate) -> Result<Probe> {
    move |candidate| match candidate {
        Candidate::Named(rustc) => Ok(Probe {
            rustc: rustc.clone(),
            ..system.clone()
        }),
        Candidate::Nightly => Ok(nightly.clone()),
        Candidate::System => Ok(system.clone()),
    }
}

#[test]
fn reads_release_and_llvm() {
    assert_eq!(Version::parse(VERBOSE), Some(version("1.96.0", 22)));
    assert_eq!(Version::parse("rustc 1.96.0"), None);
    assert_eq!(
        Version::parse("release: 1.96.0\nLLVM version: unknown"),
        None
    );
}

#[test]
fn compares_versions_as_numbers() {
    assert!(version("1.100.0", 22).is_at_least("1.95"));
    assert!(version("1.95.0", 22).is_at_least("1.95"));
    assert!(version("1.97.0-nightly", 22).is_at_least("1.95"));
    assert!(!version("1.85.0", 22).is_at_least("1.95"));
    assert_eq!(numbers("1.96.0+dfsg1-1~deb12u2"), [1, 96, 0]);
    assert!(numbers("").is_empty());
}

#[test]
fn nightly_goes_before_the_system() -> Result<()> {
    let found = choose(None, None, host(nightly(), system()))?;
    assert_eq!(found.core, Core::FromSource);
    assert_eq!(found.cargo, Path::new("/rustup/nightly/bin/cargo"));
    Ok(())
}

#[test]
fn nightly_without_sources_yields_to_the_system() -> Result<()> {
    let bare = Probe {
        has_rust_src: false,
        ..nightly()
    };
    let found = choose(None, None, host(bare, system()))?;
    assert_eq!(
        (found.core, found.rustc.as_path()),
        (Core::Prebuilt, Path::new("/usr/bin/rustc"))
    );
    Ok(())
}

#[test]
fn named_compiler_goes_first_and_stands_alone() -> Result<()> {
    let named = Some(PathBuf::from("/opt/rust/bin/rustc"));
    let found = choose(None, named.clone(), host(nightly(), system()))?;
    assert_eq!(found.cargo, Path::new("/opt/rust/bin/cargo"));

    let broken = Probe {
        has_bpf_core: false,
        ..system()
    };
    let error = choose(None, named, host(nightly(), broken))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("FLANNEL_BPF_RUSTC=/opt/rust/bin/rustc: has no core"),
        "{error}"
    );
    Ok(())
}

#[test]
fn forced_way_is_the_only_one_tried() {
    let bare = Probe {
        has_rust_src: false,
        ..nightly()
    };
    let error = choose(Some(Way::Nightly), None, host(bare, system()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("nightly: has no rust-src"), "{error}");
    assert!(!error.contains("/usr/bin/rustc"), "{error}");
}

#[test]
fn one_message_tells_all_reasons_and_both_remedies() {
    let old = Probe {
        version: version("1.63.0", 14),
        ..system()
    };
    let strange = Probe {
        version: version("1.120.0-nightly", 30),
        ..nightly()
    };
    let error = choose(None, None, host(strange, old))
        .unwrap_err()
        .to_string();
    for part in [
        "nightly: has LLVM 30",
        "is 1.63.0",
        "rust-src",
        "libstd-rust-web-dev-bpf",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
}
