//! What a rule comes to: its tests count only if it does something, and what it does only as far
//! as it is reached.

use super::reason::Why;

/// Something in a rule that depends on the single packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) what: String,
    pub(super) why: Why,
}

impl Finding {
    pub(super) fn new(what: impl Into<String>, why: Why) -> Self {
        Self {
            what: what.into(),
            why,
        }
    }
}

/// What has been found in a rule up to some step.
#[derive(Debug, Default)]
pub(super) struct Tally {
    tests: Vec<Finding>,
    effects: Vec<Finding>,
    has_effect: bool,
}

impl Tally {
    /// A test whose outcome depends on the packet.
    pub(super) fn test(&mut self, finding: Finding) {
        self.tests.push(finding);
    }

    /// Something that is done to packets, the same to all of a flow.
    pub(super) fn decides(&mut self) {
        self.has_effect = true;
    }

    /// Something that is done to the single packet.
    pub(super) fn effect(&mut self, finding: Finding) {
        self.has_effect = true;
        self.effects.push(finding);
    }

    /// A copy for the listeners of a group: of every packet, unless the rule itself takes a sample.
    pub(super) fn copy(&mut self, what: String) {
        let is_sample = |finding: &Finding| matches!(finding.why, Why::Counts | Why::Chance);
        if !self.tests.iter().any(is_sample) {
            self.effects.push(Finding::new(what, Why::EachPacket));
        }
    }

    /// Everything that counts. Tests of a rule that was never carried out count as far as something
    /// was done on the way.
    pub(super) fn findings(self) -> impl Iterator<Item = Finding> {
        let tests = if self.has_effect {
            self.tests
        } else {
            Vec::new()
        };
        tests.into_iter().chain(self.effects)
    }
}
