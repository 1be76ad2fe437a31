//! From facts to verdicts, as tables.

use super::facts::{Bpf, Holder, Interface, Isolation};
use super::*;
use crate::cli::TcAttach;

/// A host that has everything.
fn facts() -> Facts {
    let yes = || Fact::yes("works");
    Facts {
        kernel: "6.12.0".into(),
        privileges: Privileges {
            net_admin: true,
            bpf: true,
            is_in_user_namespace: false,
        },
        bpf: Bpf {
            call: yes(),
            maps: yes(),
            programs: vec![("decap".into(), yes()), ("encap".into(), yes())],
            helpers: vec![("encap", yes())],
            jit: yes(),
        },
        btf: yes(),
        bpffs: yes(),
        pins: yes(),
        attach: Attach {
            tcx: yes(),
            clsact: yes(),
        },
        interface: Ok(interface()),
        devices: Devices {
            vxlan: yes(),
            routes: yes(),
            tun: yes(),
            segments: yes(),
        },
        masquerade: yes(),
    }
}

fn interface() -> Interface {
    Interface {
        name: "eth0".into(),
        index: 2,
        mtu: 1500,
        driver: Some("virtio_net".into()),
        xdp_features: Some(vec!["basic", "redirect"]),
        programs: Vec::new(),
        unknown: Vec::new(),
    }
}

fn needs(backend: &'static str, programs: &[&'static str], kernel_path: KernelPath) -> Needs {
    Needs {
        backend,
        programs: programs.to_vec(),
        kernel_path,
    }
}

fn vxlan() -> Needs {
    needs("vxlan", &["decap", "encap"], KernelPath::Vxlan)
}

fn judged(change: impl FnOnce(&mut Facts), needs: &Needs, how: TcAttach) -> (Path, String) {
    let mut facts = facts();
    change(&mut facts);
    let Backend {
        datapath, reason, ..
    } = judge::judge(&facts, needs, how);
    (datapath, reason)
}

#[test]
fn one_thing_that_is_missing_decides() {
    /// What is wrong with the host, and how the facts say so.
    type Case = (&'static str, fn(&mut Facts, Fact), Path, &'static str);
    let no = || Fact::no("x");
    let cases: [Case; 12] = [
        ("all there", |_, _| (), Path::Ebpf, "the kernel can"),
        (
            "no bpf(2)",
            |f, no| f.bpf.call = no,
            Path::Kernel,
            "bpf(2): x",
        ),
        ("no bpffs", |f, no| f.pins = no, Path::Kernel, "pin path: x"),
        ("no map", |f, no| f.bpf.maps = no, Path::Kernel, "maps: x"),
        (
            "no program",
            |f, no| f.bpf.programs[0].1 = no,
            Path::Kernel,
            "decap: x",
        ),
        (
            "no flag",
            |f, no| f.bpf.helpers[0].1 = no,
            Path::Kernel,
            "encap: x",
        ),
        (
            "not in the object",
            |f, _| drop(f.bpf.programs.remove(1)),
            Path::Kernel,
            "encap: is not in the BPF object of this agent",
        ),
        (
            "clsact will do",
            |f, no| f.attach.tcx = no,
            Path::Ebpf,
            "the kernel can",
        ),
        (
            "nothing to hang on",
            |f, no| (f.attach.tcx, f.attach.clsact) = (no.clone(), no),
            Path::Kernel,
            "clsact: x",
        ),
        (
            "no device",
            |f, no| f.devices.vxlan = no,
            Path::None,
            "the vxlan device: x",
        ),
        (
            "no BTF, no JIT",
            |f, no| (f.btf, f.bpf.jit) = (no.clone(), no),
            Path::Ebpf,
            "the kernel can",
        ),
        (
            "no nft",
            |f, no| f.masquerade = no,
            Path::Ebpf,
            "the kernel can",
        ),
    ];
    for (name, change, path, reason) in cases {
        let found = judged(|facts| change(facts, no()), &vxlan(), TcAttach::Auto);
        assert_eq!(found, (path, reason.to_owned()), "{name}");
    }
}

#[test]
fn what_could_not_be_tried_is_not_known_unless_something_is_missing() {
    let unprivileged = |facts: &mut Facts| {
        let unknown = || Fact::unknown("needs CAP_BPF");
        facts.bpf.call = unknown();
        facts.bpf.maps = unknown();
        facts.bpf.programs.clear();
        facts.bpf.helpers[0].1 = unknown();
        facts.attach.tcx = unknown();
    };
    let found = judged(unprivileged, &vxlan(), TcAttach::Auto);
    assert_eq!(found, (Path::Unknown, "bpf(2): needs CAP_BPF".into()));
    let off_bpffs = |facts: &mut Facts| {
        unprivileged(facts);
        facts.pins = Fact::no("x");
    };
    let found = judged(off_bpffs, &vxlan(), TcAttach::Auto);
    assert_eq!(found, (Path::Kernel, "pin path: x".into()));
    let no_namespace = |facts: &mut Facts| facts.devices.vxlan = Fact::unknown("x");
    let found = judged(no_namespace, &vxlan(), TcAttach::Auto);
    assert_eq!(found.0, Path::Unknown);
}

