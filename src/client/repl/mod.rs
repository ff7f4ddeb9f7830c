//! The REPL: type bash, a worker runs it, the output appears, the exit code comes back.
//!
//! A line is a job. What a line begins with `:` for is done here, by the same commands as on the command line.

mod background;
mod meta;
mod sticky;

use std::io::BufRead;

use self::background::Background;
use self::meta::MetaCommand;
use self::sticky::Sticky;
use super::commands::{cancel, jobs, list, logs, pool, run, wait, workers};
use super::connection::{Session, Target};
use super::editor::{self, Prompts, Typed, Verdict};
use super::error::Failure;
use super::hand::{Hand, Sign};
use super::selector::Recent;
use super::watch::{Ended, Style, Watch};
use super::{Manner, private_pool, render};
use crate::core::id::JobId;
use crate::core::job::JobSpec;
use crate::core::view::{JobFilter, JobInfo};
use crate::say::{say, tell};

/// A REPL's own state.
struct Repl {
    session: Session,
    manner: Manner,
    recent: Recent,
    last_code: u8,
    background: Background,
    sticky: Sticky,
    /// Whether somebody was told that a lone `cd` changes nothing.
    hinted: bool,
}

/// Whether to ask for another line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Line,
    Leave,
}

/// What happened at the prompt.
enum Event {
    Typed(Typed),
    Ended(Vec<String>),
    Hand(Sign),
}

/// Runs the REPL until its person leaves; the exit code of the process.
///
/// # Errors
/// When the pool cannot be reached, or there is no terminal.
pub async fn run(session: Session, manner: Manner) -> Result<u8, Failure> {
    let mut repl = Repl::new(session, manner);
    repl.banner().await?;
    let prompts = editor::start().map_err(|error| Failure::new("no-terminal", error))?;
    repl.serve(prompts).await?;
    background::leave(repl.session.target().name());
    if let Some(farewell) = repl.background.farewell() {
        say!("{farewell}");
    }
    Ok(0)
}

/// Runs lines of standard input as a person's, one job each; the last job's exit code.
///
/// # Errors
/// When standard input cannot be read.
pub async fn run_lines(session: Session, manner: Manner) -> Result<u8, Failure> {
    let mut repl = Repl::new(session, manner);
    repl.hinted = true;
    let mut open = Vec::new();
    for line in std::io::stdin().lock().split(b'\n') {
        open.extend(line?);
        let is_bash =
            std::str::from_utf8(&open).map_or(true, |text| editor::meta_words(text.trim()).is_none());
        if is_bash && editor::judge(&open) == Verdict::Incomplete {
            open.push(b'\n');
            continue;
        }
        if repl.line(&std::mem::take(&mut open)).await == Next::Leave {
            break;
        }
    }
    if !open.is_empty() {
        repl.line(&open).await;
    }
    if let Some(farewell) = repl.background.farewell() {
        say!("{farewell}");
    }
    Ok(repl.last_code)
}

impl Repl {
    fn new(session: Session, manner: Manner) -> Self {
        Self {
            session,
            manner,
            recent: Recent::default(),
            last_code: 0,
            background: Background::new(),
            sticky: Sticky::default(),
            hinted: false,
        }
    }

    async fn banner(&mut self) -> Result<(), Failure> {
        let status = pool::ask(&mut self.session).await?;
        if *self.session.target() == Target::Private {
            render::dim(&private_pool::banner(status.slots));
            render::dim(
                "every line runs in a new, empty directory (:cd DIR keeps one) · :help for commands, Ctrl-D to leave",
            );
        } else {
            render::dim(&format!(
                "clusterctl {} · pool {} · {}, {}, {} queued · :help for commands, Ctrl-D to leave",
                env!("CARGO_PKG_VERSION"),
                status.name,
                render::some(status.workers.into(), "worker"),
                render::some(status.slots.into(), "slot"),
                status.queued
            ));
        }
        if let Some(left) = background::left(self.session.target().name()) {
            let all = JobFilter { all: true, ..JobFilter::default() };
            let (jobs, _) = list(&mut self.session, &all, 1000).await?;
            let ended = jobs.iter().filter(|job| job.ended.is_some_and(|ended| ended >= left)).count();
            if ended > 0 {
                render::dim(&format!("{} ended since you left: :jobs", render::some(ended as u64, "job")));
            }
        }
        Ok(())
    }

