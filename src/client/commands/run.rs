//! `run` and `submit`: a script becomes a job; `run` stays with it to its end.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::super::connection::{Session, request_id};
use super::super::error::Failure;
use super::super::follow::{FollowWhat, Following, News, write_out};
use super::super::{Format, Manner, render};
use crate::core::id::{JobId, Name};
use crate::core::job::{Array, BadSpec, JobSpec};
use crate::core::label::{Constraint, parse_label};
use crate::core::outcome::Cancel;
use crate::core::view::{JobInfo, TaskEventKind, TaskState};
use crate::wire;

/// A waiting line is shown after so long.
const WAITING_AFTER: Duration = Duration::from_millis(500);

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
    pub on: Option<String>,
    /// Give the job a name
    #[arg(long)]
    pub name: Option<Name>,
    /// -100 to 100, higher first
    #[arg(long, allow_hyphen_values = true, default_value_t = 0, value_parser = clap::value_parser!(i8).range(-100..=100))]
    pub priority: i8,
    /// Set a variable, or pass on our own (may be repeated)
    #[arg(long, value_name = "K[=V]")]
    pub env: Vec<String>,
    /// Start in this directory of the worker instead of a fresh one
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// End the job if it runs longer, as 90s or 10m
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Allow so many more attempts when one is lost
    #[arg(long, default_value_t = 0)]
    pub retries: u32,
    /// Give up an unknown attempt after this time instead of a day
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub lost_after: Option<Duration>,
    /// Run one task for each index, as 1-1000 or 1-1000%8
    #[arg(long, value_name = "RANGES")]
    pub array: Option<String>,
}

/// `run` and `submit`.
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
    /// Take the script from a file; what follows becomes $1 $2 …
    #[arg(short, long, value_name = "FILE", num_args = 1)]
    pub file: Option<PathBuf>,
    /// The script, or - for standard input
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "SCRIPT")]
    pub words: Vec<String>,
}

/// Reads `90s`, `10m`, `1h 30m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration =
        text.parse().map_err(|_| format!("\"{text}\" is no time; write 90s or 10m"))?;
    Duration::try_from(signed).map_err(|_| "a time cannot be negative".to_owned())
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
            constraint = constraint.and(Constraint::all_of([("name".to_owned(), worker.clone())]));
        }
        let array = self.array.as_deref().map(Array::parse).transpose();
        let spec = JobSpec {
            name: self.name.clone(),
            constraint,
            args,
            env: self.env.iter().filter_map(|text| variable(text)).collect(),
            cwd: self.cwd.as_ref().map(|path| path.as_os_str().as_encoded_bytes().to_vec()),
            timeout: self.timeout,
            retries: self.retries,
            priority: self.priority,
            lost_after: self.lost_after,
            array: array.map_err(|bad| usage(bad.to_string()))?,
            ..JobSpec::new(script)
        };
        spec.check().map_err(|bad| bad_spec(&bad))?;
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

fn bad_constraint(bad: &crate::core::label::BadConstraint) -> Failure {
    let caret = format!("{}\n{}^ {}", bad.text, " ".repeat(bad.column - 1), bad.message);
    Failure::new("bad-constraint", format!("cannot read the constraint at column {}", bad.column))
        .fact("where", format!("\n{caret}"))
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
        let bytes = |word: &String| word.as_bytes().to_vec();
        if let Some(path) = &self.file {
            let script = std::fs::read(path).map_err(|error| {
                Failure::new("input-missing", format!("cannot read {}: {error}", path.display()))
            })?;
            return self.job.spec(script, self.words.iter().map(bytes).collect());
        }
        match self.words.as_slice() {
            [] => Err(Failure::new("usage", "there is no script").hint("clusterctl run 'echo hello'")),
            [dash] if dash == "-" => {
                let mut script = Vec::new();
                std::io::stdin().read_to_end(&mut script)?;
                self.job.spec(script, Vec::new())
            }
            // Several words are put together with spaces, as ssh does it.
            words => self.job.spec(words.join(" ").into_bytes(), Vec::new()),
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
                if answer.has_refused() {
                    return Err(wire::refusal::read(answer.get_refused()?)?.into());
                }
                return Ok(JobId(answer.get_job()));
            }
        }
    }
}

/// Runs what the command line says; the exit code of the process.
///
/// # Errors
/// When no result could be got.
pub async fn run(session: &mut Session, args: &RunArgs, manner: Manner) -> Result<u8, Failure> {
    let spec = args.spec()?;
    if args.detach {
        let id = submit(session, &spec).await?;
        println!("{id}");
        return Ok(0);
    }
    run_spec(session, &spec, args.tag, manner).await
}