#[test]
fn the_mechanism_that_is_asked_for_is_the_one_that_counts() {
    let no_tcx = |facts: &mut Facts| facts.attach.tcx = Fact::no("x");
    let no_clsact = |facts: &mut Facts| facts.attach.clsact = Fact::no("x");
    assert_eq!(judged(no_tcx, &vxlan(), TcAttach::Tcx).0, Path::Kernel);
    assert_eq!(judged(no_tcx, &vxlan(), TcAttach::Clsact).0, Path::Ebpf);
    assert_eq!(
        judged(no_clsact, &vxlan(), TcAttach::Clsact).0,
        Path::Kernel
    );
    assert_eq!(judged(no_clsact, &vxlan(), TcAttach::Auto).0, Path::Ebpf);
}

#[test]
fn each_backend_has_a_kernel_path_of_its_own() {
    let udp = needs("udp", &["decap"], KernelPath::Tun);
    let host_gw = needs("host-gw", &["decap"], KernelPath::Routes);
    let alloc = needs("alloc", &[], KernelPath::Nothing);
    let no_tun = |facts: &mut Facts| facts.devices.tun = Fact::no("x");
    let no_segments = |facts: &mut Facts| facts.devices.segments = Fact::no("x");
    let no_routes = |facts: &mut Facts| facts.devices.routes = Fact::no("x");
    assert_eq!(judged(no_tun, &udp, TcAttach::Auto).0, Path::None);
    assert_eq!(judged(no_segments, &udp, TcAttach::Auto).0, Path::None);
    assert_eq!(judged(no_tun, &host_gw, TcAttach::Auto).0, Path::Ebpf);
    assert_eq!(judged(no_routes, &host_gw, TcAttach::Auto).0, Path::None);
    assert_eq!(judged(no_routes, &alloc, TcAttach::Auto).0, Path::Kernel);
}

#[test]
fn an_agent_can_run_while_one_kernel_path_works() {
    let all = [
        vxlan(),
        needs("host-gw", &[], KernelPath::Routes),
        needs("alloc", &[], KernelPath::Nothing),
    ];
    let can_run = |change: fn(&mut Facts)| {
        let mut facts = facts();
        change(&mut facts);
        let judge = |needs| judge::judge(&facts, needs, TcAttach::Auto);
        let backends: Vec<_> = all.iter().map(judge).collect();
        judge::can_run(&facts, &backends, &all)
    };
    assert!(can_run(|_| ()));
    assert!(can_run(|facts| facts.bpf.call = Fact::no("x")));
    assert!(can_run(|facts| facts.devices.vxlan = Fact::no("x")));
    assert!(can_run(|facts| {
        facts.devices.vxlan = Fact::no("x");
        facts.devices.routes = Fact::unknown("x");
    }));
    assert!(!can_run(|facts| {
        facts.devices.vxlan = Fact::no("x");
        facts.devices.routes = Fact::no("x");
    }));
    assert!(!can_run(|facts| facts.privileges.net_admin = false));
}

#[test]
fn backends_of_one_fate_are_said_together() {
    let backend = |backend, datapath, reason: &str| Backend {
        backend,
        datapath,
        reason: reason.into(),
    };
    let backends = [
        backend("vxlan", Path::Ebpf, "the kernel can"),
        backend("host-gw", Path::Kernel, "encap: x"),
        backend("udp", Path::None, "the TUN device: x"),
        backend("alloc", Path::Kernel, "the backend has nothing to carry"),
        backend(
            "extension",
            Path::Kernel,
            "the backend has nothing to carry",
        ),
    ];
    let expected = "With --datapath=auto eBPF carries vxlan; the kernel path carries \
        host-gw, and --datapath=ebpf refuses to start (encap: x); udp cannot \
        be used (the TUN device: x); there is nothing for eBPF to carry with alloc and extension.";
    assert_eq!(judge::sentence(&facts(), &backends), expected);
    let mut nobody = facts();
    nobody.privileges.net_admin = false;
    let sentence = judge::sentence(&nobody, &[backend("vxlan", Path::Unknown, "bpf(2): x")]);
    assert!(
        sentence.starts_with("With --datapath=auto what carries vxlan is not known (bpf(2): x).")
    );
    assert!(sentence.ends_with("it needs CAP_NET_ADMIN; run it as root."));
}

fn row(change: impl FnOnce(&mut Facts), facility: &str) -> Facility {
    let mut facts = facts();
    change(&mut facts);
    let rows = table::rows(&facts);
    rows.into_iter()
        .find(|row| row.facility == facility)
        .unwrap()
}

