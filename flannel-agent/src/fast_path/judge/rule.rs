//! One rule of nftables, carried out for all packets of a flow at once.

use crate::fast_path::ruleset::{
    Access, Elements, Expression, Register, Rule, Set, Table, Verdict,
};

use super::field::{self, TCP, UDP};
use super::reason::Why;
use super::registers::{Content, Registers};
use super::tally::{Finding, Tally};
use super::{step, xt};

/// Shortest memory of a set that is filled by packets: several times the longest admission that
/// makes sense, so that a sample comes by in time.
const MIN_TIMEOUT_MS: u64 = 10_000;

/// Longest content of a register, octets.
const MAX_LEN: u32 = 64;

/// What a rule needs to know from elsewhere.
pub(super) trait Surroundings {
    /// What the elements of a set have; `None` if that is still to be found out.
    fn elements(&mut self, set: &str) -> Option<&Elements>;
    /// Accounting objects that have a quota; `None` if that is still to be found out.
    fn has_quota(&mut self, name: &str) -> Option<bool>;
}

/// What a rule does.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) findings: Vec<Finding>,
    /// Chains that it leads to.
    pub(super) chains: Vec<String>,
}

/// Carries the rule out.
pub(super) fn judge(rule: &Rule, table: &Table, around: &mut impl Surroundings) -> Outcome {
    let mut run = Run {
        table,
        around,
        registers: Registers::default(),
        protocols: vec![TCP, UDP],
        tally: Tally::default(),
        chains: Vec::new(),
    };
    for expression in rule {
        if run.step(expression).is_none() {
            break;
        }
    }
    Outcome {
        findings: run.tally.findings().collect(),
        chains: run.chains,
    }
}

struct Run<'a, S> {
    table: &'a Table,
    around: &'a mut S,
    registers: Registers,
    /// Transport protocols that packets can have at this step.
    protocols: Vec<u8>,
    tally: Tally,
    chains: Vec<String>,
}

