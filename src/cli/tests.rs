//! What the documents and the help texts show can be typed.

use clap::CommandFactory;

use super::*;

const DOCUMENTS: [&str; 3] = [
    include_str!("../../README.md"),
    include_str!("../../ARCHITECTURE.md"),
    include_str!("../../docs/learned.md"),
];

/// The commands of a shell's line that are ours, as words.
fn ours(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut command, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (quote, c) {
            (None, '|' | ';' | '&' | '(' | ')' | '<' | '>') => commands.push(std::mem::take(&mut command)),
            (None, '\'' | '"') => {
                quote = Some(c);
                command.push(c);
            }
            (Some(open), c) => {
                quote = Some(open).filter(|open| *open != c);
                command.push(c);
            }
            (None, c) => command.push(c),
        }
    }
    commands.push(command);
    // What stands for an address is read as one.
    let words =
        commands.iter().filter_map(|command| shlex::split(&command.replace("HOST:PORT", "head:7700")));
    words.filter(|words| words.first().is_some_and(|word| word == "clusterctl")).collect()
}

fn assert_parses(line: &str) -> usize {
    let commands = ours(line);
    for words in &commands {
        if let Err(error) = Cli::try_parse_from(words) {
            panic!("{line}\n{error}");
        }
    }
    commands.len()
}

#[test]
fn every_command_line_that_a_document_shows_can_be_typed() {
    let mut seen = 0;
    for document in DOCUMENTS {
        let mut outside = String::new();
        for (n, part) in document.split("\n```").enumerate() {
            if n % 2 == 0 {
                outside += part;
                continue;
            }
            // As `$ …` or `head$ …`; what is behind another prompt is no shell's.
            let typed = part.lines().filter_map(|line| line.split_once("$ "));
            seen += typed.map(|(_, typed)| assert_parses(typed)).sum::<usize>();
        }
        let spans = outside.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " "));
        let spans = spans.filter(|span| span.starts_with("clusterctl "));
        seen += spans.map(|span| assert_parses(&span)).sum::<usize>();
    }
    assert!(seen > 30, "only {seen} commands were found");
}

#[test]
fn every_example_of_a_help_text_can_be_typed() {
    fn examples(command: &clap::Command, found: &mut Vec<String>) {
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.strip_prefix("  ")).map(str::to_owned));
        command.get_subcommands().for_each(|command| examples(command, found));
    }
    let mut found = Vec::new();
    examples(&Cli::command(), &mut found);

    let seen: usize = found.iter().map(|line| assert_parses(line)).sum();

    assert!(seen >= found.len() && seen > 20, "{found:?}");
}
