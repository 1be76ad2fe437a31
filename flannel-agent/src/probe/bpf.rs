//! What bpf(2) can do: the call itself, the maps, each program, the helpers' flags, the JIT.
//!
//! Nothing is pinned and nothing is attached: a running agent has its own maps and programs.

use std::fs;

use aya::maps::MapError;
use aya::programs::{Program, ProgramError, ProgramInfo};
use aya::{Ebpf, EbpfError};
use aya_obj::generated::bpf_map_type;

use super::facts::{Bpf, Fact, Privileges, There, is_denied};
use super::verifier;
use crate::dataplane::object;
use crate::dataplane::probe::{self, Missing};
use crate::error::chain;

/// Whether the JIT compiles; the file is there in the host's network namespace only.
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";

/// Tries all of it; also gives the loaded object, if there is one.
pub(super) fn read(privileges: Privileges) -> (Bpf, Option<Ebpf>) {
    let call = call(privileges);
    let (maps, mut ebpf) = match call.there {
        There::Yes => load(),
        There::No => (Fact::no("bpf(2) is refused"), None),
        There::Unknown => (Fact::unknown("bpf(2) could not be tried"), None),
    };
    let programs = match &mut ebpf {
        Some(ebpf) => programs(ebpf),
        None => Vec::new(),
    };
    let helpers = helpers(ebpf.as_mut());
    let jit = jit(ebpf.as_ref());
    let bpf = Bpf {
        call,
        maps,
        programs,
        helpers,
        jit,
    };
    (bpf, ebpf)
}

fn call(privileges: Privileges) -> Fact {
    let Err(error) = probe::try_bpf() else {
        return Fact::yes("allowed");
    };
    match error.bpf_errno() {
        Some(libc::EPERM) if !privileges.bpf => Fact::unknown("could not be tried without CAP_BPF"),
        Some(libc::EPERM) if privileges.is_in_user_namespace => Fact::unknown(
            "could not be tried: the capabilities of a user namespace do not reach bpf(2)",
        ),
        Some(libc::EPERM) => Fact::no("refused to root as well: by lockdown or a seccomp filter"),
        Some(libc::ENOSYS) => {
            Fact::no("not in this kernel: it was built without CONFIG_BPF_SYSCALL")
        }
        _ => Fact::no(chain(&error)),
    }
}

fn load() -> (Fact, Option<Ebpf>) {
    let Some(object) = object::embedded() else {
        return (Fact::no(Missing::Object.to_string()), None);
    };
    match object::load_unpinned(object) {
        Ok(ebpf) => {
            let mut kinds: Vec<String> = ebpf
                .maps()
                .filter_map(|(name, _)| map_kind(object, name))
                .collect();
            kinds.sort();
            kinds.dedup();
            let fact = Fact::yes(format!("made one of each: {}", kinds.join(", ")));
            (fact, Some(ebpf))
        }
        Err(EbpfError::MapError(MapError::CreateError { name, io_error })) => {
            let kind = map_kind(object, &name).unwrap_or_default();
            (
                Fact::no(format!("map {name}, of type {kind}: {io_error}")),
                None,
            )
        }
        Err(error) => (Fact::no(chain(&error)), None),
    }
}

/// The type of a map of the object; none for those that hold its constants.
fn map_kind(object: &[u8], name: &str) -> Option<String> {
    let object = aya_obj::Object::parse(object).ok()?;
    let kind = object.maps.get(name)?.map_type();
    let kind = bpf_map_type::try_from(kind).ok()?;
    Some(format!("{kind:?}").replace("BPF_MAP_TYPE_", ""))
}

fn programs(ebpf: &mut Ebpf) -> Vec<(String, Fact)> {
    let load = |(name, program): (&str, &mut Program)| {
        let loaded = match program {
            Program::SchedClassifier(program) => program.load().and_then(|()| program.info()),
            Program::Xdp(program) => program.load().and_then(|()| program.info()),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        let fact = match loaded {
            Ok(info) => Fact::yes(sizes(&info)),
            Err(error) => Fact::no(refusal(&error)),
        };
        (name.to_owned(), fact)
    };
    let mut programs: Vec<_> = ebpf.programs_mut().map(load).collect();
    programs.sort_by(|(one, _), (other, _)| one.cmp(other));
    programs
}

fn sizes(info: &ProgramInfo) -> String {
    match info.verified_instruction_count() {
        Some(count) => format!("passes the verifier ({count} instructions looked at)"),
        None => "passes the verifier".into(),
    }
}

fn refusal(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let reason = verifier::reason(&verifier_log.to_string());
            reason.unwrap_or_else(|| io_error.to_string())
        }
        error => chain(error),
    }
}

fn helpers(mut ebpf: Option<&mut Ebpf>) -> Vec<(&'static str, Fact)> {
    let fact = |need: &probe::Need| {
        let Some(ebpf) = ebpf.as_deref_mut() else {
            return Fact::unknown("no program could be run");
        };
        match probe::is_met(ebpf, need) {
            Ok(true) => Fact::yes(format!("bpf_skb_adjust_room takes {}", need.flag)),
            Ok(false) => Fact::no(need.missing().to_string()),
            Err(error) if is_run_denied(&error) => Fact::unknown(chain(&error)),
            Err(error) => Fact::no(refusal(&error)),
        }
    };
    let facts = probe::NEEDS.iter().map(fact);
    let programs = probe::NEEDS.iter().map(|need| need.program);
    programs.zip(facts).collect()
}

fn is_run_denied(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if is_denied(&error.io_error))
}

/// Compiled code tells; the setting alone says nothing of a kernel that has no JIT.
fn jit(ebpf: Option<&Ebpf>) -> Fact {
    let setting = fs::read_to_string(JIT).ok();
    let setting = match setting.as_deref().map(str::trim) {
        Some(value) => format!("net.core.bpf_jit_enable is {value}"),
        None => "net.core.bpf_jit_enable is not shown in this network namespace".into(),
    };
    let infos = ebpf.into_iter().flat_map(|ebpf| {
        let programs = ebpf.programs();
        programs.filter_map(|(_, program)| program.info().ok())
    });
    let sizes: Vec<u32> = infos.map(|info| info.size_jitted()).collect();
    match sizes.iter().min() {
        None => Fact::unknown(format!("no program could be loaded; {setting}")),
        Some(0) => Fact::no(format!("programs are interpreted; {setting}")),
        Some(_) => {
            let bytes: u32 = sizes.iter().sum();
            let count = sizes.len();
            Fact::yes(format!(
                "{count} programs compiled to {bytes} bytes of machine code; {setting}"
            ))
        }
    }
}
