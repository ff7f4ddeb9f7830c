//! `run` and `submit`: a script becomes a job; `run` stays with it to its end.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::super::connection::{Session, Started, request_id};
use super::super::error::{Failure, check_refused};
use super::super::follow::FollowWhat;
use super::super::hand::Hand;
use super::super::private_pool;
use super::super::watch::{Ended, Style, Subject, Watch};
use super::super::{Format, Manner, duration, json, render};
use crate::core::id::{JobId, Name};
use crate::core::job::{Array, BadSpec, JobSpec};
use crate::core::label::{Constraint, parse_label};
use crate::core::outcome::Cancel;
use crate::core::refusal::os_words;
use crate::core::view::{JobInfo, TaskState};
use crate::say::say;
use crate::wire;

/// Failed tasks that are named when an array has ended.
const FAILURES_NAMED: usize = 5;
/// As many failures as an exit code counts: as GNU parallel does it.
const FAILURES_COUNTED: u64 = 101;
/// Lines of the first failure's standard error that are shown then.
const FAILURE_LINES: usize = 10;

/// What is asked of the job.
#[derive(Args, Clone, Debug, Default)]
pub struct JobArgs {
    /// Run only on workers that meet this expression, as 'gpu=a100 && !spot'
    #[arg(long = "where", value_name = "EXPR")]
    pub constraint: Option<String>,
    /// Run only on workers with this label (may be repeated)
    #[arg(long, value_name = "K=V")]
    pub label: Vec<String>,
    /// Run on this worker
    #[arg(long, value_name = "WORKER")]
    pub on: Option<Name>,
    /// Give the job a name
    #[arg(long)]
    pub name: Option<Name>,
    /// -100 to 100, higher first
    #[arg(long, allow_hyphen_values = true, default_value_t = 0, value_parser = clap::value_parser!(i8).range(-100..=100))]
    pub priority: i8,
    /// Set a variable, or pass on our own (may be repeated)
    #[arg(long, value_name = "K[=V]")]
    pub env: Vec<String>,
    /// Set a variable from our own environment, and keep its value secret: sealed while the job waits, erased when it has
    /// ended (may be repeated)
    #[arg(long, value_name = "K")]
    pub secret_env: Vec<String>,
    /// Start in this directory of the worker instead of a fresh one
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// End the job if it runs longer, as 90s or 10m
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// Allow so many more attempts when one is lost
    #[arg(long, default_value_t = 0)]
    pub retries: u32,
    /// Give up an unknown attempt after this time instead of a day
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub lost_after: Option<Duration>,
    /// Run one task for each index, as 1-1000 or 1-1000%8
    #[arg(long, value_name = "RANGES")]
    pub array: Option<String>,
}

/// What the exit code of an array tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ArrayExit {
    /// 1 if any task failed
    #[default]
    Any,
    /// The exit code of the first task that failed
    First,
    /// How many tasks failed, at most 101
    Count,
}

/// How a job is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct How {
    /// What its output looks like.
    pub style: Style,
    /// What the exit code of an array tells.
    pub exit: ArrayExit,
    /// Whether it may wait for a worker that can run it.
    pub patience: Patience,
}

/// Whether a job may wait for a worker that can run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// As long as it takes.
    Endless,
    /// Not at all.
    None,
}

impl Default for How {
    fn default() -> Self {
        Self { style: Style::Plain, exit: ArrayExit::Any, patience: Patience::Endless }
    }
}

/// Where the script is.
#[derive(Args, Clone, Debug, Default)]
pub struct ScriptArgs {
    /// Take the script from a file; all that follows becomes $1 $2 …
    #[arg(short, long, value_names = ["FILE", "ARGS"], num_args = 1.., allow_hyphen_values = true, conflicts_with = "words")]
    pub file: Vec<OsString>,
    /// The script, or - for standard input
    #[arg(trailing_var_arg = true, value_name = "SCRIPT")]
    pub words: Vec<OsString>,
}

/// `submit`.
#[derive(Args, Clone, Debug, Default)]
pub struct SubmitArgs {
    /// What is asked of the job
    #[command(flatten)]
    pub job: JobArgs,
    /// Cancel it and fail if no worker that is there can run it
    #[arg(long)]
    pub no_wait: bool,
    /// Where the script is
    #[command(flatten)]
    pub script: ScriptArgs,
}

