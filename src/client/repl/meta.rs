//! What can be typed behind a colon: the same commands as on the command line, and a few of the REPL's own.

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser, Subcommand};

use super::super::commands::{cancel, jobs, logs, run, wait, workers};
use super::super::error::Failure;

#[derive(Parser, Debug)]
#[command(name = ":", multicall = true, disable_help_subcommand = true)]
struct Meta {
    #[command(subcommand)]
    command: MetaCommand,
}

/// A command behind a colon.
#[derive(Subcommand, Debug)]
pub(super) enum MetaCommand {
    /// This list
    #[command(alias = "h", alias = "?")]
    Help,
    /// List jobs
    Jobs(jobs::JobsArgs),
    /// Show a job in full
    Show(jobs::ShowArgs),
    /// The output of a job
    Logs(logs::LogsArgs),
    /// End jobs
    Cancel(cancel::CancelArgs),
    /// Why a job is not running
    Why(jobs::WhyArgs),
    /// Who is there
    Workers(workers::WorkersArgs),
    /// Wait for jobs
    Wait(wait::WaitArgs),
    /// Submit a job again
    Retry(cancel::RetryArgs),
    /// Give up unknown attempts
    Abandon(cancel::AbandonArgs),
    /// Run with options, as :run --label gpu=a100 nvidia-smi
    Run(Box<run::RunArgs>),
    /// Let jobs start in a directory of the worker; without one, in a fresh one again
    Cd {
        /// The directory
        directory: Option<PathBuf>,
    },
    /// Set a variable for jobs (K=V), unset one (-u K), or list them
    Env {
        /// Unset this one
        #[arg(short)]
        unset: Option<String>,
        /// K=V
        pairs: Vec<String>,
    },
    /// How another one is used; nothing to type
    #[command(skip)]
    Usage {
        /// What to show
        text: String,
    },
    /// Leave; jobs go on
    #[command(alias = "quit", alias = "exit")]
    Q,
}

/// Reads what is behind the colon.
pub(super) fn parse(text: &str) -> Result<MetaCommand, Failure> {
    let words = shlex::split(text).ok_or_else(|| Failure::new("usage", "a quote is not closed"))?;
    let first = words.first().cloned().unwrap_or_default();
    match Meta::try_parse_from(&words) {
        Ok(Meta { command: MetaCommand::Run(mut args) }) => {
            if !args.script.words.is_empty() {
                let typed = behind(text, words.len() - args.script.words.len());
                // One word in quotes is meant as in a shell: a script, and not a command of that name.
                let is_quoted = args.script.words.len() == 1 && typed.starts_with(['\'', '"']);
                if !is_quoted {
                    args.script.words = vec![typed.into()];
                }
            }
            Ok(MetaCommand::Run(args))
        }
        Ok(meta) => Ok(meta.command),
        Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelp => {
            Ok(MetaCommand::Usage { text: error.to_string() })
        }
        Err(error) => Err(failure(&first, &error)),
    }
}

/// The text behind so many words: bash reads it as it was typed, with its quotes and dollars.
fn behind(text: &str, words: usize) -> &str {
    let ends = |at: &usize| shlex::split(&text[..*at]).is_some_and(|before| before.len() == words);
    let gaps = text.char_indices().filter(|(_, c)| c.is_whitespace()).map(|(at, _)| at);
    gaps.into_iter().find(ends).map_or("", |at| text[at..].trim())
}

fn failure(first: &str, error: &clap::Error) -> Failure {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    if error.kind() == clap::error::ErrorKind::InvalidSubcommand {
        let nearest = text(ContextKind::SuggestedSubcommand);
        let hint = nearest.map_or_else(|| ":help".to_owned(), |name| format!(":{name}"));
        return Failure::new("usage", format!("there is no :{first}")).hint(hint);
    }
    if error.kind() == clap::error::ErrorKind::MissingRequiredArgument {
        let missing = text(ContextKind::InvalidArg).unwrap_or_default();
        return if missing.starts_with("<ID") {
            Failure::new("usage", format!(":{first} needs a job, as 42, 1-5,8 or last"))
                .hint(format!(":{first} last"))
        } else {
            Failure::new("usage", format!(":{first} needs {missing}")).hint(format!(":{first} --help"))
        };
    }
    let rendered = error.to_string();
    let line = rendered.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let nearest = text(ContextKind::SuggestedArg);
    Failure::new("usage", line).hint(nearest.unwrap_or_else(|| ":help".to_owned()))
}

/// The list of commands.
pub(super) fn help() -> String {
    let mut text = "type bash: it runs on a free worker, in a new, empty directory\n".to_owned();
    for command in Meta::command().get_subcommands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("  :{:<9} {about}\n", command.get_name()));
    }
    text.push_str(
        "a line that ends with & runs in the background; Ctrl-C cancels what runs, Ctrl-D leaves\n\
         a line that begins with a space is not kept in the history (the pool keeps its script)\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_command_names_the_nearest() {
        let failure = parse("workrs").unwrap_err();

        assert_eq!(failure.refusal.message, "there is no :workrs");
        assert_eq!(failure.refusal.hint.as_deref(), Some(":workers"));
        assert_eq!(parse("xyzzy").unwrap_err().refusal.hint.as_deref(), Some(":help"));
    }

    #[test]
    fn a_command_that_needs_a_job_says_so_and_how_it_is_used() {
        let failure = parse("cancel").unwrap_err();

        assert_eq!(failure.refusal.message, ":cancel needs a job, as 42, 1-5,8 or last");
        assert_eq!(failure.refusal.hint.as_deref(), Some(":cancel last"));
        for command in ["wait", "retry", "abandon"] {
            assert!(parse(command).unwrap_err().refusal.message.contains("needs a job"), "{command}");
        }
        assert_eq!(parse("workers remove").unwrap_err().refusal.message, ":workers needs <NAME>");
    }

    #[test]
    fn what_is_run_is_read_by_bash_as_it_was_typed() {
        let script = |text| match parse(text) {
            Ok(MetaCommand::Run(args)) => args.script.words,
            other => panic!("{other:?}"),
        };

        assert_eq!(script("run grep 'a  b' \"$F\" | wc -l # all"), ["grep 'a  b' \"$F\" | wc -l # all"]);
        assert_eq!(script("run --name 'x' -- echo  \"$HOME\""), ["echo  \"$HOME\""]);
        assert_eq!(script("run --env 'A=b c' echo"), ["echo"]);
        assert_eq!(script("run 'cd /; pwd'"), ["cd /; pwd"]);
        assert_eq!(script("run 'a b' c"), ["'a b' c"]);
    }

    #[test]
    fn each_command_tells_how_it_is_used() {
        let Ok(MetaCommand::Usage { text }) = parse("jobs --help") else { panic!() };

        assert!(text.contains("Usage: jobs"), "{text}");
    }

    #[test]
    fn the_help_lists_every_command() {
        let help = help();

        assert!(
            [":help", ":jobs", ":show", ":logs", ":cancel", ":why", ":workers", ":cd", ":env", ":q"]
                .iter()
                .all(|name| help.contains(&format!("  {name} "))),
            "{help}"
        );
    }
}
