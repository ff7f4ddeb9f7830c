//! The REPL: type bash, a worker runs it, the output appears, the exit code comes back.
//!
//! A line is a job. What a line begins with `:` for is done here, by the same commands as on the command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use tokio::sync::mpsc;

use super::commands::{cancel, jobs, logs, pool, run, wait, workers};
use super::connection::{Session, Target};
use super::editor::{self, Prompts, Typed, Verdict};
use super::error::Failure;
use super::follow::FollowWhat;
use super::selector::Recent;
use super::{Manner, render};
use crate::core::id::JobId;
use crate::core::job::JobSpec;
use crate::core::view::{JobInfo, TaskState};
use crate::wire;

/// A REPL's own state.
struct Repl {
    session: Session,
    manner: Manner,
    prompts: Option<Prompts>,
    recent: Recent,
    last_code: u8,
    background: Vec<JobId>,
    directory: Option<PathBuf>,
    variables: Vec<(String, String)>,
    hinted: bool,
    ended: mpsc::UnboundedReceiver<JobInfo>,
    ended_sender: mpsc::UnboundedSender<JobInfo>,
}

/// What can be typed behind a colon.
#[derive(Parser, Debug)]
#[command(name = ":", multicall = true, disable_help_flag = true, disable_help_subcommand = true)]
struct Meta {
    #[command(subcommand)]
    command: MetaCommand,
}

#[derive(Subcommand, Debug)]
enum MetaCommand {
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
    Run(run::RunArgs),
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
    /// Leave; jobs go on
    #[command(alias = "quit", alias = "exit")]
    Q,
}

/// Runs the REPL until its person leaves; the exit code of the process.
///
/// # Errors
/// When the pool cannot be reached, or there is no terminal.
pub async fn run(session: Session, manner: Manner) -> Result<u8, Failure> {
    let (ended_sender, ended) = mpsc::unbounded_channel();
    let mut repl = Repl {
        session,
        manner,
        prompts: None,
        recent: Recent::default(),
        last_code: 0,
        background: Vec::new(),
        directory: None,
        variables: Vec::new(),
        hinted: false,
        ended,
        ended_sender,
    };
    repl.banner().await?;
    repl.prompts = Some(editor::start().map_err(|error| Failure::new("no-terminal", error))?);
    repl.serve().await
}

/// Runs lines of standard input as a person's, one job each; the last job's exit code.
///
/// # Errors
/// When the pool cannot be reached.
pub async fn run_lines(session: Session, manner: Manner) -> Result<u8, Failure> {
    let (ended_sender, ended) = mpsc::unbounded_channel();
    let mut repl = Repl {
        session,
        manner,
        prompts: None,
        recent: Recent::default(),
        last_code: 0,
        background: Vec::new(),
        directory: None,
        variables: Vec::new(),
        hinted: true,
        ended,
        ended_sender,
    };
    let mut open = String::new();
    for line in std::io::stdin().lines() {
        open.push_str(&line?);
        if !open.trim_start().starts_with(':') && editor::judge(&open) == Verdict::Incomplete {
            open.push('\n');
            continue;
        }
        let text = std::mem::take(&mut open);
        if repl.line(&text).await {
            break;
        }
    }
    if !open.is_empty() {
        repl.line(&open).await;
    }
    Ok(repl.last_code)
}

impl Repl {
    async fn banner(&mut self) -> Result<(), Failure> {
        let status = pool::ask(&mut self.session).await?;
        if *self.session.target() == Target::Private {
            let slots = match status.slots {
                0 => crate::process::facts::cpus(),
                slots => slots,
            };
            render::dim(&format!(
                "private pool on this machine: {slots} slots · join others with: clusterctl pool serve"
            ));
            render::dim(
                "every line runs in a new, empty directory (:cd DIR keeps one) · :help for commands, Ctrl-D to leave",
            );
        } else {
            render::dim(&format!(
                "clusterctl {} · pool {} · {} workers, {} slots, {} queued · :help for commands, Ctrl-D to leave",
                env!("CARGO_PKG_VERSION"),
                status.name,
                status.workers,
                status.slots,
                status.queued
            ));
        }
        Ok(())
    }