impl From<SubmitArgs> for RunArgs {
    fn from(args: SubmitArgs) -> Self {
        let SubmitArgs { job, no_wait, script } = args;
        Self { job, no_wait, script, detach: true, ..Self::default() }
    }
}

/// `run`.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// What is asked of the job
    #[command(flatten)]
    pub job: JobArgs,
    /// Print a task's lines as they come, with its id in front
    #[arg(long)]
    pub tag: bool,
    /// Leave it alone, and print its id
    #[arg(short, long)]
    pub detach: bool,
    /// Fail at once if no worker that is there can run it
    #[arg(long)]
    pub no_wait: bool,
    /// What the exit code of an array tells
    #[arg(long, value_enum, default_value_t = ArrayExit::Any, hide_default_value = true)]
    pub exit: ArrayExit,
    /// Where the script is
    #[command(flatten)]
    pub script: ScriptArgs,
}

impl JobArgs {
    /// The request, checked.
    ///
    /// # Errors
    /// When a part of it cannot be read.
    pub fn spec(&self, script: Vec<u8>, args: Vec<Vec<u8>>) -> Result<JobSpec, Failure> {
        let usage = |error: String| Failure::new("usage", error);
        let mut constraint = match &self.constraint {
            Some(text) => Constraint::parse(text).map_err(|bad| bad_constraint(&bad))?,
            None => Constraint::default(),
        };
        let labels = self.label.iter().map(|text| parse_label(text).map_err(|bad| usage(bad.to_string())));
        constraint = constraint.and(Constraint::all_of(labels.collect::<Result<Vec<_>, _>>()?));
        if let Some(worker) = &self.on {
            constraint = constraint.and(Constraint::all_of([("name".to_owned(), worker.to_string())]));
        }
        let array = self.array.as_deref().map(Array::parse).transpose();
        let spec = JobSpec {
            name: self.name.clone(),
            constraint,
            args,
            env: self.env.iter().filter_map(|text| variable(text)).collect(),
            secrets: self.secret_env.iter().map(|name| secret(name)).collect::<Result<_, _>>()?,
            cwd: self.cwd.as_ref().map(|path| path.as_os_str().as_encoded_bytes().to_vec()),
            timeout: self.timeout,
            retries: self.retries,
            priority: self.priority,
            lost_after: self.lost_after,
            array: array.map_err(|bad| usage(bad.to_string()))?,
            ..JobSpec::new(script)
        };
        spec.check_entering().map_err(|bad| bad_spec(&bad))?;
        Ok(spec)
    }
}

/// `K=V`, or `K` with our own value; a variable that we do not have is not passed on.
fn variable(text: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    match text.split_once('=') {
        Some((name, value)) => Some((name.as_bytes().to_vec(), value.as_bytes().to_vec())),
        None => Some((text.as_bytes().to_vec(), std::env::var_os(text)?.as_encoded_bytes().to_vec())),
    }
}

/// A variable of our own that must be there: a job without its secret would fail in stranger ways.
fn secret(name: &str) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    if name.contains('=') {
        let text = "a secret is given by its name alone: whoever lists processes would read it";
        return Err(Failure::new("usage", text));
    }
    let value = std::env::var_os(name).ok_or_else(|| Failure::new("usage", format!("{name} is not set")))?;
    Ok((name.as_bytes().to_vec(), value.as_encoded_bytes().to_vec()))
}

fn bad_constraint(bad: &crate::core::label::BadConstraint) -> Failure {
    let shown = format!("{}\n{}^ {}", bad.text, " ".repeat(bad.column - 1), bad.message);
    Failure::new("bad-constraint", format!("cannot read the constraint at column {}", bad.column))
        .fact("where", shown)
}

fn bad_spec(bad: &BadSpec) -> Failure {
    match bad {
        BadSpec::TooBig(bytes) => {
            let mib = *bytes as f64 / f64::from(1 << 20);
            Failure::new(
                "script-too-big",
                format!("script and environment are {mib:.1} MiB, the limit is 1 MiB"),
            )
        }
        other => Failure::new("usage", other),
    }
}