/// Runs a job to its end, its output on ours; the exit code of the process.
///
/// # Errors
/// When no result could be got.
pub async fn run_spec(
    session: &mut Session,
    spec: &JobSpec,
    tag: bool,
    manner: Manner,
) -> Result<u8, Failure> {
    let id = submit(session, spec).await?;
    let what = FollowWhat { live: spec.array.is_none() || tag, ..FollowWhat::default() };
    let mut watch = Watch::new(id, what, tag, manner)?;
    let info = match watch.to_end(session).await? {
        Ended::Done(info) => info,
        Ended::StdoutClosed => return Ok(141),
        Ended::GivenUp => return Ok(130),
    };
    watch.clear();
    match manner.format {
        Format::Human => conclude(session, &info, manner).await?,
        Format::Json | Format::Ndjson => eprintln!("{}", render::job_json(&info)),
    }
    Ok(render::job_exit_code(&info))
}

/// Says what has to be said of a job that has ended.
async fn conclude(session: &mut Session, info: &JobInfo, manner: Manner) -> Result<(), Failure> {
    if !manner.speaks() {
        return Ok(());
    }
    if info.spec.array.is_none() {
        if let Some(sentence) = render::sentence(info) {
            eprintln!("{sentence}");
        }
        return Ok(());
    }
    conclude_array(session, info).await
}

/// How an array ended: counts, and of the first failure the last lines.
pub(in super::super) async fn conclude_array(session: &mut Session, info: &JobInfo) -> Result<(), Failure> {
    let id = info.id;
    let ok = info.counts.of(TaskState::Done);
    let bad = info.counts.over() - ok;
    let time =
        info.started.zip(info.ended).map_or(Duration::ZERO, |(start, end)| render::between(start, end));
    if bad == 0 {
        if std::io::stderr().is_terminal() {
            eprintln!("{id} done: {ok} ok · {}", render::duration(time));
        }
        return Ok(());
    }
    let some: Vec<String> = info
        .failed
        .iter()
        .flat_map(|(first, last)| *first..=*last)
        .take(5)
        .map(|n| format!("{id}.{n}"))
        .collect();
    let more = if bad > 5 { ", …" } else { "" };
    eprintln!("{id} failed: {ok} ok, {bad} failed ({}{more}) · {}", some.join(", "), render::duration(time));
    if let Some(task) = &info.task {
        let place = task.worker.as_deref().map_or(String::new(), |worker| format!(" on {worker}"));
        let how = task.end.as_ref().map_or("cancelled".to_owned(), |end| render::outcome(&end.outcome));
        let lines = super::logs::tail_of_stderr(session, id, task.index, 10).await?;
        if lines.is_empty() {
            eprintln!("  first failure, {id}.{}{place}, {how}", task.index);
        } else {
            eprintln!("  first failure, {id}.{}{place}, {how}, last lines of stderr:", task.index);
            lines.iter().for_each(|line| eprintln!("    {line}"));
        }
    }
    eprintln!("  hint: clusterctl logs {id} --failed --tag     clusterctl retry --failed-of {id}");
    Ok(())
}

/// How a watching ended.
pub enum Ended {
    /// The job did.
    Done(Box<JobInfo>),
    /// Nobody reads our output any longer; the job is cancelled.
    StdoutClosed,
    /// The person has given up waiting for a cancel.
    GivenUp,
}