    async fn serve(&mut self, mut prompts: Prompts) -> Result<(), Failure> {
        // Tokio keeps a signal for the life of the process, so what the shell would do is ours to do.
        let mut hand = Hand::take()?;
        prompts.ask(&self.prompt());
        loop {
            let event = tokio::select! {
                typed = prompts.typed() => Event::Typed(typed),
                notices = self.background.notices() => Event::Ended(notices),
                sign = hand.next() => Event::Hand(sign),
            };
            match event {
                Event::Ended(notices) => notices.iter().for_each(|notice| prompts.notice(notice)),
                Event::Typed(Typed::End) | Event::Hand(Sign::Terminate) => return Ok(()),
                // Typed, it comes by the editor; by a signal it clears nothing.
                Event::Hand(Sign::Interrupt) => {}
                Event::Typed(Typed::Interrupt) => prompts.ask(&self.prompt()),
                Event::Typed(Typed::Text(text)) => {
                    if self.line(text.as_bytes()).await == Next::Leave {
                        return Ok(());
                    }
                    prompts.ask(&self.prompt());
                }
            }
        }
    }

    fn prompt(&self) -> String {
        let name = self.session.target().name();
        let offline = if self.session.is_connected() { "" } else { " !offline" };
        let running = match self.background.running().len() {
            0 => String::new(),
            n => format!(" ({n} running)"),
        };
        let code = if self.last_code == 0 { String::new() } else { format!(" [{}]", self.last_code) };
        format!("{name}{offline}{running}{code}> ")
    }

    /// Does what a text says. What is no UTF-8 can only be bash.
    async fn line(&mut self, text: &[u8]) -> Next {
        let words = std::str::from_utf8(text).unwrap_or("no UTF-8").trim();
        let result = match (words, editor::meta_words(words)) {
            ("", _) => return Next::Line,
            ("clear", _) => {
                crate::say::result(format_args!("\x1b[H\x1b[2J"));
                Ok(Next::Line)
            }
            (_, Some(words)) => self.meta(words).await,
            (_, None) => self.bash(text).await.map(|()| Next::Line),
        };
        result.unwrap_or_else(|failure| {
            failure.print(self.manner.format);
            self.last_code = failure.exit;
            Next::Line
        })
    }

    async fn bash(&mut self, text: &[u8]) -> Result<(), Failure> {
        if let Verdict::Wrong(words) = editor::judge(text) {
            say!("{words}");
            render::dim("  not submitted");
            self.last_code = 2;
            return Ok(());
        }
        if let Some(script) = background(text) {
            let spec = self.spec(run::JobArgs::default().spec(script.to_vec(), Vec::new())?);
            return self.detached(&spec).await;
        }
        let spec = self.spec(run::JobArgs::default().spec(text.to_vec(), Vec::new())?);
        self.foreground(&spec, Style::Plain).await?;
        if is_lone_cd(text) && !self.hinted && !self.sticky.has_directory() {
            self.hinted = true;
            let id = self.recent.last.unwrap_or_default();
            render::dim(&format!(
                "  note: \"cd\" lasted only for job {id}: every line runs in a new directory. :cd DIR keeps it."
            ));
        }
        Ok(())
    }

    /// What is sticky goes along, and what the last line came to.
    fn spec(&self, mut spec: JobSpec) -> JobSpec {
        self.sticky.apply(&mut spec);
        if let Some(last) = self.recent.last {
            spec.env.push((b"CLUSTERCTL_LAST_JOB".to_vec(), last.to_string().into_bytes()));
            spec.env.push((b"CLUSTERCTL_LAST_EXIT".to_vec(), self.last_code.to_string().into_bytes()));
        }
        spec
    }

    async fn submit(&mut self, spec: &JobSpec, hand: &mut Hand) -> Result<JobId, Failure> {
        let id = hand.holding(run::submit(&mut self.session, spec)).await?;
        self.remember(id);
        Ok(id)
    }

    async fn detached(&mut self, spec: &JobSpec) -> Result<(), Failure> {
        let id = self.submit(spec, &mut Hand::take()?).await?;
        self.left(id);
        Ok(())
    }

    /// A job that nobody waits for; a notice will say how it ended.
    fn left(&mut self, id: JobId) {
        self.remember(id);
        tell!("[{id}] queued");
        self.background.add(&self.session, id);
    }

    fn remember(&mut self, id: JobId) {
        if self.recent.last != Some(id) {
            self.recent = Recent { last: Some(id), before: self.recent.last };
        }
    }

