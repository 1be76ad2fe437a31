//! The sentence in the verifier's log that says why a program was refused. Pure.

/// How the verifier begins the line about a helper that it does not allow; the helper follows, as
/// name and number (`kernel/bpf/verifier.c`: `check_helper_call`).
const HELPER: [&str; 3] = [
    "unknown func ",
    // Linux 6.10.
    "program of this type cannot use helper ",
    // A number beyond those that the kernel knows.
    "invalid func ",
];

/// Why, in a few words; `None` of an empty log.
pub(super) fn reason(log: &str) -> Option<String> {
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty());
    let helper = lines().find_map(|line| {
        let name = HELPER.iter().find_map(|start| line.strip_prefix(start))?;
        Some(format!("the kernel does not know the helper {name}"))
    });
    // The last sentence before the statistics is the verdict.
    helper.or_else(|| {
        let verdict = lines().rfind(|line| !is_statistics(line))?;
        Some(format!("the verifier says: {verdict}"))
    })
}

fn is_statistics(line: &str) -> bool {
    let starts = [
        "processed ",
        "verification time",
        "stack depth",
        "peak_states",
    ];
    starts.iter().any(|start| line.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_is_named() {
        let cases = [
            (
                "0: (85) call bpf_csum_level#135\nunknown func bpf_csum_level#135\nprocessed 1 insns (limit 1000000)\n",
                "bpf_csum_level#135",
            ),
            (
                "program of this type cannot use helper bpf_redirect_peer#155\n",
                "bpf_redirect_peer#155",
            ),
            ("invalid func unknown#211\n", "unknown#211"),
        ];
        for (log, name) in cases {
            let expected = format!("the kernel does not know the helper {name}");
            assert_eq!(reason(log), Some(expected), "{log}");
        }
    }

    #[test]
    fn otherwise_the_last_sentence_counts() {
        let log = "func#0 @0\n0: R1=ctx() R10=fp0\nR2 invalid mem access 'scalar'\n\
            verification time 12 usec\nstack depth 8\nprocessed 5 insns (limit 1000000) max_states 0\n";
        let expected = "the verifier says: R2 invalid mem access 'scalar'";
        assert_eq!(reason(log).as_deref(), Some(expected));
        assert_eq!(reason("\n"), None);
    }
}
