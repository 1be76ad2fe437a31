//! Rules as the host lists them, reduced to what decides whose they are. Pure.
//!
//! Both listings, JSON of nft and the command lines of iptables, are read leniently: what is not
//! understood makes a rule one that is not [`Rule::is_bare`], and nobody touches such a rule.

use ipnetwork::Ipv4Network;
use serde_json::Value;

/// A chain and its rules in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) rules: Vec<Rule>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// What a command names it by: the handle of nft, the specification of iptables.
    pub(super) key: String,
    pub(super) comment: Option<String>,
    pub(super) from: Option<Range>,
    pub(super) to: Option<Range>,
    /// Whether nothing else is tested.
    pub(super) is_bare: bool,
    pub(super) target: Target,
}

/// Addresses inside of a prefix, or outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    In(Ipv4Network),
    NotIn(Ipv4Network),
}

/// What becomes of the packets that a rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Accept,
    /// Dropped or rejected.
    Drop,
    Return,
    Masquerade,
    Jump(String),
    Other,
}

impl Rule {
    /// Whether no packet gets past the rule.
    pub(super) fn ends_the_chain(&self) -> bool {
        let is_final = matches!(self.target, Target::Accept | Target::Drop | Target::Return);
        is_final && self.is_bare && self.from.is_none() && self.to.is_none()
    }

    /// Whether the rule does nothing but jump to the chain.
    pub(super) fn is_jump_to(&self, chain: &str) -> bool {
        let is_jump = matches!(&self.target, Target::Jump(to) if to == chain);
        is_jump && self.is_bare && self.from.is_none() && self.to.is_none()
    }

    /// Whether the comment begins so.
    pub(super) fn has_comment(&self, start: &str) -> bool {
        let comment = self.comment.as_deref();
        comment.is_some_and(|comment| comment.starts_with(start))
    }
}

/// The chain of that name.
pub(super) fn find<'a>(chains: &'a [Chain], name: &str) -> Option<&'a Chain> {
    chains.iter().find(|chain| chain.name == name)
}

/// Reads what `nft -j list table` prints.
pub(super) fn from_nft(document: &Value) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    let objects = document["nftables"].as_array();
    for object in objects.into_iter().flatten() {
        if let Some(name) = object["chain"]["name"].as_str() {
            chains.push(Chain {
                name: name.to_owned(),
                rules: Vec::new(),
            });
        }
        let rule = &object["rule"];
        let chain = chains.iter_mut().find(|chain| rule["chain"] == *chain.name);
        if let (Some(chain), Some(handle)) = (chain, rule["handle"].as_u64()) {
            chain.rules.push(nft_rule(handle, rule));
        }
    }
    chains
}

fn nft_rule(handle: u64, rule: &Value) -> Rule {
    let mut read = Rule {
        key: handle.to_string(),
        comment: rule["comment"].as_str().map(str::to_owned),
        from: None,
        to: None,
        is_bare: true,
        target: Target::Other,
    };
    for statement in rule["expr"].as_array().into_iter().flatten() {
        let Some((kind, value)) = statement.as_object().and_then(|it| it.iter().next()) else {
            read.is_bare = false;
            continue;
        };
        match kind.as_str() {
            "counter" => {}
            "accept" => read.target = Target::Accept,
            "drop" | "reject" => read.target = Target::Drop,
            "return" => read.target = Target::Return,
            "masquerade" => read.target = Target::Masquerade,
            "jump" | "goto" => {
                let to = value["target"].as_str().unwrap_or_default();
                read.target = Target::Jump(to.to_owned());
            }
            "match" => match nft_range(value) {
                Some(("saddr", range)) if read.from.is_none() => read.from = Some(range),
                Some(("daddr", range)) if read.to.is_none() => read.to = Some(range),
                _ => read.is_bare = false,
            },
            "xt" => match (value["type"].as_str(), value["name"].as_str()) {
                (Some("match"), Some("comment")) => {}
                (Some("target"), Some("MASQUERADE")) => read.target = Target::Masquerade,
                (Some("target"), Some("REJECT")) => read.target = Target::Drop,
                (Some("target"), _) => {}
                _ => read.is_bare = false,
            },
            _ => read.is_bare = false,
        }
    }
    read
}

/// A test of an IPv4 address, with the name of the field.
fn nft_range(test: &Value) -> Option<(&str, Range)> {
    let payload = &test["left"]["payload"];
    if payload["protocol"] != "ip" {
        return None;
    }
    let right = &test["right"];
    let net = match right["prefix"].as_object() {
        Some(prefix) => {
            let len = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
            Ipv4Network::new(prefix.get("addr")?.as_str()?.parse().ok()?, len).ok()?
        }
        None => Ipv4Network::from(right.as_str()?.parse::<std::net::Ipv4Addr>().ok()?),
    };
    let range = match test["op"].as_str()? {
        "==" => Range::In(net),
        "!=" => Range::NotIn(net),
        _ => return None,
    };
    Some((payload["field"].as_str()?, range))
}