impl RunArgs {
    /// The request, with its script from wherever that is.
    ///
    /// # Errors
    /// When there is no script, or it cannot be read.
    pub fn spec(&self) -> Result<JobSpec, Failure> {
        let bytes = |word: &OsString| word.as_bytes().to_vec();
        if let Some((path, args)) = self.script.file.split_first() {
            let script = std::fs::read(path).map_err(|error| {
                let path = path.display();
                Failure::new("input-missing", format!("cannot read {path}: {}", os_words(&error)))
            })?;
            return self.job.spec(script, args.iter().map(bytes).collect());
        }
        match self.script.words.as_slice() {
            [] => Err(Failure::new("usage", "there is no script").hint("clusterctl run 'echo hello'")),
            [dash] if dash == "-" => {
                let mut script = Vec::new();
                std::io::stdin().read_to_end(&mut script)?;
                self.job.spec(script, Vec::new())
            }
            // Several words are put together with spaces, as ssh does it.
            words => self.job.spec(words.join(OsStr::new(" ")).into_vec(), Vec::new()),
        }
    }

    /// How the job is run.
    pub fn how(&self) -> How {
        How {
            style: if self.tag { Style::Tagged } else { Style::Plain },
            exit: self.exit,
            patience: if self.no_wait { Patience::None } else { Patience::Endless },
        }
    }
}

/// Submits a job; a lost connection is made again, and the same request sent again.
///
/// # Errors
/// When the pool refuses it, or cannot be reached at all.
pub async fn submit(session: &mut Session, spec: &JobSpec) -> Result<JobId, Failure> {
    let request_id = request_id()?;
    loop {
        let pool = session.pool().await?;
        let mut request = pool.submit_request();
        request.get().set_request(&request_id);
        wire::job::write(spec, request.get().init_spec());
        match request.send().promise.await {
            Err(error) if error.kind == capnp::ErrorKind::Disconnected => session.disconnect(),
            Err(error) => return Err(error.into()),
            Ok(answer) => {
                let answer = answer.get()?;
                check_refused(answer.has_refused(), answer.get_refused())?;
                return Ok(JobId(answer.get_job()));
            }
        }
    }
}

/// Fails if no worker that is there can run a job that was just submitted, and cancels that.
async fn check_placeable(session: &mut Session, id: JobId, spec: &JobSpec) -> Result<(), Failure> {
    let first = spec.array.as_ref().map_or(0, |array| array.ranges()[0].0);
    let why = super::jobs::ask_why(session, id, first).await?;
    if why.state != TaskState::Queued || why.fitting > 0 {
        return Ok(());
    }
    super::cancel::cancel_jobs(session, &[id], Cancel::Kill).await?;
    let missing = why.terms.iter().filter(|term| term.met == 0);
    let reason = if why.terms.is_empty() { why.text.clone() } else { spec.constraint.to_string() };
    let failure = Failure::new("unplaceable", format!("no worker can run job {id}: {reason}"));
    Err(missing
        .fold(failure, |failure, term| failure.fact(&term.text, super::jobs::offered(term, why.workers))))
}

/// Runs what the command line says; the exit code of the process.
///
/// # Errors
/// When no result could be got.
pub async fn run(session: &mut Session, args: &RunArgs, manner: Manner) -> Result<u8, Failure> {
    let spec = args.spec()?;
    if !args.detach {
        return run_spec(session, &spec, args.how(), manner).await;
    }
    let id = submit(session, &spec).await?;
    if args.how().patience == Patience::None {
        check_placeable(session, id, &spec).await?;
    }
    super::tell_id(id, manner);
    Ok(0)
}

/// Runs a job to its end, its output on ours; the exit code of the process.
///
/// # Errors
/// When no result could be got.
pub async fn run_spec(
    session: &mut Session,
    spec: &JobSpec,
    how: How,
    manner: Manner,
) -> Result<u8, Failure> {
    let mut hand = Hand::take()?;
    let id = hand.holding(submit(session, spec)).await?;
    if session.started() == Started::ByUs && manner.speaks() && std::io::stderr().is_terminal() {
        render::dim(&private_pool::banner(0));
    }
    if how.patience == Patience::None {
        check_placeable(session, id, spec).await?;
    }
    let mut watch = watch(id, spec, how.style, manner);
    let ended = watch.to_end(session, &mut hand).await?;
    if let Ended::Done(info, _) = &ended {
        conclude(session, info, watch.workers(), manner).await?;
    }
    Ok(match &ended {
        Ended::Done(info, code) => array_exit_code(info, how.exit).unwrap_or(*code),
        Ended::StdoutClosed | Ended::GivenUp => ended.exit_code(),
    })
}

