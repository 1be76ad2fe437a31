//! Shell completions and the manual page, from the same definitions as the parser.

use clap::CommandFactory as _;
use clap_complete::aot;

use super::{Cli, Shell};

pub(super) fn completions(shell: Shell) -> Vec<u8> {
    let shell = match shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Fish => aot::Shell::Fish,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "flannel-agent", &mut text);
    text
}

pub(super) fn man() -> Vec<u8> {
    let mut text = Vec::new();
    // With the flags of the subcommands on the same page.
    let page = clap_mangen::Man::new(Cli::command().flatten_help(true)).section("8");
    // Writing to a vector cannot fail.
    let _ = page.render(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_and_manual_know_every_flag_and_command() {
        let definition = Cli::command();
        let flags = definition.get_arguments().filter_map(clap::Arg::get_long);
        let commands = definition.get_subcommands().map(clap::Command::get_name);
        let names: Vec<&str> = flags.chain(commands).collect();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = String::from_utf8(completions(shell)).unwrap();
            for name in &names {
                assert!(text.contains(name), "{shell:?}: {name}");
            }
        }
        let page = String::from_utf8(man()).unwrap().replace("\\-", "-");
        for name in names {
            assert!(page.contains(name), "{name}");
        }
        assert!(page.contains(".TH flannel-agent 8"), "{page}");
    }
}