/// Staying with a job: its output, its news, and the keys of whoever watches.
pub struct Watch {
    id: JobId,
    following: Following,
    tag: bool,
    manner: Manner,
    lines: super::logs::Tagger,
    interrupts: u32,
    progress: Option<indicatif::ProgressBar>,
    counts: (u64, u64, u64),
    open_line: bool,
}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the terminal cannot be used.
    pub fn new(id: JobId, what: FollowWhat, tag: bool, manner: Manner) -> Result<Self, Failure> {
        Ok(Self {
            id,
            following: Following::new(id, what),
            tag,
            manner,
            lines: super::logs::Tagger::default(),
            interrupts: 0,
            progress: None,
            counts: (0, 0, 0),
            open_line: false,
        })
    }

    /// Watches to the end. SIGINT and SIGTERM cancel the job; SIGHUP ends us alone.
    ///
    /// # Errors
    /// When the job cannot be followed.
    pub async fn to_end(&mut self, session: &mut Session) -> Result<Ended, Failure> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let waiting =
            tokio::time::sleep_until(tokio::time::Instant::from_std(Instant::now() + WAITING_AFTER));
        tokio::pin!(waiting);
        let (mut heard, mut asked_why) = (false, false);
        loop {
            let news = tokio::select! {
                news = self.following.next(session) => Some(news?),
                _ = interrupt.recv() => { self.interrupted(session).await?; None }
                _ = terminate.recv() => { self.cancel(session, Cancel::Terminate).await?; None }
                () = &mut waiting, if !heard && !asked_why => {
                    asked_why = true;
                    self.say_why(session).await;
                    None
                }
            };
            if self.interrupts >= 3 {
                return Ok(Ended::GivenUp);
            }
            let Some(news) = news else { continue };
            heard |= matches!(news, News::Bytes(..));
            match self.show(session, news).await {
                Ok(None) => {}
                Ok(Some(info)) => return Ok(Ended::Done(info)),
                Err(failure) if failure.refusal.code == "stdout-closed" => {
                    self.cancel(session, Cancel::Interrupt).await?;
                    return Ok(Ended::StdoutClosed);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Watches to the end without a hand on the job.
    pub(super) async fn look_on(&mut self, session: &mut Session) -> Result<Ended, Failure> {
        loop {
            let news = self.following.next(session).await?;
            match self.show(session, news).await {
                Ok(None) => {}
                Ok(Some(info)) => {
                    self.clear();
                    return Ok(Ended::Done(info));
                }
                Err(failure) if failure.refusal.code == "stdout-closed" => return Ok(Ended::StdoutClosed),
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn show(&mut self, session: &mut Session, news: News) -> Result<Option<Box<JobInfo>>, Failure> {
        let closed = |_| Failure::new("stdout-closed", "nobody reads our output");
        match news {
            News::Bytes(task, chunk) => {
                self.open_line = chunk.bytes.last() != Some(&b'\n');
                if self.tag {
                    self.lines.write(self.id, task, &chunk).map_err(closed)?;
                } else if let Some(progress) = &self.progress {
                    progress.suspend(|| write_out(&chunk)).map_err(closed)?;
                } else {
                    write_out(&chunk).map_err(closed)?;
                }
            }
            News::Gone(_, refused) => Failure::from(refused).print(self.manner.format),
            News::Done(info) => {
                self.lines.flush().map_err(closed)?;
                return Ok(Some(info));
            }
            News::Event(event) => {
                let id = self.id;
                let worker = event.worker.as_deref().unwrap_or("its worker");
                let text = match &event.kind {
                    TaskEventKind::Unknown(elsewhere) => {
                        let then = elsewhere.map_or("waiting for it to return".to_owned(), |after| {
                            format!("starts elsewhere in {}s unless {worker} comes back", after.as_secs())
                        });
                        Some(format!("{id} unknown: worker {worker} has been silent for 15s; {then}"))
                    }
                    TaskEventKind::Returned => Some(format!("{id} running again: worker {worker} is back")),
                    TaskEventKind::AttemptLost(reason) => Some(format!(
                        "{id} lost on {worker} ({}); it starts again",
                        render::plain(reason.as_bytes(), 200)
                    )),
                    TaskEventKind::Ended(end) => {
                        self.count(end.outcome.is_success(), session).await;
                        None
                    }
                    TaskEventKind::Queued | TaskEventKind::Started | TaskEventKind::Cancelling(_) => None,
                };
                if let Some(text) = text.filter(|_| self.manner.speaks()) {
                    eprintln!("{text}");
                }
            }
        }
        Ok(None)
    }

    /// Moves an array's progress line.
    async fn count(&mut self, success: bool, session: &mut Session) {
        let (over, failed, total) = &mut self.counts;
        *over += 1;
        *failed += u64::from(!success);
        if self.progress.is_none() && *total == 0 && self.manner.speaks() && std::io::stderr().is_terminal() {
            *total = super::job_info(session, self.id).await.map_or(1, |info| info.counts.total());
            if *total > 1 {
                let style = indicatif::ProgressStyle::with_template(
                    "{prefix}  {bar:25} {pos}/{len}  {msg}{per_sec}  eta {eta}",
                );
                let bar = indicatif::ProgressBar::new(*total);
                bar.set_prefix(self.id.to_string());
                self.progress = Some(style.map_or(bar.clone(), |style| bar.with_style(style)));
            }
        }
        if let Some(progress) = &self.progress {
            if *failed > 0 {
                progress.set_message(format!("{failed} failed  "));
            }
            progress.set_position(*over);
        }
    }

    /// Whether the last byte that was shown did not end its line.
    pub fn ends_inside_a_line(&self) -> bool {
        self.open_line && std::io::stdout().is_terminal()
    }

    /// Takes the progress line away.
    pub fn clear(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.finish_and_clear();
        }
    }

    async fn interrupted(&mut self, session: &mut Session) -> Result<(), Failure> {
        self.interrupts += 1;
        match self.interrupts {
            1 => {
                if self.manner.speaks() && std::io::stderr().is_terminal() {
                    eprintln!("  cancelling {} (Ctrl-C again to kill)", self.id);
                }
                self.cancel(session, Cancel::Interrupt).await
            }
            2 => self.cancel(session, Cancel::Kill).await,
            _ => Ok(()),
        }
    }

    async fn cancel(&self, session: &mut Session, how: Cancel) -> Result<(), Failure> {
        // One that is over cannot be cancelled any more, and says so by its ending.
        super::cancel::cancel_jobs(session, &[self.id], how).await.map(|_| ())
    }

    /// After half a second without a sign: why it does not run.
    async fn say_why(&self, session: &mut Session) {
        if !self.manner.speaks() || !std::io::stderr().is_terminal() {
            return;
        }
        let Ok(why) = super::jobs::ask_why(session, self.id, 0).await else { return };
        if why.state == TaskState::Queued {
            eprintln!("  {} queued · {}", self.id, why.text);
            if why.fitting == 0 {
                eprintln!("    waiting for one to join · Ctrl-C cancels");
            }
        }
    }
}