    async fn serve(&mut self) -> Result<u8, Failure> {
        loop {
            let prompt = self.prompt();
            let Some(prompts) = &mut self.prompts else { return Ok(0) };
            prompts.ask(&prompt);
            let typed = loop {
                tokio::select! {
                    typed = prompts.typed() => break typed,
                    Some(info) = self.ended.recv() => {
                        self.background.retain(|id| *id != info.id);
                        prompts.notice(&notice(&info));
                    }
                }
            };
            match typed {
                Typed::Line(line) => {
                    if self.line(&line).await {
                        break;
                    }
                }
                Typed::Interrupt => {}
                Typed::End => break,
            }
        }
        self.say_what_goes_on();
        Ok(0)
    }

    fn prompt(&self) -> String {
        let name = self.session.target().name();
        let offline = if self.session.is_connected() { "" } else { " !offline" };
        let running = match self.background.len() {
            0 => String::new(),
            n => format!(" ({n} running)"),
        };
        let code = if self.last_code == 0 { String::new() } else { format!(" [{}]", self.last_code) };
        format!("{name}{offline}{running}{code}> ")
    }

    fn say_what_goes_on(&self) {
        let ids: Vec<String> = self.background.iter().map(ToString::to_string).collect();
        match ids.as_slice() {
            [] => {}
            [id] => eprintln!("1 job keeps running: {id}. Follow it with: clusterctl logs -f {id}"),
            [first, ..] => eprintln!(
                "{} jobs keep running: {}. Follow one with: clusterctl logs -f {first}",
                ids.len(),
                ids.join(", ")
            ),
        }
    }