    async fn foreground(&mut self, spec: &JobSpec, style: Style) -> Result<(), Failure> {
        let mut hand = Hand::take()?;
        let id = self.submit(spec, &mut hand).await?;
        let mut watch = run::watch(id, spec, style, self.manner);
        let ended = watch.to_end(&mut self.session, &mut hand).await?;
        self.last_code = ended.exit_code();
        match ended {
            Ended::Done(info, _) => self.footer(&info, &watch).await,
            Ended::StdoutClosed => {}
            Ended::GivenUp => {
                self.background.add(&self.session, id);
                self.background.cancelling(id, watch.cancels());
            }
        }
        Ok(())
    }

    /// Every job in the foreground ends with a line that stands back.
    async fn footer(&mut self, info: &JobInfo, watch: &Watch) {
        if watch.ends_inside_a_line() {
            render::dim("⏎");
        }
        if !self.manner.speaks() {
            return;
        }
        if info.spec.array.is_some() {
            run::conclude_array(&mut self.session, info, watch.workers()).await;
        } else {
            render::dim(&format!("  {}", render::footer(info)));
        }
    }

    /// Does what a command behind a colon says.
    async fn meta(&mut self, words: &str) -> Result<Next, Failure> {
        let command = meta::parse(words)?;
        let (session, recent, manner) = (&mut self.session, self.recent, self.manner);
        let mut hand = Hand::take()?;
        let code = match command {
            MetaCommand::Help => {
                crate::say::result(format_args!("{}", meta::help()));
                0
            }
            MetaCommand::Usage { text } => {
                crate::say::result(format_args!("{text}"));
                0
            }
            MetaCommand::Jobs(args) => hand.free(jobs::jobs(session, &args, manner)).await?,
            MetaCommand::Show(args) => hand.free(jobs::show(session, &args, recent, manner)).await?,
            MetaCommand::Logs(args) => hand.free(logs::logs(session, &args, recent, manner)).await?,
            MetaCommand::Cancel(args) => hand.free(cancel::cancel(session, &args, recent, manner)).await?,
            MetaCommand::Why(args) => hand.free(jobs::why(session, &args, recent, manner)).await?,
            MetaCommand::Workers(args) => hand.free(workers::workers(session, &args, manner)).await?,
            MetaCommand::Wait(args) => hand.free(wait::wait(session, &args, recent, manner)).await?,
            MetaCommand::Retry(args) => {
                let mut again = Vec::new();
                let retried = hand.free(cancel::retry(session, &args, recent, |id| again.push(id))).await;
                again.into_iter().for_each(|id| self.left(id));
                retried?;
                0
            }
            MetaCommand::Abandon(args) => hand.free(cancel::abandon(session, &args, recent, manner)).await?,
            MetaCommand::Run(args) if args.detach => {
                let spec = self.spec(args.spec()?);
                self.detached(&spec).await?;
                0
            }
            MetaCommand::Run(args) => {
                let spec = self.spec(args.spec()?);
                self.foreground(&spec, args.how().style).await?;
                return Ok(Next::Line);
            }
            MetaCommand::Cd { directory } => self.sticky.change_directory(directory).map(|()| 0)?,
            MetaCommand::Env { unset, pairs } => {
                self.sticky.change_variables(unset.as_deref(), &pairs).map(|()| 0)?
            }
            MetaCommand::Q => return Ok(Next::Leave),
        };
        self.last_code = code;
        Ok(Next::Line)
    }
}

/// A text that ends with a top-level `&`, without that. Only behind such a one does bash refuse a `;`.
fn background(text: &[u8]) -> Option<&[u8]> {
    let text = text.trim_ascii_end();
    let script = text.strip_suffix(b"&")?;
    let refuses = matches!(editor::judge([text, b";"].concat()), Verdict::Wrong(_));
    (refuses && editor::judge(text) == Verdict::Complete).then_some(script.trim_ascii_end())
}

/// Whether a line does nothing but change its own directory.
fn is_lone_cd(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    (text == b"cd" || text.starts_with(b"cd ")) && !text.iter().any(|byte| b"\n;&|".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_single_ampersand_at_the_top_means_the_background() {
        assert_eq!(background(b"sleep 9 &"), Some(&b"sleep 9"[..]));
        assert_eq!(background(b"make -j8 test &  "), Some(&b"make -j8 test"[..]));
        for line in ["a &&", "echo \\&", "echo 'a &", "a |&", "sleep 9", "# a &"] {
            assert_eq!(background(line.as_bytes()), None, "{line}");
        }
    }
}