#[test]
fn a_row_says_what_follows_from_what_is_not_there() {
    assert_eq!(row(|_| (), "bpf(2)").follows, None);
    let refused = row(|facts| facts.bpf.call = Fact::no("x"), "bpf(2)");
    assert!(refused.follows.unwrap().contains("takes the kernel path"));
    let untried = row(|facts| facts.bpf.call = Fact::unknown("x"), "bpf(2)");
    assert_eq!(untried.follows.unwrap(), "run the probe as root to know");
    let programs = row(
        |facts| facts.bpf.programs[1].1 = Fact::no("the kernel does not know the helper x#1"),
        "programs",
    );
    assert_eq!(programs.there, There::No);
    assert_eq!(
        programs.detail,
        "1 of 2 work; encap: the kernel does not know the helper x#1"
    );
    let old = row(|facts| facts.attach.tcx = Fact::no("x"), "tcx");
    assert!(old.follows.unwrap().starts_with("clsact is taken"));
}

#[test]
fn programs_that_were_not_loaded_are_as_the_maps_are() {
    let there = |maps: Fact| {
        let programs = row(
            |facts| {
                facts.bpf.programs.clear();
                facts.bpf.maps = maps;
            },
            "programs",
        );
        programs.there
    };
    assert_eq!(there(Fact::no("x")), There::No);
    assert_eq!(there(Fact::unknown("x")), There::Unknown);
}

#[test]
fn the_row_of_xdp_names_driver_features_and_holders() {
    let native = row(|_| (), "native XDP");
    assert_eq!(native.there, There::Yes);
    assert_eq!(
        native.detail,
        "eth0 (MTU 1500, driver virtio_net): basic, redirect"
    );
    let change = |facts: &mut Facts| {
        facts.interface = Ok(Interface {
            mtu: 9000,
            programs: vec![Holder {
                hook: "native XDP".into(),
                name: Some("lb".into()),
                id: 7,
                is_ours: false,
            }],
            ..interface()
        });
    };
    let held = row(change, "native XDP");
    assert!(
        held.detail
            .ends_with("; native XDP: foreign program lb (id 7)")
    );
    let follows = held.follows.unwrap();
    assert!(
        follows.contains("foreign programs see packets"),
        "{follows}"
    );
    assert!(follows.contains("multi-buffer"), "{follows}");
    let none = Interface {
        xdp_features: Some(Vec::new()),
        ..interface()
    };
    assert_eq!(
        row(|f| f.interface = Ok(none), "native XDP").there,
        There::No
    );
    let old = Interface {
        xdp_features: None,
        ..interface()
    };
    assert_eq!(
        row(|f| f.interface = Ok(old), "native XDP").there,
        There::Unknown
    );
    let nowhere = row(|f| f.interface = Err("no route".into()), "native XDP");
    assert_eq!(
        (nowhere.there, &*nowhere.detail),
        (There::Unknown, "no route")
    );
    assert!(nowhere.follows.unwrap().contains("--iface"));
}

#[test]
fn a_refusal_in_a_user_namespace_proves_nothing() {
    assert_eq!(Isolation::Own.refused("x"), Fact::no("x"));
    let fact = Isolation::User.refused("x");
    assert_eq!(fact.there, There::Unknown);
    assert_eq!(fact.detail, "refused to the root of a user namespace: x");
}

#[test]
fn the_needs_of_every_backend_are_the_agents_own() {
    let needs = super::needs().unwrap();
    let names: Vec<_> = needs.iter().map(|needs| needs.backend).collect();
    assert_eq!(names, ["vxlan", "host-gw", "udp", "alloc", "extension"]);
    assert_eq!(needs[0].programs, ["vxlan_decap", "vxlan_encap"]);
    assert_eq!(needs[1].kernel_path, KernelPath::Routes);
    assert_eq!(needs[3].programs, [""; 0]);
}

#[test]
fn the_text_is_a_table_and_a_verdict() {
    let facility = |facility, there, follows: Option<&str>| Facility {
        facility,
        there,
        detail: "detail".into(),
        follows: follows.map(Into::into),
    };
    let report = Report {
        kernel: "6.12.0".into(),
        privileges: facts().privileges,
        facilities: vec![
            facility("tcx", There::Yes, None),
            facility("native XDP", There::Unknown, Some("nothing")),
            facility("tun", There::No, None),
        ],
        programs: Vec::new(),
        interface: None,
        backends: Vec::new(),
        can_run: true,
        verdict: "All is well.".into(),
    };
    let expected = "\
Linux 6.12.0

tcx         yes  detail
native XDP  ?    detail
                 → nothing
tun         no   detail

All is well.
";
    assert_eq!(render(&report), expected);
}