impl<S: Surroundings> Run<'_, S> {
    /// One step; `None` if no packet gets past it.
    fn step(&mut self, expression: &Expression) -> Option<()> {
        match expression {
            Expression::Meta { key, access } => match access {
                Access::Load(to) => {
                    let content = field::meta(*key, &self.protocols);
                    self.load(*to, None, content);
                }
                Access::Store => self.store(field::set_meta(*key)),
            },
            Expression::Payload {
                base,
                offset,
                len,
                access,
            } => match access {
                Access::Load(to) => {
                    let content = field::payload(*base, *offset, *len, &self.protocols);
                    self.load(*to, Some(*len), content);
                }
                // Another flow's packet afterwards, which admits neither.
                Access::Store if field::is_flow_identity(*base, *offset, *len) => {
                    self.store(Ok(()));
                }
                Access::Store => self.store(Err(Finding::new("payload set", Why::Rewrites))),
            },
            Expression::Conntrack { key, access } => match access {
                Access::Load(to) => {
                    let content = field::conntrack(*key).map(|()| None);
                    self.load(*to, None, content);
                }
                Access::Store => self.store(Ok(())),
            },
            Expression::Option { kind, access } => match access {
                Access::Load(to) => {
                    let content = field::option(*kind).map(|()| None);
                    self.load(*to, None, content);
                }
                Access::Store => self.store(Err(Finding::new("tcp option set", Why::Rewrites))),
            },
            Expression::Bitwise {
                from,
                to,
                mask,
                xor,
            } => self.bitwise(*from, *to, mask, xor),
            Expression::Compare {
                register,
                operator,
                value,
            } => return self.compare(*register, *operator, value),
            Expression::Range { register } => {
                if let Some(name) = self.registers.varying(*register, MAX_LEN) {
                    self.tally.test(Finding::new(name, Why::Field));
                }
            }
            Expression::Lookup { set } => self.lookup(set),
            Expression::Update {
                set,
                timeout_ms,
                expressions,
            } => self.update(set, *timeout_ms, expressions),
            Expression::Constant { to } => self.registers.forget_some(*to),
            Expression::Verdict(verdict) => self.verdict(verdict),
            Expression::Log { group: None } => {}
            Expression::Log { group: Some(group) } => self.tally.copy(format!("log group {group}")),
            Expression::Object { kind } => step::object(*kind, &mut self.tally),
            Expression::ObjectMap { set } => {
                self.consult_registers();
                let kind = self.table.sets.get(set).map_or(0, |set| set.object);
                step::object(kind, &mut self.tally);
            }
            Expression::Match(it) => match xt::test(it, |name: &str| self.around.has_quota(name)) {
                xt::Test::Constant => {}
                xt::Test::Never => return None,
                xt::Test::Varies(finding) => self.tally.test(finding),
            },
            Expression::Target(it) => xt::target(it, &mut self.tally),
            Expression::Other { name } => {
                self.registers.load_somewhere();
                step::other(name, &mut self.tally);
            }
        }
        Some(())
    }

    /// Loads a field of `len` octets, if that is known.
    fn load(&mut self, to: Register, len: Option<u32>, field: Result<Option<Content>, Finding>) {
        let content = field.unwrap_or_else(|finding| {
            self.tally.test(finding);
            None
        });
        match (content, len) {
            (Some(content), _) => self.registers.load(to, content),
            (None, Some(len)) => self.registers.forget(to, len),
            (None, None) => self.registers.forget_some(to),
        }
    }

    fn store(&mut self, outcome: Result<(), Finding>) {
        match outcome {
            Ok(()) => self.tally.decides(),
            Err(finding) => self.tally.effect(finding),
        }
    }

    fn bitwise(&mut self, from: Register, to: Register, mask: &[u8], xor: &[u8]) {
        let Some(content) = self.registers.get(from).cloned() else {
            if let Some(name) = self.registers.varying(from, MAX_LEN) {
                self.tally.test(Finding::new(name, Why::Field));
            }
            return self.registers.forget_some(to);
        };
        let len = content.values.first().map_or(0, Vec::len);
        let is_known = mask.len() == len && xor.len() == len;
        if !is_known {
            if content.varies {
                self.tally.test(Finding::new(content.name, Why::Field));
            }
            return self.registers.forget_some(to);
        }
        let apply = |value: &Vec<u8>| {
            let octets = value.iter().zip(mask).zip(xor);
            octets
                .map(|((octet, mask), xor)| octet & mask ^ xor)
                .collect()
        };
        let values = content.values.iter().map(apply).collect();
        let content = Content {
            values,
            is_protocol: false,
            ..content
        };
        self.registers.load(to, content);
    }

    fn compare(&mut self, register: Register, operator: u32, value: &[u8]) -> Option<()> {
        let len = value.len() as u32;
        let content = self.registers.get_mut(register);
        let same_len = |it: &&mut Content| it.values.iter().all(|held| held.len() == value.len());
        let Some(content) = content.filter(same_len) else {
            if let Some(name) = self.registers.varying(register, len) {
                self.tally.test(Finding::new(name, Why::Field));
            }
            return Some(());
        };
        let before = content.values.len();
        content.values.retain(|held| holds(operator, held, value));
        if content.values.is_empty() {
            return None;
        }
        if content.values.len() < before && content.varies {
            self.tally.test(Finding::new(content.name, Why::Field));
        }
        if content.is_protocol {
            self.protocols = content.values.iter().flatten().copied().collect();
        }
        Some(())
    }

    fn lookup(&mut self, name: &str) {
        self.consult_registers();
        if let Some(set) = self.table.sets.get(name) {
            self.carry_along(&set.expressions);
        }
        if let Some(elements) = self.around.elements(name).cloned() {
            let Elements {
                verdicts,
                expressions,
            } = elements;
            self.carry_along(&Vec::from_iter(expressions));
            for verdict in &verdicts {
                self.verdict(verdict);
            }
        }
        // Of a map, whatever belongs to the key.
        self.registers.load_somewhere();
    }

    fn update(&mut self, name: &str, timeout_ms: u64, expressions: &[Expression]) {
        self.consult_registers();
        let set = self.table.sets.get(name);
        let own = set.map_or(0, |Set { timeout_ms, .. }| *timeout_ms);
        let timeout_ms = if timeout_ms == 0 { own } else { timeout_ms };
        if (1..MIN_TIMEOUT_MS).contains(&timeout_ms) {
            let what = format!("set {name} with a timeout of {timeout_ms} ms");
            self.tally.effect(Finding::new(what, Why::Forgets));
        }
        self.carry_along(expressions);
        if let Some(set) = set {
            self.carry_along(&set.expressions);
        }
        self.tally.decides();
    }

    /// Expressions that an element of a set has: they are carried out with it, and have a state.
    fn carry_along(&mut self, expressions: &[Expression]) {
        for expression in expressions {
            match expression {
                Expression::Other { name } => step::other(name, &mut self.tally),
                _ => self
                    .tally
                    .test(Finding::new("element of a set", Why::Unknown)),
            }
        }
    }

    /// Registers are compared with something that is not known here.
    fn consult_registers(&mut self) {
        // Which of them is not looked at: one that holds what differs is there to be used.
        for name in self.registers.all_varying() {
            self.tally.test(Finding::new(name, Why::Field));
        }
    }

    fn verdict(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Plain => self.tally.decides(),
            Verdict::Queue => self.tally.effect(Finding::new("queue", Why::EachPacket)),
            Verdict::Chain(chain) => {
                self.tally.decides();
                self.chains.push(chain.clone());
            }
        }
    }
}

/// Whether a value compares so with another (`NFT_CMP_*`).
fn holds(operator: u32, held: &[u8], value: &[u8]) -> bool {
    match operator {
        0 => held == value,
        1 => held != value,
        2 => held < value,
        3 => held <= value,
        4 => held > value,
        5 => held >= value,
        // Not one that the kernel has: nothing is ruled out.
        _ => true,
    }
}