/// Stays with a job that was just submitted.
pub fn watch(id: JobId, spec: &JobSpec, style: Style, manner: Manner) -> Watch {
    let live = spec.array.is_none() || style == Style::Tagged || manner.format == Format::Ndjson;
    Watch::new(Subject::of(id, spec), FollowWhat { live, ..FollowWhat::default() }, style, manner)
}

fn array_exit_code(info: &JobInfo, exit: ArrayExit) -> Option<u8> {
    let failed = info.counts.over() - info.counts.of(TaskState::Done);
    match exit {
        ArrayExit::Any => None,
        _ if info.spec.array.is_none() => None,
        ArrayExit::Count => Some(u8::try_from(failed.min(FAILURES_COUNTED)).unwrap_or(u8::MAX)),
        ArrayExit::First if failed == 0 => None,
        ArrayExit::First => {
            let end = info.task.as_ref().and_then(|task| task.end.as_ref());
            Some(end.map_or(1, |end| render::exit_code(&end.outcome)))
        }
    }
}

/// Says what has to be said of a job that has ended.
async fn conclude(
    session: &mut Session,
    info: &JobInfo,
    workers: usize,
    manner: Manner,
) -> Result<(), Failure> {
    match manner.format {
        Format::Json => say!("{}", json::job(info)),
        Format::Human if manner.speaks() && info.spec.array.is_some() => {
            conclude_array(session, info, workers).await;
        }
        Format::Human if manner.speaks() => match render::loss(info) {
            Some(loss) => Failure::from(loss).print(manner.format),
            None => {
                if let Some(sentence) = render::sentence(info) {
                    say!("{sentence}");
                }
            }
        },
        // The stream has told it; or nobody wants to hear it.
        Format::Ndjson | Format::Human => {}
    }
    Ok(())
}

/// How an array ended: counts, and of the first failure the last lines.
pub async fn conclude_array(session: &mut Session, info: &JobInfo, workers: usize) {
    let id = info.id;
    let ok = info.counts.of(TaskState::Done);
    let bad = info.counts.over() - ok;
    let time =
        info.started.zip(info.ended).map_or(Duration::ZERO, |(start, end)| render::between(start, end));
    let place = match workers {
        0 => String::new(),
        n => format!(" on {}", render::some(n as u64, "worker")),
    };
    if bad == 0 {
        if std::io::stderr().is_terminal() {
            say!("{id} done: {ok} ok · {}{place}", render::duration(time));
        }
        return;
    }
    let some: Vec<String> = info
        .failed
        .iter()
        .flat_map(|(first, last)| *first..=*last)
        .take(FAILURES_NAMED)
        .map(|n| format!("{id}.{n}"))
        .collect();
    let more = if bad > FAILURES_NAMED as u64 { ", …" } else { "" };
    let (some, time) = (some.join(", "), render::duration(time));
    say!("{id} failed: {ok} ok, {bad} failed ({some}{more}) · {time}{place}");
    if let Some(task) = &info.task {
        let place = task.worker.as_deref().map_or(String::new(), |worker| format!(" on {worker}"));
        let how = task.end.as_ref().map_or("cancelled".to_owned(), |end| render::outcome(&end.outcome));
        // Lines that cannot be got do not change how the array ended.
        let lines =
            super::logs::tail_of_stderr(session, id, task.index, FAILURE_LINES).await.unwrap_or_default();
        let colon = if lines.is_empty() { "" } else { ", last lines of stderr:" };
        say!("  first failure, {id}.{}{place}, {how}{colon}", task.index);
        lines.iter().for_each(|line| say!("    {line}"));
    }
    say!("  hint: clusterctl logs {id} --failed --tag     clusterctl retry --failed-of {id}");
}