    /// Does what a line says; whether that is to leave.
    async fn line(&mut self, line: &str) -> bool {
        let text = line.trim();
        let bare = matches!(text, "help" | "quit" | "exit" | "clear");
        let result = match text {
            "" => return false,
            "clear" => {
                anstream::print!("\x1b[H\x1b[2J");
                Ok(false)
            }
            _ if bare => self.meta(text).await,
            _ => match text
                .strip_prefix(':')
                .filter(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '?'))
            {
                Some(rest) => self.meta(rest).await,
                None => self.bash(line).await.map(|()| false),
            },
        };
        match result {
            Ok(leave) => leave,
            Err(failure) => {
                failure.print(self.manner.format);
                self.last_code = failure.exit;
                false
            }
        }
    }

    async fn bash(&mut self, line: &str) -> Result<(), Failure> {
        if let Verdict::Wrong(words) = editor::judge(line) {
            eprintln!("{words}");
            render::dim("  not submitted");
            self.last_code = 2;
            return Ok(());
        }
        let (script, detached) = match background(line) {
            Some(script) => (script, true),
            None => (line, false),
        };
        let spec = self.spec(run::JobArgs::default().spec(script.as_bytes().to_vec(), Vec::new())?);
        if detached {
            let id = run::submit(&mut self.session, &spec).await?;
            println!("[{id}] queued");
            self.note(id);
            self.background.push(id);
            self.watch_in_background(id);
            return Ok(());
        }
        self.foreground(&spec, false).await?;
        let changes_directory =
            script.trim_start().starts_with("cd ") && !script.contains(['\n', ';', '&', '|']);
        if changes_directory && !self.hinted && self.directory.is_none() {
            self.hinted = true;
            let id = self.recent.last.unwrap_or_default();
            render::dim(&format!(
                "  note: \"cd\" lasted only for job {id}: every line runs in a new directory. :cd DIR keeps it."
            ));
        }
        Ok(())
    }

    /// What is sticky goes along, under what the line itself says.
    fn spec(&self, mut spec: JobSpec) -> JobSpec {
        let sticky = self
            .variables
            .iter()
            .map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes()));
        spec.env = sticky.chain(spec.env).collect();
        if spec.cwd.is_none() {
            spec.cwd = self.directory.as_ref().map(|path| path.as_os_str().as_encoded_bytes().to_vec());
        }
        if let Some(last) = self.recent.last {
            spec.env.push((b"CLUSTERCTL_LAST_JOB".to_vec(), last.to_string().into_bytes()));
            spec.env.push((b"CLUSTERCTL_LAST_EXIT".to_vec(), self.last_code.to_string().into_bytes()));
        }
        spec
    }

    async fn foreground(&mut self, spec: &JobSpec, tag: bool) -> Result<(), Failure> {
        let id = run::submit(&mut self.session, spec).await?;
        self.note(id);
        let what = FollowWhat { live: spec.array.is_none() || tag, ..FollowWhat::default() };
        let mut watch = run::Watch::new(id, what, tag, self.manner)?;
        match watch.to_end(&mut self.session).await? {
            run::Ended::Done(info) => {
                let open = watch.ends_inside_a_line();
                watch.clear();
                self.footer(&info, open).await?;
                self.last_code = render::job_exit_code(&info);
            }
            run::Ended::StdoutClosed => self.last_code = 141,
            run::Ended::GivenUp => {
                self.last_code = 130;
                self.background.push(id);
                self.watch_in_background(id);
            }
        }
        Ok(())
    }

    async fn footer(&mut self, info: &JobInfo, open_line: bool) -> Result<(), Failure> {
        if open_line {
            render::dim("⏎");
        }
        if info.spec.array.is_some() {
            return run::conclude_array(&mut self.session, info).await;
        }
        let end = info.task.as_ref().and_then(|task| task.end.as_ref());
        let place = info.task.as_ref().and_then(|task| task.worker.as_deref());
        let place = place.map_or(String::new(), |worker| format!(" · {worker}"));
        let text = match (render::sentence(info), end) {
            (Some(sentence), _) => sentence,
            (None, Some(end)) => {
                format!(
                    "{} {} · {}{place}",
                    info.id,
                    render::outcome(&end.outcome),
                    render::duration(end.usage.run)
                )
            }
            (None, None) => format!("{} {}", info.id, info.counts.state().as_str()),
        };
        render::dim(&format!("  {text}"));
        Ok(())
    }

    fn note(&mut self, id: JobId) {
        self.recent = Recent { last: Some(id), before: self.recent.last };
    }

    /// Tells us when a background job has ended, by a connection of its own.
    fn watch_in_background(&self, id: JobId) {
        let (target, root) = (self.session.target().clone(), self.session.root().clone());
        let sender = self.ended_sender.clone();
        tokio::task::spawn_local(async move {
            let mut session = Session::of(target, root);
            loop {
                let Ok(pool) = session.pool().await else { return };
                let mut request = pool.wait_request();
                request.get().init_ids(1).set(0, id.0);
                match request.send().promise.await {
                    Err(error) if error.kind == capnp::ErrorKind::Disconnected => session.disconnect(),
                    Err(_) => return,
                    Ok(answer) => {
                        let ended = answer.get().and_then(|answer| answer.get_ended());
                        let Some(info) = ended.ok().filter(|ended| !ended.is_empty()) else { continue };
                        if let Ok(info) = wire::job::read_info(info.get(0)) {
                            // The REPL may have been left.
                            let _ = sender.send(info);
                        }
                        return;
                    }
                }
            }
        });
    }

    /// Does what a meta-command says; whether that is to leave.
    async fn meta(&mut self, text: &str) -> Result<bool, Failure> {
        let words = shlex::split(text).ok_or_else(|| Failure::new("usage", "a quote is not closed"))?;
        let meta = Meta::try_parse_from(words)
            .map_err(|error| Failure::new("usage", first_line(&error.to_string())).hint(":help"))?;
        let (session, recent, manner) = (&mut self.session, self.recent, self.manner);
        let code = match meta.command {
            MetaCommand::Help => {
                print!("{}", help());
                0
            }
            MetaCommand::Jobs(args) => jobs::jobs(session, &args, manner).await?,
            MetaCommand::Show(args) => jobs::show(session, &args, recent, manner).await?,
            MetaCommand::Logs(args) => logs::logs(session, &args, recent, manner).await?,
            MetaCommand::Cancel(args) => cancel::cancel(session, &args, recent, manner).await?,
            MetaCommand::Why(args) => jobs::why(session, &args, recent, manner).await?,
            MetaCommand::Workers(args) => workers::workers(session, &args, manner).await?,
            MetaCommand::Wait(args) => wait::wait(session, &args, recent, manner).await?,
            MetaCommand::Retry(args) => cancel::retry(session, &args, recent, manner).await?,
            MetaCommand::Abandon(args) => cancel::abandon(session, &args, recent, manner).await?,
            MetaCommand::Run(args) => {
                let spec = self.spec(args.spec()?);
                self.foreground(&spec, args.tag).await?;
                return Ok(false);
            }
            MetaCommand::Cd { directory } => self.change_directory(directory)?,
            MetaCommand::Env { unset, pairs } => self.change_variables(unset, &pairs)?,
            MetaCommand::Q => return Ok(true),
        };
        self.last_code = code;
        Ok(false)
    }

    fn change_directory(&mut self, directory: Option<PathBuf>) -> Result<u8, Failure> {
        match directory {
            None => {
                self.directory = None;
                println!("jobs now start in a new, empty directory");
            }
            Some(path) if path.is_absolute() => {
                println!("jobs now start in {}", path.display());
                self.directory = Some(path);
            }
            Some(path) => match &self.directory {
                Some(base) => {
                    let path = base.join(path);
                    println!("jobs now start in {}", path.display());
                    self.directory = Some(path);
                }
                None => return Err(Failure::new("usage", format!("{} is not absolute", path.display()))),
            },
        }
        Ok(0)
    }

    fn change_variables(&mut self, unset: Option<String>, pairs: &[String]) -> Result<u8, Failure> {
        if let Some(name) = unset {
            self.variables.retain(|(known, _)| *known != name);
            return Ok(0);
        }
        for pair in pairs {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| Failure::new("usage", format!("\"{pair}\" is not K=V")))?;
            self.variables.retain(|(known, _)| known != name);
            self.variables.push((name.to_owned(), value.to_owned()));
        }
        if pairs.is_empty() {
            self.variables.iter().for_each(|(name, value)| println!("{name}={value}"));
        }
        Ok(0)
    }
}

