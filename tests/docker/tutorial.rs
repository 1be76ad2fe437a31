//! `docs/docker.md`, typed line by line.
//!
//! A line that ends with `&` stays in the background. What a person would wait for is tried again
//! until it works. Lines without a prompt are output: of commands that show something fixed, each
//! such line must come.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::agent::{Agent, Datapath};
use flannel_tests::bed::{Bed, BedOptions};
use flannel_tests::dockerd::{self, Docker};
use flannel_tests::machine::Machine;
use flannel_tests::wait;

use crate::setting::LIMIT;

/// A command, and what the text shows of its output.
#[derive(Debug, Default)]
struct Step {
    machine: usize,
    command: String,
    output: Vec<String>,
}

/// All commands of a document, in order.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("    ")) {
        let prompts = ["one# ", "two# "];
        let typed = prompts.iter().position(|prompt| line.starts_with(prompt));
        if let Some(machine) = typed {
            steps.push(Step {
                machine,
                command: line[prompts[machine].len()..].to_owned(),
                output: Vec::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            step.output.push(line.to_owned());
        }
    }
    steps
}

/// A machine and what its shell has been told.
struct Shell {
    machine: Machine,
    sourced: String,
    daemons: usize,
}

impl Shell {
    fn type_line(&mut self, command: &str) -> Result<String> {
        if let Some(command) = command.strip_suffix('&') {
            self.daemons += 1;
            let name = format!("job{}", self.daemons);
            let lines = format!("{}exec {command}", self.sourced);
            self.machine.daemon(&name, &lines)?;
            return Ok(String::new());
        }
        let line = format!("{}{command}", self.sourced);
        let output = wait::until(command, LIMIT, || self.machine.shell(&line).map(Some))?;
        if command.starts_with(". ") {
            self.sourced += &format!("{command}; ");
        }
        Ok(output)
    }
}

/// Values that differ from run to run, as the text has them.
const EXAMPLES: [&str; 4] = ["10.5.34.2", "10.5.180.2", "10.5.34.1/24", "10.5.180.1/24"];

#[test]
fn the_tutorial_works_as_typed() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/docker.md");
    let steps = steps(&fs::read_to_string(file).expect("docs/docker.md"));
    assert!(steps.len() > 20, "{steps:?}");
    let bed = Bed::new(BedOptions::default()).expect("bed");
    let mut shells: Vec<Shell> = Vec::new();
    for host in &bed.hosts {
        assert!(
            [[192, 168, 7, 10], [192, 168, 7, 11]]
                .map(Ipv4Addr::from)
                .contains(&host.address)
        );
        host.ns.sysctl("net/ipv4/ip_forward", "0").expect("sysctl");
        let machine = Machine::new(host).expect("machine");
        let agent = Agent::new(host, Datapath::Auto).expect("agent");
        dockerd::install(&machine, agent.binary()).expect("agent on the path");
        shells.push(Shell {
            machine,
            sourced: String::new(),
            daemons: 0,
        });
    }
    // What the text has as an example, and what it is here.
    let mut actual: Vec<(&str, String)> = Vec::new();
    for Step {
        machine,
        command,
        output,
    } in &steps
    {
        let shell = &mut shells[*machine];
        if command.starts_with("docker run") {
            // There is no registry here.
            let ready = || Docker::import_on(&shell.machine).map(Some);
            wait::until("an image", LIMIT, ready).expect("image");
        }
        let command = in_place(command, &actual);
        let answer = shell.type_line(&command).expect("a line of the tutorial");
        println!("{}# {command}\n{answer}", ["one", "two"][*machine]);
        for line in output {
            let example = EXAMPLES.iter().find(|example| *line == **example);
            if let Some(example) = example {
                actual.push((example, answer.trim().to_owned()));
            } else if let Some(value) = shown(line, "FLANNEL_SUBNET=", &answer) {
                actual.push(("10.5.34.1/24", value));
            } else {
                check(&in_place(line, &actual), &answer).expect("output as in the tutorial");
            }
        }
    }
}

fn in_place(text: &str, actual: &[(&str, String)]) -> String {
    let replace = |text: String, (example, value): &(&str, String)| text.replace(example, value);
    actual.iter().fold(text.to_owned(), replace)
}

/// The value behind `name`, where `line` is about it.
fn shown(line: &str, name: &str, answer: &str) -> Option<String> {
    line.strip_prefix(name)?;
    answer
        .lines()
        .find_map(|line| Some(line.strip_prefix(name)?.to_owned()))
}

fn check(line: &str, answer: &str) -> Result<()> {
    let is_there = answer.lines().any(|answered| answered == line);
    ensure!(is_there, "{line:?} is not in:\n{answer}");
    Ok(())
}

#[test]
fn steps_know_their_machine_and_output() {
    let text = "Text\n\n    one# a &\n    two# b\n    shown\n\n    more\n";
    let steps = steps(text);
    let last = steps.last().context("steps").expect("steps");
    assert_eq!(
        (steps.len(), last.machine, last.command.as_str()),
        (2, 1, "b")
    );
    assert_eq!(last.output, ["shown", "more"]);
}