/// Reads what `iptables -S` prints.
pub(super) fn from_iptables(text: &str) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ' ');
        let (Some(verb), Some(name)) = (parts.next(), parts.next()) else {
            continue;
        };
        match verb {
            "-P" | "-N" => chains.push(Chain {
                name: name.to_owned(),
                rules: Vec::new(),
            }),
            "-A" => {
                let rule = iptables_rule(parts.next().unwrap_or_default());
                if let Some(chain) = chains.iter_mut().find(|chain| chain.name == name) {
                    chain.rules.push(rule);
                }
            }
            _ => {}
        }
    }
    chains
}

fn iptables_rule(specification: &str) -> Rule {
    let mut read = Rule {
        key: specification.to_owned(),
        comment: None,
        from: None,
        to: None,
        is_bare: true,
        target: Target::Other,
    };
    let words = words(specification);
    let mut words = words.iter().map(String::as_str);
    let mut is_negated = false;
    while let Some(word) = words.next() {
        let mut range = |is_negated| {
            let net = words.next()?.parse().ok()?;
            Some(if is_negated {
                Range::NotIn(net)
            } else {
                Range::In(net)
            })
        };
        match word {
            "!" => {
                is_negated = true;
                continue;
            }
            "-s" => {
                read.from = range(is_negated);
                read.is_bare &= read.from.is_some();
            }
            "-d" => {
                read.to = range(is_negated);
                read.is_bare &= read.to.is_some();
            }
            "-m" => read.is_bare &= words.next() == Some("comment"),
            "--comment" => read.comment = words.next().map(str::to_owned),
            "-j" | "-g" => {
                read.target = match words.next().unwrap_or_default() {
                    "ACCEPT" => Target::Accept,
                    "DROP" | "REJECT" => Target::Drop,
                    "RETURN" => Target::Return,
                    "MASQUERADE" => Target::Masquerade,
                    name => Target::Jump(name.to_owned()),
                };
                // What follows are options of the target.
                break;
            }
            _ => read.is_bare = false,
        }
        is_negated = false;
    }
    read
}

/// Words of a command line; double quotes and backslashes as iptables prints them.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        let is_break = char == ' ' && !is_quoted;
        if is_break {
            words.push(String::new());
        } else if char == '"' {
            is_quoted = !is_quoted;
        } else {
            let char = if char == '\\' {
                chars.next()
            } else {
                Some(char)
            };
            words
                .last_mut()
                .expect("invariant: never empty")
                .extend(char);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn net(text: &str) -> Ipv4Network {
        text.parse().unwrap()
    }

    #[test]
    fn a_rule_of_iptables_reads_the_same_from_both_listings() {
        let document = json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "ip", "name": "nat"}},
            {"chain": {"table": "nat", "name": "POSTROUTING", "hook": "postrouting"}},
            {"rule": {"chain": "POSTROUTING", "handle": 7, "expr": [
                {"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                    "right": {"prefix": {"addr": "10.5.0.0", "len": 16}}}},
                {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}},
                    "right": "10.5.1.9"}},
                {"xt": {"type": "match", "name": "comment"}},
                {"counter": {"packets": 0, "bytes": 0}},
                {"xt": {"type": "target", "name": "MASQUERADE"}}]}},
        ]});
        let text = "-P POSTROUTING ACCEPT\n-A POSTROUTING ! -s 10.5.0.0/16 -d 10.5.1.9/32 -m \
            comment --comment \"a \\\"b\" -j MASQUERADE --random-fully\n";
        let nft = from_nft(&document).remove(0);
        let iptables = from_iptables(text).remove(0);
        assert_eq!(iptables.rules[0].comment.as_deref(), Some("a \"b"));
        for chain in [&nft, &iptables] {
            assert_eq!(chain.name, "POSTROUTING");
            let [rule] = &chain.rules[..] else {
                panic!("{chain:?}");
            };
            assert!(rule.is_bare);
            assert_eq!(rule.from, Some(Range::NotIn(net("10.5.0.0/16"))));
            assert_eq!(rule.to, Some(Range::In(net("10.5.1.9/32"))));
            assert_eq!(rule.target, Target::Masquerade);
        }
    }

    #[test]
    fn tests_that_are_not_understood_make_a_rule_foreign() {
        for specification in [
            "-s 10.5.0.0/16 -i eth0 -j ACCEPT",
            "-m mark --mark 0x4000/0x4000 -j RETURN",
            "-s 10.5.0.0/16 -p tcp -m tcp --dport 80 -j ACCEPT",
            "-s example -j ACCEPT",
        ] {
            assert!(!iptables_rule(specification).is_bare, "{specification}");
        }
        for expr in [
            json!([{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}}]),
            json!([{"match": {"op": "<", "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                "right": "10.5.1.9"}}]),
            json!([{"xt": null}]),
            json!(["notrack"]),
        ] {
            let rule = nft_rule(1, &json!({ "expr": expr }));
            assert!(!rule.is_bare, "{rule:?}");
        }
    }

    #[test]
    fn only_a_verdict_without_a_test_ends_a_chain() {
        for (specification, expected) in [
            ("-j RETURN", true),
            ("-j REJECT --reject-with icmp-host-prohibited", true),
            ("-j LOG --log-prefix \"end -j DROP\"", false),
            ("-s 10.5.0.0/16 -j RETURN", false),
            ("-o docker0 -j DROP", false),
        ] {
            let rule = iptables_rule(specification);
            assert_eq!(rule.ends_the_chain(), expected, "{specification}");
        }
    }
}