/// A line that ends with a single top-level `&`, without that.
fn background(line: &str) -> Option<&str> {
    let text = line.trim_end();
    let script = text.strip_suffix('&')?;
    let single = !script.ends_with(['&', '>', '<', '|', '\\']);
    (single && editor::judge(script) == Verdict::Complete).then_some(script.trim_end())
}

fn notice(info: &JobInfo) -> String {
    let script = render::script(&info.spec);
    let end = info.task.as_ref().and_then(|task| task.end.as_ref());
    let how =
        end.map_or_else(|| info.counts.state().as_str().to_owned(), |end| render::outcome(&end.outcome));
    let word = if info.counts.state() == TaskState::Done { "done" } else { info.counts.state().as_str() };
    let run = end.map_or(String::new(), |end| format!(" in {}", render::duration(end.usage.run)));
    let place = info.task.as_ref().and_then(|task| task.worker.as_deref());
    let place = place.map_or(String::new(), |worker| format!(" on {worker}"));
    format!("[{}] {word} {how}{run}{place} · {script} · :logs {}", info.id, info.id)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

fn help() -> String {
    use clap::CommandFactory;
    let mut text = "type bash: it runs on a free worker, in a new, empty directory\n".to_owned();
    for command in Meta::command().get_subcommands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("  :{:<9} {about}\n", command.get_name()));
    }
    text.push_str(
        "a line that ends with & runs in the background; Ctrl-C cancels what runs, Ctrl-D leaves\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_single_ampersand_at_the_top_means_the_background() {
        assert_eq!(background("sleep 9 &"), Some("sleep 9"));
        assert_eq!(background("make -j8 test &  "), Some("make -j8 test"));
        for line in ["a &&", "echo \\&", "echo 'a &", "a |&", "sleep 9"] {
            assert_eq!(background(line), None, "{line}");
        }
    }
}
